extern crate std;

use std::collections::HashMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const CPUS: usize = 4;

/// Which guest's translations each CPU may have cached, under each number.
#[derive(Default)]
struct Machine {
    cached: HashMap<(usize, u16), usize>,
    /// The guest on each CPU.
    running: HashMap<usize, usize>,
    held: Vec<Vmid>,
}

impl Machine {
    /// Every CPU caches something under the number it runs with.
    fn cache(&mut self, held: &[Vmid]) {
        for (&cpu, &guest) in &self.running {
            let number = held[guest].number();
            let before = self.cached.insert((cpu, number), guest);
            assert!(before.is_none_or(|before| before == guest), "two guests under {number} on CPU {cpu}");
        }
    }
}

proptest! {
    #[test]
    fn no_guest_sees_what_another_has_cached(
        turns in prop::collection::vec((0..CPUS, 0usize..12), 0..200),
        count in CPUS as u32 + 2..16,
    ) {
        let mut vmids = Vmids::<CPUS>::with_count(count);
        let mut machine = Machine { held: [Vmid::NONE; 12].to_vec(), ..Machine::default() };
        let mut loaded = [0u16; CPUS];
        for (cpu, guest) in turns {
            let (vmid, flush) = vmids.assign(CpuId(cpu), machine.held[guest]);
            if flush == Flush::Everything {
                machine.cached.clear();
                // The others go on with what their registers hold.
                let held = machine.held.clone();
                machine.running.remove(&cpu);
                machine.cache(&held);
            }
            prop_assert!(vmid.number() != 0 && u32::from(vmid.number()) < count);
            machine.held[guest] = vmid;
            machine.running.insert(cpu, guest);
            loaded[cpu] = vmid.number();
            let held = machine.held.clone();
            machine.cache(&held);
            for (&cpu, &guest) in &machine.running {
                // Flushing under the number the guest holds reaches every CPU it is on.
                prop_assert_eq!(loaded[cpu], machine.held[guest].number());
                for (&other, &elsewhere) in &machine.running {
                    prop_assert_eq!(loaded[cpu] == loaded[other], guest == elsewhere);
                }
            }
        }
    }

    #[test]
    fn guests_that_fit_never_flush(turns in prop::collection::vec((0..CPUS, 0usize..12), 0..100)) {
        let mut vmids = Vmids::<CPUS>::with_count(13);
        let mut held = [Vmid::NONE; 12];
        for (cpu, guest) in turns {
            let (vmid, flush) = vmids.assign(CpuId(cpu), held[guest]);
            prop_assert_eq!(flush, Flush::Nothing);
            prop_assert!(held[guest] == Vmid::NONE || held[guest] == vmid);
            held[guest] = vmid;
        }
    }
}

#[test]
fn a_new_generation_begins_when_they_run_out() {
    let mut vmids = Vmids::<1>::new(VmidBits::Eight);
    let mut last = Vmid::NONE;
    for number in 1..256 {
        let (vmid, flush) = vmids.assign(CpuId(0), Vmid::NONE);
        assert_eq!((vmid.number(), flush), (number, Flush::Nothing));
        last = vmid;
    }
    let (vmid, flush) = vmids.assign(CpuId(0), Vmid::NONE);
    assert_eq!((vmid.number(), flush), (1, Flush::Everything));
    // The last one was on the CPU, so it keeps its number, but the CPU has left it: it gets another.
    let (renewed, flush) = vmids.assign(CpuId(0), last);
    assert_eq!((renewed.number(), flush), (2, Flush::Nothing));
}
