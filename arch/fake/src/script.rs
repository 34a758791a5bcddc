//! What guests do.

use std::sync::Arc;

use crate::fp;

/// A vCPU of a guest, by its number there.
pub type Peer = u8;

/// How many interrupts a vCPU can have: some that its peers send, two timers, and a line.
pub const IRQS: usize = 8;
/// The interrupts below this one are sent by peers.
pub const IPIS: usize = 5;
/// The timer that the hardware runs while the vCPU is loaded.
pub const HARD_IRQ: usize = 5;
/// The timer that is emulated.
pub const SOFT_IRQ: usize = 6;
/// The UART's line. It goes to the lowest vCPU that is on.
pub const UART_IRQ: usize = 7;

/// One of a vCPU's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The hardware runs it while the vCPU is loaded.
    Hard,
    /// Each access to it traps.
    Soft,
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A load.
    Load,
    /// A store.
    Store,
}

/// One thing a vCPU does. Interrupts are taken between two of them and while time passes in one, unless said
/// otherwise; taking one is part of the guest and not of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Runs for some ticks.
    Compute(u32),
    /// Runs for some ticks with its interrupts masked.
    Mask(u32),
    /// Runs for ever.
    Spin,
    /// Uses a floating-point unit, and checks all it sees of it.
    Fp(fp::Op),
    /// Sends interrupt `irq` to a peer, which may be itself.
    Ipi {
        /// To whom; taken modulo the number of vCPUs.
        to: Peer,
        /// Which; taken modulo [`IPIS`].
        irq: u8,
    },
    /// Waits, masked as an idle loop does it, until an interrupt is pending.
    Wait,
    /// As [`Op::Wait`], but not longer than some ticks.
    WaitFor(u32),
    /// Programs a timer to fire once after some ticks.
    Timer(Timer, u32),
    /// Has the UART interrupt when it receives.
    Listen,
    /// Sends bytes to the UART, waiting for room by polling.
    Put(u8),
    /// Touches an address where nothing is.
    Nothing(Way),
    /// Starts a peer at the place `entry` of its script, and any argument.
    On {
        /// Whom; one above the number of vCPUs does not exist.
        vcpu: Peer,
        /// Taken modulo the length of the script.
        entry: u8,
    },
    /// As [`Op::On`], at an address that is no memory.
    OnNowhere(Peer),
    /// Asks whether a peer is on.
    State(Peer),
    /// Does something so odd that the architecture has to log a line about it.
    Odd,
    /// Asks for the ledger.
    Ledger,
    /// Asks for the rest of it.
    Touches,
    /// Switches itself off.
    Off,
    /// Switches the guest off.
    PowerOff,
    /// Starts the guest anew, or switches it off if it has been started anew often.
    Reset,
    /// Can never go on.
    Crash,
    /// Starts the script again, so many times in all.
    Again(u8),
}

/// What one vCPU does from its start. After the end it waits for interrupts.
pub type Script = Arc<[Op]>;

/// How often a guest may start itself anew.
pub const RESETS: usize = 3;

/// A guest.
#[derive(Clone, Debug)]
pub struct Plot {
    /// By vCPU.
    pub scripts: Vec<Script>,
    /// Its floating-point units.
    pub limit: fp::Limit,
    /// The physical CPUs it may use, as bits; none means all.
    pub affinity: u64,
    /// How long a vCPU may wait for what it is owed, ticks.
    pub patience: u64,
}
