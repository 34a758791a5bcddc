//! FP and SIMD state behind `CPTR_EL2`.
//!
//! Guests have one unit, SIMD: V0-V31, FPSR and FPCR. SVE and SME stay trapped whatever is exposed, so what a
//! CPU has beyond the low 128 bits of each vector register is out of every guest's reach and is neither saved
//! nor loaded.
//!
//! `CPTR_EL2` has two layouts, chosen by `HCR_EL2.E2H`, in which zero means opposite things. This is the layout
//! for E2H=0, where a set bit traps (DDI0487, register CPTR_EL2). It traps EL2 too, so the registers are opened for the
//! hypervisor before they are moved, with an ISB in between. Entering the guest is an `ERET`, which synchronises
//! by itself: exposing costs one register write, and nothing at all if the value is there already.

use core::marker::PhantomData;
use core::mem::size_of;

use kernel::fp::{FpContext, Units};

/// V0-V31 with FPSR and FPCR.
pub const SIMD: Units = Units::from_bits_retain(1 << 0);
/// The scalable view of the same registers, with predicates. No guest has it yet.
pub const SVE: Units = Units::from_bits_retain(1 << 1);

bitflags::bitflags! {
    /// The parts of a CPU that have a trap in `CPTR_EL2`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Present: u8 {
        /// FEAT_SVE.
        const SVE = 1 << 0;
        /// FEAT_SME.
        const SME = 1 << 1;
        /// FEAT_AMUv1: activity monitors.
        const AMU = 1 << 2;
        /// System registers of the trace unit.
        const TRACE = 1 << 3;
    }
}

impl Present {
    /// Reads the parts out of `ID_AA64PFR0_EL1`, `ID_AA64PFR1_EL1` and `ID_AA64DFR0_EL1`, in which zero means
    /// absent (DDI0487, fields SVE, AMU, SME and TraceVer).
    pub fn from_ids(pfr0: u64, pfr1: u64, dfr0: u64) -> Self {
        let fields = [
            (Self::SVE, pfr0 >> 32),
            (Self::SME, pfr1 >> 24),
            (Self::AMU, pfr0 >> 44),
            (Self::TRACE, dfr0 >> 4),
        ];
        fields.into_iter().filter(|(_, field)| field & 0xf != 0).map(|(part, _)| part).collect()
    }
}

/// `CPTR_EL2` with E2H=0.
pub mod cptr {
    /// Traps `CPACR_EL1`. Never set: the guest's own trap control is the guest's own business.
    pub const TCPAC: u64 = 1 << 31;
    /// Traps the activity monitors.
    pub const TAM: u64 = 1 << 30;
    /// Traps the trace unit's registers.
    pub const TTA: u64 = 1 << 20;
    /// Traps SME, or RES1 without it.
    pub const TSM: u64 = 1 << 12;
    /// Traps FP, SIMD and, where not trapped by `TZ`, SVE.
    pub const TFP: u64 = 1 << 10;
    /// Traps SVE, or RES1 without it.
    pub const TZ: u64 = 1 << 8;
    /// Bits 13, 9 and 7:0.
    pub const RES1: u64 = 0x22ff;
}

/// Encodes `CPTR_EL2` for a CPU with `present` on which a guest may use `exposed` and nothing else that has a
/// trap there.
///
/// TZ and TSM trap on a CPU that has SVE and SME, and are RES1 on one that has not: the same bit either way.
pub fn encode_cptr(present: Present, exposed: Units) -> u64 {
    let mut value = cptr::RES1 | cptr::TSM | cptr::TZ;
    if !exposed.contains(SIMD) {
        value |= cptr::TFP;
    }
    if present.contains(Present::AMU) {
        value |= cptr::TAM;
    }
    if present.contains(Present::TRACE) {
        value |= cptr::TTA;
    }
    value
}

/// The registers of the SIMD unit, in the layout that the leaf loads and stores.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Registers {
    /// V0-V31.
    pub q: [u128; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR. All 64 bits: new ones (AH, NEP, FIZ) change what arithmetic means.
    pub fpcr: u64,
}

impl Registers {
    /// Has `pattern` in every half of every vector register, round-to-nearest and no flags.
    pub const fn filled(pattern: u64) -> Self {
        let wide = (pattern as u128) << 64 | pattern as u128;
        Self { q: [wide; 32], fpsr: 0, fpcr: 0 }
    }
}

/// What the machine does with the hardware: the leaf `fp_regs` on a CPU, a model in tests.
pub trait FpRegs {
    /// Writes `CPTR_EL2`. Takes effect at the next [`sync`](Self::sync) or exception return.
    fn set_cptr(&mut self, value: u64);
    /// Makes earlier register writes take effect for what follows at EL2.
    fn sync(&mut self);
    /// Copies the registers out. FP must not be trapped.
    fn store(&mut self, into: &mut Registers);
    /// Copies the registers in. FP must not be trapped.
    fn load(&mut self, from: &Registers);
    /// Leaves streaming mode and turns ZA off. SME must be present and not trapped.
    fn stop_sme(&mut self);
}

/// One CPU's FP registers. It stays on its CPU: it is neither `Send` nor `Sync`.
#[derive(Debug)]
pub struct File<H: FpRegs> {
    hardware: H,
    /// What `CPTR_EL2` holds.
    cptr: u64,
    /// What it holds when nothing is exposed.
    concealed: u64,
    here: PhantomData<*mut ()>,
}

impl<H: FpRegs> File<H> {
    /// Takes over the registers of a CPU with `present`, and conceals them. Called once on each CPU, before its
    /// first guest: `CPTR_EL2` and, with SME, `SVCR` are unknown at reset.
    pub fn new(mut hardware: H, present: Present) -> Self {
        if present.contains(Present::SME) {
            hardware.set_cptr(encode_cptr(present, SIMD) & !cptr::TSM);
            hardware.sync();
            hardware.stop_sme();
        }
        let concealed = encode_cptr(present, Units::empty());
        hardware.set_cptr(concealed);
        hardware.sync();
        Self { hardware, cptr: concealed, concealed, here: PhantomData }
    }

    fn set_cptr(&mut self, value: u64) {
        if self.cptr != value {
            self.hardware.set_cptr(value);
            self.cptr = value;
        }
    }

    /// Lets EL2 use the registers. They may be open already, for the guest whose turn it is.
    fn open(&mut self) -> &mut H {
        if self.cptr & cptr::TFP != 0 {
            self.set_cptr(self.concealed & !cptr::TFP);
            self.hardware.sync();
        }
        &mut self.hardware
    }
}

/// A guest's SIMD state in memory.
#[derive(Debug)]
pub struct Simd<H> {
    registers: Registers,
    hardware: PhantomData<fn(H)>,
}

impl<H> Simd<H> {
    /// Shows the registers as they were last saved.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }
}

impl<H: FpRegs> FpContext for Simd<H> {
    type File = File<H>;
    type Limit = ();

    const GROUPS: &'static [Units] = &[SIMD.union(SVE)];

    fn new((): ()) -> Self {
        Self { registers: Registers::filled(0), hardware: PhantomData }
    }

    fn units(&self) -> Units {
        SIMD
    }

    fn closure(&self, touched: Units) -> Units {
        touched | SIMD
    }

    fn save(&mut self, file: &mut File<H>, units: Units) -> Units {
        file.open().store(&mut self.registers);
        units
    }

    fn restore(&self, file: &mut File<H>, _: Units) {
        file.open().load(&self.registers);
    }

    fn expose(&self, file: &mut File<H>, units: Units) {
        let trap = if units.contains(SIMD) { 0 } else { cptr::TFP };
        file.set_cptr(file.concealed & !cptr::TFP | trap);
    }

    fn conceal(file: &mut File<H>) {
        file.set_cptr(file.concealed);
    }

    fn exposed(file: &File<H>) -> Units {
        if file.cptr & cptr::TFP == 0 { SIMD } else { Units::empty() }
    }

    fn fill(file: &mut File<H>, _: Units, pattern: u64) {
        file.open().load(&Registers::filled(pattern));
    }

    fn bytes(&self, _: Units) -> u64 {
        size_of::<Registers>() as u64
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use alloc::sync::Arc;

    use kernel::addr::{CpuId, VcpuId};
    use kernel::fp::{AuditSwitch, FpSlot, FpUnit, Policy, PolicyCell, Touch};

    use super::*;

    /// The registers as values, behind the traps and the ordering rules of the hardware.
    #[derive(Debug)]
    struct Model {
        registers: Registers,
        cptr: u64,
        /// What the CPU acts on at EL2: `cptr` as of the last ISB.
        effective: u64,
        cptr_writes: usize,
        moves: usize,
        sme_stopped: bool,
    }

    impl Model {
        fn new() -> Self {
            // Reset leaves anything behind.
            Self {
                registers: Registers::filled(0x0bad_0bad_0bad_0bad),
                cptr: 0,
                effective: 0,
                cptr_writes: 0,
                moves: 0,
                sme_stopped: false,
            }
        }
    }

    impl FpRegs for Model {
        fn set_cptr(&mut self, value: u64) {
            assert_eq!(value & cptr::RES1, cptr::RES1);
            self.cptr = value;
            self.cptr_writes += 1;
        }
        fn sync(&mut self) {
            self.effective = self.cptr;
        }
        fn store(&mut self, into: &mut Registers) {
            assert_eq!(self.effective & cptr::TFP, 0, "EL2 traps its own FP access");
            self.moves += 1;
            into.clone_from(&self.registers);
        }
        fn load(&mut self, from: &Registers) {
            assert_eq!(self.effective & cptr::TFP, 0, "EL2 traps its own FP access");
            self.moves += 1;
            self.registers.clone_from(from);
        }
        fn stop_sme(&mut self) {
            assert_eq!(self.effective & cptr::TSM, 0, "EL2 traps its own SME access");
            self.sme_stopped = true;
        }
    }

    #[test]
    fn cptr_has_the_values_of_the_manual() {
        let bare = Present::empty();
        assert_eq!(encode_cptr(bare, SIMD), 0x33ff);
        assert_eq!(encode_cptr(bare, Units::empty()), 0x37ff);
        // With SVE and SME the same bits trap instead of being RES1.
        assert_eq!(encode_cptr(Present::SVE | Present::SME, SIMD), 0x33ff);
        assert_eq!(encode_cptr(Present::SVE, Units::empty()), 0x37ff);
        assert_eq!(encode_cptr(Present::AMU | Present::TRACE, SIMD), 0x4010_33ff);
        // An exposed SVE without SIMD cannot be expressed, and opens nothing.
        assert_eq!(encode_cptr(Present::SVE, SVE), 0x37ff);
    }

    #[test]
    fn parts_are_read_from_the_id_registers() {
        // QEMU 10.0 `-cpu max`, then fields one at a time.
        let max = Present::from_ids(0x1301_0011_2111_0222, 0x0000_0010_0100_0121, 0x1000_0000_1030_560a);
        assert_eq!(max, Present::SVE | Present::SME);
        assert_eq!(Present::from_ids(1 << 44, 0, 0), Present::AMU);
        assert_eq!(Present::from_ids(0x2222, 0, 0x1030_5106), Present::empty());
        assert_eq!(Present::from_ids(0, 0, 0x10), Present::TRACE);
    }

    #[test]
    fn bring_up_conceals_and_stops_streaming() {
        let file = File::new(Model::new(), Present::SME | Present::SVE);
        assert!(file.hardware.sme_stopped);
        assert_eq!((file.hardware.cptr, file.hardware.effective), (0x37ff, 0x37ff));
        assert!(Simd::exposed(&file).is_empty());
        assert!(!File::new(Model::new(), Present::SVE).hardware.sme_stopped);
    }

    #[test]
    fn the_image_has_the_layout_the_leaf_expects() {
        assert_eq!(size_of::<Registers>(), 528);
        assert_eq!(align_of::<Registers>(), 16);
        assert_eq!(Simd::<Model>::new(()).bytes(SIMD), 528);
    }

    #[test]
    fn an_exposure_that_is_there_already_is_not_written() {
        let mut file = File::new(Model::new(), Present::empty());
        let image = Simd::new(());
        let before = file.hardware.cptr_writes;
        Simd::conceal(&mut file);
        assert_eq!(file.hardware.cptr_writes, before);
        image.expose(&mut file, SIMD);
        image.expose(&mut file, SIMD);
        assert_eq!(file.hardware.cptr_writes, before + 1);
        assert_eq!(Simd::exposed(&file), SIMD);
    }

    #[test]
    fn two_guests_keep_their_registers_and_only_they_move() {
        let mut file = File::new(Model::new(), Present::empty());
        let mut unit = FpUnit::<Simd<Model>>::new(CpuId(0), Arc::new(AuditSwitch::on()));
        let policy = Arc::new(PolicyCell::new(Policy::Hold));
        let keys = [7, 9].map(|id| unit.enroll(Box::new(FpSlot::new(VcpuId(id), (), Arc::clone(&policy)))));
        for round in 0..3 {
            for (key, own) in keys.iter().zip([0x1111_u64, 0x2222]) {
                unit.arrive(key);
                unit.enter(&mut file);
                if !Simd::exposed(&file).contains(SIMD) {
                    assert_eq!(unit.request(SIMD), Touch::Granted);
                    unit.enter(&mut file);
                }
                let expected = Registers::filled(if round == 0 { 0 } else { own });
                assert_eq!(file.hardware.registers, expected);
                file.hardware.registers = Registers::filled(own);
                unit.leave(&mut file);
                assert_eq!(file.cptr & cptr::TFP, cptr::TFP);
            }
        }
        let tally = unit.ledger().tally();
        // Each of six turns loads, and each but the last is evicted by the next one.
        assert_eq!((tally.loads, tally.evictions, tally.saves()), (6, 5, 5));
        assert_eq!((tally.bytes_in, tally.bytes_out), (6 * 528, 5 * 528));

        // Alone on the CPU nothing moves any more.
        let [_, lonely] = keys;
        let moves = file.hardware.moves;
        for _ in 0..10 {
            unit.arrive(&lonely);
            unit.enter(&mut file);
            assert_eq!(file.hardware.registers, Registers::filled(0x2222));
            unit.leave(&mut file);
        }
        assert_eq!(file.hardware.moves, moves);
    }

    #[test]
    fn sve_is_refused() {
        let mut unit = FpUnit::<Simd<Model>>::new(CpuId(0), Arc::new(AuditSwitch::on()));
        let key = unit.enroll(Box::new(FpSlot::new(VcpuId(0), (), Arc::default())));
        unit.arrive(&key);
        assert_eq!(unit.request(SVE), Touch::Absent);
        assert_eq!(unit.request(SIMD), Touch::Granted);
    }
}
