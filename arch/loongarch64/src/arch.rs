//! The bundle of types that the portable core runs on.

use core::ops::Range;

use kernel::arch::Arch;
use kernel::dev::ns16550::Ns16550;
use kernel::fp::Units;

use crate::chips::GuestChips;
use crate::cpu::ThisCpu;
use crate::fp::{self, Fp};
use crate::fp_regs::Hardware;
use crate::guest::Guest;
use crate::layout;

/// LoongArch64 with LVZ.
#[derive(Debug)]
pub struct Loongarch64;

impl Arch for Loongarch64 {
    const NAME: &'static str = "loongarch64";
    const UART: Range<u64> = layout::UART;
    const UART_LINE: u32 = layout::UART_PIN;
    type Guest = Guest;
    type Fp = Fp<Hardware>;
    type Chips = GuestChips;
    type Uart = Ns16550;
    type Cpu = ThisCpu;

    fn fp_name(units: Units) -> &'static str {
        fp::widest(units)
    }
}
