//! From a syndrome to what happened. Pure: the caller reads the registers.

use arch_common::access::{Extend, Load, Transfer};
use kernel::addr::Gpa;

/// What an exception from a guest was, decoded from `ESR_EL2`, `FAR_EL2` and `HPFAR_EL2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// WFI, WFE, WFIT or WFET.
    Wait(Wait),
    /// A floating-point or Advanced SIMD instruction (EC 0x07).
    Simd,
    /// An SVE instruction or register (EC 0x19).
    Sve,
    /// An SME instruction or register (EC 0x1D).
    Sme,
    /// HVC; the program counter is behind it already.
    Hvc(u16),
    /// SMC; the program counter is at it.
    Smc(u16),
    /// MRS, MSR or a system instruction.
    Sysreg(SysAccess),
    /// A data abort at stage 2.
    Data(Abort),
    /// An instruction abort at stage 2.
    Fetch(Abort),
    /// Anything else: the guest gets an UNDEF. The exception class.
    Other(u8),
}

/// A wait instruction (`ESR_EL2` ISS for EC 0x01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Which one.
    pub kind: WaitKind,
    /// When the wait ends without an event.
    pub deadline: Deadline,
}

/// Whether a wait instruction has a deadline, in ticks of the virtual counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// It has none: WFI, WFE.
    None,
    /// It is in this register.
    Register(u8),
    /// It is in the register that the low five bits of the instruction name: the syndrome may leave it out.
    InInstruction,
}

/// Which wait instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// WFI, WFIT.
    Interrupt,
    /// WFE, WFET.
    Event,
}

/// A trapped access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysAccess {
    /// Op0, Op1, CRn, CRm, Op2 packed as [`encode`] does.
    pub register: u16,
    /// The general register; 31 is the zero register.
    pub rt: u8,
    /// Direction.
    pub direction: Direction,
}

/// Which way a trapped register access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// MRS.
    Read,
    /// MSR or a system instruction.
    Write,
}

/// The packed number of a system register, as in bits 20 to 5 of MRS.
pub const fn encode(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// A stage-2 abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The virtual address, for the fault that the guest may be given.
    pub va: u64,
    /// The guest-physical address, where the hardware gives one.
    pub gpa: Option<Gpa>,
    /// The access itself, when the syndrome describes it.
    pub access: Option<Transfer>,
    /// Whether it was a store (for a cache operation: as the syndrome says).
    pub store: Store,
    /// What kind of access it was.
    pub kind: AbortKind,
}

/// Whether an aborting access wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A load or fetch.
    No,
    /// A store.
    Yes,
}

/// What kind of access aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortKind {
    /// A load, store or fetch.
    Access,
    /// A cache maintenance instruction.
    CacheMaintenance,
    /// A walk of the guest's own tables.
    Walk,
}

fn bit(esr: u64, n: u32) -> bool {
    esr >> n & 1 == 1
}

/// Decodes one exception. `hpfar` is looked at for stage-2 translation faults only.
pub fn decode(esr: u64, far: u64, hpfar: u64) -> Trap {
    let class = (esr >> 26 & 0x3f) as u8;
    match class {
        0x01 => Trap::Wait(wait(esr)),
        0x07 => Trap::Simd,
        0x16 => Trap::Hvc(esr as u16),
        0x17 => Trap::Smc(esr as u16),
        0x18 => Trap::Sysreg(sysreg(esr)),
        0x19 => Trap::Sve,
        0x1d => Trap::Sme,
        0x20 => Trap::Fetch(abort(esr, far, hpfar)),
        0x24 => Trap::Data(abort(esr, far, hpfar)),
        _ => Trap::Other(class),
    }
}

fn wait(esr: u64) -> Wait {
    let kind = if bit(esr, 0) { WaitKind::Event } else { WaitKind::Interrupt };
    // TI[1]: with a deadline; RV: the register field is valid (D24.2.40, ISS for WFI and its kin).
    let deadline = match (bit(esr, 1), bit(esr, 2)) {
        (false, _) => Deadline::None,
        (true, true) => Deadline::Register((esr >> 5 & 0x1f) as u8),
        (true, false) => Deadline::InInstruction,
    };
    Wait { kind, deadline }
}

fn sysreg(esr: u64) -> SysAccess {
    let field = |low: u32, bits: u32| esr >> low & ((1 << bits) - 1);
    // Op1 and CRn are neighbours, there and in the packed number.
    let register = field(20, 2) << 14 | field(10, 7) << 7 | field(1, 4) << 3 | field(17, 3);
    SysAccess {
        register: register as u16,
        rt: field(5, 5) as u8,
        direction: if bit(esr, 0) { Direction::Read } else { Direction::Write },
    }
}

fn abort(esr: u64, far: u64, hpfar: u64) -> Abort {
    let fsc = esr & 0x3f;
    // Address size, translation and access flag faults fill HPFAR_EL2; a permission fault only when it
    // happened on a walk (DDI0487 D24.2.55).
    let walk = bit(esr, 7);
    let known = fsc >> 2 <= 2 || walk;
    let gpa = known.then_some(Gpa((hpfar >> 4 & 0xff_ffff_ffff) << 12 | far & 0xfff));
    let kind = match (walk, bit(esr, 8)) {
        (true, _) => AbortKind::Walk,
        (_, true) if esr >> 26 & 0x3f == 0x24 => AbortKind::CacheMaintenance,
        _ => AbortKind::Access,
    };
    let store = if bit(esr, 6) { Store::Yes } else { Store::No };
    Abort { va: far, gpa, access: bit(esr, 24).then(|| access(esr)), store, kind }
}

fn access(esr: u64) -> Transfer {
    let width = 1 << (esr >> 22 & 3);
    let register = (esr >> 16 & 0x1f) as u8;
    if bit(esr, 6) {
        return Transfer::Store { register, width };
    }
    let extend = match (bit(esr, 21), bit(esr, 15)) {
        (false, _) => Extend::Zero,
        (true, true) => Extend::Sign,
        (true, false) => Extend::SignWord,
    };
    Transfer::Load(Load { register, width, extend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgi_write_is_decoded() {
        // msr icc_sgi1r_el1, x5: EC 0x18, Op0 3, Op1 0, CRn 12, CRm 11, Op2 5.
        let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 5 << 5 | 11 << 1;
        assert_eq!(
            decode(esr, 0, 0),
            Trap::Sysreg(SysAccess { register: encode(3, 0, 12, 11, 5), rt: 5, direction: Direction::Write })
        );
    }

    #[test]
    fn data_abort_gives_address_and_access() {
        // ldrsw x3 from 0x0900_0018: ISV, SAS=2, SSE, SRT=3, SF, translation fault level 3.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 21 | 3 << 16 | 1 << 15 | 0x7;
        let Trap::Data(abort) = decode(esr, 0xffff_8000_0000_0018, 0x0900_0000 >> 8) else { panic!() };
        assert_eq!(abort.gpa, Some(Gpa(0x0900_0018)));
        assert_eq!(abort.access, Some(Transfer::Load(Load { register: 3, width: 4, extend: Extend::Sign })));
        assert_eq!(abort.store, Store::No);
    }

    #[test]
    fn a_permission_fault_has_no_address() {
        let esr = 0x24 << 26 | 1 << 25 | 0xf;
        let Trap::Data(abort) = decode(esr, 0x1000, 0) else { panic!() };
        assert_eq!(abort.gpa, None);
    }

    proptest::proptest! {
        #[test]
        fn any_syndrome_decodes(esr: u64, far: u64, hpfar: u64) {
            let _ = decode(esr, far, hpfar);
        }
    }
}
