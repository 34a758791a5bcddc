//! The registers in memory.

use alloc::boxed::Box;
use alloc::vec;

use kernel::fp::Units;

use super::Status;

/// How many F, VR and XR registers there are.
pub const REGISTERS: usize = 32;

/// How much of each register something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// F: the low 64 bits.
    Fpu,
    /// VR: the low 128 bits.
    Lsx,
    /// XR: all 256 bits.
    Lasx,
}

impl Width {
    /// All widths, each twice the one before.
    pub const ALL: [Self; 3] = [Self::Fpu, Self::Lsx, Self::Lasx];

    /// The widest view among `units`.
    pub const fn of(units: Units) -> Option<Self> {
        // By the bits of FPU, LSX and LASX.
        const VIEWS: [Option<Width>; 8] = {
            let (fpu, lsx, lasx) = (Some(Width::Fpu), Some(Width::Lsx), Some(Width::Lasx));
            [None, fpu, lsx, lsx, lasx, lasx, lasx, lasx]
        };
        VIEWS[(units.bits() & 7) as usize]
    }

    /// The view and those below it, without which it does not work.
    pub const fn units(self) -> Units {
        // Their bits are in the order of the widths.
        Units::from_bits_retain((2 << self as u8) - 1)
    }

    /// How many 64-bit words of each register it has.
    pub const fn words(self) -> usize {
        1 << self as usize
    }

    /// How many lines of memory all registers take in this form.
    pub const fn lines(self) -> usize {
        REGISTERS * self.words() / Line::WORDS
    }

    /// How many bytes all registers have.
    pub const fn bytes(self) -> u64 {
        (REGISTERS * self.words() * 8) as u64
    }
}

/// Memory for four F registers, two VR registers or one XR register. The alignment keeps each register within one
/// cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Line(pub [u64; Line::WORDS]);

impl Line {
    /// How many 64-bit words a line has.
    pub const WORDS: usize = 4;
    /// All zeroes.
    pub const ZERO: Self = Self([0; Self::WORDS]);
}

/// The registers, as dense as the widest view they were ever saved through lets them be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What lies in `lines`, without gaps. The bits of the registers above it are zero.
    pub form: Width,
    /// Room for the widest form the guest may need.
    pub lines: Box<[Line]>,
}

impl Image {
    /// All registers zero, with room for `limit`.
    pub fn new(limit: Units) -> Self {
        let lines = Width::of(limit).map_or(0, Width::lines);
        Self { form: Width::Fpu, lines: vec![Line::ZERO; lines].into_boxed_slice() }
    }

    /// 64 bits of register `n`, the lowest being word 0.
    pub fn word(&self, n: usize, word: usize) -> u64 {
        if word >= self.form.words() {
            return 0;
        }
        let at = n * self.form.words() + word;
        self.lines.get(at / Line::WORDS).map_or(0, |line| line.0[at % Line::WORDS])
    }

    /// How many bytes a load or a save of the views among `units` moves, the image having the form it has: registers, and
    /// the [`Status`] of all of them.
    #[inline]
    pub fn moved(&self, units: Units) -> u64 {
        MOVED[self.form as usize][(units.bits() & 7) as usize].into()
    }
}

/// [`Image::moved`], by form and by the bits of FPU, LSX and LASX.
const MOVED: [[u16; 8]; 3] = {
    let mut moved = [[0; 8]; 3];
    let mut form = 0;
    while form < moved.len() {
        let mut views = 1;
        while views < moved[form].len() {
            if let Some(width) = Width::of(Units::from_bits_retain(views as u8)) {
                let narrower = if (width as usize) < form { width } else { Width::ALL[form] };
                moved[form][views] = narrower.bytes() as u16 + size_of::<Status>() as u16;
            }
            views += 1;
        }
        form += 1;
    }
    moved
};

/// The registers of LBT, in the layout that the leaf loads and stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lbt {
    /// SCR0-3.
    pub scr: [u64; 4],
    /// CF, PF, AF, ZF, SF and OF, where `X86MFFLAG` puts them.
    pub eflags: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp::{FPU, LSX, VECTORS};

    #[test]
    fn a_view_has_those_below_it() {
        assert_eq!(Width::ALL.map(Width::units), [FPU, FPU | LSX, VECTORS]);
        assert_eq!(Width::ALL.map(|width| Width::of(width.units())), Width::ALL.map(Some));
        assert_eq!(Width::of(Units::empty()), None);
    }

    #[test]
    fn forms_have_the_sizes_the_leaf_expects() {
        assert_eq!(Width::ALL.map(Width::bytes), [256, 512, 1024]);
        assert_eq!(Width::ALL.map(Width::lines), [8, 16, 32]);
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (32, 32));
        assert_eq!(size_of::<Lbt>(), 40);
    }

    #[test]
    fn memory_is_for_what_the_guest_may_have() {
        let bytes = |limit| Image::new(limit).lines.len() * size_of::<Line>();
        assert_eq!([Units::empty(), FPU, FPU | LSX, VECTORS].map(bytes), [0, 256, 512, 1024]);
    }

    #[test]
    fn a_wide_load_of_a_narrow_image_moves_what_the_image_has() {
        let mut image = Image::new(VECTORS);
        let mut moved = |form| {
            image.form = form;
            assert_eq!(image.moved(Units::empty()), 0);
            Width::ALL.map(|width| image.moved(width.units()) - size_of::<Status>() as u64)
        };
        assert_eq!(moved(Width::Fpu), [256, 256, 256]);
        assert_eq!(moved(Width::Lsx), [256, 512, 512]);
        assert_eq!(moved(Width::Lasx), [256, 512, 1024]);
    }

    #[test]
    fn words_are_found_in_every_form() {
        let mut image = Image::new(VECTORS);
        for form in Width::ALL {
            image.form = form;
            let words = image.lines.iter_mut().flat_map(|line| &mut line.0);
            words.zip(0..).for_each(|(word, n)| *word = n);
            assert_eq!(image.word(3, 0), 3 * form.words() as u64);
            assert_eq!(image.word(31, form.words() - 1), 32 * form.words() as u64 - 1);
            assert_eq!(image.word(5, form.words()), 0);
        }
        assert_eq!(Image::new(Units::empty()).word(31, 0), 0);
    }
}
