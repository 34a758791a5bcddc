//! Trapped system registers. Pure: state in memory, the guest's interrupt controller, and the time.

use kernel::addr::Ticks;

use crate::guest::Guest;
use crate::idregs::IdRegs;
use crate::trap::{Direction, SysAccess, encode};

/// What a trapped access comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read has this value.
    Value(u64),
    /// The write is done, or has no effect.
    Done,
    /// A software generated interrupt of group 1: `ICC_SGI1R_EL1`.
    Sgi(u64),
    /// The guest's physical timer was reprogrammed.
    Timer,
    /// A register of SME that `CPTR_EL2` does not trap. The guest has none.
    Sme,
    /// No such register: the guest gets an UNDEF.
    Undefined,
}

const ICC_SGI1R: u16 = encode(3, 0, 12, 11, 5);
const ICC_ASGI1R: u16 = encode(3, 0, 12, 11, 6);
const ICC_SGI0R: u16 = encode(3, 0, 12, 11, 7);
const CNTP_TVAL: u16 = encode(3, 3, 14, 2, 0);
const CNTP_CTL: u16 = encode(3, 3, 14, 2, 1);
const CNTP_CVAL: u16 = encode(3, 3, 14, 2, 2);
const ACTLR: u16 = encode(3, 0, 1, 0, 1);
const REVIDR: u16 = encode(3, 0, 0, 0, 6);
const AIDR: u16 = encode(3, 1, 0, 0, 7);
const MDSCR: u16 = encode(2, 0, 0, 2, 2);
const OSLAR: u16 = encode(2, 0, 1, 0, 4);
const OSLSR: u16 = encode(2, 0, 1, 1, 4);
const SMPRI: u16 = encode(3, 0, 1, 2, 4);
const SMIDR: u16 = encode(3, 1, 0, 0, 6);
const TPIDR2: u16 = encode(3, 3, 13, 0, 5);
const DC_ISW: u16 = encode(1, 0, 7, 6, 2);
const DC_CSW: u16 = encode(1, 0, 7, 10, 2);
const DC_CISW: u16 = encode(1, 0, 7, 14, 2);

/// `CNTP_CTL_EL0.ISTATUS`.
const ISTATUS: u64 = 1 << 2;

/// Answers one access at time `now`.
pub fn access(guest: &mut Guest, ids: &IdRegs, now: Ticks, access: SysAccess) -> Outcome {
    if matches!(access.register, SMPRI | SMIDR | TPIDR2) {
        return Outcome::Sme;
    }
    match access.direction {
        Direction::Read => read(guest, ids, now, access.register),
        Direction::Write => write(guest, now, access.register, guest.gpr(access.rt)),
    }
}

fn read(guest: &Guest, ids: &IdRegs, now: Ticks, register: u16) -> Outcome {
    if let Some(value) = ids.read(register) {
        return Outcome::Value(value);
    }
    let shadow = &guest.shadow;
    Outcome::Value(match register {
        // TVAL is the signed 32-bit distance to CVAL (DDI0487 D12.2.4).
        CNTP_TVAL => shadow.cntp_cval.wrapping_sub(now.0) & 0xffff_ffff,
        CNTP_CTL => shadow.cntp_ctl | if timer_condition(guest, now) { ISTATUS } else { 0 },
        CNTP_CVAL => shadow.cntp_cval,
        MDSCR => shadow.mdscr_el1,
        // OSLM = 0b10 (bit 3): the OS lock is implemented.
        OSLSR => 1 << 3 | shadow.os_lock << 1,
        ACTLR | REVIDR | AIDR => 0,
        _ if is_debug(register) => 0,
        _ => return Outcome::Undefined,
    })
}

fn write(guest: &mut Guest, now: Ticks, register: u16, value: u64) -> Outcome {
    let shadow = &mut guest.shadow;
    match register {
        ICC_SGI1R => return Outcome::Sgi(value),
        // One security state and group 1 only: these reach no enabled group.
        ICC_SGI0R | ICC_ASGI1R => {}
        CNTP_TVAL => shadow.cntp_cval = now.0.wrapping_add(i64::from(value as i32) as u64),
        CNTP_CTL => shadow.cntp_ctl = value & 3,
        CNTP_CVAL => shadow.cntp_cval = value,
        MDSCR => shadow.mdscr_el1 = value,
        OSLAR => shadow.os_lock = value & 1,
        // With forced write-back a guest has no memory that set/way operations could reach (FEAT_S2FWB).
        ACTLR | DC_ISW | DC_CSW | DC_CISW => {}
        _ if is_debug(register) => {}
        _ => return Outcome::Undefined,
    }
    match register {
        CNTP_TVAL | CNTP_CTL | CNTP_CVAL => Outcome::Timer,
        _ => Outcome::Done,
    }
}

/// Whether the physical timer's condition holds and is not masked: its interrupt line.
pub fn physical_timer_line(guest: &Guest, now: Ticks) -> bool {
    guest.shadow.cntp_ctl & 3 == 1 && timer_condition(guest, now)
}

fn timer_condition(guest: &Guest, now: Ticks) -> bool {
    guest.shadow.cntp_ctl & 1 == 1 && now.0 >= guest.shadow.cntp_cval
}

/// The self-hosted debug registers an Armv8 CPU has: they read as zero and ignore writes, which is a debug
/// unit whose breakpoints never hit.
fn is_debug(register: u16) -> bool {
    let (op0, op1) = (register >> 14, register >> 11 & 7);
    let (crn, crm, op2) = (register >> 7 & 0xf, register >> 3 & 0xf, register & 7);
    match (op0, op1, crn) {
        // DBGBVR, DBGBCR, DBGWVR, DBGWCR; OSDTRRX, OSDTRTX, OSECCR, MDCCINT.
        (2, 0, 0) => op2 >= 4 || matches!((crm, op2), (0, 2) | (2, 0) | (3, 2) | (6, 2)),
        // MDRAR, OSDLR, DBGPRCR.
        (2, 0, 1) => matches!((crm, op2), (0, 0) | (3, 4) | (4, 4)),
        // DBGCLAIMSET, DBGCLAIMCLR, DBGAUTHSTATUS.
        (2, 0, 7) => matches!((crm, op2), (8, 6) | (9, 6) | (14, 6)),
        // MDCCSR, DBGDTR, DBGDTRRX/TX.
        (2, 3, 0) => matches!((crm, op2), (1, 0) | (4, 0) | (5, 0)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(guest: &mut Guest, now: u64, register: u16, write: Option<u64>) -> Outcome {
        let ids = IdRegs::new(&[]);
        guest.set_gpr(1, write.unwrap_or(0));
        let direction = if write.is_some() { Direction::Write } else { Direction::Read };
        access(guest, &ids, Ticks(now), SysAccess { register, rt: 1, direction })
    }

    #[test]
    fn the_physical_timer_counts_down() {
        let mut guest = Guest::new(0, 0);
        assert_eq!(ask(&mut guest, 1000, CNTP_TVAL, Some(100)), Outcome::Timer);
        assert_eq!(ask(&mut guest, 1000, CNTP_CTL, Some(1)), Outcome::Timer);
        assert_eq!(ask(&mut guest, 1040, CNTP_TVAL, None), Outcome::Value(60));
        assert_eq!(ask(&mut guest, 1099, CNTP_CTL, None), Outcome::Value(1));
        assert!(!physical_timer_line(&guest, Ticks(1099)));
        assert_eq!(ask(&mut guest, 1100, CNTP_CTL, None), Outcome::Value(5));
        assert!(physical_timer_line(&guest, Ticks(1100)));
        assert_eq!(ask(&mut guest, 1110, CNTP_TVAL, None), Outcome::Value(0xffff_fff6));
        // Masked: the condition shows, the line does not.
        ask(&mut guest, 1110, CNTP_CTL, Some(3));
        assert_eq!(ask(&mut guest, 1110, CNTP_CTL, None), Outcome::Value(7));
        assert!(!physical_timer_line(&guest, Ticks(1110)));
    }

    #[test]
    fn debug_registers_are_inert_and_unknown_ones_undefined() {
        let mut guest = Guest::new(0, 0);
        assert_eq!(ask(&mut guest, 0, encode(2, 0, 0, 3, 5), Some(1)), Outcome::Done, "DBGBCR3");
        assert_eq!(ask(&mut guest, 0, encode(2, 0, 0, 3, 5), None), Outcome::Value(0));
        assert_eq!(ask(&mut guest, 0, OSLAR, Some(1)), Outcome::Done);
        assert_eq!(ask(&mut guest, 0, OSLSR, None), Outcome::Value(0b1010));
        assert_eq!(ask(&mut guest, 0, encode(3, 3, 9, 12, 0), None), Outcome::Undefined, "PMCR_EL0");
        assert_eq!(
            ask(&mut guest, 0, encode(3, 0, 15, 2, 0), Some(0)),
            Outcome::Undefined,
            "implementation defined"
        );
    }

    #[test]
    fn registers_of_sme_are_known_as_such() {
        let mut guest = Guest::new(0, 0);
        assert_eq!(ask(&mut guest, 0, TPIDR2, Some(1)), Outcome::Sme);
        assert_eq!(ask(&mut guest, 0, SMPRI, None), Outcome::Sme);
        assert_eq!(ask(&mut guest, 0, SMIDR, None), Outcome::Sme);
    }

    proptest::proptest! {
        #[test]
        fn any_register_has_an_answer(register: u16, value: u64, now: u64) {
            let mut guest = Guest::new(0, 0);
            ask(&mut guest, now, register, None);
            ask(&mut guest, now, register, Some(value));
        }
    }
}
