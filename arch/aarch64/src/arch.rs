//! The bundle of types that the portable core runs on.

use core::ops::Range;

use kernel::arch::Arch;
use kernel::dev::pl011::Pl011;
use kernel::fp::Units;

use crate::chips::GuestChips;
use crate::cpu::ThisCpu;
use crate::fp::{self, Vectors};
use crate::fp_regs::Hardware;
use crate::guest::Guest;
use crate::layout;

/// AArch64 at EL2, with E2H=0.
#[derive(Debug)]
pub struct Aarch64;

impl Arch for Aarch64 {
    const NAME: &'static str = "aarch64";
    const UART: Range<u64> = layout::UART;
    const UART_LINE: u32 = layout::UART_INTID;
    type Guest = Guest;
    type Fp = Vectors<Hardware>;
    type Chips = GuestChips;
    type Uart = Pl011;
    type Cpu = ThisCpu;

    fn fp_name(units: Units) -> &'static str {
        fp::widest(units)
    }
}
