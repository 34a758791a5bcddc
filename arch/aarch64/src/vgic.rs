//! A guest's GICv3, as plain data: distributor, redistributors, and what is in whose list registers.
//!
//! Nothing here touches hardware. The caller keeps one [`Vgic`] per VM in a lock, one [`Interface`] per vCPU with
//! the vCPU, and moves the interface to and from `ICH_*_EL2`. One security state (`GICD_CTLR.DS`), affinity
//! routing always on, no LPIs. Register numbers are those of IHI0069 (GICv3 and GICv4).
//!
//! # How a turn goes
//! `sync` after the guest stopped, then register accesses, lines and SGIs in any order, then `flush` before it
//! runs again. Anything that concerns another vCPU comes back as [`Kicks`]: those vCPUs must be woken, or made to
//! leave the guest and pass through `sync` and `flush`.
//!
//! # Who holds the truth
//! While an interrupt is in a list register ("listed") the hardware changes its state behind our back, and the
//! interrupt may be given new state by others at the same time. So nothing is ever copied and reconciled; it is
//! *lent*. Listing moves the pending latch into the list register and remembers that in `lent`; `sync` forgets the
//! loan when the guest took the interrupt; giving the list register up returns it. An edge that arrives meanwhile
//! sets the latch again and is merged at the next `flush`, when the list register is ours to look at. A level needs
//! no loan, since its line still stands; but it needs to hear of the guest's EOI (LR.EOI) while the line is high.
//!
//! Candidates for list registers are kept as bitmaps per vCPU, updated when something changes, so that `flush`
//! works on what is pending and not on what exists. Rejected: a sorted list per vCPU as in other implementations,
//! which needs a node per interrupt and two locks to move one between vCPUs.
//!
//! What a guest reads back of pending and active state is as of the last `sync` of the vCPU that holds it.

use alloc::boxed::Box;

mod list;
mod mmio;
#[cfg(test)]
mod tests;
mod word;

use kernel::dev::Level;
use kernel::exit::Kicks;

pub use list::Interface;
use word::Word;

/// Most vCPUs of one VM: the bits of [`Kicks`].
pub const MAX_VCPUS: usize = 64;
/// Most SPIs of one VM: INTIDs 32 to 1019 in whole words of 32 (IHI0069 2.2).
pub const MAX_SPIS: usize = 960;

const NOBODY: u8 = u8::MAX;
/// `GICD_IROUTER.IRM` (IHI0069 12.9.22): any vCPU may take the interrupt.
const IROUTER_IRM: u64 = 1 << 31;

/// Says what a guest's interrupt controller looks like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`]. vCPU n has affinity Aff0 = n % 16, Aff1 = n / 16.
    pub vcpus: usize,
    /// Number of SPIs, a multiple of 32 up to [`MAX_SPIS`].
    pub spis: usize,
    /// List registers of the physical CPUs, 1 to 16 (`ICH_VTR_EL2.ListRegs` + 1).
    pub list_registers: usize,
    /// Implemented priority bits, 5 to 8 (`ICH_VTR_EL2.PRIbits` + 1).
    pub priority_bits: u8,
}

/// Names a frame of memory-mapped registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The distributor, 64 KiB.
    Dist,
    /// The redistributor of one vCPU, 128 KiB: RD frame, then SGI frame.
    Redist(usize),
}

/// Positions of the set bits, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;
    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(position)
    }
}

/// What one vCPU has to consider.
struct Lane {
    /// Interrupts that want a list register of this vCPU: row 0 its own SGIs and PPIs, row n SPIs 32n and up.
    ready: [u32; 32],
    /// Rows of `ready` that are not zero.
    rows: u32,
    /// Something listed here changed: the next flush compares list registers with the interrupts' state.
    recheck: bool,
    /// `GICR_WAKER.ProcessorSleep`.
    asleep: bool,
}

impl Lane {
    /// Replaces one row and returns what is in it now but was not.
    #[inline]
    fn set_row(&mut self, row: usize, ready: u32) -> u32 {
        let old = core::mem::replace(&mut self.ready[row], ready);
        self.rows = self.rows & !(1 << row) | u32::from(ready != 0) << row;
        ready & !old
    }

    /// As [`Vgic::changed`] for `word`, the SGIs and PPIs of this vCPU: whether it concerns the vCPU.
    #[inline]
    fn stir(&mut self, word: &Word, mask: u32, open_groups: [u32; 2]) -> bool {
        let fresh = self.set_row(0, self.ready[0] & !mask | word.wanted(open_groups) & mask);
        let listed = word.listed & mask;
        self.recheck |= listed != 0;
        fresh | listed != 0
    }
}

/// Where an SPI goes and where it is.
#[derive(Clone, Copy)]
struct Route {
    irouter: u64,
    /// vCPU that `irouter` stands for, or `NOBODY`.
    target: u8,
    /// vCPU in whose list registers it is; means something only while it is listed.
    owner: u8,
}

/// Where the bit of an interrupt is: a word of `Vgic::words` and a position in it.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    index: u32,
}

impl Place {
    fn bit(self) -> u32 {
        1 << self.index
    }
}

/// A guest's GICv3.
pub struct Vgic {
    config: Config,
    /// One word of SGIs and PPIs per vCPU, then the SPIs.
    words: Box<[Word]>,
    lanes: Box<[Lane]>,
    routes: Box<[Route]>,
    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`, each spread over a word.
    open_groups: [u32; 2],
}

impl Vgic {
    /// Builds the controller as after reset: all disabled, level-triggered, Group 0, routed to vCPU 0.
    ///
    /// # Panics
    /// When `config` is outside the ranges it documents.
    pub fn new(config: Config) -> Self {
        assert!((1..=MAX_VCPUS).contains(&config.vcpus), "{config:?}");
        assert!(config.spis <= MAX_SPIS && config.spis.is_multiple_of(32), "{config:?}");
        assert!((1..=16).contains(&config.list_registers), "{config:?}");
        assert!((5..=8).contains(&config.priority_bits), "{config:?}");
        let private = (0..config.vcpus).map(|_| Word::private());
        let shared = (0..config.spis / 32).map(|_| Word::shared());
        let lane = |_| Lane { ready: [0; 32], rows: 0, recheck: false, asleep: true };
        let route = Route { irouter: 0, target: 0, owner: NOBODY };
        Self {
            config,
            words: private.chain(shared).collect(),
            lanes: (0..config.vcpus).map(lane).collect(),
            routes: (0..config.spis).map(|_| route).collect(),
            open_groups: [0; 2],
        }
    }

    /// Sends a software-generated interrupt as `ICC_SGI1R_EL1` says (IHI0069 12.2.22). SGIs of several senders
    /// that the receiver has not taken are one.
    pub fn sgi(&mut self, from: usize, sgi1r: u64) -> Kicks {
        let bit = 1 << (sgi1r >> 24 & 0xf);
        let targets = self.sgi_targets(from, sgi1r);
        let mut kicks = 0;
        for vcpu in Bits(targets) {
            let at = vcpu as usize;
            let (Some(word), Some(lane)) = (self.words.get_mut(at), self.lanes.get_mut(at)) else { break };
            if word.latch & bit == 0 {
                word.latch |= bit;
                kicks |= u64::from(lane.stir(word, bit, self.open_groups)) << vcpu;
            }
        }
        Kicks(kicks)
    }

    fn sgi_targets(&self, from: usize, sgi1r: u64) -> u64 {
        const IRM: u64 = 1 << 40;
        // Aff3, RS and Aff2: no vCPU has any of them set.
        const NO_SUCH_VCPU: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32;
        let all = u64::MAX >> (MAX_VCPUS - self.config.vcpus);
        let aff1 = sgi1r >> 16 & 0xff;
        if sgi1r & IRM != 0 {
            all & !1u64.checked_shl(from as u32).unwrap_or(0)
        } else if sgi1r & NO_SUCH_VCPU != 0 || aff1 > 3 {
            0
        } else {
            (sgi1r & 0xffff) << (16 * aff1) & all
        }
    }

    /// Drives the input of an SPI. A rising edge, or a level that is high, makes it pending.
    pub fn set_line(&mut self, intid: u32, level: Level) -> Kicks {
        self.spi(intid).map_or(Kicks::NONE, |place| self.drive(place, level))
    }

    /// Drives the input of a PPI (INTID 16 to 31) of one vCPU.
    pub fn set_private_line(&mut self, vcpu: usize, intid: u32, level: Level) -> Kicks {
        self.ppi(vcpu, intid).map_or(Kicks::NONE, |place| self.drive(place, level))
    }

    fn drive(&mut self, place: Place, level: Level) -> Kicks {
        let (word, bit) = (&mut self.words[place.word], place.bit());
        let rose = level == Level::High && word.line & bit == 0;
        let fell = level == Level::Low && word.line & bit != 0;
        if rose {
            word.line |= bit;
            word.latch |= bit & word.edge;
            self.changed(place.word, bit)
        } else if fell {
            word.line &= !bit;
            // Nothing new to deliver; a list register that is now wrong is corrected when its vCPU comes by.
            let _ = self.changed(place.word, bit);
            Kicks::NONE
        } else {
            Kicks::NONE
        }
    }

    /// Makes a PPI pending that stands for the physical interrupt of the same INTID. The physical one is active
    /// from now until the guest deactivates the virtual one, which LR.HW does without us (IHI0069 12.4.5).
    pub fn fire_hw(&mut self, vcpu: usize, intid: u32) -> Kicks {
        let Some(place) = self.ppi(vcpu, intid) else { return Kicks::NONE };
        self.words[place.word].fired |= place.bit();
        self.changed(place.word, place.bit())
    }

    /// Forgets what [`Self::fire_hw`] made pending because its cause went away before the guest took it. To be
    /// called between `sync` and `flush` of that vCPU. True: the caller deactivates the physical interrupt.
    pub fn retract_hw(&mut self, vcpu: usize, intid: u32) -> bool {
        let Some(place) = self.ppi(vcpu, intid) else { return false };
        let forgotten = self.words[place.word].retract(place.bit());
        // At most this vCPU is concerned, and it is the one that flushes next.
        let _ = self.changed(place.word, place.bit());
        forgotten
    }

    /// True while the physical interrupt behind this PPI must be active when the vCPU is loaded. It turns false
    /// without a list register's help when the guest clears the active state through `GICR_ICACTIVER0` (as of the
    /// next flush) or `retract_hw` says so: the caller then deactivates the physical interrupt.
    pub fn hw_in_flight(&self, vcpu: usize, intid: u32) -> bool {
        self.ppi(vcpu, intid).is_some_and(|place| self.words[place.word].in_flight() & place.bit() != 0)
    }

    /// Records that the state of some interrupts of a word changed: those that want a list register now, or sit
    /// in one, concern somebody.
    #[inline]
    fn changed(&mut self, word: usize, mask: u32) -> Kicks {
        Kicks(self.update(word, mask) | self.touch(word, mask))
    }

    /// Brings the candidate bitmaps up to date. Returns the vCPUs that got a new candidate.
    #[inline]
    fn update(&mut self, word: usize, mask: u32) -> u64 {
        let wanted = self.words[word].wanted(self.open_groups) & mask;
        let Some(lane) = self.lanes.get_mut(word) else { return self.update_shared(word, mask, wanted) };
        let fresh = lane.set_row(0, lane.ready[0] & !mask | wanted);
        u64::from(fresh != 0) << word
    }

    #[inline(never)]
    fn update_shared(&mut self, word: usize, mask: u32, wanted: u32) -> u64 {
        let shared = word - self.lanes.len();
        let mut kicks = 0;
        for index in Bits(mask.into()) {
            let target = self.routes[shared * 32 + index as usize].target;
            if let Some(lane) = self.lanes.get_mut(usize::from(target)) {
                let (row, bit) = (shared + 1, 1 << index);
                let fresh = lane.set_row(row, lane.ready[row] & !bit | wanted & bit);
                kicks |= u64::from(fresh != 0) << target;
            }
        }
        kicks
    }

    /// Makes the vCPUs that have some of these interrupts listed compare at their next flush, and returns them.
    #[inline]
    fn touch(&mut self, word: usize, mask: u32) -> u64 {
        let listed = self.words[word].listed & mask;
        if listed == 0 {
            return 0;
        }
        let Some(lane) = self.lanes.get_mut(word) else { return self.touch_shared(word, listed) };
        lane.recheck = true;
        1 << word
    }

    #[inline(never)]
    fn touch_shared(&mut self, word: usize, listed: u32) -> u64 {
        let shared = word - self.lanes.len();
        let mut kicks = 0;
        for index in Bits(listed.into()) {
            let owner = self.routes[shared * 32 + index as usize].owner;
            if let Some(lane) = self.lanes.get_mut(usize::from(owner)) {
                lane.recheck = true;
                kicks |= 1 << owner;
            }
        }
        kicks
    }

    /// Takes interrupts off the candidate bitmaps, so that `changed` counts them as new.
    fn forget(&mut self, word: usize, mask: u32) {
        let Some(shared) = word.checked_sub(self.lanes.len()) else {
            let lane = &mut self.lanes[word];
            lane.set_row(0, lane.ready[0] & !mask);
            return;
        };
        for index in Bits(mask.into()) {
            let target = self.routes[shared * 32 + index as usize].target;
            if let Some(lane) = self.lanes.get_mut(usize::from(target)) {
                lane.set_row(shared + 1, lane.ready[shared + 1] & !(1 << index));
            }
        }
    }

    /// Points an SPI where its `GICD_IROUTER` says. Whoever has it listed keeps it until it flushes.
    fn reroute(&mut self, spi: usize, irouter: u64) -> Kicks {
        let target = self.target(irouter);
        let route = &mut self.routes[spi];
        route.irouter = irouter;
        if route.target == target {
            return Kicks::NONE;
        }
        let (word, bit) = (self.lanes.len() + spi / 32, 1 << (spi % 32));
        self.forget(word, bit);
        self.routes[spi].target = target;
        self.changed(word, bit)
    }

    fn target(&self, irouter: u64) -> u8 {
        if irouter & IROUTER_IRM != 0 {
            return self.lanes.iter().position(|lane| !lane.asleep).unwrap_or(0) as u8;
        }
        let (aff0, aff1, aff23) = (irouter & 0xff, irouter >> 8 & 0xff, irouter >> 16);
        let vcpu = aff1 * 16 + aff0;
        if aff0 < 16 && aff23 == 0 && vcpu < self.lanes.len() as u64 { vcpu as u8 } else { NOBODY }
    }

    fn spi(&self, intid: u32) -> Option<Place> {
        let spi = (intid as usize).checked_sub(32).filter(|spi| *spi < self.config.spis)?;
        Some(Place { word: self.lanes.len() + spi / 32, index: intid % 32 })
    }

    fn ppi(&self, vcpu: usize, intid: u32) -> Option<Place> {
        (vcpu < self.lanes.len() && (16..32).contains(&intid)).then_some(Place { word: vcpu, index: intid })
    }
}
