//! What each CPU did last: a ring of small records per CPU, cheap enough for the exit path.
//!
//! One CPU writes its ring and any CPU may read it at any time. Word 1 of a record carries its sequence number and is
//! written last; a reader that finds it changed, or cleared, has read half of two records and drops them.

use alloc::boxed::Box;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::addr::{CpuId, Ticks, VcpuId};
use crate::fp::Outcome;

/// How many records a CPU keeps unless the machine is told otherwise.
pub const RECORDS: usize = 512;
/// How many all CPUs together can be told to keep: 3 MiB of the heap.
pub const MOST_RECORDS: usize = 3 << 15;

/// The most CPUs whose records can be merged.
pub const CPUS: usize = 64;

/// What a record says where no vCPU is concerned. Others are written as guest/vCPU, by number.
pub const NOBODY: VcpuId = VcpuId(0xFF_FFFF);

/// Declares the kinds of record: a name to print and the names of the two arguments, "" for one that means nothing.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal, $a:literal, $b:literal;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Whether a dump has it: it tells about turns or FP registers.
            const fn is_dumped(self) -> bool {
                matches!(self, Self::ExitFp | Self::TurnStart | Self::TurnEnd | Self::Migrate | Self::Stop)
                    || self as u8 >= Self::FpMove as u8
            }

            /// The name, and the names of the arguments.
            fn words(self) -> (&'static str, [&'static str; 2]) {
                match self {
                    $(Self::$kind => ($text, [$a, $b]),)*
                }
            }
        }
    };
}

kinds! {
    /// It touched FP units it does not hold: which.
    ExitFp = "exit fp", "units", "";
    /// It touched memory that nothing backs: the address, and what it stored.
    ExitMmio = "exit mmio", "gpa", "value";
    /// It called for a service of the core.
    ExitCall = "exit call", "", "";
    /// It waits for an interrupt, or until a time.
    ExitIdle = "exit idle", "until", "";
    /// A vCPU's turn began.
    TurnStart = "turn start", "", "";
    /// A vCPU's turn ended: what it left in the FP registers of the first group and of the second, see [`Outcome`].
    TurnEnd = "turn end", "fp", "fp2";
    /// The vCPU was woken.
    Wake = "wake", "", "";
    /// The vCPU moved: to which CPU.
    Migrate = "migrate", "to", "";
    /// The CPU's alarm went off.
    Alarm = "alarm", "", "";
    /// The vCPU ended with its guest.
    Stop = "stop", "", "";
    /// Its FP registers were saved because it was about to live elsewhere: which, and how many bytes.
    FpMove = "fp move", "units", "bytes";
    /// ... because the CPU was about to lose them.
    FpFlush = "fp flush", "units", "bytes";
    /// ... because a snapshot was taken.
    FpSnapshot = "fp snapshot", "units", "bytes";
    /// FP registers hold values of it no more.
    FpGone = "fp gone", "units", "";
}

/// One record: time; sequence, vCPU and kind; two arguments.
struct Record([AtomicU64; 4]);

/// The tag of a record that is being written.
const BUSY: u64 = u64::MAX;

/// A record as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub time: Ticks,
    /// What.
    pub kind: Kind,
    /// Which vCPU, or [`NOBODY`].
    pub vcpu: VcpuId,
    /// The arguments, as [`Kind`] names them.
    pub args: [u64; 2],
}

/// The records of one CPU.
pub struct Trace {
    next: AtomicU64,
    /// The number of the first record that was not [dumped](dump).
    undumped: AtomicU64,
    /// A power of two of them, so that finding the place is one instruction.
    records: Box<[Record]>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// A ring without records.
    pub fn new() -> Self {
        Self::with_room(RECORDS)
    }

    /// A ring that keeps at least so many records, if there can be one.
    pub fn with_room(records: usize) -> Self {
        let records = records.clamp(1, 1 << MOST_RECORDS.ilog2()).next_power_of_two();
        Self {
            next: AtomicU64::new(0),
            undumped: AtomicU64::new(0),
            records: (0..records).map(|_| Record([const { AtomicU64::new(BUSY) }; 4])).collect(),
        }
    }

    /// Adds a record and forgets the oldest. Only the CPU whose ring it is may call this.
    #[inline]
    pub fn record(&self, time: Ticks, kind: Kind, vcpu: VcpuId, a: u64, b: u64) {
        let n = self.next.load(Ordering::Relaxed);
        let Record([at, tag, first, second]) = self.place(n);
        tag.store(BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        at.store(time.0, Ordering::Relaxed);
        first.store(a, Ordering::Relaxed);
        second.store(b, Ordering::Relaxed);
        tag.store(n << 32 | u64::from(vcpu.0) << 8 | kind as u64, Ordering::Release);
        self.next.store(n + 1, Ordering::Release);
    }

    /// The number of the next record; as many below it as there is room for can be read.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Record number `n`, if it is there and was not overwritten meanwhile.
    pub fn entry(&self, n: u64) -> Option<Entry> {
        let Record([at, tag, first, second]) = self.place(n);
        let before = tag.load(Ordering::Acquire);
        let time = Ticks(at.load(Ordering::Relaxed));
        let args = [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)];
        fence(Ordering::Acquire);
        if before == BUSY || before >> 32 != n & 0xFFFF_FFFF || tag.load(Ordering::Relaxed) != before {
            return None;
        }
        let kind = *Kind::ALL.get(before as usize & 0xFF)?;
        Some(Entry { time, kind, vcpu: VcpuId(before as u32 >> 8), args })
    }

    fn place(&self, n: u64) -> &Record {
        &self.records[n as usize & self.records.len() - 1]
    }

    /// How many records it keeps.
    pub fn room(&self) -> usize {
        self.records.len()
    }

    /// The number of the oldest record that can still be there.
    fn oldest(&self) -> u64 {
        self.next().saturating_sub(self.records.len() as u64)
    }
}

/// Writes the newest `count` records of all `rings`, of which the first is CPU 0's, oldest first, one per line; times
/// are in microseconds at `hz` ticks a second. Neither allocates nor locks, so it also serves a panic.
pub fn write(out: &mut dyn Write, rings: &[&Trace], count: usize, hz: u64) -> fmt::Result {
    let rings = &rings[..rings.len().min(CPUS)];
    let mut at = newest(rings, count);
    let end = rings.iter().map(|ring| ring.next());
    let mut ends = [0; CPUS];
    ends.iter_mut().zip(end).for_each(|(place, end)| *place = end);
    for _ in 0..count.min(room(rings)) {
        let first = (0..rings.len())
            .filter_map(|cpu| Some((skip_torn(rings[cpu], &mut at[cpu], ends[cpu])?, cpu)))
            .min_by_key(|(entry, cpu)| (entry.time, *cpu));
        let Some((entry, cpu)) = first else { break };
        at[cpu] += 1;
        line(out, CpuId(cpu), &entry, hz)?;
    }
    Ok(())
}

/// Where in each ring the newest `count` records of all begin.
fn newest(rings: &[&Trace], count: usize) -> [u64; CPUS] {
    let mut at = [0; CPUS];
    at.iter_mut().zip(rings).for_each(|(place, ring)| *place = ring.next());
    for _ in 0..count.min(room(rings)) {
        let last = (0..rings.len())
            .filter(|&cpu| at[cpu] > rings[cpu].oldest())
            .max_by_key(|&cpu| (rings[cpu].entry(at[cpu] - 1).map(|entry| entry.time), cpu));
        let Some(cpu) = last else { break };
        at[cpu] -= 1;
    }
    at
}

/// How many records all rings can have.
fn room(rings: &[&Trace]) -> usize {
    rings.iter().map(|ring| ring.records.len()).sum()
}

/// Writes for programs what happened to FP registers and who had which turn, from where an earlier dump ended: a line
/// `t CPU TIME KIND VCPU A B` per record, all numbers hexadecimal, `lost CPU COUNT` where records were overwritten before
/// they could be written. Looks at no more than `most` records; returns whether there are more.
///
/// One caller at a time: who dumps shares what there is with nobody.
pub fn dump(out: &mut dyn Write, rings: &[&Trace], most: usize) -> Result<More, fmt::Error> {
    let mut left = most;
    for (cpu, ring) in rings.iter().enumerate() {
        let end = ring.next();
        let from = ring.undumped.load(Ordering::Relaxed);
        let mut at = from.max(ring.oldest());
        let mut lost = at - from;
        while at < end && left > 0 {
            (at, left) = (at + 1, left - 1);
            match ring.entry(at - 1) {
                Some(entry) if entry.kind.is_dumped() => dump_line(out, cpu, &entry)?,
                Some(_) => {}
                None => lost += 1,
            }
        }
        ring.undumped.store(at, Ordering::Relaxed);
        if lost > 0 {
            writeln!(out, "lost {cpu:x} {lost:x}")?;
        }
        if at < end {
            return Ok(More::Yes);
        }
    }
    Ok(More::No)
}

/// Whether there is more to dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There is.
    Yes,
    /// There was not when it was looked for.
    No,
}

fn dump_line(out: &mut dyn Write, cpu: usize, entry: &Entry) -> fmt::Result {
    write!(out, "t {cpu:x} {:x} ", entry.time.0)?;
    for letter in entry.kind.words().0.chars() {
        out.write_char(if letter == ' ' { '-' } else { letter })?;
    }
    writeln!(out, " {:x} {:x} {:x}", entry.vcpu.0, entry.args[0], entry.args[1])
}

/// The record at `at`, or the next one before `end` that is whole.
fn skip_torn(ring: &Trace, at: &mut u64, end: u64) -> Option<Entry> {
    *at = (*at).max(ring.oldest());
    while *at < end {
        if let Some(entry) = ring.entry(*at) {
            return Some(entry);
        }
        *at += 1;
    }
    None
}

fn line(out: &mut dyn Write, CpuId(cpu): CpuId, entry: &Entry, hz: u64) -> fmt::Result {
    let micros = u128::from(entry.time.0) * 1_000_000 / u128::from(hz.max(1));
    let (name, args) = entry.kind.words();
    write!(out, "{:6}.{:06} cpu{cpu:<2} ", micros / 1_000_000, micros % 1_000_000)?;
    match entry.vcpu {
        NOBODY => write!(out, "    - {name:<14}")?,
        VcpuId(vcpu) => write!(out, "{:3}/{:<1} {name:<14}", vcpu >> 8, vcpu & 0xff)?,
    }
    match entry.kind {
        Kind::TurnEnd => {
            for (name, word) in args.into_iter().zip(entry.args).filter(|(_, word)| *word != 0) {
                write!(out, " {name}={}", Outcome::unpack(word))?;
            }
        }
        _ => {
            for (name, value) in args.into_iter().zip(entry.args).filter(|(name, _)| !name.is_empty()) {
                write!(out, " {name}={value:#x}")?;
            }
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::string::String;
    use core::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn kinds_are_numbered_as_they_are_listed_and_a_record_is_32_bytes() {
        for (n, &kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(kind as usize, n);
        }
        assert_eq!(size_of::<Record>(), 32);
    }

    #[test]
    fn a_ring_has_room_for_a_power_of_two() {
        for (asked, has) in [(0, 1), (1, 1), (512, 512), (513, 1024), (usize::MAX, 1 << 16)] {
            assert_eq!(Trace::with_room(asked).records.len(), has);
        }
    }

    #[test]
    fn a_dump_goes_on_where_the_last_one_ended_and_says_what_was_lost() {
        let (zero, one) = (Trace::with_room(4), Trace::with_room(4));
        let page = |most| {
            let mut text = String::new();
            let more = dump(&mut text, &[&zero, &one], most).unwrap();
            (text, more)
        };
        zero.record(Ticks(0x10), Kind::TurnStart, VcpuId(0x100), 0, 0);
        zero.record(Ticks(0x11), Kind::Alarm, NOBODY, 0, 0);
        zero.record(Ticks(0x12), Kind::FpMove, VcpuId(0x100), 3, 0x210);
        one.record(Ticks(0x13), Kind::FpGone, VcpuId(2), 3, 0);
        assert_eq!(page(3), ("t 0 10 turn-start 100 0 0\nt 0 12 fp-move 100 3 210\n".into(), More::Yes));
        assert_eq!(page(3), ("t 1 13 fp-gone 2 3 0\n".into(), More::No));
        assert_eq!(page(3), (String::new(), More::No));
        for n in 0..7 {
            one.record(Ticks(0x20 + n), Kind::FpFlush, VcpuId(2), 1, 0);
        }
        let (text, more) = page(3);
        assert_eq!(text.lines().next(), Some("t 1 23 fp-flush 2 1 0"));
        assert_eq!((text.lines().last(), more), (Some("lost 1 3"), More::Yes));
    }

    #[test]
    fn a_ring_keeps_the_newest_records() {
        let trace = Trace::new();
        assert_eq!(trace.entry(0), None);
        for n in 0..RECORDS as u64 + 3 {
            trace.record(Ticks(n), Kind::ExitMmio, VcpuId(7), n, n * 2);
        }
        assert_eq!((trace.next(), trace.entry(2), trace.entry(trace.next())), (515, None, None));
        let entry = Entry { time: Ticks(3), kind: Kind::ExitMmio, vcpu: VcpuId(7), args: [3, 6] };
        assert_eq!(trace.entry(3), Some(entry));
    }

    #[test]
    fn the_newest_of_all_cpus_are_written_in_the_order_of_time() {
        let (zero, one) = (Trace::new(), Trace::new());
        for n in 0..10 {
            zero.record(Ticks(n * 10), Kind::ExitFp, VcpuId(0x100), 0x40080000 + n, 9);
        }
        one.record(Ticks(1), Kind::Alarm, NOBODY, 0, 0);
        one.record(Ticks(75), Kind::ExitMmio, VcpuId(3), 1, 3);
        let mut text = String::new();
        write(&mut text, &[&zero, &one], 3, 1_000_000).unwrap();
        assert_eq!(
            text,
            "     0.000075 cpu1    0/3 exit mmio      gpa=0x1 value=0x3\n\
             \x20    0.000080 cpu0    1/0 exit fp        units=0x40080008\n\
             \x20    0.000090 cpu0    1/0 exit fp        units=0x40080009\n"
        );
        text.clear();
        write(&mut text, &[&zero, &one], usize::MAX, 0).unwrap();
        assert_eq!(text.lines().count(), 12);
        assert!(text.lines().nth(1).unwrap().contains("    - alarm"));
    }

    #[test]
    fn a_reader_never_sees_half_of_two_records() {
        let (trace, done) = (Trace::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..2_000_000u64 {
                    trace.record(Ticks(n), Kind::ExitMmio, VcpuId(n as u32 & 0xFFFF), n ^ 0xAAAA, !n);
                }
                done.store(true, Ordering::Release);
            });
            let mut seen = 0;
            while !done.load(Ordering::Acquire) || seen == 0 {
                let next = trace.next();
                // The oldest, which are being overwritten.
                let oldest = next.saturating_sub(RECORDS as u64);
                for n in oldest..oldest + 3 {
                    let Some(entry) = trace.entry(n) else { continue };
                    let vcpu = VcpuId(n as u32 & 0xFFFF);
                    let whole = Entry { time: Ticks(n), kind: Kind::ExitMmio, vcpu, args: [n ^ 0xAAAA, !n] };
                    assert_eq!(entry, whole);
                    seen += 1;
                }
            }
        });
    }
}
