//! The gate and the images by themselves; `tests/fp.rs` plays the laws of the machine on a model of the registers.

use alloc::string::ToString;
use core::mem::{align_of, size_of};

use kernel::fp::{self, FpContext, Snapshot};

use super::*;

/// What was done to the hardware, in order, and two registers.
#[derive(Debug, Default)]
struct Log {
    cptr: u64,
    /// What the CPU acts on at EL2: `cptr` as of the last ISB.
    effective: u64,
    cptr_writes: usize,
    zcr_el2: u64,
    zcr_el1: u64,
    streaming: bool,
    lengths: Lengths,
    did: alloc::vec::Vec<&'static str>,
}

impl Log {
    fn with(bits: &[u64]) -> Self {
        let lengths = bits.iter().filter_map(|bits| Length::from_bits(*bits)).collect();
        // Reset leaves anything behind.
        Self { lengths, streaming: true, zcr_el2: 0x1e7, ..Self::default() }
    }

    fn note(&mut self, what: &'static str, traps: u64) {
        assert_eq!(self.effective & traps, 0, "EL2 traps its own access: {what}");
        self.did.push(what);
    }
}

impl FpRegs for Log {
    fn set_cptr(&mut self, value: u64) {
        assert_eq!(value & cptr::RES1, cptr::RES1);
        self.cptr = value;
        self.cptr_writes += 1;
    }
    fn sync(&mut self) {
        self.effective = self.cptr;
    }
    fn store(&mut self, _: &mut Registers) {
        self.note("store", cptr::TFP);
    }
    fn load(&mut self, _: &Registers) {
        self.note("load", cptr::TFP);
    }
    fn stop_sme(&mut self) {
        self.note("stop", cptr::TSM);
        self.streaming = false;
    }
    fn set_zcr_el2(&mut self, value: u64) {
        self.note("zcr", cptr::TZ);
        self.zcr_el2 = value;
    }
    fn zcr_el1(&self) -> u64 {
        assert_eq!(self.effective & cptr::TZ, 0);
        self.zcr_el1
    }
    fn set_zcr_el1(&mut self, value: u64) {
        assert_eq!(self.effective & cptr::TZ, 0);
        self.zcr_el1 = value;
    }
    fn length(&self) -> Option<Length> {
        assert_eq!(self.effective & (cptr::TZ | cptr::TFP), 0);
        assert!(!self.streaming, "this is the length of streaming mode");
        self.lengths.iter().filter(|length| length.len_field() <= self.zcr_el2 & 0xf).last()
    }
    fn store_scalable(&mut self, into: &mut Scalable, _: &mut Registers) {
        self.note("store scalable", cptr::TZ | cptr::TFP);
        assert_eq!(self.length(), Some(into.length()));
    }
    fn load_scalable(&mut self, from: &Scalable, _: &Registers) {
        self.note("load scalable", cptr::TZ | cptr::TFP);
        assert_eq!(self.length(), Some(from.length()));
    }
    fn load_extended(&mut self, _: &Registers) {
        self.note("load extended", cptr::TZ | cptr::TFP);
    }
    fn flood(&mut self, _: u64) {
        self.note("flood", cptr::TZ | cptr::TFP);
    }
}

const V1: &[u64] = &[128, 256];

fn file(bits: &[u64]) -> File<Log> {
    let log = Log { streaming: false, ..Log::with(bits) };
    File::new(log, if bits.is_empty() { Present::empty() } else { Present::SVE })
}

/// All lengths up to this one.
fn up_to(bits: u64) -> Lengths {
    (1..=bits / 128).filter_map(Length::from_quadwords).collect()
}

fn image(bits: u64) -> Vectors<Log> {
    Vectors::new(up_to(bits))
}

#[test]
fn cptr_has_the_values_of_the_manual() {
    let bare = Present::empty();
    assert_eq!(encode_cptr(bare, SIMD), 0x33ff);
    assert_eq!(encode_cptr(bare, Units::empty()), 0x37ff);
    // With SVE and SME the same bits trap instead of being RES1.
    assert_eq!(encode_cptr(Present::SVE | Present::SME, SIMD), 0x33ff);
    assert_eq!(encode_cptr(Present::SVE, Units::empty()), 0x37ff);
    assert_eq!(encode_cptr(Present::SVE | Present::SME, SIMD | SVE), 0x32ff);
    assert_eq!(encode_cptr(bare, SIMD | SVE), 0x33ff);
    assert_eq!(encode_cptr(Present::AMU | Present::TRACE, SIMD), 0x4010_33ff);
    // An exposed SVE without SIMD cannot be expressed, and opens nothing; nor does SME open anything, ever.
    assert_eq!(encode_cptr(Present::SVE, SVE), 0x37ff);
    assert_eq!(encode_cptr(Present::SVE | Present::SME, SIMD | SVE | SME), 0x32ff);
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
fn bring_up_stops_streaming_then_asks_for_lengths_and_conceals() {
    let file = File::new(Log::with(V1), Present::SME | Present::SVE);
    assert_eq!(file.hardware().did[0], "stop");
    assert_eq!(file.lengths().iter().map(Length::bits).collect::<alloc::vec::Vec<_>>(), V1);
    assert_eq!((file.hardware().zcr_el2, file.hardware().zcr_el1), (1, 1));
    assert_eq!((file.hardware().cptr, file.hardware().effective), (0x37ff, 0x37ff));
    assert!(<Vectors<Log>>::exposed(&file).is_empty());

    let without = File::new(Log::with(&[]), Present::SME);
    assert_eq!((without.lengths(), without.hardware().did.as_slice()), (Lengths::NONE, &["stop"][..]));
    assert!(File::new(Log::with(&[]), Present::empty()).hardware().did.is_empty());
}

#[test]
fn the_image_has_the_layout_the_leaf_expects() {
    assert_eq!(size_of::<Registers>(), 528);
    assert_eq!(align_of::<Registers>(), 16);
    assert_eq!(align_of::<u128>(), 16);
    for (bits, bytes) in [(128, 546), (256, 1092), (512, 2184), (1024, 4368), (2048, 8736_usize)] {
        let room = Scalable::new(Length::from_bits(bits).unwrap());
        assert_eq!(room.words().len(), bytes.div_ceil(16));
    }
}

#[test]
fn an_image_costs_what_its_form_moves() {
    let mut file = file(V1);
    let mut image = image(256);
    assert_eq!((image.units(), image.bytes(SIMD), image.bytes(SIMD | SVE)), (SIMD | SVE, 528, 536));
    image.restore(&mut file, SIMD | SVE);
    assert_eq!(file.hardware().did.last(), Some(&"load extended"));
    // What the stub saves is zero, so the first look finds nothing beyond SIMD, and later saves do not look.
    image.save(&mut file, SIMD | SVE);
    assert_eq!((image.form(), image.bytes(SIMD | SVE)), (Form::Both, 1092 + 16 + 8));
    assert_eq!(image.closure(SIMD), SIMD);
    image.save(&mut file, SIMD | SVE);
    assert_eq!((image.form(), image.bytes(SIMD | SVE)), (Form::Sve, 1092 + 16 + 8));
    assert_eq!((image.closure(SIMD), image.closure(SVE)), (SIMD | SVE, SIMD | SVE));
    image.restore(&mut file, SIMD | SVE);
    assert_eq!(file.hardware().did.last(), Some(&"load scalable"));
    // A guest that was given nothing of it never pays for it.
    let plain = <Vectors<Log>>::new(Lengths::NONE);
    assert_eq!((plain.units(), plain.bytes(SIMD), plain.closure(SIMD)), (SIMD, 528, SIMD));
}

#[test]
fn a_look_is_taken_at_one_save_in_eight() {
    let (mut file, mut image) = (file(V1), image(128));
    image.restore(&mut file, SIMD | SVE);
    let looks: alloc::vec::Vec<bool> = (0..17)
        .map(|_| {
            image.save(&mut file, SIMD | SVE);
            image.form() == Form::Both
        })
        .collect();
    let found: alloc::vec::Vec<usize> = (0..17).filter(|n| looks[*n]).collect();
    assert_eq!(found, [0, 8, 16]);
}

#[test]
fn an_exposure_that_is_there_already_is_not_written() {
    let mut file = file(V1);
    let before = file.hardware().cptr_writes;
    <Vectors<Log>>::conceal(&mut file);
    assert_eq!(file.hardware().cptr_writes, before);
    <Vectors<Log>>::expose(&mut file, SIMD);
    <Vectors<Log>>::expose(&mut file, SIMD);
    assert_eq!(file.hardware().cptr_writes, before + 1);
    assert_eq!(<Vectors<Log>>::exposed(&file), SIMD);
    <Vectors<Log>>::expose(&mut file, SIMD | SVE);
    assert_eq!((<Vectors<Log>>::exposed(&file), file.hardware().cptr), (SIMD | SVE, 0x32ff));
}

#[test]
fn the_vector_length_is_written_when_registers_are_loaded_and_never_else() {
    let mut file = file(&[128, 256, 512]);
    let (long, short, plain) = (image(512), image(128), <Vectors<Log>>::new(Lengths::NONE));
    let zcr = |file: &File<Log>| file.hardware().did.iter().filter(|what| **what == "zcr").count();
    long.restore(&mut file, SIMD | SVE);
    let before = zcr(&file);
    <Vectors<Log>>::expose(&mut file, SIMD | SVE);
    // Others come and go, and use nothing or SIMD.
    <Vectors<Log>>::conceal(&mut file);
    <Vectors<Log>>::expose(&mut file, Units::empty());
    <Vectors<Log>>::expose(&mut file, Units::empty());
    plain.restore(&mut file, SIMD);
    <Vectors<Log>>::expose(&mut file, SIMD);
    short.restore(&mut file, SIMD);
    <Vectors<Log>>::expose(&mut file, SIMD);
    assert_eq!((zcr(&file), file.hardware().zcr_el2), (before, 3));
    assert!(!<Vectors<Log>>::has_remains(&file, SIMD | SVE));
    short.restore(&mut file, SIMD | SVE);
    assert_eq!((zcr(&file), file.hardware().zcr_el2), (before + 1, 0));
    // What the longer one left beyond 128 bits is out of reach, and there.
    assert!(<Vectors<Log>>::has_remains(&file, SIMD | SVE));
    <Vectors<Log>>::fill(&mut file, SIMD | SVE, 0);
    assert!(!<Vectors<Log>>::has_remains(&file, SIMD | SVE));
    assert_eq!((file.hardware().zcr_el2, file.hardware().did.last()), (3, Some(&"flood")));
}

#[test]
fn without_sve_only_simd_is_touched() {
    let mut file = file(&[]);
    let mut image = <Vectors<Log>>::new(Lengths::NONE);
    image.restore(&mut file, SIMD);
    <Vectors<Log>>::expose(&mut file, SIMD);
    image.save(&mut file, SIMD);
    <Vectors<Log>>::fill(&mut file, SIMD | SVE, 0);
    assert_eq!(file.hardware().did, ["load", "store", "load"]);
    assert_eq!(<Vectors<Log>>::exposed(&file), SIMD);
}

#[test]
#[should_panic(expected = "vectors of 512 bits")]
fn a_length_that_the_cpu_lacks_is_our_bug() {
    image(512).restore(&mut file(V1), SIMD | SVE);
}

#[test]
fn a_snapshot_has_registers_by_the_form_of_the_image() {
    let names = |snapshot: &Snapshot| {
        let names = snapshot.registers(&LAYOUT).map(|(register, _)| register.to_string());
        names.collect::<alloc::vec::Vec<_>>()
    };
    let simd = Snapshot::take(&image(0));
    assert_eq!(simd.bytes().len(), 24 + 528);
    assert_eq!((names(&simd).len(), names(&simd)[..3].join(" ")), (34, "FPSR FPCR V0".into()));
    // A guest that may use SVE and did not is written as it is kept.
    let narrow = Snapshot::take(&image(2048));
    assert_eq!(narrow.bytes().len(), 24 + 536);
    assert_eq!(names(&narrow)[2..4].join(" "), "ZCR_EL1 V0");

    let mut file = file(&[128, 256, 512]);
    let mut used = image(512);
    used.restore(&mut file, SIMD | SVE);
    // The first save looks whether all of it is needed, and it is not; the second does not look.
    used.save(&mut file, SIMD | SVE);
    used.save(&mut file, SIMD | SVE);
    let whole = Snapshot::take(&used);
    assert_eq!(whole.bytes().len(), 24 + 24 + 32 * 64 + 17 * 8);
    assert_eq!(names(&whole).len(), 3 + 32 + 16 + 1);
    assert_eq!(
        names(&whole)[34..].join(" "),
        "Z31 P0 P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12 P13 P14 P15 FFR"
    );
    let again = whole.state::<Vectors<Log>>(up_to(512)).unwrap();
    assert_eq!((again.form(), Snapshot::take(&again)), (Form::Sve, whole));
}

#[test]
fn the_longest_snapshot_can_be_written_as_lines() {
    let mut file = file(&[128, 256, 512, 1024, 2048]);
    let mut used = image(2048);
    used.restore(&mut file, SIMD | SVE);
    used.save(&mut file, SIMD | SVE);
    used.save(&mut file, SIMD | SVE);
    let length = Snapshot::take(&used).bytes().len();
    assert_eq!(length, 24 + 24 + 32 * 256 + 17 * 32);
    assert!(length <= kernel::fp::lines::LONGEST);
}

#[test]
fn a_snapshot_goes_only_to_a_guest_with_the_same_vectors() {
    let refusal = |from: u64, to: u64| {
        let state = Snapshot::take(&image(from)).state::<Vectors<Log>>(up_to(to));
        state.err().map(|why| why.to_string())
    };
    for bits in [0, 128, 512] {
        assert_eq!(refusal(bits, bits), None);
    }
    assert_eq!(refusal(0, 512), None, "SIMD alone is what every guest has");
    assert_eq!(refusal(512, 0).as_deref(), Some("has simd and sve, and the guest has simd"));
    assert_eq!(
        refusal(512, 256).as_deref(),
        Some("of a guest with vectors of 512 bits, and this one has 256")
    );
    assert!(refusal(128, 512).is_some());

    // To ask for 384 bits gives 256 where they are missing.
    let few: Lengths = [128, 256, 512].into_iter().filter_map(Length::from_bits).collect();
    let of_few = Snapshot::take(&<Vectors<Log>>::new(few));
    assert!(of_few.state::<Vectors<Log>>(few).is_ok());
    assert_eq!(
        of_few.state::<Vectors<Log>>(up_to(512)).unwrap_err().to_string(),
        "of a guest with vectors of 128, 256, 512 bits, and this one has 128, 256, 384, 512"
    );
}

#[test]
fn a_value_that_no_register_holds_is_not_put_back() {
    let mut state = alloc::vec::Vec::new();
    image(512).export(&mut state);
    let form = |units| fp::Form { units, shape: 0, limit: 512, choice: up_to(512).bits() };
    let refusal = |units, state: &[u8]| {
        let state = <Vectors<Log>>::import(up_to(512), form(units), state);
        state.err().map(|why| why.to_string())
    };
    state[16] = 0xf;
    assert_eq!(refusal(SIMD | SVE, &state), None);
    state[17] = 1;
    let why = refusal(SIMD | SVE, &state);
    assert_eq!(why.as_deref(), Some("ZCR_EL1 is 0x10f, which has bits that mean nothing"));
    let why = refusal(SIMD | SME, &state);
    assert_eq!(why.as_deref(), Some("has units that nobody can have, and the guest has simd and sve"));
}
