//! What all vCPUs of a guest share in hardware: its address space, its interrupt controller, its identity.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use arch_common::ram::{GuestRam, HeapTables, frozen};
use kernel::addr::{CpuId, Gpa, Hpa, Ticks};
use kernel::arch::{Chips, Plan, Rest, Start};
use kernel::dev::Level;
use kernel::exit::Kicks;
use kernel::fdt::{Found, Wanted};
use kernel::paging::Space;
use spin::Mutex;

use crate::arch::Aarch64;
use crate::cpu::{ThisCpu, now};
use crate::facts::{Facts, facts};
use crate::fp::Lengths;
use crate::gic::{CpuInterface, PPI_VIRTUAL_TIMER};
use crate::guest::Guest;
use crate::idregs::IdRegs;
use crate::image::Image;
use crate::layout::{self, GICD, GICR, GICR_SIZE};
use crate::ram::Identity;
use crate::regs::{Readable, VTTBR_EL2, Writeable, invalidate_guest, isb};
use crate::stage2::{Caching, IPA_BITS, Stage2, vttbr};
use crate::sve::Grant;
use crate::sysreg::physical_timer_line;
use crate::tree;
use crate::vgic::{Config, Frame, Vgic};

/// Shared interrupts of a guest: more than it has devices.
const SPIS: usize = 64;
/// Nobody ran on this CPU yet.
const NOBODY: u8 = u8::MAX;

/// What all vCPUs of one guest share.
pub struct GuestChips {
    gic: Mutex<Vgic>,
    space: Space<Stage2, HeapTables<Identity>>,
    vttbr: u64,
    facts: &'static Facts,
    ids: IdRegs,
    /// The lengths of its SVE vectors.
    sve: Lengths,
    counter_offset: u64,
    cpus: u32,
    ram: GuestRam<Identity>,
    /// By physical CPU: the vCPU that ran there last. Two vCPUs share a VMID but not their tables.
    ran: Vec<AtomicU8>,
}

impl GuestChips {
    /// What the guest reads in ID registers.
    pub fn ids(&self) -> &IdRegs {
        &self.ids
    }

    /// `VTTBR_EL2`.
    #[inline]
    pub fn vttbr(&self) -> u64 {
        self.vttbr
    }

    /// `HCR_EL2`.
    #[inline]
    pub fn hcr(&self) -> u64 {
        self.facts.hcr
    }

    /// vCPU `index` is about to run on `cpu`; whether another one of this guest did last.
    pub fn ran_here(&self, cpu: CpuId, index: usize) -> bool {
        let Some(ran) = self.ran.get(cpu.0) else { return true };
        // Only this CPU writes its entry.
        let last = ran.load(Ordering::Relaxed);
        ran.store(index as u8, Ordering::Relaxed);
        last != index as u8
    }

    /// Whether `at` is in memory.
    pub fn is_ram(&self, at: Gpa) -> bool {
        self.space.lookup(at).is_some()
    }

    /// The instruction word at a guest-physical address.
    pub fn read_word(&self, at: Gpa) -> Option<u32> {
        self.ram.read_word(at)
    }

    /// vCPU `from` wrote `ICC_SGI1R_EL1`.
    pub fn sgi(&self, from: usize, value: u64) -> Kicks {
        self.gic.lock().sgi(from, value)
    }

    /// Whether `at` is where the interrupt controller's pending and active bits are: ISPENDR, ICPENDR, ISACTIVER
    /// and ICACTIVER of the distributor, or of the second frame of a redistributor (IHI0069 12.8, 12.11).
    pub fn shows_state(at: Gpa) -> bool {
        let offset = at.0 & 0xffff;
        (0x200..0x400).contains(&offset) && (GICD.start..layout::UART.start).contains(&at.0)
    }

    /// Answers an access to the interrupt controller; none if it is somewhere else.
    pub fn access(&self, at: Gpa, width: u8, store: Option<u64>) -> Option<(u64, Kicks)> {
        let (frame, offset) = if GICD.contains(&at.0) {
            (Frame::Dist, at.0 - GICD.start)
        } else if layout::redistributors(self.cpus).contains(&at.0) {
            let offset = at.0 - GICR;
            (Frame::Redist((offset / GICR_SIZE) as usize), offset % GICR_SIZE)
        } else {
            return None;
        };
        Some(self.gic.lock().access(frame, offset as u32, width, store))
    }

    /// Prepares a vCPU's interrupt interface, in memory, for being loaded.
    pub fn reload(&self, guest: &mut Guest, hardware: &mut CpuInterface) -> Kicks {
        let mut gic = self.gic.lock();
        let kicks = gic.sync(guest.index, &mut guest.gic);
        let due = guest.virtual_deadline().is_some_and(|at| at <= now());
        self.settle(&mut gic, kicks, guest, due, hardware)
    }

    /// Takes back what the loaded guest did with its list registers, and fills them again. `firing` says
    /// whether the virtual timer's output is up.
    pub fn refresh(&self, guest: &mut Guest, firing: bool, hardware: &mut CpuInterface) -> Kicks {
        let mut gic = self.gic.lock();
        let kicks = gic.sync(guest.index, &mut guest.gic);
        self.settle(&mut gic, kicks, guest, firing, hardware)
    }

    fn settle(
        &self,
        gic: &mut Vgic,
        mut kicks: Kicks,
        guest: &mut Guest,
        firing: bool,
        hardware: &mut CpuInterface,
    ) -> Kicks {
        let index = guest.index;
        let in_flight = gic.hw_in_flight(index, PPI_VIRTUAL_TIMER);
        match (firing, in_flight) {
            (true, false) => kicks |= gic.fire_hw(index, PPI_VIRTUAL_TIMER),
            // The guest reprogrammed its timer before it took the interrupt.
            (false, true) => {
                gic.retract_hw(index, PPI_VIRTUAL_TIMER);
            }
            _ => {}
        }
        kicks |= gic.flush(index, &mut guest.gic);
        hardware.set_timer_active(gic.hw_in_flight(index, PPI_VIRTUAL_TIMER));
        Kicks(kicks.0 & !(1 << index))
    }

    /// Whether an interrupt would wake the guest, whose interface is up to date in memory.
    pub fn has_deliverable(&self, guest: &Guest) -> bool {
        self.gic.lock().has_deliverable(guest.index, &guest.gic)
    }
}

/// Puts kernel, RAM disk and device tree into a guest's memory.
fn furnish(plan: &Plan<'_>, ram: &GuestRam<Identity>) -> Result<Start, String> {
    let domain = plan.domain;
    // SAFETY: modules were reserved when memory was counted, so no guest has them and nobody writes them; EL2
    // maps all memory.
    let module = |region| unsafe { frozen::<Identity>(region) };
    let kernel = module(domain.kernel.region);
    let image = Image::parse(kernel, kernel.len() as u64).map_err(|e| alloc::format!("kernel: {e}"))?;
    let initrd = domain.ramdisk.map(|ramdisk| module(ramdisk.region));
    let mut guest = kernel::tree::Guest {
        cpus: domain.cpus,
        memory: domain.memory,
        bootargs: domain.kernel.bootargs,
        initrd: None,
    };
    let describe = |error| alloc::format!("its device tree could not be made: {error}");
    // Its size does not depend on where the RAM disk is, only on whether there is one.
    guest.initrd = initrd.map(|_| Gpa(0)..Gpa(0));
    let size = tree::build(&guest).map_err(describe)?.len() as u64;
    let place = layout::place(domain.memory, &image, initrd.map(|i| i.len() as u64), size)
        .map_err(|e| e.to_string())?;
    guest.initrd = place.initrd.zip(initrd).map(|(at, bytes)| at..Gpa(at.0 + bytes.len() as u64));
    let blob = tree::build(&guest).map_err(describe)?;
    ram.clear();
    ram.write(place.kernel, kernel);
    if let (Some(at), Some(bytes)) = (place.initrd, initrd) {
        ram.write(at, bytes);
    }
    ram.write(place.tree, &blob);
    // With forced write-back the guest's accesses are cacheable whatever it says.
    if facts().caching == Caching::Combined {
        ram.clean();
    }
    Ok(Start { pc: place.kernel, arg: place.tree.0 })
}

impl Chips<Aarch64> for GuestChips {
    type Error = String;

    fn build(plan: &Plan<'_>) -> Result<(Arc<Self>, Start), String> {
        let facts = facts();
        let domain = plan.domain;
        if let Some(value) = domain.fp_units {
            let wanted = Wanted::Text("no such property on AArch64");
            return Err(domain.node.complain("fermata,fp-units", Found::Value(value), wanted).to_string());
        }
        let sve = Grant::of(domain, &facts.sve)?;
        let window = layout::RAM..1 << IPA_BITS;
        // SAFETY: the core took this memory from the free memory of the machine for this guest alone, and EL2 maps
        // all memory.
        let ram = unsafe { GuestRam::new(plan.ram, core::slice::from_ref(&window)) };
        let ram = ram.ok_or("memory: more than a guest's addresses have room for")?;
        let space = ram.space(Stage2 { caching: facts.caching })?;
        let entry = furnish(plan, &ram)?;
        let config = Config {
            vcpus: domain.cpus as usize,
            spis: SPIS,
            list_registers: facts.list_registers,
            priority_bits: facts.priority_bits,
        };
        let chips = Self {
            gic: Mutex::new(Vgic::new(config)),
            // VMIDs are the guests' numbers from one up: no two guests share one, and a guest's translations are
            // gone (`retire`) before its successor runs.
            vttbr: vttbr(Hpa(space.root().0), plan.vm.0 + 1),
            space,
            facts,
            sve: sve.as_ref().map_or(Lengths::NONE, |grant| grant.lengths),
            ids: match sve {
                Some(grant) => facts.ids.clone().with_sve(grant.zfr0),
                None => facts.ids.clone(),
            },
            counter_offset: plan.now.0,
            cpus: domain.cpus,
            ram,
            ran: (0..facts.cpus).map(|_| AtomicU8::new(NOBODY)).collect(),
        };
        Ok((Arc::new(chips), entry))
    }

    fn guest(&self, index: usize) -> Guest {
        Guest::new(index, self.counter_offset)
    }

    fn fp_limit(&self) -> Lengths {
        self.sve
    }

    fn set_line(&self, line: u32, level: Level) -> Kicks {
        self.gic.lock().set_line(line, level)
    }

    fn timer_fired(&self, guest: &mut Guest) {
        // The interface is flushed before the guest runs again, so nobody needs to be told.
        let _ = self.gic.lock().fire_hw(guest.index, PPI_VIRTUAL_TIMER);
    }

    fn update_timers(&self, guest: &mut Guest, now: Ticks) -> Kicks {
        let line = physical_timer_line(guest, now);
        if line == guest.physical_line {
            return Kicks::NONE;
        }
        guest.physical_line = line;
        let level = if line { Level::High } else { Level::Low };
        self.gic.lock().set_private_line(guest.index, layout::ppi::PHYSICAL, level)
    }

    fn powered_off(&self, guest: &mut Guest) -> Kicks {
        let mut gic = self.gic.lock();
        let kicks = gic.sync(guest.index, &mut guest.gic);
        kicks | gic.withdraw(guest.index, &mut guest.gic)
    }

    fn rest(&self, guest: &mut Guest) -> (Rest, Kicks) {
        let mut gic = self.gic.lock();
        let kicks = gic.sync(guest.index, &mut guest.gic);
        let woken = gic.has_deliverable(guest.index, &guest.gic);
        (if woken { Rest::Broken } else { Rest::Sound }, kicks)
    }

    fn is_memory(&self, at: Gpa) -> bool {
        self.is_ram(at)
    }

    fn retire(&self, cpu: &mut ThisCpu) {
        // Another guest may be loaded here: its turn goes on afterwards.
        let loaded = VTTBR_EL2.get();
        VTTBR_EL2.set(self.vttbr);
        isb();
        invalidate_guest();
        if loaded == self.vttbr {
            cpu.forget_guest();
            VTTBR_EL2.set(0);
        } else {
            VTTBR_EL2.set(loaded);
        }
        isb();
    }
}
