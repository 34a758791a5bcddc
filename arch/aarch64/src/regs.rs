//! System registers that `aarch64-cpu` does not name, in the same idiom, and barriers.
//!
//! Encodings are spelled as `S<op0>_<op1>_C<n>_C<m>_<op2>` (DDI0487 C5.1.3), which every assembler takes.
#![expect(non_camel_case_types, reason = "registers are spelled as in the Arm ARM")]

use core::arch::asm;

pub use tock_registers::interfaces::{Readable, Writeable};

macro_rules! system_registers {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Readable for $name {
            type T = u64;
            type R = ();
            #[inline(always)]
            fn get(&self) -> u64 {
                let value;
                // SAFETY: reading this register changes no state, and every register listed here exists
                // at EL2 on the CPUs that reach the caller (optional ones are read only when their ID
                // register says so).
                unsafe { asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nomem, nostack, preserves_flags)) };
                value
            }
        }

        impl Writeable for $name {
            type T = u64;
            type R = ();
            #[inline(always)]
            fn set(&self, value: u64) {
                // SAFETY: the registers listed here hold guest state or configure what guests may do;
                // none of them changes how EL2 itself fetches, translates or stores, so no Rust
                // invariant depends on the value.
                unsafe { asm!(concat!("msr ", $encoding, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
            }
        }
    )*};
}

system_registers! {
    /// Auxiliary fault status 0.
    AFSR0_EL1 = "S3_0_C5_C1_0";
    /// Auxiliary fault status 1.
    AFSR1_EL1 = "S3_0_C5_C1_1";
    /// Auxiliary memory attributes.
    AMAIR_EL1 = "S3_0_C10_C3_0";
    /// Floating-point and SVE traps of EL1 and EL0.
    CPACR_EL1 = "S3_0_C1_C0_2";
    /// Context id.
    CONTEXTIDR_EL1 = "S3_0_C13_C0_1";
    /// Cache size selection.
    CSSELR_EL1 = "S3_2_C0_C0_0";
    /// Counter and timer access from EL0.
    CNTKCTL_EL1 = "S3_0_C14_C1_0";
    /// Counter and timer access from EL1 and EL0, and the event stream.
    CNTHCTL_EL2 = "S3_4_C14_C1_0";
    /// The guest's virtual timer: control.
    CNTV_CTL_EL0 = "S3_3_C14_C3_1";
    /// The guest's virtual timer: compare value.
    CNTV_CVAL_EL0 = "S3_3_C14_C3_2";
    /// The EL1 physical timer: control.
    CNTP_CTL_EL0 = "S3_3_C14_C2_1";
    /// The EL2 physical timer: control.
    CNTHP_CTL_EL2 = "S3_4_C14_C2_1";
    /// The EL2 physical timer: compare value.
    CNTHP_CVAL_EL2 = "S3_4_C14_C2_2";
    /// Offset of the virtual counter.
    CNTVOFF_EL2 = "S3_4_C14_C0_3";
    /// The physical counter.
    CNTPCT_EL0 = "S3_3_C14_C0_1";
    /// Counter frequency, Hz.
    CNTFRQ_EL0 = "S3_3_C14_C0_0";
    /// Syndrome of an exception taken to EL2.
    ESR_EL2 = "S3_4_C5_C2_0";
    /// Faulting virtual address of an exception taken to EL2.
    FAR_EL2 = "S3_4_C6_C0_0";
    /// Faulting intermediate address of a stage-2 fault.
    HPFAR_EL2 = "S3_4_C6_C0_4";
    /// Hypervisor configuration.
    HCR_EL2 = "S3_4_C1_C1_0";
    /// Extended hypervisor configuration (FEAT_HCX).
    HCRX_EL2 = "S3_4_C1_C2_2";
    /// Hypervisor system traps of AArch32.
    HSTR_EL2 = "S3_4_C1_C1_3";
    /// Monitor debug configuration.
    MDCR_EL2 = "S3_4_C1_C1_1";
    /// Fine-grained read traps (FEAT_FGT).
    HFGRTR_EL2 = "S3_4_C1_C1_4";
    /// Fine-grained write traps (FEAT_FGT).
    HFGWTR_EL2 = "S3_4_C1_C1_5";
    /// Fine-grained instruction traps (FEAT_FGT).
    HFGITR_EL2 = "S3_4_C1_C1_6";
    /// Fine-grained debug read traps (FEAT_FGT).
    HDFGRTR_EL2 = "S3_4_C3_C1_4";
    /// Fine-grained debug write traps (FEAT_FGT).
    HDFGWTR_EL2 = "S3_4_C3_C1_5";
    /// Memory attributes of EL1.
    MAIR_EL1 = "S3_0_C10_C2_0";
    /// Memory attributes of EL2.
    MAIR_EL2 = "S3_4_C10_C2_0";
    /// Physical address of the last address translation instruction.
    PAR_EL1 = "S3_0_C7_C4_0";
    /// System control of EL1.
    SCTLR_EL1 = "S3_0_C1_C0_0";
    /// System control of EL2.
    SCTLR_EL2 = "S3_4_C1_C0_0";
    /// Translation control of EL1.
    TCR_EL1 = "S3_0_C2_C0_2";
    /// Translation control of EL2.
    TCR_EL2 = "S3_4_C2_C0_2";
    /// Translation table base 0 of EL1.
    TTBR0_EL1 = "S3_0_C2_C0_0";
    /// Translation table base 1 of EL1.
    TTBR1_EL1 = "S3_0_C2_C0_1";
    /// Translation table base of EL2.
    TTBR0_EL2 = "S3_4_C2_C0_0";
    /// Thread ids.
    TPIDR_EL0 = "S3_3_C13_C0_2";
    /// Thread id that EL0 may only read.
    TPIDRRO_EL0 = "S3_3_C13_C0_3";
    /// Thread id of EL1.
    TPIDR_EL1 = "S3_0_C13_C0_4";
    /// Vector base of EL1.
    VBAR_EL1 = "S3_0_C12_C0_0";
    /// Vector base of EL2.
    VBAR_EL2 = "S3_4_C12_C0_0";
    /// Syndrome of EL1.
    ESR_EL1 = "S3_0_C5_C2_0";
    /// Fault address of EL1.
    FAR_EL1 = "S3_0_C6_C0_0";
    /// Exception return address of EL1.
    ELR_EL1 = "S3_0_C4_C0_1";
    /// Saved program status of EL1.
    SPSR_EL1 = "S3_0_C4_C0_0";
    /// Stack pointer of EL0.
    SP_EL0 = "S3_0_C4_C1_0";
    /// Stack pointer of EL1, as EL2 reaches it.
    SP_EL1 = "S3_4_C4_C1_0";
    /// What the guest reads as `MIDR_EL1`.
    VPIDR_EL2 = "S3_4_C0_C0_0";
    /// What the guest reads as `MPIDR_EL1`.
    VMPIDR_EL2 = "S3_4_C0_C0_5";
    /// Main id.
    MIDR_EL1 = "S3_0_C0_C0_0";
    /// Affinity of this CPU.
    MPIDR_EL1 = "S3_0_C0_C0_5";
    /// Stage-2 translation control.
    VTCR_EL2 = "S3_4_C2_C1_2";
    /// Stage-2 translation table base and VMID.
    VTTBR_EL2 = "S3_4_C2_C1_0";
    /// Performance monitors control, for the number of counters.
    PMCR_EL0 = "S3_3_C9_C12_0";
    /// Streaming mode and ZA state (FEAT_SME).
    SVCR = "S3_3_C4_C2_2";
    /// PAuth instruction key A, low half (FEAT_PAuth).
    APIAKEYLO_EL1 = "S3_0_C2_C1_0";
    /// PAuth instruction key A, high half.
    APIAKEYHI_EL1 = "S3_0_C2_C1_1";
    /// PAuth instruction key B, low half.
    APIBKEYLO_EL1 = "S3_0_C2_C1_2";
    /// PAuth instruction key B, high half.
    APIBKEYHI_EL1 = "S3_0_C2_C1_3";
    /// PAuth data key A, low half.
    APDAKEYLO_EL1 = "S3_0_C2_C2_0";
    /// PAuth data key A, high half.
    APDAKEYHI_EL1 = "S3_0_C2_C2_1";
    /// PAuth data key B, low half.
    APDBKEYLO_EL1 = "S3_0_C2_C2_2";
    /// PAuth data key B, high half.
    APDBKEYHI_EL1 = "S3_0_C2_C2_3";
    /// PAuth generic key, low half.
    APGAKEYLO_EL1 = "S3_0_C2_C3_0";
    /// PAuth generic key, high half.
    APGAKEYHI_EL1 = "S3_0_C2_C3_1";
    /// GIC: system register enable at EL2.
    ICC_SRE_EL2 = "S3_4_C12_C9_5";
    /// GIC: priority mask.
    ICC_PMR_EL1 = "S3_0_C4_C6_0";
    /// GIC: binary point of group 1.
    ICC_BPR1_EL1 = "S3_0_C12_C12_3";
    /// GIC: CPU interface control.
    ICC_CTLR_EL1 = "S3_0_C12_C12_4";
    /// GIC: group 1 enable.
    ICC_IGRPEN1_EL1 = "S3_0_C12_C12_7";
    /// GIC: acknowledge.
    ICC_IAR1_EL1 = "S3_0_C12_C12_0";
    /// GIC: end of interrupt (priority drop).
    ICC_EOIR1_EL1 = "S3_0_C12_C12_1";
    /// GIC: deactivate.
    ICC_DIR_EL1 = "S3_0_C12_C11_1";
    /// GIC: software generated interrupt of group 1.
    ICC_SGI1R_EL1 = "S3_0_C12_C11_5";
    /// GIC: virtual interface control.
    ICH_HCR_EL2 = "S3_4_C12_C11_0";
    /// GIC: what the virtual interface implements.
    ICH_VTR_EL2 = "S3_4_C12_C11_1";
    /// GIC: the guest's CPU interface state.
    ICH_VMCR_EL2 = "S3_4_C12_C11_7";
    /// GIC: active priorities, group 0.
    ICH_AP0R0_EL2 = "S3_4_C12_C8_0";
    /// GIC: active priorities, group 1.
    ICH_AP1R0_EL2 = "S3_4_C12_C9_0";
    /// GIC: active priorities of group 0, second word (6 priority bits and more).
    ICH_AP0R1_EL2 = "S3_4_C12_C8_1";
    /// GIC: active priorities of group 1, second word.
    ICH_AP1R1_EL2 = "S3_4_C12_C9_1";
    /// GIC: active priorities of group 0, third word (7 priority bits).
    ICH_AP0R2_EL2 = "S3_4_C12_C8_2";
    /// GIC: active priorities of group 0, fourth word.
    ICH_AP0R3_EL2 = "S3_4_C12_C8_3";
    /// GIC: active priorities of group 1, third word.
    ICH_AP1R2_EL2 = "S3_4_C12_C9_2";
    /// GIC: active priorities of group 1, fourth word.
    ICH_AP1R3_EL2 = "S3_4_C12_C9_3";
}

macro_rules! list_registers {
    ($($n:literal $encoding:literal),* $(,)?) => {
        /// Reads list register `n` (`ICH_LR<n>_EL2`); one that does not exist reads as zero.
        pub fn read_lr(n: usize) -> u64 {
            let value;
            match n {
                // SAFETY: callers stay below the number of list registers of `ICH_VTR_EL2`.
                $($n => unsafe { asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nomem, nostack, preserves_flags)) },)*
                _ => value = 0,
            }
            value
        }
        /// Writes list register `n`; one that does not exist is left alone.
        pub fn write_lr(n: usize, value: u64) {
            match n {
                // SAFETY: as above; a list register only holds virtual interrupts of the loaded guest.
                $($n => unsafe { asm!(concat!("msr ", $encoding, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) },)*
                _ => {}
            }
        }
    };
}

list_registers! {
    0 "S3_4_C12_C12_0", 1 "S3_4_C12_C12_1", 2 "S3_4_C12_C12_2", 3 "S3_4_C12_C12_3",
    4 "S3_4_C12_C12_4", 5 "S3_4_C12_C12_5", 6 "S3_4_C12_C12_6", 7 "S3_4_C12_C12_7",
    8 "S3_4_C12_C13_0", 9 "S3_4_C12_C13_1", 10 "S3_4_C12_C13_2", 11 "S3_4_C12_C13_3",
    12 "S3_4_C12_C13_4", 13 "S3_4_C12_C13_5", 14 "S3_4_C12_C13_6", 15 "S3_4_C12_C13_7",
}

/// Instruction synchronisation: earlier system-register writes take effect for what follows.
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier; it has no other effect. Not `nomem`, so the compiler keeps memory accesses in place.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits until every earlier memory access and TLB operation is complete for the whole system.
#[inline(always)]
pub fn dsb_sy() {
    // SAFETY: a barrier; it has no other effect.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Invalidates this CPU's stage-1 translations of the VMID in `VTTBR_EL2`.
///
/// Needed when another vCPU of the same guest ran here last: the two share a VMID but not necessarily
/// their translation tables (DDI0487 D8.16).
pub fn invalidate_local_stage1() {
    // SAFETY: dropping cached translations never changes what an address means, only when it is walked again.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) }
}

/// Invalidates, on every CPU, all translations of the VMID in `VTTBR_EL2`, both stages.
pub fn invalidate_guest() {
    // SAFETY: as for `invalidate_local_stage1`; the first barrier orders earlier table writes before it.
    unsafe { asm!("dsb ishst", "tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags)) }
}

/// Invalidates, on every CPU, the translations of every guest and the instruction caches.
pub fn invalidate_all_guests() {
    // SAFETY: as for `invalidate_guest`.
    unsafe {
        asm!("dsb ishst", "tlbi alle1is", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags))
    }
}

/// Translates a guest-virtual address as a read by EL1 through both stages' first half (`AT S1E1R`);
/// returns the intermediate address, or none when the guest's own tables do not map it.
pub fn guest_address(va: u64) -> Option<u64> {
    let saved = PAR_EL1.get();
    // SAFETY: the instruction only writes PAR_EL1, which is put back below.
    unsafe { asm!("at s1e1r, {}", "isb", in(reg) va, options(nostack, preserves_flags)) };
    let result = PAR_EL1.get();
    PAR_EL1.set(saved);
    (result & 1 == 0).then_some(result & 0x000f_ffff_ffff_f000 | va & 0xfff)
}

/// Cleans and invalidates `bytes` bytes of data cache from `start` to the point of coherency.
pub fn clean_to_memory(start: u64, bytes: u64) {
    let mut at = start & !63;
    while at < start + bytes {
        // SAFETY: maintenance by address of memory that EL2 maps; it changes no value anyone can read.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += 64;
    }
    dsb_sy();
}

/// Sleeps until an interrupt is pending, masked or not.
pub fn wfi() {
    // SAFETY: interrupts stay masked; the instruction only waits. The barrier completes earlier stores, so
    // that another CPU sees them before this one sleeps.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Calls the firmware by SMC (SMCCC, DEN0028): function and three arguments, returns x0.
pub fn smc(function: u64, a1: u64, a2: u64, a3: u64) -> u64 {
    let result;
    // SAFETY: SMCCC says which registers the callee may change; all of them are declared. PSCI functions
    // touch no memory of ours.
    unsafe {
        asm!("smc #0", inout("x0") function => result, inout("x1") a1 => _, inout("x2") a2 => _, inout("x3") a3 => _,
             out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
             out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, options(nostack));
    }
    result
}
