//! System registers: those that `aarch64-cpu` names, the others in the same idiom, and barriers.
//!
//! Encodings are spelled as `S<op0>_<op1>_C<n>_C<m>_<op2>` (DDI0487 C5.1.3), which every assembler takes.
#![expect(non_camel_case_types, reason = "registers are spelled as in the Arm ARM")]

use core::arch::asm;

pub use aarch64_cpu::registers::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTFRQ_EL0, CNTHCTL_EL2, CNTHP_CTL_EL2, CNTKCTL_EL1, CNTP_CTL_EL0,
    CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVOFF_EL2, CONTEXTIDR_EL1, CPACR_EL1, CSSELR_EL1, ELR_EL1,
    ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HCR_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HFGITR_EL2, HFGRTR_EL2,
    HFGWTR_EL2, HPFAR_EL2, ICC_SRE_EL2, ICH_AP0R0_EL2, ICH_AP0R1_EL2, ICH_AP0R2_EL2, ICH_AP0R3_EL2,
    ICH_AP1R0_EL2, ICH_AP1R1_EL2, ICH_AP1R2_EL2, ICH_AP1R3_EL2, ICH_HCR_EL2, ICH_VMCR_EL2, ICH_VTR_EL2,
    MAIR_EL1, MAIR_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1, PAR_EL1, SCTLR_EL1, SCTLR_EL2, SP_EL0, SP_EL1,
    SPSR_EL1, TCR_EL1, TCR_EL2, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR0_EL2, TTBR1_EL1, VBAR_EL1,
    VBAR_EL2, VMPIDR_EL2, VTCR_EL2, VTTBR_EL2,
};
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
    // The PAuth keys have names in `aarch64-cpu` that the assembler takes with FEAT_PAuth switched on only.
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
    /// The EL2 physical timer: compare value.
    CNTHP_CVAL_EL2 = "S3_4_C14_C2_2";
    /// Extended hypervisor configuration (FEAT_HCX).
    HCRX_EL2 = "S3_4_C1_C2_2";
    /// Hypervisor system traps of AArch32.
    HSTR_EL2 = "S3_4_C1_C1_3";
    /// What the guest reads as `MIDR_EL1`.
    VPIDR_EL2 = "S3_4_C0_C0_0";
    /// Performance monitors control, for the number of counters.
    PMCR_EL0 = "S3_3_C9_C12_0";
    /// Streaming mode and ZA state (FEAT_SME).
    SVCR = "S3_3_C4_C2_2";
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
}

macro_rules! list_registers {
    ($($n:literal $name:ident),* $(,)?) => {
        /// Reads list register `n` (`ICH_LR<n>_EL2`), which exists; any other reads as zero.
        pub fn read_lr(n: usize) -> u64 {
            match n {
                $($n => aarch64_cpu::registers::$name.get(),)*
                _ => 0,
            }
        }

        /// Writes list register `n`, which exists.
        pub fn write_lr(n: usize, value: u64) {
            match n {
                $($n => aarch64_cpu::registers::$name.set(value),)*
                _ => {}
            }
        }
    };
}

list_registers! {
    0 ICH_LR0_EL2, 1 ICH_LR1_EL2, 2 ICH_LR2_EL2, 3 ICH_LR3_EL2, 4 ICH_LR4_EL2, 5 ICH_LR5_EL2, 6 ICH_LR6_EL2,
    7 ICH_LR7_EL2, 8 ICH_LR8_EL2, 9 ICH_LR9_EL2, 10 ICH_LR10_EL2, 11 ICH_LR11_EL2, 12 ICH_LR12_EL2,
    13 ICH_LR13_EL2, 14 ICH_LR14_EL2, 15 ICH_LR15_EL2,
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
