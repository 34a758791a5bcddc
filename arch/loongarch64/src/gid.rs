//! Guest identifiers, which tag what a CPU's TLBs hold, given out by generation.
//!
//! Each CPU counts through its identifiers and, when it has given out the last, forgets all of them at once. A
//! vCPU remembers the identifier it has, on which CPU and in which generation. So nobody has to tell a CPU that
//! a vCPU moved away or that a guest ended, and a vCPU that comes back finds out that its identifier is stale.

use kernel::addr::CpuId;

/// `GSTAT.GID` has eight bits at most (bits 23 to 16).
const MOST_BITS: u32 = 8;

/// A vCPU's identifier: on which CPU and in which generation it is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// Generation 0 is none's.
    generation: u64,
    cpu: usize,
    gid: u8,
}

impl Tag {
    /// The value of `GSTAT.GID` and `GTLBC.TGID`. Zero, which is Fermata's own, before the first
    /// [`Gids::ensure`].
    pub const fn gid(self) -> u8 {
        self.gid
    }
}

/// What [`Gids::ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "after a wrap the TLBs hold entries of identifiers that are given out anew"]
pub enum Choice {
    /// The tag is still valid: what the TLBs hold under it is the vCPU's own.
    Same,
    /// A new identifier, which the TLBs do not know.
    Fresh,
    /// A new identifier, and all that were given out before are void: `invtlb 0x12` comes before its use.
    Wrapped,
}

/// The identifiers of one CPU.
#[derive(Clone, Debug)]
pub struct Gids {
    generation: u64,
    /// The last identifier that was given out in this generation.
    last: u8,
    /// The largest there is.
    most: u8,
}

impl Gids {
    /// All identifiers of `bits` bits (`GSTAT.GIDBIT`), but zero. The TLBs hold none of them.
    pub const fn new(bits: u32) -> Self {
        let bits = if bits < 1 {
            1
        } else if bits > MOST_BITS {
            MOST_BITS
        } else {
            bits
        };
        Self { generation: 1, last: 0, most: ((1u32 << bits) - 1) as u8 }
    }

    /// Makes `tag` valid on `cpu`, whose identifiers these are.
    pub fn ensure(&mut self, cpu: CpuId, tag: &mut Tag) -> Choice {
        if tag.cpu == cpu.0 && tag.generation == self.generation {
            return Choice::Same;
        }
        let choice = if self.last == self.most {
            self.generation += 1;
            self.last = 0;
            Choice::Wrapped
        } else {
            Choice::Fresh
        };
        self.last += 1;
        *tag = Tag { generation: self.generation, cpu: cpu.0, gid: self.last };
        choice
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_stays_while_its_generation_does() {
        let mut gids = Gids::new(2);
        let mut tags = [Tag::default(); 4];
        let ensure = |gids: &mut Gids, tag: &mut Tag| gids.ensure(CpuId(0), tag);
        for (n, tag) in tags[..3].iter_mut().enumerate() {
            assert_eq!(ensure(&mut gids, tag), Choice::Fresh);
            assert_eq!(usize::from(tag.gid()), n + 1);
            assert_eq!(ensure(&mut gids, tag), Choice::Same);
        }
        assert_eq!(ensure(&mut gids, &mut tags[3]), Choice::Wrapped);
        assert_eq!(tags[3].gid(), 1);
        assert_eq!(ensure(&mut gids, &mut tags[0]), Choice::Fresh, "its identifier is void");
        assert_eq!(tags[0].gid(), 2);
        assert_eq!(ensure(&mut gids, &mut tags[3]), Choice::Same);
    }

    #[test]
    fn any_number_of_bits_gives_an_identifier() {
        for bits in [0, 1, 8, 9, 63, u32::MAX] {
            let mut tag = Tag::default();
            assert_eq!(Gids::new(bits).ensure(CpuId(0), &mut tag), Choice::Fresh);
            assert_eq!(tag.gid(), 1, "{bits}");
        }
    }

    /// A CPU's TLB, by identifier: whose translations it holds.
    type Tlb = [Option<usize>; 256];
    const EMPTY: Tlb = [None; 256];

    proptest! {
        /// Whatever runs where, a vCPU never runs under an identifier under which the TLB holds another's
        /// translations, or its own of before it ran elsewhere: those may be out of date.
        #[test]
        fn nobody_finds_foreign_or_stale_translations(
            bits in 1u32..4,
            turns in prop::collection::vec((0usize..3, 0usize..6, any::<bool>()), 1..200),
        ) {
            let mut gids = [Gids::new(bits), Gids::new(bits), Gids::new(bits)];
            let mut tlbs = [EMPTY; 3];
            let mut tags = [Tag::default(); 6];
            let mut home = [None; 6];
            for (cpu, vcpu, forget) in turns {
                if forget {
                    tags[vcpu] = Tag::default();
                    home[vcpu] = None;
                }
                let choice = gids[cpu].ensure(CpuId(cpu), &mut tags[vcpu]);
                let gid = usize::from(tags[vcpu].gid());
                prop_assert!(gid >= 1 && gid < 1 << bits);
                if choice == Choice::Wrapped {
                    tlbs[cpu] = EMPTY;
                }
                let expected = if choice == Choice::Same { Some(vcpu) } else { None };
                prop_assert_eq!(tlbs[cpu][gid], expected);
                if choice == Choice::Same {
                    prop_assert_eq!(home[vcpu], Some(cpu), "it has been elsewhere since");
                }
                tlbs[cpu][gid] = Some(vcpu);
                home[vcpu] = Some(cpu);
            }
        }

        /// A vCPU that stays gets a new identifier only when a generation ends, once for each.
        #[test]
        fn who_stays_keeps_its_identifier(turns in prop::collection::vec(0usize..3, 1..100)) {
            let mut gids = Gids::new(2);
            let mut tags = [Tag::default(); 3];
            let mut changes = 0;
            for vcpu in turns {
                changes += usize::from(gids.ensure(CpuId(0), &mut tags[vcpu]) != Choice::Same);
            }
            prop_assert!(changes <= 3, "three identifiers are enough for three vCPUs");
        }
    }
}
