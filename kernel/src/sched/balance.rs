//! Which vCPU should live on another CPU, and where.
//!
//! Three reasons, in this order. *It may not run here* (its affinity changed). *Another CPU has nothing to do*: one
//! that waits goes there at once, whatever it loses, because a CPU that idles loses more. *Another CPU is less
//! loaded*: looked at when a slice ends, and only after both have been left alone for a while, so that the loads of a
//! moment do not make vCPUs bounce.

use alloc::boxed::Box;
use core::cmp::Reverse;

use super::pool::Pool;
use super::queue::{Ready, RunQueue};
use super::{CpuSet, Turn};
use crate::addr::{CpuId, VcpuId};

/// When a CPU thinks about giving a vCPU away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Something was made ready here: may others have it?
    Routine,
    /// A slice ended: compare loads, too.
    SliceEnd,
    /// This CPU has nothing to do and asks.
    Asked(CpuId),
}

/// A vCPU that should move, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Who.
    pub vcpu: VcpuId,
    /// Where.
    pub to: CpuId,
    /// Why.
    pub(super) reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NotAllowedHere,
    IdleThere,
    LessLoadedThere,
}

/// What a move to a less loaded CPU is good for; the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gain {
    Even,
    TakeTurns,
}

/// How often a CPU tries for an idle CPU that another CPU snatches.
const ATTEMPTS: usize = 4;

impl<T: Turn> RunQueue<T> {
    /// Publishes what this CPU has, and says whether anything waits here that could move: if not, there is no need
    /// to ask [`RunQueue::send_off`].
    #[inline]
    pub fn offers(&mut self, pool: &Pool) -> bool {
        self.publish(pool);
        !self.leaving.is_empty() || self.published.is_some_and(|(_, wanted)| !wanted.is_empty())
    }

    /// Publishes what this CPU has, and takes out a vCPU that should move. The caller sends it: sets its doorbell to
    /// queued there, posts it and kicks. To be called after [`RunQueue::pick`] until it returns nothing.
    pub fn send_off(&mut self, occasion: Occasion, pool: &Pool, now: u64) -> Option<(Box<T>, CpuId)> {
        if !self.offers(pool) {
            return None;
        }
        for _ in 0..ATTEMPTS {
            let plan = self.balance(occasion, pool, now)?;
            match plan.reason {
                Reason::IdleThere if occasion == Occasion::Asked(plan.to) => {
                    pool.claim(plan.to);
                }
                Reason::IdleThere if !pool.claim(plan.to) => continue,
                Reason::LessLoadedThere => self.disturbed = now,
                _ => {}
            }
            let mut item = self.evict(plan.vcpu, now)?;
            item.account_mut().moves += 1;
            pool.expect(plan.to, item.weight());
            self.publish(pool);
            return Some((item, plan.to));
        }
        None
    }

    /// Decides whether a vCPU should move, from what this CPU has and what others published.
    pub fn balance(&self, occasion: Occasion, pool: &Pool, now: u64) -> Option<Move> {
        if let Some(item) = self.leaving.first() {
            let to = pool.least_loaded(self.place.allowed(&**item), self.place.here)?;
            return Some(Move { vcpu: item.id(), to, reason: Reason::NotAllowedHere });
        }
        if let Occasion::Asked(by) = occasion {
            let ready = self.movable_to(by)?;
            // A CPU can be idle with a load: it keeps a vCPU that waits in its registers.
            let idles = pool.idle().contains(by);
            let gains = idles || pool.load(by).saturating_add(ready.weight) < self.load();
            return gains.then(|| Move { vcpu: ready.item.id(), to: by, reason: Reason::IdleThere });
        }
        let away = self.wanted();
        if away.is_empty() {
            return None;
        }
        let for_idle = self.for_one_of(away & pool.idle());
        if for_idle.is_some() || occasion != Occasion::SliceEnd {
            return for_idle;
        }
        self.even_out(pool, now)
    }

    /// The vCPU that waits here, may run on `cpu` and loses least by moving; of several, the one whose turn here is
    /// farthest away.
    pub fn steal_candidate(&self, cpu: CpuId) -> Option<VcpuId> {
        self.movable_to(cpu).map(|ready| ready.item.id())
    }

    fn movable_to(&self, cpu: CpuId) -> Option<&Ready<T>> {
        let there = self.wanted() & CpuSet::only(cpu);
        if there.is_empty() { None } else { self.cheapest(there) }
    }

    fn for_one_of(&self, idle: CpuSet) -> Option<Move> {
        let ready = self.cheapest(idle)?;
        let to = (self.place.allowed(&*ready.item) & idle).first()?;
        Some(Move { vcpu: ready.item.id(), to, reason: Reason::IdleThere })
    }

    fn cheapest(&self, anywhere_of: CpuSet) -> Option<&Ready<T>> {
        let able = |ready: &&Ready<T>| !(self.place.allowed(&*ready.item) & anywhere_of).is_empty();
        let able = self.ready.iter().filter(able);
        able.min_by(|a, b| {
            let cost = a.item.moving_cost().cmp(&b.item.moving_cost());
            // The difference, because virtual times wrap around.
            cost.then_with(|| 0.cmp(&(a.vtime.wrapping_sub(b.vtime) as i64)))
        })
    }

    /// Who should go to a CPU that is less loaded, though not idle.
    ///
    /// A move of weight w from load A to load B makes the loads differ by A - B - 2w. It evens them out if A - B >
    /// w. Half a w more is asked for, so that the way back is never open at once. At A - B >= w a move only
    /// exchanges the loads of the two CPUs, but it is not pointless: with three equal vCPUs on two CPUs, two would
    /// have half of what the third has, for ever. So one moves now and then, the one that has been here longest, and
    /// not the one that came last: those who wait at the end of a slice may be the same each time.
    fn even_out(&self, pool: &Pool, now: u64) -> Option<Move> {
        let calm = now.saturating_sub(self.disturbed);
        if calm < self.tuning.calm {
            return None;
        }
        let away = !CpuSet::only(self.place.here);
        let mut best = None;
        for ready in &self.ready {
            let elsewhere = self.place.allowed(&*ready.item) & away;
            let Some(to) = pool.least_loaded(elsewhere, self.place.here) else { continue };
            let excess = u64::from(self.load().saturating_sub(pool.load(to)));
            let weight = u64::from(ready.weight);
            let stay = now.saturating_sub(ready.item.account().arrived);
            let rank = if 2 * excess >= 3 * weight {
                (Gain::Even, ready.item.moving_cost(), Reverse(stay))
            } else if excess >= weight && calm >= self.tuning.rotate && stay >= 2 * self.tuning.rotate {
                (Gain::TakeTurns, 0, Reverse(stay))
            } else {
                continue;
            };
            if best.is_none_or(|(first, _)| rank < first) {
                best = Some((rank, Move { vcpu: ready.item.id(), to, reason: Reason::LessLoadedThere }));
            }
        }
        best.map(|(_, plan)| plan)
    }
}
