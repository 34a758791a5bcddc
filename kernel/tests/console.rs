//! Laws of the shared terminal.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use kernel::console::{Console, Interrupts, Mode, OpenError, PORTS, PortId, Serial};
use kernel::dev::{Full, Port};
use log::Log;
use proptest::prelude::*;

/// A UART whose transmitter takes `room` more bytes.
#[derive(Default)]
struct Wire {
    out: Vec<u8>,
    room: usize,
    typed: VecDeque<u8>,
    want: Option<Interrupts>,
}

#[derive(Clone, Default)]
struct Uart(Arc<Mutex<Wire>>);

impl Serial for Uart {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        let mut wire = self.0.lock().unwrap();
        wire.room = wire.room.checked_sub(1).ok_or(Full)?;
        wire.out.push(byte);
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        self.0.lock().unwrap().typed.pop_front()
    }

    fn interrupts(&mut self, want: Interrupts) {
        self.0.lock().unwrap().want = Some(want);
    }
}

impl Uart {
    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0.lock().unwrap().out)).into_owned()
    }

    fn room(&self, room: usize) {
        self.0.lock().unwrap().room = room;
    }
}

const ONE: PortId = PortId(1);
const TWO: PortId = PortId(2);

fn rig(mode: Mode) -> (Console, Uart) {
    let (console, uart) = (Console::new(), Uart::default());
    uart.room(usize::MAX);
    console.attach(Box::new(uart.clone()));
    console.open(mode, ["one".into(), "two".into()]).unwrap();
    pump(&console);
    uart.take();
    (console, uart)
}

fn say(console: &Console, port: PortId, text: &str) {
    text.bytes().for_each(|byte| console.put(port, byte).unwrap());
}

fn info(console: &Console, text: &str) {
    console.log(&log::Record::builder().level(log::Level::Info).args(format_args!("{text}")).build());
}

fn type_in(console: &Console, uart: &Uart, bytes: &[u8]) -> (Vec<PortId>, bool) {
    uart.0.lock().unwrap().typed.extend(bytes);
    pump(console)
}

/// Pumps until there is nothing left to do now.
fn pump(console: &Console) -> (Vec<PortId>, bool) {
    let (mut ports, mut prompt) = (Vec::new(), false);
    loop {
        let events = console.pump();
        ports.extend(events.ports());
        prompt |= events.prompt;
        if !events.more {
            return (ports, prompt);
        }
    }
}

fn read(console: &Console, port: PortId) -> String {
    std::iter::from_fn(|| console.get(port)).map(char::from).collect()
}

#[test]
fn what_was_logged_before_there_was_a_line_appears_when_there_is_one() {
    let (console, uart) = (Console::new(), Uart::default());
    uart.room(usize::MAX);
    info(&console, "early");
    assert_eq!(pump(&console), (vec![], false));
    console.attach(Box::new(uart.clone()));
    pump(&console);
    assert_eq!(uart.take(), "fermata: early\r\n");
}

thread_local! {
    static RUNG: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn the_bell_is_rung_for_the_first_line_that_waits() {
    let (console, uart) = rig(Mode::Terminal);
    console.set_bell(|| RUNG.set(RUNG.get() + 1));
    say(&console, ONE, "not for this");
    assert_eq!(RUNG.get(), 0);
    for rung in 1..3 {
        info(&console, "one");
        assert_eq!(RUNG.get(), rung);
        info(&console, "two");
        uart.room(0);
        console.drain();
        // The line is full, and interrupts when it is not.
        info(&console, "three");
        assert_eq!(RUNG.get(), rung);
        uart.room(usize::MAX);
        pump(&console);
    }
}

#[test]
fn the_first_guest_is_in_focus_and_the_switch_key_goes_round() {
    let (console, uart) = rig(Mode::Terminal);
    say(&console, ONE, "a");
    say(&console, TWO, "b");
    pump(&console);
    assert_eq!(uart.take(), "a");
    type_in(&console, &uart, b"\x1D");
    assert_eq!(uart.take(), "\r\n--- two (Ctrl-] for the next) ---\r\nb");
    type_in(&console, &uart, b"\x1D");
    assert_eq!(uart.take(), "\r\n--- fermata (Ctrl-] for the next) ---\r\n");
    type_in(&console, &uart, b"\x1D");
    assert_eq!(
        uart.take(),
        "\r\n--- one (Ctrl-] for the next) ---\r\na",
        "the unfinished line is shown again"
    );
    console.focus(TWO);
    pump(&console);
    assert_eq!(uart.take(), "\r\n--- two (Ctrl-] for the next) ---\r\nb");
}

#[test]
fn typing_goes_to_the_port_in_focus() {
    let (console, uart) = rig(Mode::Terminal);
    assert_eq!(type_in(&console, &uart, b"ls\r"), (vec![ONE], false));
    assert_eq!((read(&console, ONE), read(&console, TWO)), ("ls\r".into(), String::new()));
    assert_eq!(type_in(&console, &uart, b"\x1Dx\x1Dhelp"), (vec![TWO], true));
    assert_eq!((read(&console, TWO), read(&console, PortId::FERMATA)), ("x".into(), "help".into()));
}

#[test]
fn out_of_focus_nobody_is_refused_and_the_newest_bytes_are_kept() {
    let (console, uart) = rig(Mode::Terminal);
    (0..10_000).for_each(|n| say(&console, TWO, &format!("{n:05}\n")));
    pump(&console);
    assert_eq!(uart.take(), "");
    type_in(&console, &uart, b"\x1D");
    let text = uart.take();
    assert!(text.contains("57952 older bytes are not shown"), "{text}");
    assert!(text.ends_with("09998\n09999\n"), "{text}");
    assert!(text.len() < 2048 + 200);
}

#[test]
fn a_port_in_focus_is_refused_when_full_and_told_when_there_is_room() {
    let (console, uart) = rig(Mode::Terminal);
    uart.room(0);
    while console.put(ONE, b'x').is_ok() {}
    assert_eq!(pump(&console).0, []);
    assert_eq!(uart.0.lock().unwrap().want, Some(Interrupts::ReceiveAndTransmit));
    uart.room(1000);
    assert_eq!(pump(&console).0, [], "not yet half empty");
    uart.room(usize::MAX);
    assert_eq!(pump(&console).0, [ONE]);
    assert_eq!((uart.take().len(), uart.0.lock().unwrap().want), (4096, Some(Interrupts::Receive)));
    assert_eq!(pump(&console).0, [], "told once");
}

#[test]
fn losing_the_focus_ends_a_refusal() {
    let (console, uart) = rig(Mode::Terminal);
    uart.room(0);
    while console.put(ONE, b'x').is_ok() {}
    assert_eq!(type_in(&console, &uart, b"\x1D").0, [ONE]);
    assert_eq!(console.put(ONE, b'y'), Ok(()));
}

#[test]
fn one_turn_is_bounded_and_says_that_there_is_more() {
    let (console, uart) = rig(Mode::Framed);
    say(&console, ONE, &"1".repeat(4000));
    say(&console, TWO, &"2".repeat(4000));
    let mut turns = 0;
    while console.drain().more {
        turns += 1;
        let text = uart.take();
        assert!(text.len() <= 512, "{}", text.len());
        assert!(text.contains("11") && text.contains("22"), "each has a part in each turn");
    }
    assert!(turns > 20);
}

#[test]
fn log_lines_stand_alone_whatever_they_interrupt() {
    let (console, uart) = rig(Mode::Terminal);
    say(&console, ONE, "login: ");
    pump(&console);
    info(&console, "first");
    info(&console, "second");
    pump(&console);
    assert_eq!(uart.take(), "login: \r\nfermata: first\r\nfermata: second\r\nlogin: ");
    say(&console, ONE, "root\r\n");
    pump(&console);
    info(&console, "third");
    pump(&console);
    assert_eq!(uart.take(), "root\r\nfermata: third\r\n");
}

#[test]
fn a_long_log_line_is_cut_and_control_bytes_do_not_pass() {
    let (console, uart) = rig(Mode::Terminal);
    info(&console, &"x".repeat(1000));
    info(&console, "bad\x1B[2J\x1E name\nsecond");
    pump(&console);
    let text = uart.take();
    let (long, rest) = text.split_once("\r\n").unwrap();
    assert!(long.ends_with("xxx...") && long.len() == 510, "{}", long.len());
    assert_eq!(rest, "fermata: bad?[2J? name\r\nsecond\r\n");
}

#[test]
fn a_flooded_log_keeps_whole_newest_lines_and_says_so() {
    let (console, uart) = rig(Mode::Terminal);
    (0..5000).for_each(|n| info(&console, &format!("line {n}")));
    pump(&console);
    let text = uart.take();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().ends_with("bytes of log were lost here"));
    assert!(lines.all(|line| line.starts_with("fermata: line ")));
    assert!(text.ends_with("line 4999\r\n"));
}

#[test]
fn input_that_nobody_reads_is_dropped_and_reported_as_an_overrun() {
    let (console, uart) = rig(Mode::Terminal);
    type_in(&console, &uart, &[b'k'; 1024]);
    for _ in 0..40 {
        pump(&console);
    }
    assert!(!console.port(ONE).take_overrun());
    type_in(&console, &uart, b"z");
    assert!(console.port(ONE).take_overrun());
    assert!(!console.port(ONE).take_overrun(), "told once");
    assert_eq!(read(&console, ONE), "k".repeat(1024));
    type_in(&console, &uart, b"stale");
    console.reset(ONE);
    assert_eq!(read(&console, ONE), "");
}

#[test]
fn framed_input_selects_its_port() {
    let (console, uart) = rig(Mode::Framed);
    type_in(&console, &uart, b"lost\x1E2b\x1E1a\x1E\x1E\x1D\x1E0help\x1E9lost");
    assert_eq!(read(&console, ONE), "a\x1E\x1D");
    assert_eq!((read(&console, TWO), read(&console, PortId::FERMATA)), ("b".into(), "help".into()));
}

#[test]
fn there_are_only_so_many_ports_and_one_opening() {
    let console = Console::new();
    assert_eq!(console.open(Mode::Framed, vec![String::new(); PORTS]), Err(OpenError::TooManyGuests(62)));
    assert_eq!(console.open(Mode::Framed, vec![String::from("x\x1B"); PORTS - 1]), Ok(()));
    assert_eq!(console.open(Mode::Framed, []), Err(OpenError::AlreadyOpen));
    assert_eq!((console.ports(), console.name(PortId(62)), console.name(PortId(63))), (63, Some("x?"), None));
    assert_eq!((console.put(PortId(200), 0), console.get(PortId(200))), (Ok(()), None));
}

#[test]
fn a_panic_writes_past_everything() {
    let (console, _) = rig(Mode::Framed);
    info(&console, "last words");
    let mut uart = Uart::default();
    uart.room(usize::MAX);
    let other = uart.clone();
    std::fmt::Write::write_str(&mut console.force(&mut uart), "panic: why\n").unwrap();
    assert_eq!(other.take(), "\x1E0\r\nfermata: last words\r\npanic: why\r\n");
    other.room(0);
    std::fmt::Write::write_str(&mut console.force(&mut uart), "a dead line ends it").unwrap();
}

#[test]
fn a_panic_has_the_line_to_itself() {
    let (console, mut uart) = (Console::new(), Uart::default());
    uart.room(usize::MAX);
    console.attach(Box::new(uart.clone()));
    let other = uart.clone();
    let mut panic = console.force(&mut uart);
    std::fmt::Write::write_str(&mut panic, "last ").unwrap();
    info(&console, "from another CPU");
    console.pump();
    console.flush();
    std::fmt::Write::write_str(&mut panic, "words\n").unwrap();
    assert_eq!(other.take(), "\r\nlast words\r\n");
}

#[test]
fn a_flush_waits_for_a_slow_line_and_not_for_a_dead_one() {
    /// Takes a byte at every tenth offer.
    struct Slow(usize, Uart);
    impl Serial for Slow {
        fn put(&mut self, byte: u8) -> Result<(), Full> {
            self.0 += 1;
            if self.0.is_multiple_of(10) { self.1.put(byte) } else { Err(Full) }
        }

        fn get(&mut self) -> Option<u8> {
            None
        }

        fn interrupts(&mut self, _: Interrupts) {}
    }
    let (console, uart) = (Console::new(), Uart::default());
    uart.room(usize::MAX);
    console.attach(Box::new(Slow(0, uart.clone())));
    info(&console, "last words");
    console.flush();
    assert_eq!(uart.take(), "fermata: last words\r\n");
    uart.room(3);
    info(&console, "unheard");
    console.flush();
    assert_eq!(uart.take(), "fer");
}

/// Splits what a framed console sent into its ports.
fn unframe(bytes: &[u8]) -> [Vec<u8>; 3] {
    let mut ports = [const { Vec::new() }; 3];
    let (mut port, mut bytes) = (None::<usize>, bytes.iter());
    while let Some(&byte) = bytes.next() {
        match byte {
            0x1E => match bytes.next().unwrap() {
                0x1E => ports[port.unwrap()].push(0x1E),
                n => port = Some(usize::from(n - b'0')),
            },
            _ => ports[port.unwrap()].push(byte),
        }
    }
    ports
}

#[test]
fn of_many_cpus_none_reorders_its_bytes() {
    let (console, uart) = rig(Mode::Framed);
    let text = |who: u8| (0..30_000u32).map(|n| (n % 89) as u8 + who).collect::<Vec<u8>>();
    std::thread::scope(|scope| {
        for (port, who) in [(ONE, 1), (TWO, 2)] {
            let console = &console;
            scope.spawn(move || {
                for byte in text(who) {
                    while console.put(port, byte).is_err() {
                        console.drain();
                    }
                    while console.drain().more {}
                }
            });
        }
    });
    let [_, one, two] = unframe(&uart.0.lock().unwrap().out);
    assert!(one == text(1) && two == text(2), "{} {}", one.len(), two.len());
}

/// A UART at which another CPU sends something at the worst moment: the mux is held, and has looked at every ring
/// for the last time.
struct Late(&'static Console, Uart);

impl Serial for Late {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.1.put(byte)
    }

    fn get(&mut self) -> Option<u8> {
        self.1.get()
    }

    fn interrupts(&mut self, _: Interrupts) {
        self.0.put(PortId::FERMATA, b'!').unwrap();
        self.0.drain();
    }
}

#[test]
fn what_is_sent_while_the_holder_lets_go_is_not_left_behind() {
    let (console, uart) = (&*Box::leak(Box::new(Console::new())), Uart::default());
    uart.room(usize::MAX);
    console.attach(Box::new(Late(console, uart.clone())));
    assert!(!console.drain().more);
    assert_eq!((uart.take(), console.pending()), ("!".into(), false));
}

proptest! {
    #[test]
    fn framed_output_can_be_taken_apart_again(
        steps in proptest::collection::vec((0..3u8, proptest::collection::vec(any::<u8>(), 0..300), 0..400usize), 1..40),
    ) {
        let (console, uart) = rig(Mode::Framed);
        let mut sent = [const { Vec::new() }; 3];
        for (port, bytes, room) in steps {
            for byte in bytes {
                if console.put(PortId(port), byte).is_ok() {
                    sent[usize::from(port)].push(byte);
                }
            }
            uart.room(room);
            console.pump();
        }
        uart.room(usize::MAX);
        pump(&console);
        prop_assert_eq!(unframe(&uart.0.lock().unwrap().out), sent);
    }

    #[test]
    fn any_input_and_output_in_any_mode_is_survived(
        framed in any::<bool>(),
        steps in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80), 0..500usize), 1..60),
    ) {
        let (console, uart) = rig(if framed { Mode::Framed } else { Mode::Terminal });
        for (what, bytes, room) in steps {
            uart.room(room);
            match what % 4 {
                0 => drop(type_in(&console, &uart, &bytes)),
                1 => info(&console, &String::from_utf8_lossy(&bytes)),
                2 => drop(type_in(&console, &uart, &[0x1D])),
                _ => bytes.iter().for_each(|&byte| _ = console.put(PortId(what / 4), byte)),
            }
            console.drain();
        }
        uart.room(usize::MAX);
        pump(&console);
        prop_assert!(!console.pending());
    }
}
