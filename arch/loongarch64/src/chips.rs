//! What all vCPUs of a guest share in hardware: its address space, its chips, its identity.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use arch_common::ram::{GuestRam, HeapTables, frozen};
use kernel::addr::{Gpa, Ticks};
use kernel::arch::{Chips, Plan, Rest, Start};
use kernel::dev::Level;
use kernel::exit::{Call, Kicks};
use kernel::fdt::{Found, Wanted};
use kernel::fp::Units;
use kernel::paging::Space;
use spin::Mutex;
use spin::mutex::TicketMutex;

use crate::arch::Loongarch64;
use crate::cpu::{ThisCpu, now};
use crate::cpucfg::CpuCfg;
use crate::facts::{Facts, facts};
use crate::fp;
use crate::furnish::{Furniture, furnish};
use crate::guest::{Guest, Model};
use crate::layout::{self, ISA, POWER, RTC};
use crate::ram::Window;
use crate::rtc::{Power, Rtc};
use crate::stage2::Stage2;
use crate::vintc::{Front, IocsrAccess, Outcome, Vintc};

/// What all vCPUs of one guest share.
pub struct GuestChips {
    vintc: TicketMutex<Vintc>,
    /// What is looked at of `vintc` without the lock.
    fronts: Arc<[Front]>,
    rtc: Mutex<Rtc>,
    space: Space<Stage2, HeapTables<Window>>,
    ram: GuestRam<Window>,
    model: Arc<Model>,
    counter_offset: u64,
    units: Units,
}

/// What an access to a device came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// No device of the architecture is there.
    Nothing,
    /// A load has this value, a store is done.
    Done {
        /// What a load returns.
        value: u64,
        /// Whose lines got a bit.
        kicks: Kicks,
    },
    /// A store asks for this.
    Call(Call),
}

impl GuestChips {
    /// `PGDL`: the root of stage 2.
    #[inline]
    pub fn root(&self) -> u64 {
        self.space.root().0
    }

    /// Whether `at` is in memory.
    pub fn is_ram(&self, at: Gpa) -> bool {
        self.ram.contains(at)
    }

    /// The lines of a vCPU's chips, as bits of `ESTAT.IS`. Whoever raises one rings for the vCPU afterwards, so it is
    /// seen after the bell was answered; that one went down is seen some time.
    #[inline]
    pub fn lines(&self, index: usize) -> u64 {
        self.fronts.get(index).map_or(0, Front::lines)
    }

    /// What of them concerns vCPU `index`, which exists, and is looked at without a lock.
    #[inline]
    pub fn front(&self, index: usize) -> &Front {
        &self.fronts[index]
    }

    /// Does a store of vCPU `index` to a whole register of the IPI; none if it has to be looked at more closely.
    #[inline]
    pub fn ipi_store(&self, index: usize, at: u64, value: u32) -> Option<Kicks> {
        self.vintc.lock().ipi_store(index, at, value)
    }

    /// Answers an access to an IOCSR.
    pub fn iocsr(&self, index: usize, at: u64, width: u8, store: Option<u64>) -> Outcome {
        let access = IocsrAccess { at, width, store };
        self.vintc.lock().iocsr(index, access, |at| self.could_start(at))
    }

    /// Whether `at` is where an instruction could be.
    fn could_start(&self, at: u64) -> bool {
        at.is_multiple_of(4) && self.is_ram(Gpa(at))
    }

    /// Answers an access to a device.
    pub fn access(&self, at: Gpa, width: u8, store: Option<u64>) -> Device {
        if let Some((value, kicks)) = self.vintc.lock().mmio(at.0, width, store) {
            return Device::Done { value, kicks };
        }
        let plain = |value| Device::Done { value, kicks: Kicks::NONE };
        if RTC.contains(&at.0) {
            let now = now().0.wrapping_sub(self.counter_offset);
            return plain(self.rtc.lock().access(at.0 - RTC.start, width, store, now));
        }
        if POWER.contains(&at.0) {
            let offset = at.0 - POWER.start;
            return match store.and_then(|value| Power::of(offset, value)) {
                Some(Power::Off) => Device::Call(Call::PowerOff),
                Some(Power::Reset) => Device::Call(Call::Reset),
                None => plain(0),
            };
        }
        if ISA.contains(&at.0) {
            // A bus on which nobody answers.
            return plain(u64::MAX >> (64 - 8 * u32::from(width.clamp(1, 8))));
        }
        Device::Nothing
    }
}

/// The FP units that the guest is to have: those it asks for, or all there are.
fn asked_for(plan: &Plan<'_>, facts: &Facts) -> Result<Units, String> {
    let node = plan.domain.node;
    if plan.domain.sve.is_some() {
        let found = Found::Value(node.property("sve").unwrap_or_default());
        return Err(node.complain("sve", found, Wanted::Text("no such property on LoongArch")).to_string());
    }
    let Some(value) = plan.domain.fp_units else { return Ok(facts.units) };
    let text = value.strings().collect::<Vec<_>>().join("+");
    fp::parse(&text, facts.units)
        .map_err(|error| alloc::format!("{}: fermata,fp-units: {error}", node.path()))
}

/// Puts kernel, RAM disk, EFI tables and device tree into a guest's memory.
fn fill(plan: &Plan<'_>, ram: &GuestRam<Window>, facts: &Facts) -> Result<Start, String> {
    let domain = plan.domain;
    // SAFETY: modules were reserved when memory was counted, so no guest has them and nobody writes them; the window
    // reaches all memory.
    let module = |region| unsafe { frozen::<Window>(region) };
    let guest = kernel::tree::Guest {
        cpus: domain.cpus,
        memory: domain.memory,
        bootargs: domain.kernel.bootargs,
        initrd: None,
    };
    let initrd = domain.ramdisk.map(|ramdisk| module(ramdisk.region));
    let kernel = module(domain.kernel.region);
    let furniture = furnish(&guest, facts.hz as u32, kernel, initrd).map_err(|error| error.to_string())?;
    ram.clear();
    for (at, bytes) in &furniture.files {
        ram.write(*at, bytes);
    }
    let [_, _, system_table] = Furniture::ARGUMENTS;
    Ok(Start { pc: furniture.entry, arg: system_table })
}

impl Chips<Loongarch64> for GuestChips {
    type Error = String;

    fn build(plan: &Plan<'_>) -> Result<(Arc<Self>, Start), String> {
        let facts = facts();
        let domain = plan.domain;
        let units = asked_for(plan, facts)?;
        // SAFETY: the core took this memory from the free memory of the machine for this guest alone, and the window
        // reaches all memory.
        let ram = unsafe { GuestRam::new(plan.ram, &layout::RAM) };
        let ram = ram.ok_or("memory: more than a guest's addresses have room for")?;
        let space = ram.space(Stage2::new(facts.null))?;
        let start = fill(plan, &ram, facts)?;
        let [_, command_line, _] = Furniture::ARGUMENTS;
        let model = Model {
            prcfg: facts.prcfg,
            asid_bits: facts.asid_bits,
            cpucfg: CpuCfg::new(&facts.cpucfg, units, facts.hz as u32),
            hz: facts.hz,
            command_line: Gpa(command_line),
        };
        // A machine without a clock leaves its guests in 1970.
        let seconds = facts.epoch.unwrap_or(0) + plan.now.0 / facts.hz;
        let vintc = Vintc::new(domain.cpus as usize);
        let chips = Self {
            fronts: vintc.fronts(),
            vintc: TicketMutex::new(vintc),
            rtc: Mutex::new(Rtc::new(seconds, facts.hz)),
            space,
            ram,
            model: Arc::new(model),
            counter_offset: plan.now.0,
            units,
        };
        // The tables are complete before any CPU walks them.
        crate::csr::barrier();
        Ok((Arc::new(chips), start))
    }

    fn guest(&self, index: usize) -> Guest {
        Guest::new(index, self.counter_offset, Arc::clone(&self.model))
    }

    fn fp_limit(&self) -> Units {
        self.units
    }

    fn set_line(&self, line: u32, level: Level) -> Kicks {
        self.vintc.lock().set_line(line, level)
    }

    fn timer_fired(&self, _: &mut Guest) {
        // The hardware raises the timer's interrupt in the guest; no interrupt of the root tells of it.
    }

    fn update_timers(&self, _: &mut Guest, _: Ticks) -> Kicks {
        // No timer is emulated.
        Kicks::NONE
    }

    fn powered_off(&self, guest: &mut Guest) -> Kicks {
        self.vintc.lock().park(guest.index);
        Kicks::NONE
    }

    fn rest(&self, guest: &mut Guest) -> (Rest, Kicks) {
        let woken = guest.wakes(self.lines(guest.index), now());
        (if woken { Rest::Broken } else { Rest::Sound }, Kicks::NONE)
    }

    fn is_memory(&self, at: Gpa) -> bool {
        self.is_ram(at)
    }

    fn retire(&self, _: &mut ThisCpu) {
        // TLBs know a guest by identifiers that are not given out again before they have been flushed (`gid`): nobody
        // can reach what they still hold.
    }
}
