//! What a trapped load or store moves between a register and memory.

/// How a loaded value fills a register of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// Upper bits are zero.
    Zero,
    /// Upper bits repeat the sign.
    Sign,
    /// Bits up to the 32nd repeat the sign, those above are zero: AArch64 loads into a W register.
    SignWord,
}

impl Extend {
    /// The low `width` bytes of `value`, extended to 64 bits.
    #[inline]
    pub fn fill(self, value: u64, width: u8) -> u64 {
        let unused = 64 - (u32::from(width) * 8).clamp(8, 64);
        let signed = (value << unused) as i64 >> unused;
        match self {
            Extend::Zero => value << unused >> unused,
            Extend::Sign => signed as u64,
            Extend::SignWord => signed as u32 as u64,
        }
    }
}

/// A load that waits for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Destination register, as the architecture numbers them.
    pub register: u8,
    /// Bytes loaded.
    pub width: u8,
    /// How the value fills the register.
    pub extend: Extend,
}

/// One access of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A load into a register.
    Load(Load),
    /// A store of the low `width` bytes of a register.
    Store {
        /// Source register, as the architecture numbers them.
        register: u8,
        /// Bytes stored.
        width: u8,
    },
}

impl Transfer {
    /// Bytes accessed.
    #[inline]
    pub fn width(&self) -> u8 {
        match *self {
            Transfer::Load(load) => load.width,
            Transfer::Store { width, .. } => width,
        }
    }

    /// Whether `at` is a multiple of the width.
    #[inline]
    pub fn is_aligned(&self, at: u64) -> bool {
        at.is_multiple_of(u64::from(self.width()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fill_a_register_as_told() {
        for (extend, value, width, filled) in [
            (Extend::Zero, 0x1234_ffff, 2, 0xffff),
            (Extend::Zero, u64::MAX, 8, u64::MAX),
            (Extend::Sign, 0x80, 1, 0xffff_ffff_ffff_ff80),
            (Extend::Sign, 0xff7f, 1, 0x7f),
            (Extend::Sign, 0x8000_0000, 4, 0xffff_ffff_8000_0000),
            (Extend::SignWord, 0x80, 1, 0xffff_ff80),
            (Extend::SignWord, 0x7fff, 2, 0x7fff),
        ] {
            assert_eq!(extend.fill(value, width), filled, "{extend:?} of {value:#x}, {width} bytes");
        }
    }
}
