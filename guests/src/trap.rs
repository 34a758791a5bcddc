//! Exceptions: interrupts, and faults that a test expects.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

pub use crate::arch::trap::{Frame, Trap};
use crate::arch::{irq, trap};
use crate::cpu::{self, MAX_CPUS};

/// What to do after an expected fault.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Resume {
    /// Nothing is expected.
    Never,
    /// After the instruction.
    Skip,
    /// At the caller of the function that faulted, by its link register.
    Return,
}

/// Expected faults of one vCPU: how to resume, how many came, and what the first one left in registers.
struct Expect {
    resume: AtomicU64,
    count: AtomicU64,
    first: [AtomicU64; trap::WORDS],
}

static EXPECT: [Expect; MAX_CPUS] = [const {
    Expect {
        resume: AtomicU64::new(Resume::Never as u64),
        count: AtomicU64::new(0),
        first: [const { AtomicU64::new(0) }; trap::WORDS],
    }
}; MAX_CPUS];

/// The function that takes every interrupt, as `fn(&mut Frame)`; 0 for the runtime's own.
static ON_IRQ: AtomicUsize = AtomicUsize::new(0);

/// Runs `probe`, each faulting instruction of which is skipped, and returns the first fault.
pub fn catch(probe: impl FnOnce()) -> Option<Trap> {
    expect(Resume::Skip, probe)
}

/// Runs `probe`, which may branch to where nothing is: a failing fetch returns to the branch-with-link that led there.
pub fn catch_branch(probe: impl FnOnce()) -> Option<Trap> {
    expect(Resume::Return, probe)
}

fn expect(resume: Resume, probe: impl FnOnce()) -> Option<Trap> {
    let slot = &EXPECT[cpu::index()];
    slot.count.store(0, Relaxed);
    slot.resume.store(resume as u64, Relaxed);
    cpu::sync();
    probe();
    cpu::sync();
    slot.resume.store(Resume::Never as u64, Relaxed);
    let words = core::array::from_fn(|n| slot.first[n].load(Relaxed));
    (slot.count.load(Relaxed) > 0).then(|| Trap::from_words(words))
}

/// Gives every interrupt, unacknowledged, to `handler`.
pub fn take_irqs(handler: fn(&mut Frame)) {
    ON_IRQ.store(handler as usize, Relaxed);
}

/// Gives interrupts back to the runtime.
pub fn release_irqs() {
    ON_IRQ.store(0, Relaxed);
}

/// Takes an interrupt.
pub(crate) fn interrupt(frame: &mut Frame) {
    match ON_IRQ.load(Relaxed) {
        0 => irq::handle(),
        handler => {
            // SAFETY: the only value stored besides 0 is a `fn(&mut Frame)`, by `take_irqs`.
            let handler = unsafe { core::mem::transmute::<usize, fn(&mut Frame)>(handler) };
            handler(frame);
        }
    }
}

/// Takes a fault: resumes as it was asked for, or ends the guest.
pub(crate) fn fault(frame: &mut Frame) {
    let slot = &EXPECT[cpu::index()];
    let resume = slot.resume.load(Relaxed);
    if resume == Resume::Never as u64 {
        trap::unexpected(frame);
    }
    if slot.count.fetch_add(1, Relaxed) == 0 {
        for (word, value) in slot.first.iter().zip(frame.words()) {
            word.store(value, Relaxed);
        }
    }
    if resume == Resume::Skip as u64 { frame.skip() } else { frame.leave() }
}
