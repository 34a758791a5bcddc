//! Emulated devices: values that answer a guest's accesses and drive an interrupt line.

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
