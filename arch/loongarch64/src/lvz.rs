//! A guest's registers between memory and the hardware.
//!
//! The registers of the loaded guest are reached with `gcsrrd` and `gcsrwr`; they move when a vCPU is loaded or
//! unloaded and at no other time.

use kernel::addr::Ticks;

use crate::csr::{
    GCFG, GINTC, GSTAT, GTLBC, GTLBC_USETGID, Gcsr, Lvz, Readable, Writeable, counter, invalidate_all,
};
use crate::guest::{Csr, TI};
use crate::timer::Registers;

/// Mode, privilege and interrupt enable of the guest.
pub const GCRMD: Gcsr<0x0> = Gcsr;
/// The guest's mode before its last exception.
pub const GPRMD: Gcsr<0x1> = Gcsr;
/// Local interrupts that the guest has enabled.
pub const GECFG: Gcsr<0x4> = Gcsr;
/// Interrupts pending for the guest, and why its last exception was taken.
pub const GESTAT: Gcsr<0x5> = Gcsr;
/// Where the guest's last exception was taken.
pub const GERA: Gcsr<0x6> = Gcsr;
/// The address that the guest's last exception was about.
pub const GBADV: Gcsr<0x7> = Gcsr;
/// The instruction that the guest's last exception was about.
pub const GBADI: Gcsr<0x8> = Gcsr;
/// Where the guest's exceptions go.
pub const GEENTRY: Gcsr<0xc> = Gcsr;
/// The guest's timer: configuration.
pub const GTCFG: Gcsr<0x41> = Gcsr;
/// The guest's timer: value.
pub const GTVAL: Gcsr<0x42> = Gcsr;
/// `LLBCTL`: the guest's link bit.
const GLLBCTL: Gcsr<0x60> = Gcsr;
/// `LLBCTL.WCLLB`: clears the link bit. A store-conditional of the guest must not succeed for a load-linked of
/// before it was away.
const WCLLB: u64 = 1 << 1;
/// `LLBCTL.KLO`.
const KLO: u64 = 1 << 2;

macro_rules! moved {
    ($($field:ident $number:literal)*) => {
        /// Writes the registers that only have to be put where they belong.
        #[inline(never)]
        fn load_plain(csr: &Csr) {
            $(Gcsr::<$number>.set(csr.$field);)*
        }

        /// Reads the registers that only have to be put where they belong.
        #[inline(never)]
        fn store_plain(csr: &mut Csr) {
            $(csr.$field = Gcsr::<$number>.get();)*
        }
    };
}

moved! {
    crmd 0x00 prmd 0x01 euen 0x02 misc 0x03 ecfg 0x04 era 0x06 badv 0x07 badi 0x08 eentry 0x0c
    tlbidx 0x10 tlbehi 0x11 tlbelo0 0x12 tlbelo1 0x13 asid 0x18 pgdl 0x19 pgdh 0x1a pwcl 0x1c pwch 0x1d
    stlbps 0x1e rvacfg 0x1f tid 0x40 cntc 0x43
    tlbrentry 0x88 tlbrbadv 0x89 tlbrera 0x8a tlbrsave 0x8b tlbrelo0 0x8c tlbrelo1 0x8d tlbrehi 0x8e tlbrprmd 0x8f
}

macro_rules! arrays {
    ($($field:ident $index:literal $number:literal)*) => {
        fn load_arrays(csr: &Csr) {
            $(Gcsr::<$number>.set(csr.$field[$index]);)*
        }

        fn store_arrays(csr: &mut Csr) {
            $(csr.$field[$index] = Gcsr::<$number>.get();)*
        }
    };
}

arrays! {
    save 0 0x30 save 1 0x31 save 2 0x32 save 3 0x33 save 4 0x34 save 5 0x35 save 6 0x36 save 7 0x37
    dmw 0 0x180 dmw 1 0x181 dmw 2 0x182 dmw 3 0x183
}

/// Puts what a guest's model decides into the hardware. Nobody changes it there.
pub fn load_model(csr: &Csr) {
    Gcsr::<0x21>.set(csr.prcfg1);
    Gcsr::<0x22>.set(csr.prcfg2);
    Gcsr::<0x23>.set(csr.prcfg3);
}

/// Puts a guest's registers into the hardware, all but those of its timer, which stands still.
pub fn load(csr: &Csr) {
    load_plain(csr);
    load_arrays(csr);
    Gcsr::<0x20>.set(csr.cpuid);
    GLLBCTL.set(csr.llbctl & KLO | WCLLB);
}

/// Lets the guest's timer run, and writes its interrupts with it.
pub fn load_timer(estat: u64, timer: Registers) {
    // It stands still, so it cannot fire while the interrupts are written.
    GTCFG.set(0);
    GESTAT.set(estat);
    GTCFG.set(timer.tcfg);
    GTVAL.set(timer.tval);
}

/// Takes a guest's registers out of the hardware, and stops its timer. Returns what that had come to, and a time after it.
pub fn store(csr: &mut Csr) -> (Registers, Ticks) {
    let (tcfg, first_tval) = (GTCFG.get(), GTVAL.get());
    csr.estat = GESTAT.get();
    let tval = GTVAL.get();
    let now = Ticks(counter());
    // What it does from here on is forgotten.
    GTCFG.set(0);
    store_plain(csr);
    store_arrays(csr);
    csr.llbctl = GLLBCTL.get();
    (Registers::read(tcfg, first_tval, csr.estat & TI != 0, tval), now)
}

/// Changes the bits of `mask` of the guest's `ESTAT`, without losing an interrupt of its timer.
///
/// The instruction reads and writes the register, and the timer may fire in between: then the counter has gone
/// through zero, and is larger than before.
pub fn change_estat(mask: u64, value: u64) {
    let before = GTVAL.get();
    GESTAT.change(mask, value);
    if GTVAL.get() > before {
        GESTAT.change(TI, TI);
    }
}

/// `GCFG.MATP`: the root may decide on memory types; `GCFG.MATC`: it does.
const GCFG_MATP_ROOT: u64 = 1 << 1;
const GCFG_MATC_ROOT: u64 = 1 << 4;
/// `GCFG.GCIP`: cache operations that initialise can be trapped alone; `GCFG.GCI`: they are.
const GCFG_GCIP_SECURE: u64 = 1 << 18;
const GCFG_GCI_SECURE: u64 = 2 << 20;

/// Makes this CPU ready for guests: nothing of an earlier one, nothing trapped but what has to be.
pub fn set_up() {
    let can = GCFG.get();
    GSTAT.set(0);
    GINTC.set(0);
    GTLBC.set(0);
    let mut gcfg = 0;
    if can & GCFG_MATP_ROOT != 0 {
        gcfg |= GCFG_MATC_ROOT;
    }
    if can & GCFG_GCIP_SECURE != 0 {
        gcfg |= GCFG_GCI_SECURE;
    }
    GCFG.set(gcfg);
    GTCFG.set(0);
    invalidate_all(Lvz::Present);
    GTLBC.set(GTLBC_USETGID);
}
