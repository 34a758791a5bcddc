//! Inter-processor interrupts of one vCPU: status bits, and mailboxes that others write to.
//!
//! Register numbers and fields: Loongson 3A5000 user manual, chapter 10.

// Offsets from 0x1000.
const STATUS: u64 = 0x00;
const ENABLE: u64 = 0x04;
const SET: u64 = 0x08;
const CLEAR: u64 = 0x0c;
pub(super) const MBUF0: u64 = 0x20;
const MBUF_END: u64 = 0x3f;
/// The IOCSR address of `IPI_SEND`, which takes effect for the vCPU it names.
pub(super) const SEND_AT: u64 = 0x1040;

/// Where in `IPI_SEND`, `MAIL_SEND` and `ANY_SEND` the number of the target is: ten bits.
const TARGET_SHIFT: u32 = 16;
const TARGET: u64 = 0x3ff;

/// Which vCPU a value written to `IPI_SEND`, `MAIL_SEND` or `ANY_SEND` is for.
pub(super) fn target(value: u64) -> usize {
    (value >> TARGET_SHIFT & TARGET) as usize
}

/// The status bit that a value written to `IPI_SEND` sets.
pub(super) fn action(value: u32) -> u32 {
    1 << (value & 0x1f)
}

/// The store to some vCPU's registers that a value written to `MAIL_SEND` or `ANY_SEND` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) to: usize,
    pub(super) data: u32,
    /// The bits of the register that are to change.
    pub(super) lanes: u32,
}

impl Parcel {
    pub(super) fn new(value: u64) -> Self {
        // Bits 30 to 27: a set bit leaves the byte alone.
        let kept = value >> 27 & 0xf;
        let lanes =
            (0..4).filter(|byte| kept >> byte & 1 == 0).fold(0, |lanes, byte| lanes | 0xff << (8 * byte));
        Self { to: target(value), data: (value >> 32) as u32, lanes }
    }
}

/// The registers of one vCPU.
#[derive(Clone, Default)]
pub(super) struct Ipi {
    status: u32,
    enabled: u32,
    mailboxes: [u32; 8],
}

impl Ipi {
    /// Whether the interrupt line is up.
    pub(super) fn is_up(&self) -> bool {
        self.status & self.enabled != 0
    }

    /// What others wrote to mailbox 0.
    pub(super) fn mail(&self) -> u64 {
        u64::from(self.mailboxes[0]) | u64::from(self.mailboxes[1]) << 32
    }

    /// The first two registers.
    pub(super) fn first_two(&self) -> u64 {
        u64::from(self.status) | u64::from(self.enabled) << 32
    }

    /// The status bits.
    pub(super) fn status(&self) -> u32 {
        self.status
    }

    /// Sets status bits.
    pub(super) fn post(&mut self, actions: u32) {
        self.status |= actions;
    }

    /// Clears all status bits.
    pub(super) fn clear(&mut self) {
        self.status = 0;
    }

    /// Reads the register at `offset`.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            STATUS => self.status,
            ENABLE => self.enabled,
            MBUF0..=MBUF_END => self.mailboxes[(offset - MBUF0) as usize / 4],
            _ => 0,
        }
    }

    /// Writes the `lanes` of the register at `offset`; `value` has no other bits.
    pub(super) fn write(&mut self, offset: u64, value: u32, lanes: u32) {
        match offset {
            ENABLE => self.enabled = self.enabled & !lanes | value,
            SET => self.status |= value,
            CLEAR => self.status &= !value,
            MBUF0..=MBUF_END => {
                let half = &mut self.mailboxes[(offset - MBUF0) as usize / 4];
                *half = *half & !lanes | value;
            }
            _ => {}
        }
    }
}
