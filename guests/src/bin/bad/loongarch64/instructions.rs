//! Instructions that a guest does not have, or may not execute, and calls that nobody answers.

use core::arch::asm;
use core::cell::UnsafeCell;

use guests::arch::hypercall::{self, UNKNOWN};
use guests::arch::trap::code;
use guests::report::{Done, Outcome, test};
use guests::rng::Rng;
use guests::trap::{Trap, catch};
use guests::{cpu, ensure, fp, println};

use crate::bare;

#[repr(C, align(64))]
struct Code(UnsafeCell<[u32; 2]>);

// SAFETY: only vCPU 0 writes and runs it.
unsafe impl Sync for Code {}

static CODE: Code = Code(UnsafeCell::new([0, RET]));
/// jirl $zero, $ra, 0.
const RET: u32 = 0x4c00_0020;

/// Executes one instruction, which reads or writes a0 at most, and tells its fault.
pub(super) fn execute(instruction: u32, a0: &mut u64) -> Option<Trap> {
    let code = CODE.0.get();
    // SAFETY: nobody else uses CODE; memory in the cached window is executable, and the barriers make the write visible to
    // fetches (Vol.1, 2.2.8.2).
    unsafe {
        code.cast::<u32>().write_volatile(instruction);
    }
    cpu::sync();
    let mut value = *a0;
    let trap = catch(|| {
        // SAFETY: the code is one instruction on a0 and a return; a0 and ra are given up.
        unsafe { asm!("jirl $ra, {0}, 0", in(reg) code, inout("$a0") value, out("$ra") _, options(nostack)) };
    });
    *a0 = value;
    trap
}

pub(super) fn instructions() {
    test("undefined-instructions", undefined);
    test("instructions-of-a-hypervisor", of_a_hypervisor);
    test("debug-call", debug_call);
    test("enables-without-meaning", enables);
}

/// Words that are no instruction.
const UNDEFINED: [u32; 11] = [
    0x0000_0000,
    0xffff_ffff,
    0x0000_0400,
    0x7800_0000,
    0xc000_0000,
    0xe000_0000,
    0xf000_0000,
    0x0d80_0000,
    0x0648_7c00,
    0x0649_801f,
    0x7fff_ffff,
];

fn undefined() -> Outcome {
    fp::enable(fp::present());
    for word in UNDEFINED {
        let trap = execute(word, &mut 0);
        ensure!(trap.is_some_and(|trap| trap.is_undefined()), "{word:#010x}: {trap:x?}");
        ensure!(bare() || trap.is_some_and(|trap| trap.badi == word.into()), "{word:#010x}: {trap:x?}");
    }
    Ok(Done::Passed)
}

/// gcsrrd, gcsrwr, gcsrxchg, the operations on a guest's TLB, invtlb with the operations for guests.
fn of_a_hypervisor() -> Outcome {
    if bare() {
        return Ok(Done::Skipped("nobody is below to have them"));
    }
    let mut refused = 0;
    // a0 is register 4.
    let registers = [0x0, 0x5, 0x18, 0x50, 0x180].map(|number| 0x0500_0004 | number << 10);
    let writes = registers.map(|word| word | 1 << 5);
    let exchanges = registers.map(|word| word | 5 << 5);
    let tlb = [0x0648_2001, 0x0648_2401, 0x0648_2801, 0x0648_2c01, 0x0648_3001, 0x0648_3401];
    let flushes: [u32; 14] = core::array::from_fn(|n| 0x0649_8000 | (n as u32 + 9));
    for word in registers.into_iter().chain(writes).chain(exchanges).chain(tlb).chain(flushes) {
        let mut value = 0x1_0000;
        let trap = execute(word, &mut value);
        let fine = |trap: Trap| matches!(trap.code(), code::INE | code::IPE);
        // A TLB operation of a guest's own changes what it has itself at most.
        ensure!(trap.is_none_or(fine), "{word:#010x}: {trap:x?}");
        ensure!(trap.is_some() || word & 0xff00_0000 != 0x0500_0000, "{word:#010x} was executed");
        refused += u32::from(trap.is_some());
    }
    println!("bad: {refused} instructions of a hypervisor were refused");
    ensure!(refused > 15, "only {refused} were refused");
    Ok(Done::Passed)
}

/// DBCL enters debug mode, which guests do not have.
fn debug_call() -> Outcome {
    if bare() {
        return Ok(Done::Skipped("plain QEMU would enter debug mode"));
    }
    let trap = execute(0x002a_8000, &mut 0);
    ensure!(trap.is_none_or(|trap| matches!(trap.code(), code::INE | code::IPE)), "{trap:x?}");
    Ok(Done::Passed)
}

/// Any bits in EUEN, and after each every unit used: it works, or traps as one that is off or absent.
fn enables() -> Outcome {
    let mut rng = Rng::new(8);
    for round in 0..64 {
        let bits = if round < 16 { round } else { rng.draw() };
        fp::restore_controls(bits);
        // movfcsr2gr $a0; vpickve2gr.d $a0, $vr3, 1; xvpickve2gr.d $a0, $xr3, 3; movscr2gr $a0, $scr0.
        for word in [0x0114_c804, 0x72ef_f464, 0x76ef_ec64, 0x0000_0c04] {
            let trap = execute(word, &mut 0);
            let fine = |trap: Trap| trap.is_fp_disabled() || trap.is_undefined();
            ensure!(trap.is_none_or(fine), "EUEN {bits:#x}, {word:#010x}: {trap:x?}");
        }
    }
    fp::disable();
    Ok(Done::Passed)
}

pub(super) fn calls() {
    test("unknown-calls", unknown_calls);
}

/// HVCL with every code and all sorts of functions: the answer is -1, and nothing else changes.
fn unknown_calls() -> Outcome {
    let mut rng = Rng::new(1);
    for round in 0..3000_u32 {
        let code = match round {
            // Those that others have, and the highest; then any.
            0..0x110 => round,
            0x110 => 0x7fff,
            _ => rng.below(0x8000) as u32,
        };
        let function = [0, 1, 2, u64::MAX, rng.draw()][round as usize % 5];
        if code == hypercall::FERMATA && matches!(function, hypercall::LEDGER | hypercall::TOUCHES) {
            continue;
        }
        let mut answer = Registers::new(function);
        let trap = answer.call(code);
        match trap {
            Some(trap) if trap.is_undefined() && bare() => continue,
            Some(trap) => return Err(guests::why!("hvcl {code:#x}: {trap:x?}")),
            None => {}
        }
        ensure!(
            answer.a[0] == UNKNOWN,
            "hvcl {code:#x} function {function:#x} is answered by {:#x}",
            answer.a[0]
        );
        ensure!(answer.others_kept(), "hvcl {code:#x} function {function:#x} changed a1 to a7 or t0 to t8");
    }
    Ok(Done::Passed)
}

/// a0 to a7 and t0 to t8, with numbers of their own but for a0.
struct Registers {
    a: [u64; 17],
}

impl Registers {
    fn new(function: u64) -> Self {
        let mut a = core::array::from_fn(|n| 0x5a5a_0000 + n as u64);
        a[0] = function;
        Self { a }
    }

    /// Executes HVCL, which is put where nobody else is: the registers are loaded, stored back and compared.
    fn call(&mut self, code: u32) -> Option<Trap> {
        let place = CODE.0.get();
        // SAFETY: as in `execute`.
        unsafe { place.cast::<u32>().write_volatile(0x002b_8000 | code) };
        cpu::sync();
        let a = &mut self.a;
        catch(|| {
            // SAFETY: the code is one HVCL, of an unknown code, and a return; all that it could change is given up.
            unsafe {
                asm!("jirl $ra, {0}, 0", in(reg) place, inout("$a0") a[0], inout("$a1") a[1], inout("$a2") a[2],
                    inout("$a3") a[3], inout("$a4") a[4], inout("$a5") a[5], inout("$a6") a[6], inout("$a7") a[7],
                    inout("$t0") a[8], inout("$t1") a[9], inout("$t2") a[10], inout("$t3") a[11],
                    inout("$t4") a[12], inout("$t5") a[13], inout("$t6") a[14], inout("$t7") a[15],
                    inout("$t8") a[16], out("$ra") _, options(nostack));
            }
        })
    }

    fn others_kept(&self) -> bool {
        self.a.iter().enumerate().skip(1).all(|(n, &value)| value == 0x5a5a_0000 + n as u64)
    }
}
