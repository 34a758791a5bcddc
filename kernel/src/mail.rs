//! What one CPU tells another: mailboxes, and the doorbell of every vCPU.
//!
//! Nothing here blocks, spins for long or allocates. A CPU that wants something from another posts a message and
//! kicks it; the owner of the mailbox does the work. The owner runs with interrupts masked, so a kick stays pending
//! until it looks, and the only rule it has to keep is the order: acknowledge the kick, then empty the mailbox.
//!
//! **Why a mailbox never overflows.** It is created for a number of vCPUs, and of every vCPU there exist at any
//! time at most one parcel (the vCPU is a value), at most one wake-up ([`Doorbell`] keeps a bit while it is under
//! way) and at most one start (power-on has one winner, and the next one needs a power-off in between, which
//! follows the start's arrival). Requests for work and reviews are bits. What is left, commands from the monitor, gets a share
//! of its own, and its sender hears [`Full`] and tries again.

mod doorbell;

use alloc::collections::VecDeque;

pub use self::doorbell::{Delivery, Doorbell, EventPending, Phase, PowerOnError, Ring};
use crate::addr::CpuId;
use crate::sched::CpuSet;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// How many messages one vCPU can have under way: itself, a wake-up, a start.
pub const PER_VCPU: usize = 3;

/// How many commands a mailbox has room for beside what vCPUs need.
pub const COMMANDS: usize = 16;

/// Whether the poster has to interrupt the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a kick that is not sent is a message that is not read"]
pub enum Kick {
    /// The mailbox was empty: nobody has told the owner yet.
    Needed,
    /// Whoever posted first has kicked, or is about to.
    NotNeeded,
}

/// The mailbox had no room; the message comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<M>(pub M);

/// What the owner of a mailbox finds in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail<M> {
    /// A message somebody posted.
    Item(M),
    /// A CPU with nothing to do asks for a vCPU.
    Ask(CpuId),
    /// Where some vCPU may run has changed.
    Review,
}

struct Inside<M> {
    items: VecDeque<M>,
    room: usize,
    asks: CpuSet,
    review: bool,
}

impl<M> Inside<M> {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.asks.is_empty() && !self.review
    }
}

/// The messages for one CPU: any CPU posts, the owner takes.
///
/// `posted` says what the lock protects, "there is something", so that the owner can look for the price of a load.
/// It changes under the lock only and is therefore never wrong for longer than the lock is held.
pub struct Mailbox<M> {
    posted: AtomicBool,
    inside: Mutex<Inside<M>>,
}

impl<M> Mailbox<M> {
    /// Creates a mailbox with room for everything that `vcpus` vCPUs, as many as the machine has, can cause.
    pub fn new(vcpus: usize) -> Self {
        Self::with_room(vcpus * PER_VCPU + COMMANDS)
    }

    /// Creates a mailbox with room for `room` messages.
    pub fn with_room(room: usize) -> Self {
        let inside =
            Inside { items: VecDeque::with_capacity(room), room, asks: CpuSet::EMPTY, review: false };
        Self { posted: AtomicBool::new(false), inside: Mutex::new(inside) }
    }

    /// Puts a message in, after those that are there.
    ///
    /// A message about a vCPU always finds room (see the module); a command may not.
    pub fn post(&self, message: M) -> Result<Kick, Full<M>> {
        let mut inside = self.inside.lock();
        if inside.items.len() == inside.room {
            return Err(Full(message));
        }
        let kick = self.announce(&inside);
        inside.items.push_back(message);
        Ok(kick)
    }

    /// Asks the owner for a vCPU. Asking again before it has looked changes nothing.
    pub fn ask(&self, from: CpuId) -> Kick {
        let mut inside = self.inside.lock();
        let kick = self.announce(&inside);
        inside.asks.insert(from);
        kick
    }

    /// Has the owner look where its vCPUs may run. Doing so again before it has looked changes nothing.
    pub fn review(&self) -> Kick {
        let mut inside = self.inside.lock();
        let kick = self.announce(&inside);
        inside.review = true;
        kick
    }

    /// Raises the flag for what is about to be added.
    fn announce(&self, inside: &Inside<M>) -> Kick {
        let kick = if inside.is_empty() { Kick::Needed } else { Kick::NotNeeded };
        self.posted.store(true, Ordering::Release);
        kick
    }

    /// Whether there is nothing to take. One load: for the way into a guest.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.posted.load(Ordering::Acquire)
    }

    /// Takes the oldest message, or a request for work. The owner calls this until it returns nothing, because only
    /// the first message kicks.
    pub fn take(&self) -> Option<Mail<M>> {
        if self.is_empty() {
            return None;
        }
        let mut inside = self.inside.lock();
        let mail = match inside.items.pop_front() {
            Some(message) => Some(Mail::Item(message)),
            None if core::mem::take(&mut inside.review) => Some(Mail::Review),
            None => inside.asks.pop_first().map(Mail::Ask),
        };
        if inside.is_empty() {
            self.posted.store(false, Ordering::Release);
        }
        mail
    }
}
