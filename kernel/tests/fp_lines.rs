//! Snapshots as lines: what is written is read, and what changed on the way is not.

mod support;

use arch_fake::fp::{EXTRA, Limit, Narrow, Regs, SCALAR, VECTOR};
use kernel::fp::lines::{LONGEST, Line, LineError, Reader};
use kernel::fp::{FpContext, Snapshot};
use proptest::prelude::*;
use support::snapshot::{crc32, sealed};

fn small() -> Snapshot {
    Snapshot::take(&Regs::new(Limit { units: SCALAR | VECTOR | EXTRA, narrow: Narrow::Undefined }))
}

/// A snapshot with these registers, of a shape that nobody has.
fn with(registers: &[u8]) -> Snapshot {
    let mut bytes = small().bytes()[..24].to_vec();
    bytes.extend(registers);
    sealed(bytes)
}

fn lines(snapshot: &Snapshot) -> Vec<String> {
    let mut text = String::new();
    snapshot.write_lines(&mut text).unwrap();
    text.lines().map(String::from).collect()
}

/// Reads lines one after the other, whatever becomes of each.
fn read(lines: &[impl AsRef<str>]) -> (Option<Snapshot>, Vec<LineError>) {
    let mut reader = Reader::default();
    let (mut whole, mut errors) = (None, Vec::new());
    for line in lines {
        match reader.line(line.as_ref()) {
            Ok(None) => {}
            Ok(snapshot) => whole = snapshot,
            Err(error) => errors.push(error),
        }
    }
    (whole, errors)
}

/// The sums and the base64 were made by another program (Python's `zlib` and `base64`).
#[test]
fn the_format_is_what_the_documentation_says() {
    let lines = lines(&small());
    assert_eq!(lines, EXAMPLE);
    assert!(lines.iter().all(|line| line.len() < 80));
    assert_eq!(read(&lines), (Some(small()), vec![]));
}

const EXAMPLE: [&str; 4] = [
    "fp-snapshot begin 80 c2e888e3",
    "000 RlBTTgEATvpQAAAABwBAAAAAAADjPvvzAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA 4c9de6f3",
    "001 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= 4ebdf8b2",
    "fp-snapshot end 06236275",
];

#[test]
fn a_wrong_line_is_answered_with_the_one_expected_and_may_be_sent_again() {
    let lines = lines(&small());
    let mut reader = Reader::default();
    let begin = LineError::Garbled { expected: Line::Begin };
    let garbled = LineError::Garbled { expected: Line::Part(0) };
    let order = |found, expected| Err(LineError::Order { found, expected });
    assert_eq!(reader.line(""), Err(begin));
    assert_eq!(reader.line("fp-snapshot begin 80"), Err(begin));
    assert_eq!(reader.line(&lines[3]), order(Line::End, Line::Begin));
    assert_eq!(reader.line(&lines[0]), Ok(None));
    assert_eq!(reader.line(&lines[1][1..]), Err(garbled));
    assert_eq!(reader.line(&format!("{} ", lines[1])), Err(garbled));
    assert_eq!(reader.line(&lines[1].to_lowercase()), Err(garbled));
    assert_eq!(reader.line(&lines[2]), order(Line::Part(1), Line::Part(0)));
    assert_eq!(reader.line(&lines[1]), Ok(None));
    assert_eq!(reader.line(&lines[1]), order(Line::Part(0), Line::Part(1)));
    assert_eq!(reader.line(&lines[2]), Ok(None));
    assert_eq!(reader.line(&lines[2]), order(Line::Part(1), Line::End));
    assert_eq!(reader.line(&lines[3]), Ok(Some(small())));
    assert_eq!(reader.expected(), Line::Begin);
}

#[test]
fn the_first_line_starts_anew_and_the_last_one_ends() {
    let lines = lines(&small());
    let mut reader = Reader::default();
    for line in [0, 1, 0, 1] {
        assert_eq!(reader.line(&lines[line]), Ok(None));
    }
    let error = reader.line(&lines[3]).unwrap_err();
    assert!(error.is_end() && error == LineError::Missing(Line::Part(1)));
    assert_eq!(reader.expected(), Line::Begin);
}

/// Lines that are right one by one and say what is no snapshot.
#[test]
fn what_is_no_snapshot_is_refused_with_the_reason() {
    let with_sum = |text: String| format!("{text} {:08x}", crc32(text.as_bytes()));
    let mut zeroes = vec![with_sum("fp-snapshot begin 24".into())];
    zeroes.push(with_sum(format!("000 {}", "A".repeat(32))));
    zeroes.push(with_sum("fp-snapshot end".into()));
    let (whole, errors) = read(&zeroes);
    assert_eq!(whole, None);
    assert!(errors[0].is_end());
    assert_eq!(errors[0].to_string(), "all lines are there, but no FP snapshot: it starts otherwise");
    for (line, why) in [
        ("fp-snapshot begin 23", "found a length of 23, expected 24 to 9600 bytes"),
        ("fp-snapshot begin 9601", "found a length of 9601, expected 24 to 9600 bytes"),
        ("fp-snapshot begin +80", "no such line, or changed on its way: expected fp-snapshot begin"),
        (
            "fp-snapshot begin 99999999999999999999",
            "no such line, or changed on its way: expected fp-snapshot begin",
        ),
        ("000", "no such line, or changed on its way: expected fp-snapshot begin"),
        ("1000 AAAA", "found line 1000, expected fp-snapshot begin"),
    ] {
        assert_eq!(Reader::default().line(&with_sum(line.into())).unwrap_err().to_string(), why);
    }
    // Too much and too little in a line, and bits that the end of base64 has no use for.
    let mut reader = Reader::default();
    assert_eq!(reader.line(&with_sum("fp-snapshot begin 25".into())), Ok(None));
    for data in
        ["A".repeat(36), "A".repeat(32), format!("{}B=", "A".repeat(34)), format!("{}===", "A".repeat(33))]
    {
        let error = reader.line(&with_sum(format!("000 {data}"))).unwrap_err();
        assert_eq!(error, LineError::Garbled { expected: Line::Part(0) }, "{data}");
    }
    assert_eq!(reader.line(&with_sum(format!("000 {}A==", "A".repeat(33)))), Ok(None));
}

/// What may happen to lines on their way.
#[derive(Clone, Debug)]
enum Harm {
    Flip { line: usize, at: usize, bit: u32 },
    Cut { line: usize, at: usize },
    Lose { line: usize },
    Double { line: usize },
    Swap { line: usize, with: usize },
}

fn harm() -> impl Strategy<Value = Harm> {
    let (line, at) = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let pair = (line, at).prop_map(|(line, at)| (line.index(1 << 20), at.index(1 << 20)));
    prop_oneof![
        (pair.clone(), 0..8u32).prop_map(|((line, at), bit)| Harm::Flip { line, at, bit }),
        pair.clone().prop_map(|(line, at)| Harm::Cut { line, at }),
        pair.clone().prop_map(|(line, _)| Harm::Lose { line }),
        pair.clone().prop_map(|(line, _)| Harm::Double { line }),
        pair.prop_map(|(line, with)| Harm::Swap { line, with }),
    ]
}

/// Harms lines; bytes that are no text any more are what a console makes of them.
fn harmed(mut lines: Vec<String>, harm: &Harm) -> Vec<String> {
    let count = lines.len();
    match *harm {
        Harm::Flip { line, at, bit } => {
            let mut bytes = lines[line % count].clone().into_bytes();
            let sent = bytes.len();
            if let Some(byte) = bytes.get_mut(at % sent.max(1)) {
                *byte ^= 1 << bit;
            }
            lines[line % count] = String::from_utf8_lossy(&bytes).into_owned();
        }
        Harm::Cut { line, at } => {
            let at = at % lines[line % count].len().max(1);
            lines[line % count].truncate(at);
        }
        Harm::Lose { line } => drop(lines.remove(line % count)),
        Harm::Double { line } => lines.insert(line % count, lines[line % count].clone()),
        Harm::Swap { line, with } => lines.swap(line % count, with % count),
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_read_is_what_was_written(registers in prop::collection::vec(any::<u8>(), 0..LONGEST - 24)) {
        let snapshot = with(&registers);
        let lines = lines(&snapshot);
        prop_assert_eq!(lines.len(), 2 + snapshot.bytes().len().div_ceil(48));
        prop_assert!(lines.iter().all(|line| line.len() < 80));
        prop_assert_eq!(read(&lines), (Some(snapshot), vec![]));
    }
}

proptest! {
    /// Whatever happens to lines, the snapshot is refused with the reason, or it is the one that was sent.
    #[test]
    fn no_harm_on_the_way_goes_unnoticed(
        registers in prop::collection::vec(any::<u8>(), 0..500),
        harms in prop::collection::vec(harm(), 1..4),
    ) {
        let snapshot = with(&registers);
        let sent = lines(&snapshot);
        let come = harms.iter().fold(sent.clone(), harmed);
        let (whole, errors) = read(&come);
        if come == sent {
            prop_assert_eq!((whole, errors), (Some(snapshot), vec![]));
        } else if let Some(whole) = whole {
            // Only what is too much can be got over, such as a line twice.
            prop_assert_eq!(whole, snapshot);
        } else {
            prop_assert!(!errors.is_empty() || come.last() != sent.last());
        }
    }

    #[test]
    fn one_changed_character_is_noticed(
        registers in prop::collection::vec(any::<u8>(), 0..500),
        line: prop::sample::Index,
        at: prop::sample::Index,
        to in b' '..=b'~',
    ) {
        let mut lines = lines(&with(&registers));
        let line = line.index(lines.len());
        let mut bytes = lines[line].clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        lines[line] = String::from_utf8(bytes).unwrap();
        let (whole, errors) = read(&lines);
        prop_assert!(whole.is_none() && !errors.is_empty());
    }

    #[test]
    fn no_text_makes_it_panic(lines in prop::collection::vec("(fp-snapshot |[0-9]{3} )?[ -~]{0,90}", 0..8)) {
        prop_assert_eq!(read(&lines).0, None);
    }
}
