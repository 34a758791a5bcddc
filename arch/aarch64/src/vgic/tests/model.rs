//! A GICv3 without list registers: one struct per interrupt, everything takes effect at once.

use alloc::vec;
use alloc::vec::Vec;

/// One interrupt.
#[derive(Clone, Debug, Default)]
pub(super) struct Irq {
    pub(super) enabled: bool,
    pub(super) group1: bool,
    pub(super) priority: u8,
    pub(super) edge: bool,
    pub(super) line: bool,
    /// Pending until taken or cleared.
    pub(super) latch: bool,
    /// Pending by the physical interrupt.
    pub(super) fired: bool,
    pub(super) active: bool,
    /// Its end ends the physical interrupt too.
    pub(super) backed: bool,
    pub(super) target: Option<usize>,
}

impl Irq {
    pub(super) fn pending(&self) -> bool {
        self.latch || self.fired || self.line && !self.edge
    }

    fn take(&mut self) {
        self.backed = self.fired;
        self.latch = false;
        self.fired = false;
        self.active = true;
    }

    pub(super) fn end(&mut self) {
        self.active = false;
        self.backed = false;
    }

    pub(super) fn drive(&mut self, high: bool) {
        self.latch |= self.edge && high && !self.line;
        self.line = high;
    }
}

/// All interrupts of a VM.
pub(super) struct Model {
    pub(super) private: Vec<Vec<Irq>>,
    pub(super) shared: Vec<Irq>,
    pub(super) groups: [bool; 2],
}

impl Model {
    pub(super) fn new(vcpus: usize, spis: usize) -> Self {
        let private = |vcpu, intid| Irq { edge: intid < 16, target: Some(vcpu), ..Irq::default() };
        Self {
            private: (0..vcpus).map(|vcpu| (0..32).map(|intid| private(vcpu, intid)).collect()).collect(),
            shared: vec![Irq { target: Some(0), ..Irq::default() }; spis],
            groups: [false; 2],
        }
    }

    pub(super) fn irq(&mut self, vcpu: usize, intid: u32) -> &mut Irq {
        match intid.checked_sub(32) {
            None => &mut self.private[vcpu][intid as usize],
            Some(spi) => &mut self.shared[spi as usize],
        }
    }

    /// Interrupts that are forwarded to a vCPU.
    pub(super) fn forwarded(&self, vcpu: usize) -> impl Iterator<Item = &Irq> {
        let here = move |irq: &&Irq| irq.target == Some(vcpu) && !irq.active && irq.pending() && irq.enabled;
        self.private[vcpu]
            .iter()
            .chain(&self.shared)
            .filter(here)
            .filter(|irq| self.groups[usize::from(irq.group1)])
    }

    /// The guest acknowledged an interrupt, which must have been forwarded to it.
    pub(super) fn ack(&mut self, vcpu: usize, intid: u32) {
        let groups = self.groups;
        let irq = self.irq(vcpu, intid);
        let forwarded = irq.target == Some(vcpu)
            && !irq.active
            && irq.pending()
            && irq.enabled
            && groups[usize::from(irq.group1)];
        assert!(forwarded, "vCPU {vcpu} got {intid} which is {irq:?}");
        irq.take();
    }
}
