//! The doorbell of a vCPU: how any CPU tells it that something is pending, wherever it is and whatever it does.

use crate::addr::CpuId;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Something was made pending and the vCPU has not looked yet.
const EVENT: u32 = 1 << 0;
/// A wake-up message for the vCPU is under way.
const POSTED: u32 = 1 << 1;
const PHASE_SHIFT: u32 = 2;
const PHASE: u32 = 0b111 << PHASE_SHIFT;
const HOME_SHIFT: u32 = 8;
const HOME: u32 = 0xffff << HOME_SHIFT;

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Powered off: it wakes for nothing but a power-on.
    Off,
    /// Powered on by somebody, not yet set up by its own CPU.
    Starting,
    /// Ready, waiting for its turn, or on its way to another CPU.
    Queued,
    /// Having its turn.
    Running,
    /// Waiting for an event.
    Sleeping,
}

impl Phase {
    fn of(word: u32) -> Self {
        match (word & PHASE) >> PHASE_SHIFT {
            1 => Self::Starting,
            2 => Self::Queued,
            3 => Self::Running,
            4 => Self::Sleeping,
            _ => Self::Off,
        }
    }

    const fn bits(self) -> u32 {
        let code = match self {
            Self::Off => 0,
            Self::Starting => 1,
            Self::Queued => 2,
            Self::Running => 3,
            Self::Sleeping => 4,
        };
        code << PHASE_SHIFT
    }
}

/// What the CPU that rang has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a ring that is not acted on is a lost wake-up"]
pub enum Ring {
    /// Nothing: somebody rang before, or the vCPU will look before it runs.
    Nothing,
    /// Interrupt this CPU, where the vCPU runs; when the vCPU has left it by then, nothing is lost.
    KickCpu(CpuId),
    /// Send a wake-up to this CPU, where the vCPU sleeps. Its owner calls [`Doorbell::deliver`].
    WakeOn(CpuId),
}

/// What the CPU that received a wake-up has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a wake-up that is not acted on is lost"]
pub enum Delivery {
    /// The vCPU sleeps here: make it ready.
    Wake,
    /// The vCPU woke in another way and has looked, or will.
    Stale,
    /// The vCPU moved and sleeps there: send the wake-up on.
    Forward(CpuId),
}

/// Something was made pending: the vCPU must look before it may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPending;

/// Why a vCPU cannot be powered on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOnError {
    /// It is on.
    AlreadyOn,
    /// Somebody has powered it on and it has not started yet.
    OnPending,
}

/// One word per vCPU that every CPU may write: event, wake-up under way, phase, home.
///
/// Only the vCPU's own CPU ("owner") changes phase and home, with one exception: anybody may turn Off into
/// Starting. Anybody sets EVENT and POSTED. Every change is one read-modify-write of one word, so that all changes
/// have one order, and each reads the latest. In particular `ring` writes even when it finds EVENT set: this is what
/// makes the second ringer's data visible to the owner that takes the event the first one announced.
#[derive(Debug)]
pub struct Doorbell(AtomicU32);

impl Doorbell {
    /// Creates the doorbell of a vCPU that is powered off and lives on `home`.
    pub fn new(home: CpuId) -> Self {
        Self(AtomicU32::new(Phase::Off.bits() | home_bits(home)))
    }

    /// What the vCPU is doing. For other CPUs than its own a glimpse, except that Off, Starting and on are what a
    /// guest may be told about another of its vCPUs.
    pub fn phase(&self) -> Phase {
        Phase::of(self.0.load(Ordering::Acquire))
    }

    /// Where the vCPU lives, or is on its way to.
    pub fn home(&self) -> CpuId {
        home_of(self.0.load(Ordering::Acquire))
    }

    /// Tells the vCPU to look. Called by any CPU after it made something pending for it.
    #[inline]
    pub fn ring(&self) -> Ring {
        let old = self.update(|word| match Phase::of(word) {
            Phase::Sleeping => word | EVENT | POSTED,
            _ => word | EVENT,
        });
        match Phase::of(old) {
            _ if old & EVENT != 0 => Ring::Nothing,
            Phase::Running => Ring::KickCpu(home_of(old)),
            // A wake-up under way will find EVENT set when it arrives.
            Phase::Sleeping if old & POSTED == 0 => Ring::WakeOn(home_of(old)),
            _ => Ring::Nothing,
        }
    }

    /// As [`Doorbell::ring`], if the vCPU sleeps `here`, on the calling CPU, which then makes it ready without a
    /// message. Otherwise does nothing, and the caller rings.
    #[inline]
    pub fn ring_here(&self, here: CpuId) -> bool {
        let asleep_here = Phase::Sleeping.bits() | home_bits(here);
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & (PHASE | HOME) == asleep_here {
            let ready = (seen & !PHASE) | Phase::Queued.bits() | EVENT;
            match self.0.compare_exchange_weak(seen, ready, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Owner: whether somebody rang since the last call. One load when nobody did.
    ///
    /// What was made pending before the ring is visible afterwards; so look for it after this, not before.
    #[inline]
    pub fn take_event(&self) -> bool {
        if !self.has_event() {
            return false;
        }
        self.0.fetch_and(!EVENT, Ordering::AcqRel);
        true
    }

    /// Whether somebody rang and the vCPU has not looked.
    #[inline]
    pub fn has_event(&self) -> bool {
        self.0.load(Ordering::Relaxed) & EVENT != 0
    }

    /// Owner: the vCPU's turn on `cpu` begins. From here on a ring interrupts `cpu`; so take the event after this.
    #[inline]
    pub fn run_on(&self, cpu: CpuId) {
        self.turn(Phase::Running, cpu);
    }

    /// Owner: the vCPU is ready on `cpu`; before it is sent there, if that is another CPU.
    ///
    /// A sleeping vCPU is not sent: it is woken and sent ready, so that no wake-up can arrive ahead of it.
    #[inline]
    pub fn queue_on(&self, cpu: CpuId) {
        self.turn(Phase::Queued, cpu);
    }

    /// Owner: the vCPU goes to sleep where it is, unless somebody rang.
    #[inline]
    pub fn sleep(&self) -> Result<(), EventPending> {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & EVENT == 0 {
            let asleep = (seen & !PHASE) | Phase::Sleeping.bits();
            // POSTED may fall between the load and the exchange, hence the loop.
            match self.0.compare_exchange_weak(seen, asleep, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(EventPending)
    }

    /// Owner: the vCPU wakes by itself (its timer expired). A wake-up still under way becomes stale.
    #[inline]
    pub fn wake(&self) {
        let home = home_of(self.0.load(Ordering::Relaxed));
        self.turn(Phase::Queued, home);
    }

    /// Owner of `here`: a wake-up for the vCPU arrived.
    #[inline]
    pub fn deliver(&self, here: CpuId) -> Delivery {
        let waiting = |word| Phase::of(word) == Phase::Sleeping && word & EVENT != 0;
        let old = self.update(|word| match waiting(word) {
            true if home_of(word) == here => (word & !(PHASE | POSTED)) | Phase::Queued.bits(),
            // Sent on, it is still under way.
            true => word,
            false => word & !POSTED,
        });
        match waiting(old) {
            true if home_of(old) == here => Delivery::Wake,
            true => Delivery::Forward(home_of(old)),
            false => Delivery::Stale,
        }
    }

    /// Owner: the vCPU is off. What is pending for it stays pending.
    pub fn power_off(&self) {
        let home = home_of(self.0.load(Ordering::Relaxed));
        self.turn(Phase::Off, home);
    }

    /// Powers the vCPU on, on behalf of any CPU (PSCI CPU_ON, DEN0022 5.6). Of several callers one succeeds; it
    /// sends a start to the CPU it is told, whose owner sets the registers and calls [`Doorbell::start`].
    pub fn power_on(&self) -> Result<CpuId, PowerOnError> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            match Phase::of(seen) {
                Phase::Off => {}
                Phase::Starting => return Err(PowerOnError::OnPending),
                _ => return Err(PowerOnError::AlreadyOn),
            }
            let starting = (seen & !PHASE) | Phase::Starting.bits();
            match self.0.compare_exchange_weak(seen, starting, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(home_of(seen)),
                Err(now) => seen = now,
            }
        }
    }

    /// Owner: the vCPU that was powered on has its registers and is ready.
    pub fn start(&self) {
        let home = home_of(self.0.load(Ordering::Relaxed));
        self.turn(Phase::Queued, home);
    }

    /// Owner: changes phase and home, which nobody else does meanwhile, and leaves the other bits to others.
    #[inline]
    fn turn(&self, phase: Phase, home: CpuId) {
        let old = self.0.load(Ordering::Relaxed);
        let change = (old ^ (phase.bits() | home_bits(home))) & (PHASE | HOME);
        self.0.fetch_xor(change, Ordering::AcqRel);
    }

    /// Replaces the word by what `change` makes of it, and returns what it was.
    #[inline]
    fn update(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            match self.0.compare_exchange_weak(seen, change(seen), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(old) => return old,
                Err(now) => seen = now,
            }
        }
    }
}

fn home_bits(home: CpuId) -> u32 {
    ((home.0 as u32) << HOME_SHIFT) & HOME
}

fn home_of(word: u32) -> CpuId {
    CpuId(((word & HOME) >> HOME_SHIFT) as usize)
}
