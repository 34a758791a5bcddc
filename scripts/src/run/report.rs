//! `--fp-report FILE`: a picture of what the FP registers of each CPU held over time, made from a dump of the trace.

use super::watch::Listener;
use kernel::fp::{Deeds, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write;

/// How many trace records each CPU keeps for a report: the newest are drawn.
pub(crate) const RECORDS: usize = 8192;

/// Width of the drawing, and where time begins in it.
const WIDTH: f64 = 1240.0;
const LEFT: f64 = 110.0;
/// Height of a lane, and from one to the next.
const LANE: f64 = 30.0;
const STEP: f64 = 64.0;
/// How many turns of a CPU the close-up has.
const CLOSE: usize = 40;
/// Colours of owners, in turn.
const COLOURS: [&str; 10] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f",
    "#bab0ac",
];

/// A turn of a vCPU on a CPU.
#[derive(Clone, Debug, PartialEq)]
struct Turn {
    vcpu: u32,
    /// In ticks: its start, its first trap on FP, its end.
    start: u64,
    trap: Option<u64>,
    end: u64,
    left: [Outcome; 2],
}

/// What a dump says.
#[derive(Debug, Default)]
pub(crate) struct Story {
    hz: u64,
    groups: Vec<u8>,
    units: Vec<(u8, String)>,
    vms: BTreeMap<u32, String>,
    turns: BTreeMap<usize, Vec<Turn>>,
    open: BTreeMap<usize, (u32, u64, Option<u64>)>,
    /// Records that each CPU overwrote before they were dumped.
    lost: BTreeMap<usize, u64>,
}

/// Takes the dump out of what is said and passes the rest on.
pub(crate) struct Reporter<'a> {
    pub(crate) story: Story,
    pub(crate) inner: &'a mut dyn Listener,
}

impl Listener for Reporter<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.inner.bytes(bytes);
    }

    fn line(&mut self, console: usize, name: &str, line: &str) {
        if console != 0 || !self.story.hear(line.trim_start_matches("fermata> ")) {
            self.inner.line(console, name, line);
        }
    }

    fn has_enough(&self) -> bool {
        self.inner.has_enough()
    }
}

impl Story {
    /// Takes a line of a dump; returns whether it is one.
    fn hear(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |word: &str| u64::from_str_radix(word, 16).ok();
        match *words.as_slice() {
            ["dump", hz, _] => self.hz = hex(hz).unwrap_or(1),
            ["dump", "more" | "end"] => {}
            ["group", bits] => {
                let bits = hex(bits).unwrap_or(0) as u8;
                if !self.groups.contains(&bits) {
                    self.groups.push(bits);
                }
            }
            ["unit", bit, name] => {
                let bit = hex(bit).unwrap_or(0) as u8;
                if !self.units.iter().any(|(known, _)| *known == bit) {
                    self.units.push((bit, name.to_string()));
                }
            }
            ["vm", n, name] if hex(n).is_some() => {
                self.vms.insert(hex(n).unwrap_or(0) as u32, name.to_string());
            }
            ["lost", cpu, count] => {
                *self.lost.entry(hex(cpu).unwrap_or(0) as usize).or_default() += hex(count).unwrap_or(0);
            }
            ["t", cpu, time, kind, vcpu, a, b] => {
                let [Some(cpu), Some(time), Some(vcpu), Some(a), Some(b)] = [cpu, time, vcpu, a, b].map(hex)
                else {
                    return false;
                };
                self.record(cpu as usize, time, kind, vcpu as u32, [a, b]);
            }
            _ => return false,
        }
        true
    }

    fn record(&mut self, cpu: usize, time: u64, kind: &str, vcpu: u32, args: [u64; 2]) {
        match kind {
            "turn-start" => {
                self.open.insert(cpu, (vcpu, time, None));
            }
            "exit-fp" => {
                if let Some((_, _, trap)) = self.open.get_mut(&cpu) {
                    trap.get_or_insert(time);
                }
            }
            "turn-end" => {
                let opened = self.open.remove(&cpu).filter(|(who, ..)| *who == vcpu);
                let (_, start, trap) = opened.unwrap_or((vcpu, time, None));
                let left = args.map(Outcome::unpack);
                self.turns.entry(cpu).or_default().push(Turn { vcpu, start, trap, end: time, left });
            }
            _ => {}
        }
    }

    fn name(&self, vcpu: u32) -> String {
        let vm = self.vms.get(&(vcpu >> 8)).map_or("?", String::as_str);
        format!("{vm}/{}", vcpu & 0xff)
    }

    /// Everyone who owned registers or had a turn, with a colour each.
    fn cast(&self) -> BTreeMap<u32, &'static str> {
        let mut all: Vec<u32> = self.turns.values().flatten().map(|turn| turn.vcpu).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().zip(COLOURS.into_iter().cycle()).collect()
    }

    fn group(&self, n: usize) -> String {
        let bits = self.groups.get(n).copied().unwrap_or(0);
        let names = self.units.iter().filter(|(bit, _)| bit & bits != 0).map(|(_, name)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Draws everything as a page of its own.
    pub(crate) fn page(&self) -> String {
        let cast = self.cast();
        let mut page = String::from(HEAD);
        // Writing to a string cannot fail.
        let _ = write!(page, "<p class=legend>");
        for (vcpu, colour) in &cast {
            let name = escape(&self.name(*vcpu));
            let _ = write!(page, "<span><i style=\"background:{colour}\"></i>{name}</span>");
        }
        let _ = write!(
            page,
            "<span><i class=empty></i>nobody</span><span><i class=unknown></i>not \
             recorded any more</span></p>"
        );
        if self.turns.is_empty() {
            page.push_str("<p>The trace has no turn.</p>");
            return page + "</body></html>\n";
        }
        self.periods(&mut page);
        let bounds = |turns: &dyn Fn(&Vec<Turn>) -> Vec<Turn>| {
            let chosen: Vec<Turn> = self.turns.values().flat_map(turns).collect();
            let from = chosen.iter().map(|turn| turn.start).min().unwrap_or(0);
            (from, chosen.iter().map(|turn| turn.end).max().unwrap_or(from + 1).max(from + 1))
        };
        let all = bounds(&|turns| turns.clone());
        self.chart(&mut page, &cast, "All that was recorded", all, false);
        let middle = |turns: &Vec<Turn>| {
            let from = (turns.len() / 2).saturating_sub(CLOSE / 2);
            turns[from..(from + CLOSE).min(turns.len())].to_vec()
        };
        // The close-up is of the busiest CPU's middle, and of the others at that time.
        let busiest = self.turns.values().max_by_key(|turns| turns.len()).map(middle).unwrap_or_default();
        let from = busiest.first().map_or(all.0, |turn| turn.start);
        let to = busiest.last().map_or(all.1, |turn| turn.end).max(from + 1);
        self.chart(&mut page, &cast, "Close-up", (from, to), true);
        self.table(&mut page, &cast);
        page + "</body></html>\n"
    }

    /// Says which time each CPU's records are of: a trace has room for so many, and keeps the newest.
    fn periods(&self, page: &mut String) {
        page.push_str("<p>What was recorded:");
        for (at, (cpu, turns)) in self.turns.iter().enumerate() {
            let ends = (turns.first(), turns.last());
            let (from, to) = (ends.0.map_or(0, |turn| turn.start), ends.1.map_or(0, |turn| turn.end));
            let comma = if at == 0 { "" } else { ";" };
            let _ =
                write!(page, "{comma} CPU {cpu} from {:.1} to {:.1} ms", self.millis(from), self.millis(to));
            match self.lost.get(cpu) {
                Some(lost) => {
                    let _ = write!(page, " ({lost} older records were overwritten; the CPU keeps {RECORDS})");
                }
                None => page.push_str(" (all of it)"),
            }
        }
        page.push_str(".</p>");
    }

    fn millis(&self, ticks: u64) -> f64 {
        ticks as f64 * 1000.0 / self.hz.max(1) as f64
    }

    fn chart(
        &self,
        page: &mut String,
        cast: &BTreeMap<u32, &'static str>,
        title: &str,
        (from, to): (u64, u64),
        marks: bool,
    ) {
        let lanes = self.turns.len() * self.groups.len().max(1);
        let height = 40.0 + STEP * lanes as f64;
        let x = |time: u64| {
            let part = (time.clamp(from, to) - from) as f64 / (to - from) as f64;
            LEFT + part * (WIDTH - LEFT - 10.0)
        };
        let span = self.millis(to - from);
        let _ = write!(page, "<h2>{title}: {span:.1} ms</h2><svg viewBox=\"0 0 {WIDTH} {height}\">");
        let mut top = 18.0;
        for (cpu, turns) in &self.turns {
            for n in 0..self.groups.len().max(1) {
                let _ = write!(
                    page,
                    "<text x=0 y={:.0}>CPU {cpu}</text><text class=small x=0 y={:.0}>{}</text>",
                    top + 13.0,
                    top + 27.0,
                    escape(&self.group(n))
                );
                let _ = write!(
                    page,
                    "<rect class=empty x={LEFT} y={top} width={:.1} height={LANE} />",
                    WIDTH - LEFT - 10.0
                );
                if let (Some(first), true) = (turns.first(), self.lost.contains_key(cpu)) {
                    let _ = write!(
                        page,
                        "<rect class=unknown x={LEFT} y={top} width={:.1} height={LANE}><title>overwritten</title></rect>",
                        x(first.start) - LEFT
                    );
                }
                self.lane(page, cast, turns, n, (from, to), &x, top, marks);
                top += STEP;
            }
        }
        for tick in 0..=5 {
            let time = from + (to - from) * tick / 5;
            let _ = write!(
                page,
                "<text class=small x={:.1} y={:.0} text-anchor=middle>{:.1}</text>",
                x(time).min(WIDTH - 24.0),
                height - 6.0,
                self.millis(time)
            );
        }
        page.push_str("</svg>");
    }

    /// One lane: bands of owners, below them whose turn it is, and in a close-up what happened.
    #[expect(clippy::too_many_arguments, reason = "a lane is drawn from one place")]
    fn lane(
        &self,
        page: &mut String,
        cast: &BTreeMap<u32, &'static str>,
        turns: &[Turn],
        n: usize,
        (from, to): (u64, u64),
        x: &dyn Fn(u64) -> f64,
        top: f64,
        marks: bool,
    ) {
        let (bands, runs) = stretches(turns, n, to, x);
        let inside = |start: u64, end: u64| end >= from && start <= to;
        for (start, end, owner, dirty) in bands.into_iter().filter(|band| inside(band.0, band.1)) {
            let (colour, name) = (cast.get(&owner).unwrap_or(&"#888"), escape(&self.name(owner)));
            let opacity = if dirty { 1.0 } else { 0.45 };
            let state = if dirty { "newer than memory" } else { "equal to memory" };
            let _ = write!(
                page,
                "<rect x={:.1} y={top} width={:.1} height={LANE} fill=\"{colour}\" opacity={opacity}><title>{name}, \
                 {state}</title></rect>",
                x(start),
                (x(end) - x(start)).max(0.3)
            );
            if x(end) - x(start) > 60.0 {
                let _ = write!(
                    page,
                    "<text class=on x={:.1} y={:.0}>{name}</text>",
                    x(start).max(LEFT) + 4.0,
                    top + 19.0
                );
            }
        }
        for (start, end, vcpu) in runs.into_iter().filter(|run| inside(run.0, run.1)) {
            let _ = write!(
                page,
                "<rect x={:.1} y={:.0} width={:.1} height=5 fill=\"{}\" />",
                x(start),
                top + LANE + 3.0,
                (x(end) - x(start)).max(0.3),
                cast.get(&vcpu).unwrap_or(&"#888")
            );
        }
        if marks {
            for turn in turns.iter().filter(|turn| turn.start >= from && turn.end <= to) {
                self.marks(page, turn, n, x, top);
            }
        }
    }

    fn marks(&self, page: &mut String, turn: &Turn, n: usize, x: &dyn Fn(u64) -> f64, top: f64) {
        let deeds = turn.left[n].deeds;
        let first = x(turn.trap.unwrap_or(turn.start));
        let all = [
            (Deeds::ASKED, first, "T", "trap"),
            (Deeds::LOADED, first + 7.0, "L", "load"),
            (Deeds::EVICTED, first + 14.0, "E", "save of the one before"),
            (Deeds::WIDENED, first + 14.0, "W", "save before widening"),
            (Deeds::FOUND, x(turn.start), "·", "found in place"),
            (Deeds::SAVED, x(turn.end) - 6.0, "S", "save at the end of the turn"),
        ];
        for (_, at, letter, title) in all.into_iter().filter(|(deed, ..)| deeds.contains(*deed)) {
            let y = top - 4.0;
            let _ = write!(page, "<text class=mark x={at:.1} y={y:.0}>{letter}<title>{title}</title></text>");
        }
    }

    /// Counts what happened to each vCPU.
    fn table(&self, page: &mut String, cast: &BTreeMap<u32, &'static str>) {
        page.push_str(
            "<h2>Turns by what happened in them</h2><table><tr><th>vCPU<th>turns<th>trapped<th>loaded<th>found in \
             place<th>saved at the end<th>saved another's first<th>widened</tr>",
        );
        for (&vcpu, colour) in cast {
            let turns: Vec<&Turn> = self.turns.values().flatten().filter(|turn| turn.vcpu == vcpu).collect();
            let count = |deed: Deeds| {
                turns.iter().filter(|turn| turn.left.iter().any(|left| left.deeds.contains(deed))).count()
            };
            let _ = write!(
                page,
                "<tr><td><i style=\"background:{colour}\"></i>{}<td>{}",
                escape(&self.name(vcpu)),
                turns.len()
            );
            let deeds =
                [Deeds::ASKED, Deeds::LOADED, Deeds::FOUND, Deeds::SAVED, Deeds::EVICTED, Deeds::WIDENED];
            deeds.into_iter().for_each(|deed| {
                let _ = write!(page, "<td>{}", count(deed));
            });
            page.push_str("</tr>");
        }
        page.push_str("</table>");
    }
}

/// Whose values the registers of a group held from when to when and whether they were newer than memory, and who ran.
fn stretches(turns: &[Turn], n: usize, to: u64, x: &dyn Fn(u64) -> f64) -> (Vec<Band>, Vec<Run>) {
    let mut bands: Vec<Band> = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut held: Option<(u32, bool)> = None;
    let mut since = turns.first().map_or(0, |turn| turn.start);
    for turn in turns {
        let now = turn.left[n].resident.map(|resident| (resident.owner.0, !resident.dirty.is_empty()));
        let loaded = turn.left[n].deeds.contains(Deeds::LOADED);
        let change = if loaded { turn.trap.unwrap_or(turn.start) } else { turn.end };
        if let Some((owner, dirty)) = held {
            push(&mut bands, (since, change, owner, dirty), x);
        }
        if loaded {
            push(&mut bands, (change, turn.end, turn.vcpu, true), x);
        }
        (held, since) = (now, if loaded { turn.end } else { change });
        push(&mut runs, (turn.start, turn.end, turn.vcpu), x);
    }
    if let (Some((owner, dirty)), Some(last)) = (held, turns.last()) {
        push(&mut bands, (since, last.end.max(to), owner, dirty), x);
    }
    (bands, runs)
}

type Band = (u64, u64, u32, bool);
type Run = (u64, u64, u32);

/// A stretch of time that may be joined with the one before it.
trait Stretch: Copy {
    fn start(&self) -> u64;
    fn end(&mut self) -> &mut u64;
    fn alike(&self, other: &Self) -> bool;
}

impl Stretch for Band {
    fn start(&self) -> u64 {
        self.0
    }
    fn end(&mut self) -> &mut u64 {
        &mut self.1
    }
    fn alike(&self, other: &Self) -> bool {
        (self.2, self.3) == (other.2, other.3)
    }
}

impl Stretch for Run {
    fn start(&self) -> u64 {
        self.0
    }
    fn end(&mut self) -> &mut u64 {
        &mut self.1
    }
    fn alike(&self, other: &Self) -> bool {
        self.2 == other.2
    }
}

/// Adds a stretch, or makes the last one longer where no eye could tell the two apart.
fn push<S: Stretch>(all: &mut Vec<S>, mut next: S, x: &dyn Fn(u64) -> f64) {
    if let Some(last) = all.last_mut()
        && last.alike(&next)
        && x(next.start()) - x(*last.end()) < 0.3
    {
        *last.end() = *next.end();
        return;
    }
    if *next.end() > next.start() {
        all.push(next);
    }
}

/// Makes text harmless in a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><title>FP registers over time</title><style>
body{font:15px system-ui,sans-serif;margin:24px auto;max-width:1240px;color:#222}
h1{font-size:22px}h2{font-size:16px;margin:26px 0 6px}
svg{width:100%;background:#fff;border:1px solid #ddd}
svg text{font:13px system-ui,sans-serif;fill:#222}svg .small{font-size:11px;fill:#666}
svg .on{fill:#fff;font-weight:600}svg .mark{font:bold 10px ui-monospace,monospace}
svg .empty{fill:#f1f1f1}svg .unknown{fill:#fff}
.legend span{margin-right:16px}i{display:inline-block;width:13px;height:13px;margin-right:5px;vertical-align:-2px}
i.unknown{border:1px solid #ccc;box-sizing:border-box}
i.empty{background:#f1f1f1;border:1px solid #ccc;box-sizing:border-box}
table{border-collapse:collapse}th,td{padding:4px 12px;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}
</style></head><body><h1>What the FP registers held</h1>
<p>The tall bands show whose values the registers of a CPU hold: full colour where they are newer than memory, pale where
memory has the same. The thin strip below says whose turn it is. Where band and strip differ, somebody runs while another's
values wait in the registers: nothing was moved. Times are milliseconds since start. Letters in the close-up: T trap, L load,
E save of the one before, W save before widening, S save at the end of a turn, · found in place.</p>";

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "dump f4240 1\ngroup 3\nunit 1 simd\nvm 0 a\nvm 1 b<\n\
        t 0 10 turn-start 0 0 0\nt 0 18 exit-fp 0 1 0\nt 0 20 turn-end 0 501010000000001 0\n\
        t 0 20 turn-start 100 0 0\nt 0 30 turn-end 100 1010000000001 0\nlost 0 5\ndump end";

    #[test]
    fn a_dump_becomes_a_page() {
        let mut story = Story::default();
        assert!(DUMP.lines().all(|line| story.hear(line)));
        assert!(!story.hear("fermata: vm a powered off") && !story.hear("t 0 xx turn-end 0 0 0"));
        let turns = &story.turns[&0];
        assert_eq!((turns.len(), turns[0].trap, turns[1].trap), (2, Some(0x18), None));
        assert_eq!(turns[0].left[0].deeds, Deeds::LOADED | Deeds::ASKED);
        let page = story.page();
        assert!(page.contains("a/0, newer than memory") && page.contains("b&lt;/0"), "{page}");
        assert!(
            page.contains("CPU 0 from 0.0 to 0.0 ms (5 older records were overwritten; the CPU keeps 8192)")
                && page.contains("class=unknown")
                && page.ends_with("</html>\n")
        );
    }

    #[test]
    fn an_empty_trace_is_said_to_be_empty() {
        assert!(Story::default().page().contains("no turn"));
    }
}
