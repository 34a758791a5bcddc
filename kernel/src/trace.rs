//! What each CPU did last: a ring of small records per CPU, cheap enough for the exit path.
//!
//! One CPU writes its ring and any CPU may read it at any time. Word 1 of a record carries its sequence number and is
//! written last; a reader that finds it changed, or cleared, has read half of two records and drops them.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::addr::{CpuId, Ticks, VcpuId};

/// How many records a CPU keeps; a power of two, so that finding the place is one instruction.
pub const RECORDS: usize = 512;
const _: () = assert!(RECORDS.is_power_of_two());

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
    /// A vCPU's turn ended.
    TurnEnd = "turn end", "", "";
    /// The vCPU was woken.
    Wake = "wake", "", "";
    /// The vCPU moved: to which CPU.
    Migrate = "migrate", "to", "";
    /// The CPU's alarm went off.
    Alarm = "alarm", "", "";
    /// The vCPU ended with its guest.
    Stop = "stop", "", "";
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
    records: [Record; RECORDS],
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// A ring without records.
    pub const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            records: [const { Record([const { AtomicU64::new(BUSY) }; 4]) }; RECORDS],
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
        tag.store(n << 32 | u64::from(vcpu.0 << 8) | kind as u64, Ordering::Release);
        self.next.store(n + 1, Ordering::Release);
    }

    /// The number of the next record; the last [`RECORDS`] below it can be read.
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
        &self.records[n as usize % RECORDS]
    }

    /// The number of the oldest record that can still be there.
    fn oldest(&self) -> u64 {
        self.next().saturating_sub(RECORDS as u64)
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
    for _ in 0..count.min(RECORDS * rings.len()) {
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
    for _ in 0..count.min(RECORDS * rings.len()) {
        let last = (0..rings.len())
            .filter(|&cpu| at[cpu] > rings[cpu].oldest())
            .max_by_key(|&cpu| (rings[cpu].entry(at[cpu] - 1).map(|entry| entry.time), cpu));
        let Some(cpu) = last else { break };
        at[cpu] -= 1;
    }
    at
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
    for (name, value) in args.into_iter().zip(entry.args).filter(|(name, _)| !name.is_empty()) {
        write!(out, " {name}={value:#x}")?;
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
