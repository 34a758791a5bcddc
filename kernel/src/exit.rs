//! Why a guest stopped, and what to do about it.

use crate::addr::{Gpa, Ticks};
use crate::fp::Units;

/// Why a guest gave the CPU back.
///
/// In the order of [`Cause`], and numbered as that is, so that one is the other without a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The architecture dealt with it; nothing is left to do.
    Handled,
    /// A physical interrupt is pending.
    Interrupt,
    /// The first touch of floating-point units the guest does not hold.
    Fp(Units),
    /// An access to memory that nothing backs and that the architecture's own devices do not answer.
    Mmio(Access),
    /// Virtual CPUs of the same guest have something pending that they did not have before.
    Ring(Kicks),
    /// A call for a service of the hypervisor.
    Call(Call),
    /// The guest has nothing to do until its next interrupt, or until a time if one is given.
    Idle(Option<Ticks>),
    /// The guest reprogrammed a timer that the hardware does not run for it.
    Timer,
    /// The guest can never go on.
    Crash(Crash),
}

/// The cause of an exit, for counters and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "as the variants of `Exit`")]
pub enum Cause {
    Handled,
    Interrupt,
    Fp,
    Mmio,
    Ring,
    Call,
    Idle,
    Timer,
    Crash,
}

impl Cause {
    /// Every cause, in order.
    pub const ALL: [Self; 9] = [
        Self::Handled,
        Self::Interrupt,
        Self::Fp,
        Self::Mmio,
        Self::Ring,
        Self::Call,
        Self::Idle,
        Self::Timer,
        Self::Crash,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handled => "register",
            Self::Interrupt => "interrupt",
            Self::Fp => "fp",
            Self::Mmio => "mmio",
            Self::Ring => "ring",
            Self::Call => "call",
            Self::Idle => "idle",
            Self::Timer => "timer",
            Self::Crash => "crash",
        }
    }
}

impl Exit {
    /// The cause without its details.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Handled => Cause::Handled,
            Self::Interrupt => Cause::Interrupt,
            Self::Fp(_) => Cause::Fp,
            Self::Mmio(_) => Cause::Mmio,
            Self::Ring(_) => Cause::Ring,
            Self::Call(_) => Cause::Call,
            Self::Idle(_) => Cause::Idle,
            Self::Timer => Cause::Timer,
            Self::Crash(_) => Cause::Crash,
        }
    }
}

/// One access to an emulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The guest-physical address.
    pub at: Gpa,
    /// The guest-virtual address, for the fault that an access to nothing becomes.
    pub va: Gpa,
    /// The width in bytes: 1, 2, 4 or 8.
    pub width: u8,
    /// The value stored, or none for a load.
    pub store: Option<u64>,
}

/// Virtual CPUs of one guest, bit n for its vCPU n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a vCPU that is not told may never see its interrupt"]
pub struct Kicks(pub u64);

impl Kicks {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Whether it is nobody.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Takes vCPU `index`, below 64, out, and says whether it was among them.
    #[inline]
    pub fn take(&mut self, index: usize) -> bool {
        let bit = 1u64.wrapping_shl(index as u32);
        let told = self.0 & bit != 0;
        self.0 &= !bit;
        told
    }

    /// The numbers of the vCPUs, lowest first.
    #[inline]
    pub fn vcpus(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let n = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (n < 64).then_some(n as usize)
        })
    }
}

impl core::ops::BitOr for Kicks {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOrAssign for Kicks {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A service that a guest asks the portable core for. Vcpu numbers are the guest's own; none stands for one
/// that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Starts another vCPU at `entry` with `arg`.
    CpuOn {
        /// Which one.
        vcpu: Option<usize>,
        /// Where it starts.
        entry: Gpa,
        /// Its first argument.
        arg: u64,
    },
    /// Ends this vCPU until somebody starts it again.
    CpuOff,
    /// Asks whether a vCPU is on.
    State(Option<usize>),
    /// Ends the guest.
    PowerOff,
    /// Starts the guest anew.
    Reset,
    /// Asks for the guest's own floating-point ledger: loads, saves, skips, bytes.
    Ledger,
    /// Asks what else is in it: touches that trapped and were granted, touches refused, loads that widened a view, saves
    /// avoided.
    Touches,
}

/// The answer to a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// There is no such function.
    NotSupported,
    /// An argument is out of range.
    InvalidParameters,
    /// Not in this state.
    Denied,
    /// The vCPU is on.
    AlreadyOn,
    /// The vCPU is being started.
    OnPending,
    /// The entry address is not in memory.
    InvalidAddress,
    /// The vCPU is on.
    On,
    /// The vCPU is off.
    Off,
    /// The vCPU is being started.
    Starting,
    /// Four values.
    Values([u64; 4]),
}

/// Why a guest can never go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Its exception vector is not in memory, so no exception can be delivered.
    NoVector {
        /// Where the vector would be.
        at: Gpa,
    },
    /// The hardware reported an error that belongs to the guest.
    SystemError {
        /// The architecture's syndrome.
        syndrome: u64,
    },
    /// It runs in a state that the virtual machine does not have.
    IllegalState {
        /// The architecture's processor state.
        state: u64,
    },
}

impl core::fmt::Display for Crash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoVector { at } => write!(f, "its exception vector at {:#x} is not backed by memory", at.0),
            Self::SystemError { syndrome } => write!(f, "system error, syndrome {syndrome:#x}"),
            Self::IllegalState { state } => write!(f, "illegal processor state {state:#x}"),
        }
    }
}

/// What the core decided after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Go straight back in.
    Resume,
    /// Let another vCPU have its turn.
    Yield,
    /// Wait for an event, or for a time if one is given.
    Sleep(Option<Ticks>),
    /// Off until it is started again.
    Off,
    /// Its guest ends.
    Stop,
}
