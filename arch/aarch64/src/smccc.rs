//! What a guest may ask by HVC or SMC (SMCCC, DEN0028; PSCI, DEN0022). Pure.

use kernel::addr::Gpa;
use kernel::exit::{Call, Reply};

use crate::guest::index_of;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Answered: the value of x0.
    Answer(u64),
    /// `CPU_SUSPEND`: a wait that ends with success.
    Suspend,
    /// For the portable core.
    Core(Call),
}

const NOT_SUPPORTED: u64 = -1i64 as u64;

/// PSCI 1.1 and SMCCC 1.1: major version in bits 31 to 16.
const PSCI_VERSION_1_1: u64 = 0x1_0001;
const SMCCC_VERSION_1_1: u64 = 0x1_0001;
/// MIGRATE_INFO_TYPE: no trusted OS that would have to be migrated.
const NO_TRUSTED_OS: u64 = 2;

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const PSCI_VERSION: u32 = 0x8400_0000;
const PSCI_CPU_SUSPEND: u32 = 0x8400_0001;
const PSCI_CPU_OFF: u32 = 0x8400_0002;
const PSCI_CPU_ON: u32 = 0x8400_0003;
const PSCI_AFFINITY_INFO: u32 = 0x8400_0004;
const PSCI_MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_FEATURES: u32 = 0x8400_000a;
/// Fermata's own: the guest's FP ledger. Vendor-specific hypervisor service, 64-bit, fast (DEN0028 6.1).
pub const FERMATA_LEDGER: u32 = 0xc600_0001;
/// The same: the rest of the ledger.
pub const FERMATA_TOUCHES: u32 = 0xc600_0002;
/// The 64-bit form of a function.
const SMC64: u32 = 1 << 30;

/// Decodes a call made with immediate `number` and registers x0 to x30.
#[inline]
pub fn decode(number: u16, x: &[u64; 31]) -> Service {
    // An immediate other than zero belongs to nobody (DEN0028 2.9).
    if number != 0 {
        return Service::Answer(NOT_SUPPORTED);
    }
    let function = x[0] as u32;
    let wide = function & SMC64 != 0;
    let argument = |n: usize| if wide { x[n] } else { x[n] & 0xffff_ffff };
    let answer = match function {
        PSCI_VERSION => PSCI_VERSION_1_1,
        SMCCC_VERSION => SMCCC_VERSION_1_1,
        SMCCC_ARCH_FEATURES => match x[1] as u32 {
            SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
            _ => NOT_SUPPORTED,
        },
        PSCI_MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        PSCI_FEATURES => features(x[1] as u32),
        _ => return core_call(function, argument),
    };
    Service::Answer(answer)
}

fn core_call(function: u32, argument: impl Fn(usize) -> u64) -> Service {
    // CPU_SUSPEND, CPU_ON and AFFINITY_INFO have both forms, the others only the 32-bit one.
    Service::Core(match function {
        PSCI_CPU_OFF => Call::CpuOff,
        PSCI_SYSTEM_OFF => Call::PowerOff,
        PSCI_SYSTEM_RESET => Call::Reset,
        FERMATA_LEDGER => Call::Ledger,
        FERMATA_TOUCHES => Call::Touches,
        _ => match function & !SMC64 {
            PSCI_CPU_SUSPEND => return Service::Suspend,
            PSCI_CPU_ON => {
                Call::CpuOn { vcpu: index_of(argument(1)), entry: Gpa(argument(2)), arg: argument(3) }
            }
            // Only single CPUs (affinity level 0) are known.
            PSCI_AFFINITY_INFO if argument(2) == 0 => Call::State(index_of(argument(1))),
            PSCI_AFFINITY_INFO => Call::State(None),
            _ => return Service::Answer(NOT_SUPPORTED),
        },
    })
}

/// PSCI_FEATURES: zero for what there is. CPU_SUSPEND's zero says: original format, no OS-initiated mode.
fn features(function: u32) -> u64 {
    match function {
        PSCI_VERSION
        | PSCI_CPU_OFF
        | PSCI_MIGRATE_INFO_TYPE
        | PSCI_SYSTEM_OFF
        | PSCI_SYSTEM_RESET
        | PSCI_FEATURES
        | SMCCC_VERSION => 0,
        _ => match function & !SMC64 {
            PSCI_CPU_SUSPEND | PSCI_CPU_ON | PSCI_AFFINITY_INFO => 0,
            _ => NOT_SUPPORTED,
        },
    }
}

/// Puts the answer to a [`Call`] into x0, or x0 to x3.
pub fn reply(reply: Reply, x: &mut [u64; 31]) {
    let code: i64 = match reply {
        Reply::Values(values) => {
            x[..4].copy_from_slice(&values);
            return;
        }
        Reply::Done | Reply::On => 0,
        Reply::Off => 1,
        Reply::Starting => 2,
        Reply::NotSupported => -1,
        Reply::InvalidParameters => -2,
        Reply::Denied => -3,
        Reply::AlreadyOn => -4,
        Reply::OnPending => -5,
        Reply::InvalidAddress => -9,
    };
    x[0] = code as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(x0: u64, x1: u64, x2: u64, x3: u64) -> Service {
        let mut x = [0; 31];
        x[..4].copy_from_slice(&[x0, x1, x2, x3]);
        decode(0, &x)
    }

    #[test]
    fn unknown_functions_are_not_supported() {
        for function in [0x4b00_0000, 0x8600_ff01, 0xc600_0003, 0, u64::MAX, 0x8400_0050, 0x8000_8000] {
            assert_eq!(call(function, 0, 0, 0), Service::Answer(NOT_SUPPORTED), "{function:#x}");
        }
        let mut x = [0; 31];
        x[0] = u64::from(PSCI_SYSTEM_OFF);
        assert_eq!(decode(1, &x), Service::Answer(NOT_SUPPORTED), "an immediate is nobody's");
    }

    #[test]
    fn the_ledger_has_two_functions() {
        assert_eq!(call(0xc600_0001, 0, 0, 0), Service::Core(Call::Ledger));
        assert_eq!(call(0xc600_0002, 0, 0, 0), Service::Core(Call::Touches));
        assert_eq!(
            call(0x8600_0002, 0, 0, 0),
            Service::Answer(NOT_SUPPORTED),
            "the 32-bit form is another function"
        );
    }

    #[test]
    fn cpu_on_names_a_vcpu_by_affinity() {
        let on = |mpidr| call(0xc400_0003, mpidr, 0x4008_0000, 7);
        let expected = |vcpu| Service::Core(Call::CpuOn { vcpu, entry: Gpa(0x4008_0000), arg: 7 });
        assert_eq!(on(3), expected(Some(3)));
        assert_eq!(on(0x102), expected(Some(18)));
        assert_eq!(on(0x10), expected(None), "Aff0 has 16 values");
        assert_eq!(on(0x1_0000), expected(None));
        assert_eq!(on(1 << 32), expected(None));
    }

    #[test]
    fn the_32_bit_form_ignores_upper_halves() {
        let got = call(0x8400_0003, 0xffff_ffff_0000_0001, 0xff_4000_0000, 1 << 40);
        assert_eq!(got, Service::Core(Call::CpuOn { vcpu: Some(1), entry: Gpa(0x4000_0000), arg: 0 }));
    }

    #[test]
    fn features_are_what_is_there() {
        for function in [0x8400_0000u64, 0xc400_0003, 0x8400_0003, 0x8400_0009, 0xc400_0001] {
            assert_eq!(call(0x8400_000a, function, 0, 0), Service::Answer(0), "{function:#x}");
        }
        assert_eq!(call(0x8400_000a, 0x8400_0007, 0, 0), Service::Answer(NOT_SUPPORTED));
    }

    #[test]
    fn replies_are_psci_codes() {
        let mut x = [9; 31];
        reply(Reply::AlreadyOn, &mut x);
        assert_eq!(x[0] as i64, -4);
        reply(Reply::Values([1, 2, 3, 4]), &mut x);
        assert_eq!(x[..5], [1, 2, 3, 4, 9]);
    }
}
