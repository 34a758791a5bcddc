//! One physical CPU's registers: whose they are, and the steps that move them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;

use super::habit::Dice;
use super::policy::{AtArrive, AtLeave};
use super::rules::{InForce, Rule, Rules};
use super::stamp::{Stamp, Stamps};
use super::witness::{Deeds, Witness};
use super::{AuditSwitch, Event, FpContext, FpSlot, Ledger, MAX_GROUPS, Policy, Resident, SaveCause, Units};
use crate::addr::{CpuId, VcpuId};

/// The bit of [`FpUnit::pending`] that sends every entry of a turn through the auditor.
const AUDIT: u16 = 1 << 8;

/// A vCPU's place on the CPU where it lives. It cannot be copied, so it cannot outlive the vCPU's stay.
#[derive(Debug)]
pub struct FpKey {
    index: usize,
    cpu: CpuId,
}

/// The answer to a touch of units that are not exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Touch {
    /// The units will be there when the guest runs again; let it repeat the instruction.
    Granted,
    /// The guest has no such unit: it gets what a CPU without that unit would give.
    Absent,
}

/// The state of one group's registers.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Whose values they hold. It may have moved away or been forgotten here: the values stay.
    pub(super) owner: Option<VcpuId>,
    /// Where the owner's slot is. Meaningful while `dirty` is not empty: then the owner lives here.
    pub(super) slot: usize,
    /// Which version of the owner's image they equal, but for what is dirty.
    pub(super) stamp: Stamp,
    /// The units that hold the owner's values.
    pub(super) valid: Units,
    /// The units that may be newer than the image. A subset of `valid`.
    pub(super) dirty: Units,
    /// The units that were loaded, by anyone, since the registers were last filled. What is not also valid
    /// holds somebody's remains.
    pub(super) loaded: Units,
    /// Whether the auditor painted them since they were last loaded.
    pub(super) painted: bool,
}

impl Seat {
    fn resident(&self) -> Option<Resident> {
        let Self { owner, valid, dirty, .. } = *self;
        owner.filter(|_| !valid.is_empty()).map(|owner| Resident { owner, valid, dirty })
    }

    /// Stops counting on what the registers hold.
    fn forget(&mut self) {
        *self = Self { loaded: self.loaded, painted: self.painted, ..Self::default() };
    }
}

/// One physical CPU's floating-point registers, and the slots of all vCPUs that live on that CPU.
///
/// A turn is `arrive`, any number of `enter` and `request`, `leave`. Everything is called on the unit's own
/// CPU with interrupts off.
pub struct FpUnit<F: FpContext, R: Rules = InForce> {
    /// Units the running guest asked for and does not have yet, and [`AUDIT`]. First, because `enter` reads it
    /// on each way into a guest.
    pub(super) pending: u16,
    /// What the running guest may use.
    pub(super) exposed: Units,
    /// Whose turn it is.
    pub(super) running: Option<usize>,
    pub(super) seats: [Seat; MAX_GROUPS],
    pub(super) slots: Vec<Option<Box<FpSlot<F>>>>,
    /// What the running guest asked for in this turn.
    pub(super) asked: Units,
    /// The groups for which it is watched in this turn: the policy learns whether it uses them.
    pub(super) watched: Units,
    pub(super) dice: Dice,
    /// What [`residents`](Self::residents) tells of a group is not what it told before.
    moved: [bool; MAX_GROUPS],
    pub(super) cpu: CpuId,
    stamps: Stamps,
    ledger: Arc<Ledger>,
    pub(super) witness: Option<Witness>,
    /// What happened to the registers in this turn, or the last one, by group.
    pub(super) deeds: [Deeds; MAX_GROUPS],
    pub(super) audit: Arc<AuditSwitch>,
    rules: PhantomData<R>,
}

impl<F: FpContext, R: Rules> FpUnit<F, R> {
    /// Makes the unit of `cpu`, whose registers hold nobody's values and are concealed.
    pub fn new(cpu: CpuId, audit: Arc<AuditSwitch>) -> Self {
        const { assert!(F::GROUPS.len() <= MAX_GROUPS) }
        Self {
            pending: 0,
            exposed: Units::empty(),
            running: None,
            seats: Default::default(),
            slots: Vec::new(),
            asked: Units::empty(),
            watched: Units::empty(),
            dice: Dice::new(cpu.0),
            moved: [false; MAX_GROUPS],
            cpu,
            stamps: Stamps::new(cpu),
            ledger: Arc::default(),
            witness: None,
            deeds: Default::default(),
            audit,
            rules: PhantomData,
        }
    }

    /// Shares this CPU's counters, for readers on other CPUs.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Tells, group by group, whose values the registers hold.
    pub fn residents(&self) -> impl Iterator<Item = Option<Resident>> {
        self.seats[..F::GROUPS.len()].iter().map(Seat::resident)
    }

    /// Tells whose values the registers of group `n` hold, if that is news since it was last asked.
    #[inline]
    pub fn news(&mut self, n: usize) -> Option<Option<Resident>> {
        core::mem::take(&mut self.moved[n]).then(|| self.seats[n].resident())
    }

    /// Shows the state of a vCPU that lives here.
    pub fn state(&self, key: &FpKey) -> &FpSlot<F> {
        self.slot(self.index(key))
    }

    /// Takes in a vCPU that comes to live on this CPU.
    pub fn enroll(&mut self, mut slot: Box<FpSlot<F>>) -> FpKey {
        if slot.stamps[0] == Stamp::NONE {
            slot.stamps = core::array::from_fn(|_| self.stamps.draw());
        }
        let index = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[index] = Some(slot);
        FpKey { index, cpu: self.cpu }
    }

    /// Hands out a vCPU that will live on another CPU, its image current.
    ///
    /// The registers keep their values: should the vCPU come back with its image unchanged, and nobody have
    /// used them meanwhile, they need not be loaded.
    pub fn discharge(&mut self, file: &mut F::File, key: FpKey) -> Box<FpSlot<F>> {
        let index = self.index(&key);
        self.end_turn_of(file, index);
        if R::keeps(Rule::FlushOnDischarge) {
            self.save_all_of(file, index, SaveCause::Migrate);
        } else {
            self.abandon(index);
        }
        self.cover(file);
        self.take(index)
    }

    /// Ends a vCPU for good. No register of this CPU keeps a value of it; see [`purge`](Self::purge) for the
    /// CPUs it lived on before. Another vCPU whose registers overlap its remains is saved first.
    pub fn dismiss(&mut self, file: &mut F::File, key: FpKey) {
        let index = self.index(&key);
        self.abandon(index);
        if self.running == Some(index) {
            self.running = None;
            self.exposed = Units::empty();
            self.pending = 0;
        }
        let slot = self.take(index);
        self.wipe(file, slot.id, Rule::WipeOnDismiss);
    }

    /// Erases what is left here of vCPU `id`, which ended on another CPU. Not needed for correctness, since
    /// nobody can be shown these registers without a load that overwrites them; needed so that a dead VM's
    /// values are nowhere.
    pub fn purge(&mut self, file: &mut F::File, id: VcpuId) {
        self.wipe(file, id, Rule::WipeOnPurge);
    }

    /// Puts a vCPU that is not running back to its state at power-on. Its counters go on.
    pub fn reset(&mut self, file: &mut F::File, key: &FpKey) {
        let index = self.index(key);
        self.end_turn_of(file, index);
        self.replace(index, F::new(self.slot(index).limit));
        let slot = self.slot_mut(index);
        slot.request = Units::empty();
        slot.habits = Default::default();
    }

    /// Gives a vCPU another image. Whatever registers hold of it, they hold it no more.
    pub(super) fn replace(&mut self, index: usize, image: F) {
        if R::keeps(Rule::AbandonOnReplace) {
            self.abandon(index);
        }
        let stamps = core::array::from_fn(|_| self.stamps.draw());
        let slot = self.slot_mut(index);
        slot.image = image;
        if R::keeps(Rule::RestampOnReplace) {
            slot.stamps = stamps;
        }
    }

    /// Starts a turn. Nothing moves before [`enter`](Self::enter).
    pub fn arrive(&mut self, key: &FpKey) {
        let index = self.index(key);
        debug_assert!(self.running.is_none() && self.exposed.is_empty(), "a turn started within a turn");
        self.running = Some(index);
        (self.asked, self.watched) = (Units::empty(), Units::empty());
        self.deeds = Default::default();
        let slot = self.slot(index);
        let request = slot.request;
        let expected = match slot.policy.policy().at_arrive() {
            AtArrive::Everything => slot.image.units(),
            AtArrive::WhatIsHere => self.usable(slot),
            AtArrive::WhatIsUsual => return self.arrive_as_usual(index, request),
            AtArrive::Nothing => Units::empty(),
        };
        self.expect(request | expected);
    }

    #[inline(never)]
    fn arrive_as_usual(&mut self, index: usize, request: Units) {
        let expected = self.forecast(index);
        self.expect(request | expected);
    }

    #[inline]
    fn expect(&mut self, wanted: Units) {
        self.pending = u16::from(wanted.bits()) | if self.audit.is_on() { AUDIT } else { 0 };
    }

    /// Records that the running guest touched units that are not exposed. Nothing moves before
    /// [`enter`](Self::enter); a guest that loses its turn in between loses nothing, and its request stays.
    pub fn request(&mut self, touched: Units) -> Touch {
        let Some(index) = self.running else { return Touch::Absent };
        let slot = occupant(&mut self.slots, index);
        slot.count(&self.ledger, Event::Trap(touched));
        if !slot.image.units().contains(touched) && R::keeps(Rule::RefuseAbsent) {
            slot.count(&self.ledger, Event::Refusal(touched));
            return Touch::Absent;
        }
        self.asked |= touched;
        for n in 0..F::GROUPS.len() {
            if touched.intersects(F::GROUPS[n]) {
                self.deeds[n] |= Deeds::ASKED;
            }
        }
        // What else `touched` needs depends on the form the image has when it is loaded.
        let wanted = if R::keeps(Rule::CloseLate) { touched } else { slot.image.closure(touched) };
        let missing = wanted - self.exposed;
        slot.request |= missing;
        self.pending |= u16::from(missing.bits());
        Touch::Granted
    }

    /// Serves what was requested: the last step before the guest runs, with interrupts off.
    #[inline]
    pub fn enter(&mut self, file: &mut F::File) {
        if self.pending != 0 {
            self.serve(file);
        }
    }

    /// Ends the turn. Nothing is exposed afterwards; what is saved depends on the policy.
    pub fn leave(&mut self, file: &mut F::File) {
        let Some(index) = self.running.take() else { return };
        let slot = occupant(&mut self.slots, index);
        slot.last_cpu = Some(self.cpu);
        let policy = slot.policy.policy();
        match policy.at_leave() {
            AtLeave::Keep => {
                for _ in F::GROUPS.iter().filter(|group| self.exposed.intersects(**group)) {
                    slot.count(&self.ledger, Event::Avoided);
                }
            }
            at_leave => self.vacate(file, index, at_leave),
        }
        if policy == Policy::Adaptive && !(self.asked | self.watched).is_empty() {
            self.learn(index);
        }
        if R::keeps(Rule::ConcealAtLeave) {
            F::conceal(file);
        }
        self.exposed = Units::empty();
        self.pending = 0;
    }

    /// Writes everything back and forgets what the registers hold, because the CPU is about to lose them: power
    /// down, or firmware that does not keep its promises. A running guest gets its registers back at its next
    /// entry.
    pub fn flush(&mut self, file: &mut F::File) {
        for n in 0..F::GROUPS.len() {
            if R::keeps(Rule::SaveOnFlush) {
                self.save(file, n, SaveCause::Flush);
            }
            if R::keeps(Rule::ForgetOnFlush) {
                self.note_gone(n);
                self.seats[n].forget();
                self.moved[n] = true;
            }
        }
        self.pending |= u16::from(self.exposed.bits());
        self.exposed = Units::empty();
        F::conceal(file);
    }

    /// Does what `enter` found to be due.
    #[cold]
    #[inline(never)]
    fn serve(&mut self, file: &mut F::File) {
        let Some(index) = self.running else { return };
        let touched = Units::from_bits_retain(self.pending as u8);
        let slot = occupant(&mut self.slots, index);
        let wanted = if R::keeps(Rule::CloseLate) { slot.image.closure(touched) } else { touched };
        // Apart, because it is what happens most: registers of the first group, and no other, hold nothing of the vCPU.
        let is_away = !holds::<F, R>(&self.seats[0], slot, 0, self.cpu);
        // Neither units of other groups nor AUDIT.
        let is_all = (self.pending | u16::from(wanted.bits())) & !u16::from(F::GROUPS[0].bits()) == 0;
        if !(is_away && is_all && self.exposed.is_empty()) {
            return self.serve_all(file, index, touched, wanted);
        }
        self.pending = 0;
        slot.request = Units::empty();
        let all = slot.image.units();
        if R::keeps(Rule::SaveBeforeEviction) {
            self.save(file, 0, SaveCause::Evict);
        }
        self.fill(file, index, 0, wanted);
        F::expose(file, if R::keeps(Rule::ExposeOnlyValid) { self.exposed } else { all });
    }

    /// The same, whatever it is.
    #[inline(never)]
    fn serve_all(&mut self, file: &mut F::File, index: usize, touched: Units, wanted: Units) {
        self.pending &= AUDIT;
        if !touched.is_empty() {
            occupant(&mut self.slots, index).request = Units::empty();
            // The first group is the one that everybody uses.
            if !self.exposed.contains(wanted & F::GROUPS[0]) {
                self.seize(file, index, 0, wanted & F::GROUPS[0]);
            }
            for (n, &group) in F::GROUPS.iter().enumerate().skip(1) {
                if !self.exposed.contains(wanted & group) {
                    self.seize_other(file, index, n, wanted & group);
                }
            }
            let shown =
                if R::keeps(Rule::ExposeOnlyValid) { self.exposed } else { self.slot(index).image.units() };
            F::expose(file, shown);
        }
        if self.pending & AUDIT != 0 {
            self.inspect(file);
        }
    }

    /// Makes the registers of group `n` hold at least `wanted` of the running vCPU, and exposes them.
    #[inline(always)]
    fn seize(&mut self, file: &mut F::File, index: usize, n: usize, wanted: Units) {
        let slot = occupant(&mut self.slots, index);
        let seat = &self.seats[n];
        let valid = if holds::<F, R>(seat, slot, n, self.cpu) { seat.valid } else { Units::empty() };
        if valid.contains(wanted) {
            slot.count(&self.ledger, Event::Skip);
            self.moved[n] |= seat.dirty != valid;
            self.deeds[n].find();
            let seat = &mut self.seats[n];
            if R::keeps(Rule::Rehome) {
                // It may have been away: its values waited here, but its slot is another one now.
                seat.slot = index;
            }
            // Neither architecture tells which registers a guest wrote, so whatever it may write is dirty. All that
            // is valid is exposed: a narrow view must not write to registers that a wider one is valid in.
            seat.dirty = seat.valid;
            self.exposed |= seat.valid;
        } else {
            if !(seat.dirty | valid).is_empty() {
                self.make_room(file, index, n, valid);
            }
            self.fill(file, index, n, valid | wanted);
        }
    }

    /// Loads registers of group `n`, which are free, and exposes them.
    #[inline(always)]
    fn fill(&mut self, file: &mut F::File, index: usize, n: usize, units: Units) {
        let slot = occupant(&mut self.slots, index);
        slot.count(&self.ledger, Event::Load { bytes: slot.image.bytes(units) });
        self.deeds[n].load();
        self.moved[n] = true;
        self.exposed |= units;
        let seat = &mut self.seats[n];
        let (loaded, owner, stamp) = (seat.loaded | units, Some(slot.id), slot.stamps[n]);
        // All of it is exposed, and so it is dirty.
        *seat = Seat { owner, slot: index, stamp, valid: units, dirty: units, loaded, painted: false };
        // Last, so that little has to be kept meanwhile.
        slot.image.restore(file, units);
    }

    /// The same for a group that is seldom used.
    #[inline(never)]
    fn seize_other(&mut self, file: &mut F::File, index: usize, n: usize, wanted: Units) {
        self.seize(file, index, n, wanted);
    }

    /// Saves what is in the registers of group `n`: another's values, or `valid` of the running vCPU's.
    #[inline(never)]
    fn make_room(&mut self, file: &mut F::File, index: usize, n: usize, valid: Units) {
        if valid.is_empty() {
            if R::keeps(Rule::SaveBeforeEviction) {
                self.save(file, n, SaveCause::Evict);
            }
        } else {
            // The views overlap: what the guest wrote through the narrow one has to be in memory first.
            if R::keeps(Rule::SaveBeforeWidening) {
                self.save(file, n, SaveCause::Widen);
            }
            self.slot(index).count(&self.ledger, Event::Widening);
        }
    }

    /// Writes the dirty units of group `n`, if there are any, to the image they belong to.
    #[inline]
    fn save(&mut self, file: &mut F::File, n: usize, cause: SaveCause) {
        if !self.seats[n].dirty.is_empty() {
            self.write_back(file, n, cause);
        }
    }

    #[inline(never)]
    fn write_back(&mut self, file: &mut F::File, n: usize, cause: SaveCause) {
        let seat = &mut self.seats[n];
        let dirty = core::mem::take(&mut seat.dirty);
        self.moved[n] = true;
        let Some(slot) = self.slots[seat.slot].as_mut() else { return };
        let kept = slot.image.save(file, dirty);
        if R::keeps(Rule::ForgetDestroyed) {
            seat.valid &= kept;
        }
        if R::keeps(Rule::RenewStamp) {
            slot.stamps[n] = self.stamps.draw();
        }
        seat.stamp = slot.stamps[n];
        let bytes = slot.image.bytes(dirty);
        slot.count(&self.ledger, Event::Save { cause, bytes });
        let deed = Deeds::of(cause);
        self.deeds[n] |= deed;
        if deed.is_empty() {
            let id = slot.id;
            self.note_saved(id, cause, dirty, bytes);
        }
    }

    /// Saves what a vCPU whose turn ends has in the registers.
    #[inline]
    fn vacate(&mut self, file: &mut F::File, index: usize, at_leave: AtLeave) {
        for n in 0..F::GROUPS.len() {
            if !self.is_here(self.slot(index), n) {
                continue;
            }
            if R::keeps(Rule::SaveAtLeave) {
                self.save(file, n, SaveCause::Leave);
            } else {
                self.seats[n].dirty = Units::empty();
            }
            if at_leave == AtLeave::SaveAndForget {
                self.seats[n].forget();
                self.moved[n] = true;
            }
        }
    }

    /// Tells what the registers hold of a vCPU and can be exposed as it is. Units that do not work without those of
    /// another group, which is not here, wait for a touch: to load that group would be a guess.
    #[inline]
    pub(super) fn usable(&self, slot: &FpSlot<F>) -> Units {
        let mut here = Units::empty();
        for n in 0..F::GROUPS.len() {
            if self.is_here(slot, n) {
                here |= self.seats[n].valid;
            }
        }
        if F::GROUPS.len() == 1 || here.is_empty() || here.contains(slot.image.closure(here)) {
            return here;
        }
        let works = |group: &Units| here.contains(slot.image.closure(here & *group) - *group);
        F::GROUPS.iter().filter(|group| works(group)).map(|group| here & *group).collect()
    }

    /// Tells whether the registers of group `n` hold the values of a vCPU.
    #[inline]
    pub(super) fn is_here(&self, slot: &FpSlot<F>, n: usize) -> bool {
        holds::<F, R>(&self.seats[n], slot, n, self.cpu)
    }

    pub(super) fn save_all_of(&mut self, file: &mut F::File, index: usize, cause: SaveCause) {
        for n in 0..F::GROUPS.len() {
            if self.seats[n].slot == index {
                self.save(file, n, cause);
            }
        }
    }

    /// Gives up what a vCPU wrote to registers and did not save.
    pub(super) fn abandon(&mut self, index: usize) {
        for (seat, moved) in self.seats.iter_mut().zip(&mut self.moved).filter(|(seat, _)| seat.slot == index)
        {
            seat.dirty = Units::empty();
            *moved = true;
        }
    }

    /// Zeroes the registers that hold, or may hold, values of vCPU `id`.
    fn wipe(&mut self, file: &mut F::File, id: VcpuId, rule: Rule) {
        for (n, &group) in F::GROUPS.iter().enumerate() {
            let seat = &self.seats[n];
            let clear = seat.valid.contains(seat.loaded) && !F::has_remains(file, group);
            if seat.owner != Some(id) && clear {
                continue;
            }
            self.save(file, n, SaveCause::Flush);
            if R::keeps(rule) {
                F::fill(file, group, 0);
            }
            self.inspect_wiped(file, group, id);
            self.note_gone(n);
            self.seats[n] = Seat::default();
            self.moved[n] = true;
            self.pending |= u16::from((self.exposed & group).bits());
            self.exposed -= group;
        }
        self.cover(file);
    }

    /// Restores the exposure of whoever runs, after work that may have opened the registers.
    pub(super) fn cover(&self, file: &mut F::File) {
        match self.running {
            _ if !R::keeps(Rule::CoverAfterwards) => {}
            Some(_) if !self.exposed.is_empty() => F::expose(file, self.exposed),
            _ => F::conceal(file),
        }
    }

    fn end_turn_of(&mut self, file: &mut F::File, index: usize) {
        if self.running == Some(index) {
            self.leave(file);
        }
    }

    fn index(&self, key: &FpKey) -> usize {
        assert_eq!(key.cpu, self.cpu, "an FP key was used on the wrong CPU");
        key.index
    }

    /// Whoever holds an [`FpKey`] of this CPU has a slot here.
    pub(super) fn slot(&self, index: usize) -> &FpSlot<F> {
        self.slots[index].as_ref().expect("an FP key names an empty slot")
    }

    pub(super) fn slot_mut(&mut self, index: usize) -> &mut FpSlot<F> {
        occupant(&mut self.slots, index)
    }

    fn take(&mut self, index: usize) -> Box<FpSlot<F>> {
        self.slots[index].take().expect("an FP key names an empty slot")
    }
}

/// Tells whether the registers behind a seat of group `n` hold the values of a vCPU.
#[inline]
fn holds<F: FpContext, R: Rules>(seat: &Seat, slot: &FpSlot<F>, n: usize, cpu: CpuId) -> bool {
    if !R::keeps(Rule::OwnerCheck) {
        return slot.last_cpu == Some(cpu);
    }
    if !R::keeps(Rule::VersionCheck) {
        return seat.owner == Some(slot.id);
    }
    seat.stamp == slot.stamps[n]
}

/// Whoever holds an [`FpKey`] has a slot.
pub(super) fn occupant<F: FpContext>(slots: &mut [Option<Box<FpSlot<F>>>], index: usize) -> &mut FpSlot<F> {
    slots[index].as_mut().expect("an FP key names an empty slot")
}
