//! LVZ: entries and exits, what traps, both levels of EUEN, stage 2, guest tags, injected interrupts, the guest's timer.
//!
//! There is no public manual of LVZ; what is expected is what Linux KVM relies on, and Fermata. Where others would do as
//! well, the test says which.

mod code;
mod enables;
mod entry;
mod interrupts;
mod memory;
mod own;
mod sensitive;
mod stage2;
mod tags;
mod time;
mod world;

use guests::arch::cpu::cpucfg;
use guests::println;
use guests::report::{Done, test};

pub(crate) fn main() {
    let word = cpucfg(2);
    if word >> 10 & 1 == 0 {
        test("lvz", || Ok(Done::Skipped("this CPU has none")));
        return;
    }
    println!("lvz: version {}, CPUCFG 2 is {word:#010x}", word >> 11 & 0b111);
    world::init();
    entry::tests();
    sensitive::tests();
    own::tests();
    enables::tests();
    memory::tests();
    tags::tests();
    interrupts::tests();
    time::tests();
}
