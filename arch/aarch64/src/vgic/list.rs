//! List registers: what the guest did to them, and what goes in next.

use super::word::{Active, Open};
use super::{Bits, Kicks, Lane, Place, Vgic};

/// Fields of `ICH_LR<n>_EL2` (IHI0069 12.4.5).
pub(super) mod lr {
    pub(crate) const STATE: u64 = PENDING | ACTIVE;
    pub(crate) const PENDING: u64 = 1 << 62;
    pub(crate) const ACTIVE: u64 = 1 << 63;
    pub(crate) const HW: u64 = 1 << 61;
    pub(crate) const GROUP1: u64 = 1 << 60;
    pub(crate) const PRIORITY_SHIFT: u32 = 48;
    /// With HW clear: maintenance interrupt when the guest deactivates it.
    pub(crate) const EOI: u64 = 1 << 41;
    pub(crate) const PINTID_SHIFT: u32 = 32;
}

/// Fields of `ICH_HCR_EL2` (IHI0069 12.4.4).
pub(super) mod hcr {
    pub(crate) const EN: u64 = 1 << 0;
    /// At most one list register is in use.
    pub(crate) const UIE: u64 = 1 << 1;
    /// The guest ended an interrupt that is in no list register.
    pub(crate) const LRENPIE: u64 = 1 << 2;
    /// No list register is pending.
    pub(crate) const NPIE: u64 = 1 << 3;
    pub(crate) const GRP0_ENABLED: u64 = 1 << 4;
    pub(crate) const GRP0_DISABLED: u64 = 1 << 5;
    pub(crate) const GRP1_ENABLED: u64 = 1 << 6;
    pub(crate) const GRP1_DISABLED: u64 = 1 << 7;
    pub(crate) const EOI_COUNT: u64 = 0x1f << EOI_COUNT_SHIFT;
    pub(crate) const EOI_COUNT_SHIFT: u32 = 27;
    /// Everything `flush` asks for when not all fits.
    pub(crate) const OVERFLOW: u64 =
        UIE | LRENPIE | NPIE | GRP0_ENABLED | GRP0_DISABLED | GRP1_ENABLED | GRP1_DISABLED;
}

/// Fields of `ICH_VMCR_EL2` (IHI0069 12.4.8).
pub(super) mod vmcr {
    pub(crate) const VENG0: u64 = 1 << 0;
    pub(crate) const VENG1: u64 = 1 << 1;
    pub(crate) const VPMR_SHIFT: u32 = 24;
}

/// A vCPU's virtual CPU interface while it is not loaded: `ICH_*_EL2` in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `ICH_LR<n>_EL2`.
    pub lr: [u64; 16],
    /// List registers that may be in use (bit n: `lr[n]`); the others are zero. Only these need to be moved.
    /// The caller must not set bits of list registers that do not exist.
    pub used: u16,
    /// `ICH_VMCR_EL2`.
    pub vmcr: u64,
    /// `ICH_HCR_EL2`. `sync` consumes EOIcount, `flush` sets the maintenance interrupts it needs; the rest is the
    /// caller's.
    pub hcr: u64,
    /// `ICH_AP0R<n>_EL2`.
    pub ap0r: [u32; 4],
    /// `ICH_AP1R<n>_EL2`.
    pub ap1r: [u32; 4],
}

impl Interface {
    /// Returns the interface of a vCPU that starts: enabled for the hypervisor, closed for the guest.
    pub fn new() -> Self {
        Self { lr: [0; 16], used: 0, vmcr: 0, hcr: hcr::EN, ap0r: [0; 4], ap1r: [0; 4] }
    }

    fn drop_register(&mut self, n: usize) {
        self.lr[n] = 0;
        self.used &= !(1 << n);
    }

    /// List registers in use that hold an interrupt the guest is handling; they stay.
    fn pinned(&self) -> u32 {
        Bits(self.used.into())
            .filter(|n| self.lr[*n as usize] & lr::ACTIVE != 0)
            .fold(0, |set, n| set | 1 << n)
    }

    /// The interrupts of a word that this interface signals, by group enable.
    fn audible(&self, group1: u32) -> u32 {
        let group = |enable| if self.vmcr & enable != 0 { u32::MAX } else { 0 };
        group1 & group(vmcr::VENG1) | !group1 & group(vmcr::VENG0)
    }

    fn masks(&self, priority: u8) -> bool {
        u64::from(priority) >= self.vmcr >> vmcr::VPMR_SHIFT & 0xff
    }
}

impl Default for Interface {
    fn default() -> Self {
        Self::new()
    }
}

impl Vgic {
    /// Takes back what the guest did to the list registers. To be called after the guest stopped and before
    /// anything else of this vCPU. Kicks the vCPUs to which an interrupt moved that this one had.
    #[inline]
    pub fn sync(&mut self, vcpu: usize, cpu: &mut Interface) -> Kicks {
        if cpu.used == 0 && cpu.hcr & hcr::EOI_COUNT == 0 {
            return Kicks::NONE;
        }
        self.take_back(vcpu, cpu)
    }

    #[inline(never)]
    fn take_back(&mut self, vcpu: usize, cpu: &mut Interface) -> Kicks {
        let mut kicks = 0;
        for n in Bits(cpu.used.into()) {
            let n = n as usize;
            let register = cpu.lr[n];
            let Some(place) = self.listed_at(vcpu, register) else {
                cpu.drop_register(n);
                continue;
            };
            let word = &mut self.words[place.word];
            word.take_back(place.bit(), register);
            if register & lr::STATE == 0 {
                cpu.drop_register(n);
                if word.stirs(place.bit()) {
                    kicks |= self.update(place.word, place.bit());
                }
            }
        }
        if cpu.hcr & hcr::EOI_COUNT != 0 {
            let count = (cpu.hcr & hcr::EOI_COUNT) >> hcr::EOI_COUNT_SHIFT;
            cpu.hcr &= !hcr::EOI_COUNT;
            kicks |= self.end_unlisted(vcpu, count);
        }
        Kicks(kicks & !(1 << vcpu))
    }

    /// Fills the list registers, highest priority first. To be called last before the guest runs, after `sync`.
    /// Kicks the vCPUs to which an interrupt moved that this one had.
    #[inline]
    pub fn flush(&mut self, vcpu: usize, cpu: &mut Interface) -> Kicks {
        let lane = &self.lanes[vcpu];
        if lane.rows == 0 && !lane.recheck && cpu.hcr & hcr::OVERFLOW == 0 {
            return Kicks::NONE;
        }
        self.refill(vcpu, cpu)
    }

    /// Takes everything out of the list registers, for a vCPU that goes away (`CPU_OFF`) or is moved elsewhere.
    /// What it was handling stays active.
    pub fn withdraw(&mut self, vcpu: usize, cpu: &mut Interface) -> Kicks {
        let Kicks(mut kicks) = self.sync(vcpu, cpu);
        for n in Bits(cpu.used.into()) {
            kicks |= self.give_back(vcpu, cpu, n as usize);
        }
        self.lanes[vcpu].recheck = false;
        cpu.hcr &= !hcr::OVERFLOW;
        Kicks(kicks & !(1 << vcpu))
    }

    /// True when WFI would wake: an interrupt is pending, enabled at the distributor and, by group, at the
    /// interface, and of higher priority than VPMR. PSTATE.I and the running priority do not matter.
    pub fn has_deliverable(&self, vcpu: usize, cpu: &Interface) -> bool {
        (self.lanes[vcpu].rows != 0 && self.candidates(vcpu).any(|place| self.wakes(place, cpu, Active::No)))
            || Bits(cpu.used.into()).any(|n| {
                let register = cpu.lr[n as usize];
                let active = if register & lr::ACTIVE != 0 { Active::Yes } else { Active::No };
                let here = self.listed_at(vcpu, register);
                here.is_some_and(|at| self.belongs(vcpu, at) && self.wakes(at, cpu, active))
            })
    }

    fn wakes(&self, place: Place, cpu: &Interface, in_register: Active) -> bool {
        let (word, bit) = (&self.words[place.word], place.bit());
        let active = if word.listed & bit != 0 {
            word.active_after(bit, in_register == Active::Yes)
        } else {
            word.active & bit != 0
        };
        let audible = word.pending() & word.open(self.open_groups) & cpu.audible(word.group1) & bit != 0;
        audible && !active && !cpu.masks(word.priority[place.index as usize])
    }

    #[inline(never)]
    fn refill(&mut self, vcpu: usize, cpu: &mut Interface) -> Kicks {
        cpu.hcr &= !hcr::OVERFLOW;
        let mut kicks = 0;
        if self.lanes[vcpu].recheck {
            self.lanes[vcpu].recheck = false;
            kicks = self.recheck(vcpu, cpu);
        }
        if self.lanes[vcpu].fits(self.free(cpu)) {
            self.list_all(vcpu, cpu);
        } else {
            self.squeeze(vcpu, cpu);
            self.ask_for_more(vcpu, cpu);
        }
        Kicks(kicks & !(1 << vcpu))
    }

    /// Compares what is listed with the interrupts' state, which others changed.
    #[inline(never)]
    fn recheck(&mut self, vcpu: usize, cpu: &mut Interface) -> u64 {
        let mut kicks = 0;
        for n in Bits(cpu.used.into()) {
            let n = n as usize;
            let Some(place) = self.listed_at(vcpu, cpu.lr[n]) else {
                cpu.drop_register(n);
                continue;
            };
            let open = if self.belongs(vcpu, place) { self.open(place) } else { Open::No };
            cpu.lr[n] = self.compose(place, cpu.lr[n], open);
            if cpu.lr[n] == 0 {
                cpu.drop_register(n);
                self.words[place.word].unlist(place.bit());
                kicks |= self.update(place.word, place.bit());
            }
        }
        kicks
    }

    /// Puts all candidates into list registers, of which enough are free.
    #[inline]
    fn list_all(&mut self, vcpu: usize, cpu: &mut Interface) {
        let (mut free, shared, groups) = (self.free(cpu), self.lanes.len(), self.open_groups);
        let lane = &mut self.lanes[vcpu];
        for row in Bits(core::mem::take(&mut lane.rows).into()) {
            let ready = core::mem::take(&mut lane.ready[row as usize]);
            let word = &mut self.words[if row == 0 { vcpu } else { shared + row as usize - 1 }];
            let open = word.open(groups);
            for index in Bits(ready.into()) {
                let (intid, bit) = (row * 32 + index, 1 << index);
                let register = word.enter(index, intid, if open & bit != 0 { Open::Yes } else { Open::No });
                if register == 0 {
                    word.unlist(bit);
                    continue;
                }
                if row != 0 {
                    self.routes[intid as usize - 32].owner = vcpu as u8;
                }
                let n = free.trailing_zeros();
                free &= free.wrapping_sub(1);
                cpu.lr[n as usize] = register;
                cpu.used |= 1 << n;
            }
        }
    }

    /// Puts a candidate into a free list register.
    #[inline(never)]
    fn list(&mut self, vcpu: usize, cpu: &mut Interface, place: Place) {
        let row = place.word.checked_sub(self.lanes.len()).map_or(0, |shared| shared + 1);
        let lane = &mut self.lanes[vcpu];
        lane.set_row(row, lane.ready[row] & !place.bit());
        let open = self.open(place);
        let intid = row as u32 * 32 + place.index;
        let register = self.words[place.word].enter(place.index, intid, open);
        if register == 0 {
            self.words[place.word].unlist(place.bit());
            return;
        }
        if row != 0 {
            self.routes[intid as usize - 32].owner = vcpu as u8;
        }
        let n = self.free(cpu).trailing_zeros() as usize;
        cpu.lr[n] = register;
        cpu.used |= 1 << n;
    }

    /// Takes an interrupt out of a list register and makes it a candidate again, wherever it belongs.
    fn give_back(&mut self, vcpu: usize, cpu: &mut Interface, n: usize) -> u64 {
        let place = self.listed_at(vcpu, cpu.lr[n]);
        cpu.drop_register(n);
        place.map_or(0, |place| {
            self.words[place.word].unlist(place.bit());
            self.update(place.word, place.bit())
        })
    }

    /// Lists the most urgent when not all fit. What is active stays; what is only pending may have to leave.
    #[inline(never)]
    fn squeeze(&mut self, vcpu: usize, cpu: &mut Interface) {
        let pinned = cpu.pinned();
        let waiting = u32::from(cpu.used) & !pinned;
        let mut best = Best::new(self.config.list_registers.saturating_sub(pinned.count_ones() as usize));
        for n in Bits(waiting.into()) {
            if let Some(place) = self.listed_at(vcpu, cpu.lr[n as usize]) {
                best.offer(self.rank(cpu, place));
            }
        }
        for place in self.candidates(vcpu) {
            best.offer(self.rank(cpu, place));
        }
        for n in Bits(waiting.into()) {
            let place = self.listed_at(vcpu, cpu.lr[n as usize]);
            if place.is_none_or(|place| !best.has(self.rank(cpu, place))) {
                self.give_back(vcpu, cpu, n as usize);
            }
        }
        for rank in best.ranks().iter().filter(|rank| *rank & rank::UNLISTED != 0) {
            if let Some(place) = self.place(vcpu, rank & rank::INTID) {
                self.list(vcpu, cpu, place);
            }
        }
    }

    /// Makes the guest come back when it could take more than it was given.
    #[inline(never)]
    fn ask_for_more(&mut self, vcpu: usize, cpu: &mut Interface) {
        let left = |active: bool| {
            self.candidates(vcpu).any(|place| (self.words[place.word].active & place.bit() != 0) == active)
        };
        if left(true) {
            cpu.hcr |= hcr::LRENPIE;
        }
        if !left(false) {
            return;
        }
        let group = |enable, on, off| if cpu.vmcr & enable != 0 { off } else { on };
        cpu.hcr |= group(vmcr::VENG0, hcr::GRP0_ENABLED, hcr::GRP0_DISABLED)
            | group(vmcr::VENG1, hcr::GRP1_ENABLED, hcr::GRP1_DISABLED);
        let mut pending = false;
        for n in Bits(cpu.used.into()) {
            let register = cpu.lr[n as usize];
            pending |= register & lr::STATE == lr::PENDING;
            // Pending and active would turn pending without our notice, before more urgent ones that wait outside.
            if register & lr::STATE == lr::STATE
                && let Some(place) = self.listed_at(vcpu, register)
            {
                cpu.lr[n as usize] = self.compose(place, register, Open::No);
            }
        }
        if pending {
            // The listed ones are the most urgent, so the rest matters when all of them were taken.
            cpu.hcr |= hcr::NPIE;
            return;
        }
        // All are active: NPIE would fire at once and for ever. Any of them that ends makes room. With LR.HW only
        // UIE tells, and it cannot where there is one list register: there the next exit has to do.
        for n in Bits(cpu.used.into()) {
            if cpu.lr[n as usize] & lr::HW == 0 {
                cpu.lr[n as usize] |= lr::EOI;
            }
        }
        if self.config.list_registers > 1 {
            cpu.hcr |= hcr::UIE;
        }
    }

    /// Ends the most urgent active interrupts that found no list register, for EOIs that found none of theirs.
    #[cold]
    fn end_unlisted(&mut self, vcpu: usize, count: u64) -> u64 {
        let mut kicks = 0;
        for _ in 0..count {
            let active = |place: &Place| self.words[place.word].active & place.bit() != 0;
            let urgency = |place: &Place| self.words[place.word].priority[place.index as usize];
            let Some(place) = self.candidates(vcpu).filter(active).min_by_key(urgency) else { break };
            self.words[place.word].active &= !place.bit();
            kicks |= self.update(place.word, place.bit());
        }
        kicks
    }

    fn compose(&mut self, place: Place, register: u64, open: Open) -> u64 {
        let active = if register & lr::ACTIVE != 0 { Active::Yes } else { Active::No };
        let intid = self.intid(place);
        self.words[place.word].compose(place.index, intid, active, open)
    }

    /// Interrupts that want a list register of this vCPU, lowest INTID first.
    fn candidates(&self, vcpu: usize) -> impl Iterator<Item = Place> {
        let lane = &self.lanes[vcpu];
        Bits(lane.rows.into()).flat_map(move |row| {
            let word = if row == 0 { vcpu } else { self.lanes.len() + row as usize - 1 };
            Bits(lane.ready[row as usize].into()).map(move |index| Place { word, index })
        })
    }

    fn free(&self, cpu: &Interface) -> u32 {
        !u32::from(cpu.used) & ((1 << self.config.list_registers) - 1)
    }

    fn open(&self, place: Place) -> Open {
        let open = self.words[place.word].open(self.open_groups) & place.bit() != 0;
        if open { Open::Yes } else { Open::No }
    }

    /// True unless it is an SPI routed to somebody else.
    fn belongs(&self, vcpu: usize, place: Place) -> bool {
        let shared = place.word.checked_sub(self.lanes.len());
        shared.is_none_or(|word| usize::from(self.routes[word * 32 + place.index as usize].target) == vcpu)
    }

    /// The interrupt in a list register of this vCPU; none when we did not put it there.
    fn listed_at(&self, vcpu: usize, register: u64) -> Option<Place> {
        let place = self.place(vcpu, register as u32)?;
        let spi = (register as u32 as usize).checked_sub(32);
        let ours = spi.is_none_or(|spi| usize::from(self.routes[spi].owner) == vcpu);
        (ours && self.words[place.word].listed & place.bit() != 0).then_some(place)
    }

    fn place(&self, vcpu: usize, intid: u32) -> Option<Place> {
        if intid < 32 { Some(Place { word: vcpu, index: intid }) } else { self.spi(intid) }
    }

    fn intid(&self, place: Place) -> u32 {
        place.word.checked_sub(self.lanes.len()).map_or(0, |shared| shared as u32 * 32 + 32) + place.index
    }

    fn rank(&self, cpu: &Interface, place: Place) -> u32 {
        let (word, bit) = (&self.words[place.word], place.bit());
        let listed = word.listed & bit != 0;
        let mut rank =
            u32::from(word.priority[place.index as usize]) << rank::PRIORITY_SHIFT | self.intid(place);
        if !listed {
            rank |= rank::UNLISTED;
        }
        if word.active & bit != 0 {
            rank |= rank::ACTIVE;
        } else if cpu.audible(word.group1) & bit == 0 {
            rank |= rank::SILENT;
        }
        rank
    }
}

impl Lane {
    /// True when all candidates fit into the free list registers.
    fn fits(&self, free: u32) -> bool {
        let mut room = free;
        for row in Bits(self.rows.into()) {
            let mut ready = self.ready[row as usize];
            while ready != 0 {
                if room == 0 {
                    return false;
                }
                ready &= ready - 1;
                room &= room - 1;
            }
        }
        true
    }
}

/// Order in which interrupts deserve a list register, lowest first.
mod rank {
    pub(super) const INTID: u32 = 0x3ff;
    /// Among equals, what is in a list register stays there.
    pub(super) const UNLISTED: u32 = 1 << 16;
    pub(super) const PRIORITY_SHIFT: u32 = 17;
    /// Active already: listed only for the guest's EOI.
    pub(super) const ACTIVE: u32 = 1 << 30;
    /// Of a group the guest's CPU interface does not signal.
    pub(super) const SILENT: u32 = 1 << 31;
}

/// The lowest few of the ranks offered.
struct Best {
    ranks: [u32; 16],
    len: usize,
    capacity: usize,
}

impl Best {
    fn new(capacity: usize) -> Self {
        Self { ranks: [0; 16], len: 0, capacity: capacity.min(16) }
    }

    fn ranks(&self) -> &[u32] {
        &self.ranks[..self.len]
    }

    fn has(&self, rank: u32) -> bool {
        self.ranks().contains(&rank)
    }

    fn offer(&mut self, rank: u32) {
        if self.len == self.capacity {
            if self.ranks().last().is_none_or(|worst| *worst <= rank) {
                return;
            }
            self.len -= 1;
        }
        let at = self.ranks().partition_point(|other| *other < rank);
        self.ranks.copy_within(at..self.len, at + 1);
        self.ranks[at] = rank;
        self.len += 1;
    }
}
