//! Emulated devices: values that answer a guest's accesses and drive an interrupt line.

pub mod ns16550;
pub mod pl011;

pub use crate::ring::Full;

/// The state of an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing to report.
    Low,
    /// The device asks for attention until its cause is gone.
    High,
}

/// What the far end of an emulated serial line is plugged into.
pub trait Port {
    /// Takes a byte the guest sent, or refuses it; after a refusal the device is polled once there is room.
    fn put(&mut self, byte: u8) -> Result<(), Full>;
    /// The next byte for the guest.
    fn get(&mut self) -> Option<u8>;
    /// Whether bytes for the guest were dropped since this was last asked.
    fn take_overrun(&mut self) -> bool {
        false
    }
}

/// A UART as a guest sees it: registers on one side, a port on the other.
pub trait Uart {
    /// Answers an access of `width` bytes at `offset` bytes from its start: a store if it has a value, else a load.
    fn access(&mut self, offset: u64, width: u8, store: Option<u64>, port: &mut impl Port) -> u64;
    /// Looks at the port: there is input, or room for output.
    fn poll(&mut self, port: &mut impl Port);
    /// The state of its interrupt line.
    fn level(&self) -> Level;
}

/// A UART's FIFO of up to `N` entries.
pub(crate) struct Fifo<T, const N: usize> {
    entries: [T; N],
    head: usize,
    len: usize,
}

impl<T: Copy + Default, const N: usize> Fifo<T, N> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { entries: [T::default(); N], head: 0, len: 0 }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends an entry if there is room for it.
    pub(crate) fn push(&mut self, entry: T) {
        if self.len < N {
            self.entries[(self.head + self.len) % N] = entry;
            self.len += 1;
        }
    }

    /// Takes the oldest entry.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let first = self.first()?;
        self.head = (self.head + 1) % N;
        self.len -= 1;
        Some(first)
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    fn first(&self) -> Option<T> {
        (self.len > 0).then(|| self.entries[self.head % N])
    }
}

impl<const N: usize> Fifo<u8, N> {
    /// Sends what the port takes.
    pub(crate) fn drain(&mut self, port: &mut impl Port) {
        while let Some(byte) = self.first()
            && port.put(byte).is_ok()
        {
            self.pop();
        }
    }
}
