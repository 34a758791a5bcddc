//! What a guest is given of SVE: the vector length it asked for, if every CPU it may run on can keep the promise.

use alloc::string::String;
use alloc::vec::Vec;

use kernel::addr::CpuId;
use kernel::domain::{Domain, VectorLength};
use kernel::fdt::{Found, Wanted};
use kernel::sched::CpuSet;

use crate::fp::{Length, Lengths};

/// What one CPU has of SVE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sve {
    /// Its vector lengths; none without SVE.
    pub lengths: Lengths,
    /// Its `ID_AA64ZFR0_EL1`.
    pub zfr0: u64,
}

/// What a guest is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lengths that its vectors can have.
    pub lengths: Lengths,
    /// `ID_AA64ZFR0_EL1` of each CPU it may run on.
    pub zfr0: Vec<u64>,
}

impl Grant {
    /// Grants `asked` to a guest that runs on those of `cpus` that are in `affinity`.
    ///
    /// # Errors
    /// These CPUs have no such vectors, or do not agree about them. The lengths that it could have instead.
    pub fn new(asked: VectorLength, affinity: CpuSet, cpus: &[Sve]) -> Result<Self, Lengths> {
        let own: Vec<&Sve> = affinity.iter().filter_map(|CpuId(n)| cpus.get(n)).collect();
        let possible = Lengths::shared(own.iter().map(|cpu| cpu.lengths));
        let limit = match asked {
            VectorLength::Longest => possible.longest(),
            VectorLength::Bits(bits) => Length::from_bits(bits).filter(|length| possible.contains(*length)),
        };
        let limit = limit.ok_or(possible)?;
        Ok(Self { lengths: possible.up_to(limit), zfr0: own.iter().map(|cpu| cpu.zfr0).collect() })
    }

    /// Grants what the description of a guest asks for.
    ///
    /// # Errors
    /// A message that lists what it could ask for.
    pub fn of(domain: &Domain<'_>, cpus: &[Sve]) -> Result<Option<Self>, String> {
        let Some(asked) = domain.sve else { return Ok(None) };
        Self::new(asked, domain.affinity, cpus).map(Some).map_err(|possible| refusal(domain, asked, possible))
    }
}

fn refusal(domain: &Domain<'_>, asked: VectorLength, possible: Lengths) -> String {
    let found = match asked {
        VectorLength::Longest => Found::Value(domain.node.property("sve").unwrap_or_default()),
        VectorLength::Bits(bits) => Found::Number(bits),
    };
    let lengths: Vec<u64> = possible.iter().map(Length::bits).collect();
    // Without SVE, zero is all that may be asked for.
    let wanted = Wanted::OneOf(if lengths.is_empty() { &[0] } else { &lengths });
    let reason = if lengths.is_empty() { " (not every CPU it may run on has SVE)" } else { "" };
    alloc::format!("{}{reason}", domain.node.complain("sve", found, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(bits: &[u64], zfr0: u64) -> Sve {
        Sve { lengths: bits.iter().filter_map(|bits| Length::from_bits(*bits)).collect(), zfr0 }
    }

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        cpus.iter().for_each(|n| set.insert(CpuId(*n)));
        set
    }

    #[test]
    fn a_guest_gets_what_all_its_cpus_have() {
        let cpus = [cpu(&[128, 256, 512], 7), cpu(&[128, 256], 5), cpu(&[], 0), cpu(&[128, 256, 512], 3)];
        let bits = |asked, affinity: &[usize]| {
            let grant = Grant::new(asked, set(affinity), &cpus);
            grant.map(|grant| (grant.lengths.longest().map_or(0, Length::bits), grant.zfr0))
        };
        use VectorLength::{Bits, Longest};
        assert_eq!(bits(Bits(512), &[0, 3]), Ok((512, Vec::from([7, 3]))));
        assert_eq!(bits(Longest, &[0, 1]), Ok((256, Vec::from([7, 5]))));
        assert_eq!(bits(Bits(128), &[0, 1, 3]), Ok((128, Vec::from([7, 5, 3]))));
        assert_eq!(bits(Bits(512), &[0, 1]), Err(cpus[1].lengths));
        assert_eq!(bits(Bits(384), &[0]), Err(cpus[0].lengths));
        assert_eq!(bits(Bits(100), &[0]), Err(cpus[0].lengths));
        assert_eq!(bits(Bits(128), &[0, 2]), Err(Lengths::NONE));
        assert_eq!(bits(Longest, &[2]), Err(Lengths::NONE));
        assert_eq!(bits(Longest, &[]), Err(Lengths::NONE));
    }
}
