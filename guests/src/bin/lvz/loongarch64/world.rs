//! The switch between the two worlds, and what a guest starts with.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::offset_of;

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::{change_csr, cpu, set_csr, timer};

use super::code as guest_code;
use super::stage2;

/// GTLBC: USETGID 12, TGID 23:16.
pub(crate) const GTLBC: u32 = 0x15;
/// GSTAT: VM 0, PVM 1, GID 23:16.
pub(crate) const GSTAT: u32 = 0x50;
/// GCFG: what traps.
pub(crate) const GCFG: u32 = 0x51;
/// GINTC: injected interrupts 7:0.
pub(crate) const GINTC: u32 = 0x52;
/// GCNTC: what is added to a guest's counter.
pub(crate) const GCNTC: u32 = 0x53;

/// GSTAT.PVM.
pub(crate) const PVM: u64 = 1 << 1;
/// PRMD.PIE.
const PIE: u64 = 1 << 2;
/// GTLBC.USETGID.
const USETGID: u64 = 1 << 12;

/// Reads a CSR of the guest; yields a `u64`.
macro_rules! gcsr {
    ($number:expr) => {{
        let value: u64;
        // SAFETY: reads a register of the guest's.
        unsafe { core::arch::asm!("gcsrrd {}, {}", out(reg) value, const $number, options(nostack)) };
        value
    }};
}

/// Writes a CSR of the guest and yields the `u64` it had.
macro_rules! set_gcsr {
    ($number:expr, $value:expr) => {{
        let mut value: u64 = $value;
        // SAFETY: changes a register of the guest's, whose memory is tables and pages that Rust does not rely on.
        unsafe { core::arch::asm!("gcsrwr {}, {}", inout(reg) value, const $number, options(nostack)) };
        value
    }};
}

pub(crate) use {gcsr, set_gcsr};

/// Executes INVTLB with a guest tag and an address.
macro_rules! flush {
    ($operation:literal, $tag:expr, $address:expr) => {{
        let (tag, address): (u64, u64) = ($tag << 16, $address);
        // SAFETY: what Rust uses is in no TLB.
        unsafe {
            core::arch::asm!(concat!("invtlb ", $operation, ", {}, {}"), in(reg) tag, in(reg) address, options(nostack))
        };
    }};
}

pub(crate) use flush;

/// A guest's general registers and program counter, and why it stopped.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// r0 to r31; r0 is not used.
    pub(crate) r: [u64; 32],
    /// Where it goes on.
    pub(crate) pc: u64,
    /// PRMD for the entry: PIE lets interrupts of the root end it.
    prmd: u64,
    estat: u64,
    badv: u64,
    badi: u64,
    stack: u64,
    eentry: u64,
    gstat: u64,
}

/// a0.
pub(crate) const A0: usize = 4;

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// ESTAT.Ecode.
    pub(crate) code: u64,
    /// ESTAT.EsubCode.
    pub(crate) subcode: u64,
    /// Where.
    pub(crate) pc: u64,
    /// BADV.
    pub(crate) badv: u64,
    /// BADI.
    pub(crate) badi: u64,
}

impl Exit {
    /// Tells whether it is a call with this code.
    pub(crate) fn is_call(&self, call: u64) -> bool {
        self.code == code::HVC && self.badi == 0x002b_8000 | call
    }

    /// Tells whether the guest came to its end.
    pub(crate) fn is_end(&self) -> bool {
        self.is_call(guest_code::END)
    }

    /// Tells whether the guest took an exception itself.
    pub(crate) fn is_trapped(&self) -> bool {
        self.is_call(guest_code::TRAPPED)
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subcode, pc, badv, badi } = self;
        write!(to, "code {code:#x}.{subcode} at {pc:#x} BADV {badv:#x} BADI {badi:#010x}")
    }
}

/// Returns the guest-physical address of code or data: the first is mapped to itself.
pub(crate) fn physical<T: ?Sized>(what: *const T) -> u64 {
    what.cast::<u8>() as u64 & 0xffff_ffff_ffff
}

/// Returns the guest-physical address of code.
pub(crate) fn start_of(code: extern "C" fn()) -> u64 {
    code as usize as u64 & 0xffff_ffff_ffff
}

/// A page that a guest executes, with one instruction that the root puts there.
#[repr(C, align(4096))]
struct Code(UnsafeCell<[u32; 4]>);

// SAFETY: only one vCPU is used.
unsafe impl Sync for Code {}

static CODE: Code = Code(UnsafeCell::new([0; 4]));

/// syscall 0.
const SYSCALL: u32 = 0x002b_0000;

/// Puts an instruction where a guest executes it, with the end behind it, and returns its address.
pub(crate) fn place(instruction: u32) -> u64 {
    place_before(instruction, 0x002b_8000 | guest_code::END as u32)
}

fn place_before(instruction: u32, end: u32) -> u64 {
    let code = CODE.0.get().cast::<u32>();
    // SAFETY: two words of CODE, which nobody else uses.
    unsafe {
        code.write_volatile(instruction);
        code.add(1).write_volatile(end);
    }
    cpu::sync();
    physical(code)
}

/// Prepares this CPU: nothing traps that need not, tags are used, no guest has anything in the TLB. Interrupts stay masked
/// from here on, as a hypervisor has them.
pub(crate) fn init() {
    cpu::mask_irq();
    timer::disarm();
    set_csr!(GCFG, 0);
    set_csr!(GINTC, 0);
    set_csr!(GCNTC, 0);
    set_csr!(GSTAT, 0);
    change_csr!(GTLBC, USETGID, USETGID);
    stage2::reset();
    flush!(0x12, 0, 0);
}

/// Makes this the tag of the guest that is entered.
pub(crate) fn set_tag(tag: u64) {
    change_csr!(GSTAT, 0xff << 16, tag << 16);
    change_csr!(GTLBC, 0xff << 16, tag << 16);
}

impl World {
    /// Makes a guest that starts at a physical address, with a0 and a1: control registers as after reset, its own entries.
    pub(crate) fn new(pc: u64, a0: u64, a1: u64) -> Self {
        set_gcsr!(number::CRMD, 8);
        set_gcsr!(number::PRMD, 0);
        set_gcsr!(number::EUEN, 0);
        set_gcsr!(number::ECFG, 0);
        set_gcsr!(number::TCFG, 0);
        set_gcsr!(number::TICLR, 1);
        set_gcsr!(number::ESTAT, 0);
        set_gcsr!(number::TLBRERA, 0);
        set_gcsr!(number::ASID, 0);
        set_gcsr!(number::STLBPS, 12);
        for window in 0..4 {
            match window {
                0 => set_gcsr!(number::DMW0, 0),
                1 => set_gcsr!(number::DMW0 + 1, 0),
                2 => set_gcsr!(number::DMW0 + 2, 0),
                _ => set_gcsr!(number::DMW0 + 3, 0),
            };
        }
        let entries = guest_code::entries() & 0xffff_ffff_ffff;
        set_gcsr!(number::EENTRY, entries);
        set_gcsr!(number::TLBRENTRY, entries + 0x1000);
        set_csr!(GINTC, 0);
        set_csr!(number::EUEN, 0);
        let mut r = core::array::from_fn(|n| 0x1111_1111_0000 * n as u64);
        (r[A0], r[A0 + 1]) = (a0, a1);
        Self { r, pc, prmd: 0, estat: 0, badv: 0, badi: 0, stack: 0, eentry: 0, gstat: 0 }
    }

    /// Makes a guest that starts at a function.
    pub(crate) fn at(code: extern "C" fn(), a0: u64, a1: u64) -> Self {
        Self::new(start_of(code), a0, a1)
    }

    /// Makes a guest that executes one instruction and ends.
    pub(crate) fn executing(instruction: u32, a0: u64) -> Self {
        Self::new(place(instruction), a0, 0)
    }

    /// Makes a guest that executes one instruction at a privilege level. Above level 0 it ends by an exception of its own,
    /// so that nothing but the instruction is tried there: see [`Self::has_ended`].
    pub(crate) fn executing_at(plv: u64, instruction: u32, a0: u64) -> Self {
        let end = if plv == 0 { 0x002b_8000 | guest_code::END as u32 } else { SYSCALL };
        let world = Self::new(place_before(instruction, end), a0, 0);
        set_gcsr!(number::CRMD, 8 | plv);
        world
    }

    /// Tells whether a guest that was made by [`Self::executing_at`] came to its end.
    pub(crate) fn has_ended(exit: Exit) -> bool {
        exit.is_end() || exit.is_trapped() && gcsr!(number::ESTAT) >> 16 & 0x3f == code::SYS
    }

    /// Enters the guest until it stops; one that does not within ten seconds is ended by the root's timer.
    pub(crate) fn run(&mut self) -> Exit {
        timer::arm(timer::now() + timer::micros(10_000_000));
        change_csr!(number::ECFG, 1 << 11, 1 << 11);
        self.prmd = PIE;
        let exit = self.enter();
        timer::disarm();
        exit
    }

    /// Enters the guest until it stops, with interrupts of the root masked; whoever uses it knows that it does.
    pub(crate) fn run_masked(&mut self) -> Exit {
        self.prmd = 0;
        self.enter()
    }

    /// Enters the guest until it stops, with interrupts of the root unmasked; whoever uses it makes one come.
    pub(crate) fn run_unmasked(&mut self) -> Exit {
        self.prmd = PIE;
        self.enter()
    }

    fn enter(&mut self) -> Exit {
        // SAFETY: 1. the guest sees the image's memory, which is its code and what it is given, and pages made for it, and
        // the switch keeps what Rust relies on. 2. `set_tag` writes both.
        unsafe { enter(self) };
        Exit {
            code: self.estat >> 16 & 0x3f,
            subcode: self.estat >> 22 & 0x1ff,
            pc: self.pc,
            badv: self.badv,
            badi: self.badi,
        }
    }

    /// Returns GSTAT as the exit found it.
    pub(crate) fn gstat(&self) -> u64 {
        self.gstat
    }

    /// Steps over the instruction that stopped it.
    pub(crate) fn skip(&mut self) {
        self.pc += 4;
    }
}

/// Enters a guest and returns when it stops.
///
/// # Safety
/// 1. `world` may be written, and what it runs leaves alone what Rust uses.
/// 2. GSTAT.GID and GTLBC.TGID agree.
#[unsafe(naked)]
unsafe extern "C" fn enter(world: *mut World) {
    naked_asm!(
        "addi.d $sp, $sp, -112",
        "st.d $ra, $sp, 0",
        "st.d $tp, $sp, 8",
        "st.d $r21, $sp, 16",
        ".irp n, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "st.d $r\\n, $sp, 8 * (\\n - 19)",
        ".endr",
        "st.d $sp, $a0, {stack}",
        "move $t0, $a0",
        "csrwr $t0, 0x34",
        "la.pcrel $t0, {exit}",
        "move $t1, $a0",
        "move $t2, $ra",
        "jirl $ra, $t0, 0",
        "move $t0, $a0",
        "move $a0, $t1",
        "csrwr $t0, 0xc",
        "st.d $t0, $a0, {eentry}",
        "ld.d $t0, $a0, {pc}",
        "csrwr $t0, 0x6",
        "ld.d $t0, $a0, {prmd}",
        "csrwr $t0, 0x1",
        "ori $t0, $zero, 2",
        "move $t1, $t0",
        "csrxchg $t1, $t0, 0x50",
        ".irp n, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "ld.d $r\\n, $a0, 8 * \\n",
        ".endr",
        "ld.d $a0, $a0, 32",
        "ertn",
        stack = const offset_of!(World, stack),
        exit = sym exit,
        eentry = const offset_of!(World, eentry),
        pc = const offset_of!(World, pc),
        prmd = const offset_of!(World, prmd),
    )
}

/// Returns in a0 the address of the entry that follows it: where a guest's exits go. It changes nothing else.
///
/// The entry saves the guest's registers to the world in SAVE4, and returns to the caller of [`enter`].
#[unsafe(naked)]
extern "C" fn exit() {
    naked_asm!(
        "la.pcrel $a0, 1f",
        "ret",
        ".balign 4096",
        "1:",
        "csrwr $a0, 0x35",
        "csrrd $a0, 0x34",
        ".irp n, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "st.d $r\\n, $a0, 8 * \\n",
        ".endr",
        "csrrd $t0, 0x35",
        "st.d $t0, $a0, 32",
        "csrrd $t0, 0x6",
        "st.d $t0, $a0, {pc}",
        "csrrd $t0, 0x5",
        "st.d $t0, $a0, {estat}",
        "csrrd $t0, 0x7",
        "st.d $t0, $a0, {badv}",
        "csrrd $t0, 0x8",
        "st.d $t0, $a0, {badi}",
        "ld.d $t0, $a0, {eentry}",
        "csrwr $t0, 0xc",
        // What GSTAT was at the exit, for those who want to know, and PVM off: the next ERTN stays here.
        "csrrd $t0, 0x50",
        "st.d $t0, $a0, {gstat}",
        "ori $t0, $zero, 2",
        "move $t1, $zero",
        "csrxchg $t1, $t0, 0x50",
        "ld.d $sp, $a0, {stack}",
        "ld.d $ra, $sp, 0",
        "ld.d $tp, $sp, 8",
        "ld.d $r21, $sp, 16",
        ".irp n, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "ld.d $r\\n, $sp, 8 * (\\n - 19)",
        ".endr",
        "addi.d $sp, $sp, 112",
        "ret",
        pc = const offset_of!(World, pc),
        estat = const offset_of!(World, estat),
        badv = const offset_of!(World, badv),
        badi = const offset_of!(World, badi),
        gstat = const offset_of!(World, gstat),
        eentry = const offset_of!(World, eentry),
        stack = const offset_of!(World, stack),
    )
}
