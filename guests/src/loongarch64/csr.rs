//! Control and status registers by number (LoongArch Reference Manual Vol.1, 7).

/// Current mode: PLV 1:0, IE 2, DA 3, PG 4, DATF 6:5, DATM 8:7.
pub const CRMD: u32 = 0x0;
/// Mode before the exception.
pub const PRMD: u32 = 0x1;
/// Enables of the FP units: FPE 0, SXE 1, ASXE 2, BTE 3.
pub const EUEN: u32 = 0x2;
/// Interrupt enables (LIE 12:0) and vector spacing (VS 18:16).
pub const ECFG: u32 = 0x4;
/// Interrupts pending (IS 12:0), Ecode 21:16, EsubCode 30:22.
pub const ESTAT: u32 = 0x5;
/// Where the exception happened.
pub const ERA: u32 = 0x6;
/// The bad virtual address.
pub const BADV: u32 = 0x7;
/// The bad instruction.
pub const BADI: u32 = 0x8;
/// Where exceptions go.
pub const EENTRY: u32 = 0xc;
/// TLB index, page size, NE.
pub const TLBIDX: u32 = 0x10;
/// The page pair of a TLB entry.
pub const TLBEHI: u32 = 0x11;
/// The even page of a TLB entry.
pub const TLBELO0: u32 = 0x12;
/// The odd page of a TLB entry.
pub const TLBELO1: u32 = 0x13;
/// Address space identifier: ASID 9:0.
pub const ASID: u32 = 0x18;
/// Tables of the low half.
pub const PGDL: u32 = 0x19;
/// Tables of the high half.
pub const PGDH: u32 = 0x1a;
/// Tables of the address that missed.
pub const PGD: u32 = 0x1b;
/// Shape of the tables, lower levels.
pub const PWCL: u32 = 0x1c;
/// Shape of the tables, higher levels.
pub const PWCH: u32 = 0x1d;
/// Page size of the STLB.
pub const STLBPS: u32 = 0x1e;
/// Number of this core.
pub const CPUID: u32 = 0x20;
/// SAVE registers, timer bits, widest vector spacing.
pub const PRCFG1: u32 = 0x21;
/// Page sizes.
pub const PRCFG2: u32 = 0x22;
/// TLB geometry.
pub const PRCFG3: u32 = 0x23;
/// The first of the scratch registers.
pub const SAVE0: u32 = 0x30;
/// What RDTIME yields besides the time.
pub const TID: u32 = 0x40;
/// Timer: EN 0, Periodic 1, InitVal 47:2.
pub const TCFG: u32 = 0x41;
/// Ticks left.
pub const TVAL: u32 = 0x42;
/// Compensation of the counter.
pub const CNTC: u32 = 0x43;
/// Clears the timer's interrupt: CLR 0.
pub const TICLR: u32 = 0x44;
/// LL bit: ROLLB 0, WCLLB 1, KLO 2.
pub const LLBCTL: u32 = 0x60;
/// Where TLB refills go, physical.
pub const TLBRENTRY: u32 = 0x88;
/// The address that missed.
pub const TLBRBADV: u32 = 0x89;
/// Where a refill happened: IsTLBR 0, PC 63:2.
pub const TLBRERA: u32 = 0x8a;
/// Scratch of the refill handler.
pub const TLBRSAVE: u32 = 0x8b;
/// The page pair of a refill.
pub const TLBREHI: u32 = 0x8e;
/// Mode before the refill.
pub const TLBRPRMD: u32 = 0x8f;
/// Where machine errors go, physical.
pub const MERRENTRY: u32 = 0x93;
/// The first of four direct-mapped windows: PLV 3:0, MAT 5:4, VSEG 63:60.
pub const DMW0: u32 = 0x180;

/// CRMD.IE.
pub const IE: u64 = 1 << 2;

/// Reads a CSR; yields a `u64`.
#[macro_export]
macro_rules! csr {
    ($number:expr) => {{
        let value: u64;
        // SAFETY: reading a CSR changes nothing; one that is not there reads 0 or traps and is skipped or reported.
        unsafe { core::arch::asm!("csrrd {}, {}", out(reg) value, const $number, options(nostack)) };
        value
    }};
}

/// Writes a CSR and yields the `u64` it had.
#[macro_export]
macro_rules! set_csr {
    ($number:expr, $value:expr) => {{
        let mut value: u64 = $value;
        // SAFETY: the guests write only registers whose effect they are about to test or that the runtime owns; none of
        // them changes the direct-mapped windows that Rust relies on.
        unsafe { core::arch::asm!("csrwr {}, {}", inout(reg) value, const $number, options(nostack)) };
        value
    }};
}

/// Writes the bits of a CSR that a mask selects and yields the `u64` it had.
#[macro_export]
macro_rules! change_csr {
    ($number:expr, $mask:expr, $value:expr) => {{
        let (mask, mut value): (u64, u64) = ($mask, $value);
        // SAFETY: as for `set_csr`. The mask is in a register that is neither r0 nor r1, which would mean another
        // instruction (Vol.1, 4.2.1).
        unsafe {
            core::arch::asm!("csrxchg {}, $t0, {}", inout(reg) value, const $number, in("$t0") mask, options(nostack))
        };
        value
    }};
}
