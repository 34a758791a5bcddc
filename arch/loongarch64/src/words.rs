//! Accesses to registers of 32 bits, however wide and wherever they are.

/// `old` with `lanes` of `value`, which has no other bits.
pub(crate) fn merge(old: u32, value: u32, lanes: u32) -> u32 {
    old & !lanes | value
}

/// Four neighbours of an array of byte-wide registers.
pub(crate) fn four(bytes: &[u8], first: u64) -> u32 {
    let rest = bytes.get(first as usize..).unwrap_or(&[]);
    rest.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// Writes `lanes` of four neighbours.
pub(crate) fn set_four(bytes: &mut [u8], first: u64, value: u32, lanes: u32) {
    let rest = bytes.get_mut(first as usize..).unwrap_or(&mut []);
    if let Some(four) = rest.first_chunk_mut() {
        *four = merge(u32::from_le_bytes(*four), value, lanes).to_le_bytes();
    }
}

/// An access as the registers see it that it touches, of which an unaligned one has up to three.
pub(crate) struct Words {
    first: u64,
    count: u64,
    shift: u32,
    mask: u64,
}

impl Words {
    /// An access of `width` bytes, of which there are 1 to 8.
    pub(crate) fn new(at: u64, width: u8) -> Self {
        let width = u64::from(width.clamp(1, 8));
        let offset = at % 4;
        Self {
            first: at - offset,
            count: (offset + width).div_ceil(4),
            shift: 8 * offset as u32,
            mask: u64::MAX >> (64 - 8 * width),
        }
    }

    /// The addresses of the registers, with where in 96 bits each is.
    fn addresses(&self) -> impl Iterator<Item = (u64, u32)> + use<> {
        let first = self.first;
        (0..self.count).map(move |n| (first.wrapping_add(4 * n), 32 * n as u32))
    }

    /// What a load returns, when `read` returns the register at an address.
    pub(crate) fn load(&self, mut read: impl FnMut(u64) -> u32) -> u64 {
        let all = self.addresses().fold(0, |all, (at, place)| all | u128::from(read(at)) << place);
        (all >> self.shift) as u64 & self.mask
    }

    /// Hands the parts of a store to `write`: address, value, and the lanes that it has.
    pub(crate) fn store(&self, value: u64, mut write: impl FnMut(u64, u32, u32)) {
        let value = u128::from(value & self.mask) << self.shift;
        let lanes = u128::from(self.mask) << self.shift;
        for (at, place) in self.addresses() {
            write(at, (value >> place) as u32, (lanes >> place) as u32);
        }
    }
}
