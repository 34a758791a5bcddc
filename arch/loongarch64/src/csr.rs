//! Control and status registers of this CPU, of the guest whose registers it holds, and IOCSRs.
//!
//! Numbers and names are the manual's (LoongArch Reference Manual volume 1, 7.1); those of the virtualisation
//! extension are the ones Linux' KVM uses.

use core::arch::asm;

pub use tock_registers::interfaces::{Readable, Writeable};

/// A register of the root: `csrrd`, `csrwr`.
#[derive(Clone, Copy, Debug)]
pub struct Csr<const N: u16>;

/// A register of the guest: `gcsrrd`, `gcsrwr`.
#[derive(Clone, Copy, Debug)]
pub struct Gcsr<const N: u16>;

macro_rules! moves {
    ($kind:ident, $read:literal, $write:literal) => {
        impl<const N: u16> Readable for $kind<N> {
            type T = u64;
            type R = ();
            #[inline(always)]
            fn get(&self) -> u64 {
                let value;
                // SAFETY: at PLV0 in root mode; reading a register changes no state, and one that does not exist
                // reads as zero.
                unsafe { asm!(concat!($read, " {}, {}"), out(reg) value, const N, options(nomem, nostack)) };
                value
            }
        }

        impl<const N: u16> Writeable for $kind<N> {
            type T = u64;
            type R = ();
            #[inline(always)]
            fn set(&self, value: u64) {
                // The instruction swaps, so its operand is overwritten; not `nomem`, so that stores before it stay before it.
                // SAFETY: the registers named here hold guest state or configure what guests may do and what interrupts the
                // root. None changes how the root itself fetches, loads or stores: it runs in direct-mapped windows, which
                // no name here reaches.
                unsafe { asm!(concat!($write, " {}, {}"), inout(reg) value => _, const N, options(nostack)) };
            }
        }
    };
}

moves!(Csr, "csrrd", "csrwr");
moves!(Gcsr, "gcsrrd", "gcsrwr");

impl<const N: u16> Gcsr<N> {
    /// Changes the bits of `mask` to those of `value`.
    #[inline(always)]
    pub fn change(&self, mask: u64, value: u64) {
        // SAFETY: as for writing. The mask's register is fixed, because numbers 0 and 1 in its place mean another
        // instruction.
        unsafe {
            asm!("gcsrxchg {}, $r13, {}", inout(reg) value => _, const N, in("$r13") mask, options(nostack));
        }
    }
}

/// Which units the root lets anybody use.
pub const EUEN: Csr<0x2> = Csr;
/// Which local interrupts are enabled; vector spacing.
pub const ECFG: Csr<0x4> = Csr;
/// Pending interrupts; why the last exception was taken.
pub const ESTAT: Csr<0x5> = Csr;
/// The address that the last exception was about.
pub const BADV: Csr<0x7> = Csr;
/// The instruction that the last exception was about.
pub const BADI: Csr<0x8> = Csr;
/// Where exceptions go.
pub const EENTRY: Csr<0xc> = Csr;
/// Guest TLB control: which guest the root's TLB instructions are about.
pub const GTLBC: Csr<0x15> = Csr;
/// Address space identifier.
pub const ASID: Csr<0x18> = Csr;
/// Root page table for addresses with bit 63 clear.
pub const PGDL: Csr<0x19> = Csr;
/// Root page table for addresses with bit 63 set.
pub const PGDH: Csr<0x1a> = Csr;
/// Shape of page tables, lower levels.
pub const PWCL: Csr<0x1c> = Csr;
/// Shape of page tables, higher levels.
pub const PWCH: Csr<0x1d> = Csr;
/// Page size of the set-associative TLB.
pub const STLBPS: Csr<0x1e> = Csr;
/// Number of this CPU.
pub const CPUID: Csr<0x20> = Csr;
/// Number of SAVE registers, width of the timer.
pub const PRCFG1: Csr<0x21> = Csr;
/// Page sizes there are.
pub const PRCFG2: Csr<0x22> = Csr;
/// Shape of the TLBs.
pub const PRCFG3: Csr<0x23> = Csr;
/// Set while a guest runs: where its frame is.
pub const SAVE5: Csr<0x35> = Csr;
/// Set while an attempt is made: where its stack is.
pub const SAVE4: Csr<0x34> = Csr;
/// Timer configuration.
pub const TCFG: Csr<0x41> = Csr;
/// Clears the timer interrupt.
pub const TICLR: Csr<0x44> = Csr;
/// Whether and as whom a guest runs.
pub const GSTAT: Csr<0x50> = Csr;
/// What of a guest's doings traps.
pub const GCFG: Csr<0x51> = Csr;
/// Interrupt lines of the guest.
pub const GINTC: Csr<0x52> = Csr;
/// Added to the guest's counter.
pub const GCNTC: Csr<0x53> = Csr;
/// Where TLB refills go, a physical address.
pub const TLBRENTRY: Csr<0x88> = Csr;
/// Where machine errors go, a physical address.
pub const MERRENTRY: Csr<0x93> = Csr;

/// `GSTAT` fields.
pub mod gstat {
    /// Previous mode: what `ertn` returns to.
    pub const PVM: u64 = 1 << 1;
    /// The guest's identifier.
    pub const GID_SHIFT: u32 = 16;
    /// How many bits it has, in bits 9:4.
    pub const GIDBIT_SHIFT: u32 = 4;
}

/// `GTLBC.USETGID`: TLB instructions and refills tag entries with `TGID`.
pub const GTLBC_USETGID: u64 = 1 << 12;
/// `GTLBC.TGID`.
pub const GTLBC_TGID_SHIFT: u32 = 16;
/// `TCFG.EN`: the timer counts.
pub const TCFG_EN: u64 = 1;
/// The largest value `TCFG` and `TVAL` hold (48-bit timer, PRCFG1.TimerBits).
pub const TIMER_MAX: u64 = (1 << 48) - 4;

/// Interrupt numbers: bits of `ESTAT.IS` and `ECFG.LIE`.
pub mod interrupt {
    /// The first of eight hardware lines.
    pub const HWI0: u32 = 2;
    /// The timer.
    pub const TIMER: u32 = 11;
    /// Another CPU.
    pub const IPI: u32 = 12;
    /// Every one there is but performance counters and NMI.
    pub const LINES: u64 = 0x1bff;
}

/// The stable counter.
#[inline(always)]
pub fn counter() -> u64 {
    let value;
    // SAFETY: reads a counter.
    unsafe { asm!("rdtime.d {}, $zero", out(reg) value, options(nomem, nostack)) };
    value
}

/// Word `index` of the CPU's configuration; zero for one that does not exist.
pub fn cpucfg(index: u64) -> u32 {
    let value: u64;
    // SAFETY: reads constants.
    unsafe { asm!("cpucfg {}, {}", out(reg) value, in(reg) index, options(nomem, nostack)) };
    value as u32
}

/// Waits until an interrupt that is enabled in `ECFG` is pending, masked or not.
pub fn idle() {
    // SAFETY: interrupts stay masked; the instruction only waits. The barrier completes earlier stores, so that
    // another CPU sees them before this one sleeps.
    unsafe { asm!("dbar 0", "idle 0", options(nostack)) }
}

/// Makes earlier stores visible to everybody, the table walker included, before anything that follows.
pub fn barrier() {
    // SAFETY: a barrier; it has no other effect.
    unsafe { asm!("dbar 0", "ibar 0", options(nostack)) }
}

/// Drops all translations of the root, and all of every guest where `lvz` says that there can be some.
pub fn invalidate_all(lvz: Lvz) {
    // SAFETY: dropping cached translations never changes what an address means, only when it is walked again;
    // operation 0x12 (all guests, both stages) exists where LVZ does.
    unsafe {
        asm!("invtlb 0, $zero, $zero", options(nostack));
        if lvz == Lvz::Present {
            asm!("invtlb 0x12, $zero, $zero", options(nostack));
        }
    }
}

/// Whether this CPU has the virtualisation extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lvz {
    /// It has.
    Present,
    /// It has not.
    Absent,
}

impl Lvz {
    /// Looks at CPUCFG word 2, bit 10.
    pub fn of_this_cpu() -> Self {
        if cpucfg(2) >> 10 & 1 != 0 { Self::Present } else { Self::Absent }
    }
}

macro_rules! iocsr {
    ($read:ident, $write:ident, $type:ty, $rd:literal, $wr:literal) => {
        /// Reads an IOCSR.
        #[inline(always)]
        pub fn $read(at: u32) -> $type {
            let value: u64;
            // SAFETY: at PLV0. IOCSRs are device registers; no memory of ours is behind them.
            unsafe { asm!(concat!($rd, " {}, {}"), out(reg) value, in(reg) u64::from(at), options(nostack)) };
            value as $type
        }

        /// Writes an IOCSR.
        #[inline(always)]
        pub fn $write(at: u32, value: $type) {
            // SAFETY: as for reading; what the device does is the caller's subject.
            unsafe { asm!(concat!($wr, " {}, {}"), in(reg) u64::from(value), in(reg) u64::from(at), options(nostack)) };
        }
    };
}

iocsr!(iocsr_read32, iocsr_write32, u32, "iocsrrd.w", "iocsrwr.w");
iocsr!(iocsr_read64, iocsr_write64, u64, "iocsrrd.d", "iocsrwr.d");
