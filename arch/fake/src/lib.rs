//! A third architecture, made of ordinary values, for tests on the host.
//!
//! Its guests are [scripts](script) that know what they must see. Its machine is a [`World`](world::World): CPUs
//! that share one virtual clock, interrupts, a serial line, and an [observer](watch) that knows what the
//! hypervisor owes to whom. The portable core runs on it unchanged, loop and all.

pub mod chips;
pub mod cpu;
pub mod fp;
pub mod guest;
pub mod script;
pub mod serial;
pub mod watch;
pub mod world;

use core::ops::Range;

use kernel::arch::Arch;
use kernel::dev::pl011::Pl011;
use kernel::fp::Units;

pub use chips::FakeChips;
pub use cpu::FakeCpu;
pub use guest::FakeGuest;

/// The architecture.
#[derive(Debug)]
pub struct Fake;

/// Where a guest's memory starts.
pub const RAM: u64 = 0x4000_0000;
/// Where nothing is.
pub const NOWHERE: u64 = 0x0b00_0000;
/// What a guest adds to a physical address to get the virtual one.
pub const VIRTUAL: u64 = 0xffff_0000_0000_0000;

impl Arch for Fake {
    const NAME: &'static str = "fake";
    const UART: Range<u64> = 0x0900_0000..0x0900_1000;
    const UART_LINE: u32 = script::UART_IRQ as u32;

    fn fp_name(units: Units) -> &'static str {
        if units.contains(fp::EXTRA) {
            "extra"
        } else if units.contains(fp::VECTOR) {
            "vector"
        } else if units.contains(fp::SCALAR) {
            "scalar"
        } else {
            "-"
        }
    }

    type Guest = FakeGuest;
    type Fp = fp::Regs;
    type Chips = FakeChips;
    type Uart = Pl011;
    type Cpu = FakeCpu;
}
