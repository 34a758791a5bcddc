//! Distributor and redistributor registers (IHI0069 12.9 and 12.11).

use super::{Bits, Frame, IROUTER_IRM, Kicks, Vgic};

/// `GICD_*` offsets.
mod gicd {
    pub(super) const CTLR: u32 = 0x0000;
    pub(super) const TYPER: u32 = 0x0004;
    pub(super) const IIDR: u32 = 0x0008;
    pub(super) const IROUTER: u32 = 0x6000;
    pub(super) const IROUTER_END: u32 = 0x7fff;
    pub(super) const PIDR2: u32 = 0xffe8;
}

/// `GICR_*` offsets, RD frame.
mod gicr {
    pub(super) const IIDR: u32 = 0x0004;
    pub(super) const TYPER: u32 = 0x0008;
    pub(super) const TYPER_HIGH: u32 = 0x000c;
    pub(super) const WAKER: u32 = 0x0014;
    pub(super) const PIDR2: u32 = 0xffe8;
    /// Where the SGI frame starts. Its registers have the distributor's offsets.
    pub(super) const SGI_BASE: u32 = 0x1_0000;
}

/// Offsets of the per-interrupt registers, the same in the distributor and the SGI frame.
mod bank {
    pub(super) const IGROUPR: u32 = 0x080;
    pub(super) const ISENABLER: u32 = 0x100;
    pub(super) const ICENABLER: u32 = 0x180;
    pub(super) const ISPENDR: u32 = 0x200;
    pub(super) const ICPENDR: u32 = 0x280;
    pub(super) const ISACTIVER: u32 = 0x300;
    pub(super) const ICACTIVER: u32 = 0x380;
    pub(super) const IPRIORITYR: u32 = 0x400;
    pub(super) const IPRIORITYR_END: u32 = 0x7ff;
    pub(super) const ICFGR: u32 = 0xc00;
    pub(super) const ICFGR_END: u32 = 0xcff;
}

const CTLR_ENABLE_GRP: [u32; 2] = [1 << 0, 1 << 1];
/// ARE, DS: read as one, writes ignored. RWP never shows, since writes take effect at once.
const CTLR_FIXED: u32 = 1 << 4 | 1 << 6;
/// IDbits: ten bits of INTID. No LPIs, no message-based SPIs, no second security state, Aff0 up to 15, Aff3 zero.
const TYPER_IDBITS: u32 = 9 << 19;
/// 1-of-N is not offered; a guest that sets IRM anyway gets one fixed vCPU.
const TYPER_NO1N: u32 = 1 << 25;
/// ProductID 'F', implementer not assigned.
const IIDR: u32 = 0x4600_0000;
/// GICv3, and the JEDEC bits that belong to an unnamed implementer as in Arm's own.
const PIDR2: u32 = 0x3b;
const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// What of `GICD_IROUTER` is kept: Aff0 to Aff2 and IRM; Aff3 is zero as `TYPER.A3V` says.
const IROUTER_KEPT: u64 = 0x00ff_ffff | IROUTER_IRM;

const RAZ_WI: (u64, Kicks) = (0, Kicks::NONE);

impl Vgic {
    /// Reads (`store` is `None`) or writes a register. `offset` is relative to the frame, `width` is in bytes.
    /// Returns what was read, zero for a write, and the vCPUs concerned. Reserved registers, unaligned and
    /// wrong-sized accesses read as zero and ignore writes.
    pub fn access(&mut self, frame: Frame, offset: u32, width: u8, store: Option<u64>) -> (u64, Kicks) {
        if !matches!(width, 1 | 2 | 4 | 8) || !offset.is_multiple_of(u32::from(width)) {
            return RAZ_WI;
        }
        match frame {
            Frame::Dist => self.distributor(offset, width, store),
            Frame::Redist(vcpu) if vcpu >= self.lanes.len() => RAZ_WI,
            Frame::Redist(vcpu) => match offset.checked_sub(gicr::SGI_BASE) {
                None => self.redistributor(vcpu, offset, width, store),
                Some(offset) => self.per_interrupt(frame, offset, width, store),
            },
        }
    }

    fn distributor(&mut self, offset: u32, width: u8, store: Option<u64>) -> (u64, Kicks) {
        match (offset, width, store) {
            (gicd::IROUTER..=gicd::IROUTER_END, 4 | 8, _) => {
                self.irouter(offset - gicd::IROUTER, width, store)
            }
            (gicd::CTLR, 4, Some(value)) => (0, self.set_ctlr(value as u32)),
            (gicd::CTLR, 4, None) => (self.ctlr().into(), Kicks::NONE),
            (gicd::TYPER, 4, None) => {
                let lines = self.config.spis as u32 / 32;
                ((lines | TYPER_IDBITS | TYPER_NO1N).into(), Kicks::NONE)
            }
            (gicd::IIDR, 4, None) => (IIDR.into(), Kicks::NONE),
            (gicd::PIDR2, 4, None) => (PIDR2.into(), Kicks::NONE),
            _ => self.per_interrupt(Frame::Dist, offset, width, store),
        }
    }

    fn redistributor(&mut self, vcpu: usize, offset: u32, width: u8, store: Option<u64>) -> (u64, Kicks) {
        let typer = self.gicr_typer(vcpu);
        let value = match (offset, width, store) {
            (gicr::WAKER, 4, Some(value)) => return (0, self.set_waker(vcpu, value as u32)),
            (gicr::WAKER, 4, None) if self.lanes[vcpu].asleep => (WAKER_SLEEP | WAKER_CHILDREN_ASLEEP).into(),
            (gicr::TYPER, 8, None) => typer,
            (gicr::TYPER, 4, None) => typer & 0xffff_ffff,
            (gicr::TYPER_HIGH, 4, None) => typer >> 32,
            (gicr::IIDR, 4, None) => IIDR.into(),
            (gicr::PIDR2, 4, None) => PIDR2.into(),
            // GICR_CTLR too: no LPIs, no DPG bits, and writes take effect at once, so there is nothing to show.
            _ => 0,
        };
        (value, Kicks::NONE)
    }

    fn gicr_typer(&self, vcpu: usize) -> u64 {
        let affinity = ((vcpu as u64 / 16) << 8) | (vcpu as u64 % 16);
        let last = u64::from(vcpu + 1 == self.lanes.len());
        affinity << 32 | (vcpu as u64) << 8 | last << 4
    }

    fn ctlr(&self) -> u32 {
        let enabled = |group: usize| self.open_groups[group] & CTLR_ENABLE_GRP[group];
        CTLR_FIXED | enabled(0) | enabled(1)
    }

    fn set_ctlr(&mut self, value: u32) -> Kicks {
        let open = CTLR_ENABLE_GRP.map(|enable| if value & enable != 0 { u32::MAX } else { 0 });
        let mut kicks = Kicks::NONE;
        if open != self.open_groups {
            self.open_groups = open;
            for word in 0..self.words.len() {
                kicks |= self.changed(word, u32::MAX);
            }
        }
        kicks
    }

    fn set_waker(&mut self, vcpu: usize, value: u32) -> Kicks {
        let asleep = value & WAKER_SLEEP != 0;
        let mut kicks = Kicks::NONE;
        if self.lanes[vcpu].asleep != asleep {
            self.lanes[vcpu].asleep = asleep;
            // Interrupts that go to any vCPU choose anew.
            for spi in 0..self.routes.len() {
                if self.routes[spi].irouter & IROUTER_IRM != 0 {
                    kicks |= self.reroute(spi, self.routes[spi].irouter);
                }
            }
        }
        kicks
    }

    fn irouter(&mut self, offset: u32, width: u8, store: Option<u64>) -> (u64, Kicks) {
        let Some(spi) = (offset as usize / 8).checked_sub(32).filter(|spi| *spi < self.routes.len()) else {
            return RAZ_WI;
        };
        let old = self.routes[spi].irouter;
        let low = 0xffff_ffff;
        match (width, offset % 8, store) {
            (8, _, None) => (old, Kicks::NONE),
            (8, _, Some(value)) => (0, self.reroute(spi, value & IROUTER_KEPT)),
            (_, 0, None) => (old & low, Kicks::NONE),
            (_, 0, Some(value)) => (0, self.reroute(spi, (old & !low | value & low) & IROUTER_KEPT)),
            // The upper half is Aff3, which is zero.
            _ => RAZ_WI,
        }
    }

    /// Registers that hold some bits of every interrupt.
    fn per_interrupt(&mut self, frame: Frame, offset: u32, width: u8, store: Option<u64>) -> (u64, Kicks) {
        let word = |number: u32| match frame {
            Frame::Redist(vcpu) => (number == 0).then_some(vcpu),
            // The distributor's view of SGIs and PPIs is empty under affinity routing.
            Frame::Dist => {
                let shared = (number as usize).checked_sub(1)?;
                (shared < self.config.spis / 32).then_some(self.config.vcpus + shared)
            }
        };
        match (offset, width) {
            (bank::IGROUPR..bank::IPRIORITYR, 4) => match (word(offset % 0x80 / 4), store) {
                (Some(word), Some(value)) => (0, self.set_bits(word, offset & !0x7f, value as u32)),
                (Some(word), None) => (self.bits(word, offset & !0x7f).into(), Kicks::NONE),
                (None, _) => RAZ_WI,
            },
            (bank::IPRIORITYR..=bank::IPRIORITYR_END, 1 | 4) => {
                let at = (offset - bank::IPRIORITYR) as usize;
                word(at as u32 / 32).map_or(RAZ_WI, |word| self.priorities(word, at % 32, width, store))
            }
            (bank::ICFGR..=bank::ICFGR_END, 4) => {
                let at = (offset - bank::ICFGR) / 4;
                match (word(at / 2), store) {
                    (Some(word), Some(value)) => (0, self.set_cfg(word, at, value as u32)),
                    (Some(word), None) => (self.cfg(word, at).into(), Kicks::NONE),
                    (None, _) => RAZ_WI,
                }
            }
            // IGRPMODR, NSACR, ITARGETSR, SGIR and everything reserved.
            _ => RAZ_WI,
        }
    }

    fn bits(&self, word: usize, register: u32) -> u32 {
        let word = &self.words[word];
        match register {
            bank::IGROUPR => word.group1,
            bank::ISENABLER | bank::ICENABLER => word.enabled,
            bank::ISPENDR | bank::ICPENDR => word.pending(),
            _ => word.active,
        }
    }

    fn set_bits(&mut self, at: usize, register: u32, value: u32) -> Kicks {
        let word = &mut self.words[at];
        let changed = match register {
            bank::IGROUPR => {
                let flipped = word.group1 ^ value;
                word.group1 = value;
                // Those that were candidates are so in another group now, which may make a difference.
                self.forget(at, flipped);
                flipped
            }
            bank::ISENABLER => {
                let new = value & !word.enabled;
                word.enabled |= value;
                new
            }
            bank::ICENABLER => {
                let gone = value & word.enabled;
                word.enabled &= !value;
                gone
            }
            bank::ISPENDR => {
                let new = value & !word.latch;
                word.latch |= value;
                new
            }
            bank::ICPENDR => {
                let gone = value & (word.latch | word.lent);
                word.latch &= !value;
                word.lent &= !value;
                gone
            }
            bank::ISACTIVER => {
                let new = value & !word.active;
                word.active |= new;
                word.force |= new & word.listed;
                word.revoke &= !new;
                new
            }
            bank::ICACTIVER => {
                let gone = value & word.active;
                word.active &= !gone;
                word.force &= !gone;
                word.revoke |= gone & word.listed;
                gone
            }
            _ => 0,
        };
        self.changed(at, changed)
    }

    /// `IPRIORITYR`: one byte per interrupt, of which the implemented upper bits are kept.
    fn priorities(&mut self, at: usize, first: usize, width: u8, store: Option<u64>) -> (u64, Kicks) {
        let kept = u8::MAX << (8 - self.config.priority_bits);
        let mut bytes = [0; 8];
        let count = usize::from(width);
        let field = &mut self.words[at].priority[first..first + count];
        let Some(value) = store else {
            bytes[..count].copy_from_slice(field);
            return (u64::from_le_bytes(bytes), Kicks::NONE);
        };
        let mut changed = 0;
        for (index, (old, new)) in field.iter_mut().zip(value.to_le_bytes()).enumerate() {
            changed |= u32::from(*old != new & kept) << (first + index);
            *old = new & kept;
        }
        // A candidate may get above the guest's mask, so it counts as new.
        self.forget(at, changed);
        (0, self.changed(at, changed))
    }

    /// `ICFGR`: two bits for each of 16 interrupts, the upper one says edge.
    fn cfg(&self, word: usize, register: u32) -> u32 {
        let edge = self.words[word].edge >> (register % 2 * 16) & 0xffff;
        Bits(edge.into()).fold(0, |value, index| value | 2 << (2 * index))
    }

    fn set_cfg(&mut self, at: usize, register: u32, value: u32) -> Kicks {
        let shift = register % 2 * 16;
        if at < self.lanes.len() && shift == 0 {
            // SGIs are edge-triggered for good.
            return Kicks::NONE;
        }
        let edge = (0..16).fold(0, |edge, index| edge | (value >> (2 * index + 1) & 1) << (shift + index));
        let word = &mut self.words[at];
        let changed = (word.edge ^ edge) & 0xffff << shift;
        word.edge ^= changed;
        self.changed(at, changed)
    }
}
