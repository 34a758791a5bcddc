//! Power: the machine's by the syscon of the tree, a vCPU's by mailbox and IPI, as Linux and firmware have it.

use core::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

use super::chips::{Chips, ipi_send};
use super::start::{leave_mapped_mode, secondary};
use super::{csr, iocsr};
use crate::cpu::{self, MAX_CPUS};
use crate::start::{known, machine};
use crate::{mmio, set_csr, timer};

/// The action of an IPI that wakes a core which waits for a mailbox.
pub const BOOT: u32 = 0;
/// The line of IPIs in ESTAT.IS.
const IPI_LINE: u64 = 1 << 12;

/// The vCPU waits, as all but the first do at the start.
const OFF: u8 = 0;
/// The vCPU was told to start.
const STARTING: u8 = 1;
/// The vCPU is in the runtime.
const ON: u8 = 2;
static STATE: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(OFF) }; MAX_CPUS];

/// The vCPU runs something already, or does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnError;

/// Starts another vCPU in the runtime's entry, and waits until it is there.
///
/// It is told again when it does not come: cores of plain QEMU empty their mailboxes when they come out of reset, which may
/// be after this one did.
///
/// # Errors
/// It is not off, or does not come for five seconds.
pub fn cpu_on(cpu: usize) -> Result<(), OnError> {
    if cpu == 0 || STATE[cpu].compare_exchange(OFF, STARTING, AcqRel, Acquire).is_err() {
        return Err(OnError);
    }
    let entry = secondary as extern "C" fn() -> ! as usize as u64;
    for _ in 0..25 {
        mail(cpu, 1, cpu as u64);
        // Physical: a core starts in direct address mode.
        mail(cpu, 0, entry & 0xffff_ffff_ffff);
        ipi_send(machine().ids[cpu], BOOT);
        if timer::within(200_000, || STATE[cpu].load(Acquire) != STARTING) {
            return Ok(());
        }
    }
    Err(OnError)
}

/// Notes that a vCPU has come.
pub(crate) fn arrived(cpu: usize) {
    STATE[cpu].store(ON, Release);
}

/// Writes a mailbox of another vCPU, the high half first: what waits for it looks at the low half.
pub fn mail(cpu: usize, mailbox: u64, value: u64) {
    for (half, data) in [(1, value >> 32), (0, value & 0xffff_ffff)] {
        mail_half(machine().ids[cpu], mailbox * 2 + half, 0, data);
    }
}

/// Writes those bytes of half a mailbox whose bit in `keep` is clear, by MAIL_SEND.
pub fn mail_half(core: u64, half: u64, keep: u64, data: u64) {
    cpu::sync();
    iocsr::write64(iocsr::MAIL_SEND, data << 32 | 1 << 31 | keep << 27 | core << 16 | half << 2);
}

/// Tells whether a vCPU is off.
pub fn is_off(cpu: usize) -> bool {
    cpu != 0 && STATE[cpu].load(Acquire) == OFF
}

/// Waits, as a core does after reset, for an entry in mailbox 0 and an IPI, and goes there.
pub(crate) fn cpu_off() -> ! {
    cpu::mask_irq();
    set_csr!(csr::EUEN, 0);
    set_csr!(csr::ECFG, IPI_LINE);
    iocsr::write64(iocsr::MAILBOX, 0);
    STATE[cpu::index()].store(OFF, Release);
    loop {
        cpu::idle();
        iocsr::write32(iocsr::IPI_CLEAR, iocsr::read32(iocsr::IPI_STATUS));
        let entry = iocsr::read64(iocsr::MAILBOX);
        if entry != 0 {
            iocsr::write64(iocsr::MAILBOX, 0);
            leave_mapped_mode(entry);
        }
    }
}

/// A register of the syscon, and what to write there.
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    /// Its address; it has one byte.
    pub address: u64,
    /// What to write.
    pub value: u8,
}

impl Switch {
    /// Does it.
    pub fn throw(self) {
        mmio::write8(self.address, self.value);
    }
}

fn chips() -> Chips {
    known().map_or(Chips::new(), |machine| machine.chips)
}

/// Powers the machine off.
pub fn system_off() -> ! {
    chips().off.throw();
    halt()
}

/// Resets the machine.
pub fn system_reset() -> ! {
    chips().reset.throw();
    halt()
}

fn halt() -> ! {
    cpu::mask_irq();
    loop {
        cpu::idle();
    }
}
