//! From the architecture's start code to `main`, on the first vCPU and on the others.

use core::cell::UnsafeCell;

use spin::Once;

use crate::arch::irq;
use crate::cpu::{self, MAX_CPUS};
use crate::tree::{self, Machine, Tree};
use crate::{console, report, smp};

/// Size of a vCPU's stack: a handler and what it interrupted have several copies of the FP registers, of up to 9 KiB.
pub(crate) const STACK: usize = 128 << 10;

/// A stack for each vCPU; that of vCPU n ends where that of n + 1 begins.
#[repr(C, align(4096))]
pub(crate) struct Stacks(UnsafeCell<[[u8; STACK]; MAX_CPUS]>);

// SAFETY: only the start code uses it, giving each vCPU a stack of its own.
unsafe impl Sync for Stacks {}

pub(crate) static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK]; MAX_CPUS]));
static MACHINE: Once<Machine> = Once::new();

/// Returns the machine, once the tree has been read.
pub(crate) fn known() -> Option<&'static Machine> {
    MACHINE.get()
}

/// Returns the machine as the tree describes it.
pub fn machine() -> &'static Machine {
    MACHINE.get().expect("read before main")
}

/// Runs `main` on the first vCPU. Arguments that do not come with the tree take the place of those that do.
pub(crate) fn first(tree: &Tree<'static>, args: Option<&'static str>, main: extern "C" fn()) -> ! {
    let machine = MACHINE.call_once(|| {
        let machine = tree::machine(tree);
        Machine { args: args.unwrap_or(machine.args), ..machine }
    });
    console::init(machine.uart);
    machine.chips.init();
    irq::init_cpu();
    cpu::unmask_irq();
    main();
    report::finish()
}

/// Runs the job of another vCPU, whose interrupts are set up.
pub(crate) fn another(index: usize, entry: smp::Entry) -> ! {
    cpu::unmask_irq();
    smp::run_secondary(index, entry)
}
