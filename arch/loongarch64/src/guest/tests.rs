use alloc::format;

use arch_common::access::Extend;
use kernel::arch::Guest as _;
use kernel::fp::Units;
use proptest::prelude::*;

use super::*;
use crate::cpucfg;
use crate::trap::ecode;

const A0: u8 = 4;

/// An LA464, with more SAVE registers than a guest has.
fn model() -> Model {
    Model {
        prcfg: [0x72ff, 0x3fff_f000, 0x80_73f2],
        asid_bits: 10,
        cpucfg: CpuCfg::new(&[[1; cpucfg::SHOWN.len()]], Units::all(), 100_000_000),
        hz: 100_000_000,
        command_line: Gpa(0x1000),
    }
}

/// vCPU `index` of some guest.
pub(crate) fn guest(index: usize) -> Guest {
    Guest::new(index, 5000, Arc::new(model()))
}

#[test]
fn power_on_is_as_in_the_manual() {
    let mut guest = guest(3);
    let (timer, csr) = (guest.load_timer(Ticks(0)), guest.csr);
    assert_eq!((csr.crmd, csr.euen, csr.ecfg, timer.tcfg, csr.tlbrera), (8, 0, 0, 0, 0));
    assert_eq!(csr.cpuid, 3);
    assert_eq!(csr.asid, 0xa_0000, "ten bits of ASID");
    assert_eq!((csr.prcfg1, csr.prcfg2, csr.prcfg3), (0x72f8, 0x3fff_f000, 0x80_73f2));
    assert_eq!(csr.stlbps, 12);
}

/// A one-shot timer with 600 of 1000 ticks left.
const RUNNING: Registers = Registers { tcfg: 1001, tval: 600, ti: false };

#[test]
fn a_boot_vcpu_is_given_what_linux_wants() {
    let mut guest = guest(0);
    guest.reset(Gpa(0x20_0000), 0x10_0000);
    assert_eq!(guest.frame.pc, 0x20_0000);
    assert_eq!(guest.frame.r[4..7], [1, 0x1000, 0x10_0000]);
    guest.reset(Gpa(0x30_0000), 0);
    assert_eq!(guest.frame.r, [0; 32]);
}

#[test]
fn reset_leaves_nothing_of_the_former_life() {
    let mut guest = guest(2);
    guest.frame.r = [7; 32];
    guest.csr = Csr { crmd: 0xb0, save: [7; 8], estat: 0x1fff, ..Csr::default() };
    guest.shadow.impctl1 = 7;
    guest.load = Some(Load { register: 4, width: 4, extend: Extend::Sign });
    guest.answer = Answer::Registers;
    guest.save_timer(Registers { tcfg: 1001, tval: 0, ti: true }, Ticks(0));
    let mut gids = crate::gid::Gids::new(8);
    let _ = gids.ensure(kernel::addr::CpuId(0), &mut guest.tag);
    guest.reset(Gpa(0), 0);
    let fresh = Guest::new(2, 5000, Arc::new(model()));
    assert_eq!(format!("{guest:?}"), format!("{fresh:?}"));
}

#[test]
fn loads_fill_their_register() {
    let mut guest = guest(0);
    guest.frame.pc = 0x1000;
    guest.load = Some(Load { register: A0, width: 1, extend: Extend::Sign });
    guest.finish_load(0x1_80);
    assert_eq!(guest.reg(A0), 0xffff_ffff_ffff_ff80);
    assert_eq!((guest.frame.pc, guest.load), (0x1004, None));
    guest.load = Some(Load { register: 0, width: 8, extend: Extend::Zero });
    guest.finish_load(9);
    assert_eq!(guest.frame.r[0], 0, "a load into r0 vanishes");
    guest.finish_store();
    assert_eq!(guest.frame.pc, 0x100c);
}

#[test]
fn an_answer_goes_where_the_call_came_from() {
    let mut guest = guest(0);
    guest.frame.r = [7; 32];
    guest.finish_call(Reply::Done);
    assert_eq!(guest.reg(A0), 7, "a write to a chip has no answer");
    guest.answer = Answer::Registers;
    guest.finish_call(Reply::Values([1, 2, 3, 4]));
    assert_eq!(guest.frame.r[4..9], [1, 2, 3, 4, 7]);
    guest.finish_call(Reply::NotSupported);
    assert_eq!(guest.reg(A0), 1, "one call, one answer");
}

#[test]
fn an_exception_is_taken_as_the_hardware_does() {
    let mut guest = guest(0);
    guest.csr = Csr {
        crmd: 3 | 1 << 2 | 1 << 4 | 1 << 9,
        prmd: !0,
        ecfg: 7 << 16 | 0x1fff,
        estat: 1 << 11 | 0x1ff << 22 | 0x3f << 16,
        eentry: 0x9000_0000_0021_0000,
        badv: 1,
        badi: 2,
        ..Csr::default()
    };
    guest.frame.pc = 0x12_3450;
    guest.word = 0x2a00_148c;
    guest.load = Some(Load { register: 4, width: 1, extend: Extend::Zero });
    guest.inject(Fault::Load(Gpa(0xffff_8000_0000_1234)));
    assert_eq!(guest.csr.crmd, 1 << 4, "PLV0, no interrupts, still translated");
    assert_eq!(guest.csr.prmd, u64::MAX, "PLV3, interrupts and watchpoints");
    assert_eq!(guest.csr.estat, 1 << 11 | 8 << 16 | 1 << 22);
    assert_eq!((guest.csr.badv, guest.csr.badi), (0xffff_8000_0000_1234, 0x2a00_148c));
    assert_eq!((guest.csr.era, guest.load), (0x12_3450, None));
    assert_eq!(guest.frame.pc, 0x9000_0000_0021_0000 + 8 * 512);
}

#[test]
fn each_fault_has_its_code() {
    let raised = |fault| {
        let mut guest = guest(0);
        guest.csr.eentry = 0x1_0000;
        guest.word = 0x1234;
        guest.inject(fault);
        assert_eq!(guest.frame.pc, 0x1_0000, "one vector if they are not spaced");
        (guest.csr.estat >> 16 & 0x3f, guest.csr.estat >> 22, guest.csr.badv, guest.csr.badi)
    };
    assert_eq!(raised(Fault::Undefined), (13, 0, 0, 0x1234));
    assert_eq!(raised(Fault::Fetch(Gpa(8))), (8, 0, 8, 0));
    assert_eq!(raised(Fault::Load(Gpa(8))), (8, 1, 8, 0x1234));
    assert_eq!(raised(Fault::Store(Gpa(8))), (8, 1, 8, 0x1234));
}

#[test]
fn it_sleeps_until_what_it_waits_for() {
    let mut guest = guest(0);
    guest.csr = Csr { ecfg: TI | 1, estat: 1 << 12 | 1 << 3, ..Csr::default() };
    guest.save_timer(RUNNING, Ticks(5000));
    assert_eq!(guest.deadline(), Some(Ticks(5600)));
    assert!(!guest.wakes(1 << 3, Ticks(5599)), "it does not wait for lines");
    assert!(guest.wakes(0, Ticks(5600)));
    guest.csr.ecfg = 1 << 3 | 1 << 12;
    assert_eq!(guest.deadline(), None, "it does not wait for the timer");
    assert!(!guest.wakes(0, Ticks(9000)), "what the chips drive, the chips say");
    assert!(guest.wakes(1 << 3, Ticks(0)) && guest.wakes(1 << 12, Ticks(0)));
    guest.csr.ecfg = 1;
    guest.csr.estat = 1;
    assert!(guest.wakes(0, Ticks(0)), "a software interrupt");
    assert_eq!(guest.emulated_deadline(), None);
}

#[test]
fn its_timer_goes_through_its_registers() {
    let mut guest = guest(0);
    guest.csr = Csr { estat: 1, ..Csr::default() };
    guest.save_timer(RUNNING, Ticks(5000));
    let timer = guest.load_timer(Ticks(5100));
    assert_eq!((timer.tcfg, timer.tval, guest.csr.estat), (1001, 500, 1));
    let timer = guest.load_timer(Ticks(5600));
    assert_eq!((timer.tcfg, guest.csr.estat), (1000, 1 | TI));
    assert_eq!(guest.counter(Ticks(5600)), 600);
}

proptest! {
    /// An exception and ERTN leave the mode as it was, and nothing else of the guest's changes.
    #[test]
    fn ertn_undoes_an_exception(crmd in 0u64..1 << 10, prmd: u64, estat: u64, pc: u64, code in 0u8..64, sub: u16) {
        let mut guest = guest(0);
        guest.csr.crmd = crmd;
        guest.csr.prmd = prmd;
        guest.csr.estat = estat;
        guest.frame.pc = pc;
        guest.raise(Exception { ecode: code, esubcode: sub }, None, None);
        prop_assert_eq!(guest.csr.estat & IS, estat & IS, "what is pending stays pending");
        let p = guest.csr.prmd;
        prop_assert_eq!(p & !0xf, prmd & !0xf);
        let back = guest.csr.crmd | p & 7 | if p & 8 != 0 { crmd::WE } else { 0 };
        prop_assert_eq!((back, guest.csr.era), (crmd, pc));
        prop_assert_eq!(guest.csr.crmd & (crmd::PLV | crmd::IE | crmd::WE), 0);
    }

    /// Vectors lie as far apart as `ECFG.VS` says.
    #[test]
    fn vectors_are_spaced(vs in 0u64..8, code in 0u8..64, base in 0u64..1 << 30) {
        let csr = Csr { ecfg: vs << 16, eentry: base << 16, ..Csr::default() };
        let expected = if vs == 0 { 0 } else { u64::from(code) * 4 * (1 << vs) };
        prop_assert_eq!(csr.vector(Exception::new(code)), (base << 16) + expected);
    }
}

#[test]
fn a_vector_is_or_ed_into_its_base() {
    // The manual says so; a base that is not aligned to all vectors is the guest's own problem.
    let csr = Csr { ecfg: 7 << 16, eentry: 0x1000, ..Csr::default() };
    assert_eq!(csr.vector(Exception::new(ecode::ADE)), 0x1000);
    assert_eq!(csr.vector(Exception::new(ecode::SXD)), 0x3000);
}
