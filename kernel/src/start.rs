//! From a device tree to a machine: what every architecture does alike while it starts.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::addr::{Hpa, Ticks, VmId};
use crate::arch::Arch;
use crate::console::{Console, Mode};
use crate::domain::{self, Limits};
use crate::fdt::{Node, Tree};
use crate::fp::{AuditSwitch, Policy};
use crate::launch::{Cause, Room};
use crate::machine::{CpuShared, Dumping, Machine, Tenant};
use crate::mem::{Memory, Region, Regions};
use crate::platform::{self, Reservation};
use crate::run::Local;
use crate::sched::{CpuSet, Pool};
use crate::shell::Shell;
use crate::trace::{MOST_RECORDS, RECORDS};

/// Why the machine cannot start: what the console shows.
pub type Failure = String;

/// The image: where it is in physical memory, and its heap.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// First byte.
    pub start: u64,
    /// End of code, a multiple of 4 KiB.
    pub text_end: u64,
    /// End of constants, a multiple of 4 KiB.
    pub rodata_end: u64,
    /// End of everything, heap included.
    pub end: u64,
    /// Whether the heap has room.
    pub heap: fn(Room) -> bool,
}

impl Image {
    /// All of it.
    pub fn region(&self) -> Option<Region> {
        Region::new(Hpa(self.start), self.end.checked_sub(self.start)?)
    }
}

/// The machine's device tree, and where it is.
pub struct Source {
    /// The tree.
    pub tree: Tree<'static>,
    /// Its bytes.
    pub region: Region,
}

/// Counts memory: all of it, what is free, and what must not be mapped.
///
/// # Errors
/// The tree has no memory.
pub fn count_memory(source: &Source, image: Image) -> Result<(Memory, Vec<Region>), Failure> {
    let tree = &source.tree;
    let mut all = Regions::new();
    for region in platform::memory(tree) {
        match region {
            Ok(region) => all.insert(region).map_err(|e| alloc::format!("memory {region}: {e:?}"))?,
            Err(complaint) => log::warn!("{complaint}: ignored"),
        }
    }
    if all.total() == 0 {
        return Err("the device tree has no node with device_type \"memory\"".into());
    }
    let mut memory = Memory::new(all);
    let mut unmapped = Vec::new();
    for reserved in platform::reserved(tree) {
        match reserved {
            Ok(reserved) => {
                reserve(&mut memory, reserved.region);
                if reserved.kind == Reservation::NoMap {
                    unmapped.push(reserved.region);
                }
            }
            Err(complaint) => log::warn!("{complaint}: ignored"),
        }
    }
    if let Some(own) = image.region() {
        reserve(&mut memory, own);
    }
    reserve(&mut memory, source.region);
    Ok((memory, unmapped))
}

/// Sets a range aside, in whole pages.
pub fn reserve(memory: &mut Memory, region: Region) {
    if let Err(error) = memory.reserve(region.widened(4096)) {
        log::error!("memory {region} cannot be set aside: {error:?}");
    }
}

/// Reads the guests; one that cannot be is named, and the others run.
pub fn read_domains<A: Arch>(
    source: &Source,
    image: Image,
    memory: &mut Memory,
    cpus: usize,
) -> Vec<Tenant<A>> {
    let occupied: Vec<Region> = image.region().into_iter().chain([source.region]).collect();
    let limits = Limits { memory: memory.all(), occupied: &occupied, cpus: CpuSet::first_n(cpus) };
    let mut tenants: Vec<Tenant<A>> = Vec::new();
    for domain in domain::read(&source.tree, &limits) {
        let domain = match domain {
            Ok(domain) => domain,
            Err(complaint) => {
                log::error!("vm {} not started: {complaint}", guest_name(complaint.node));
                continue;
            }
        };
        match domain.fp_policy.map_or(Ok(Policy::Hold), str::parse) {
            Ok(policy) => tenants.push(Tenant::new(domain, policy)),
            Err(error) => log::error!(
                "vm {} not started: fermata,fp-policy: found {:?}: {error}",
                domain.name,
                domain.fp_policy.unwrap_or("")
            ),
        }
    }
    let modules = tenants.iter().flat_map(|tenant| tenant.domain.modules()).flatten();
    for region in modules.map(|module| module.region) {
        reserve(memory, region);
    }
    tenants
}

/// The name of the guest that `node`, or a node above it, describes.
fn guest_name(mut node: Node<'static>) -> &'static str {
    while let Some(parent) = node.parent().filter(|parent| parent.name() != "chosen") {
        node = parent;
    }
    node.text("fermata,name").ok().flatten().unwrap_or(node.base_name())
}

/// How the boot arguments want the consoles shared out.
fn console_mode(tree: &Tree<'_>) -> Mode {
    let bootargs = platform::bootargs(tree).unwrap_or("");
    if bootargs.split_whitespace().any(|word| word == "console=framed") {
        Mode::Framed
    } else {
        Mode::Terminal
    }
}

/// How many trace records the boot arguments want each of `cpus` CPUs to keep (`trace=N`), and to be dumped at the end.
fn trace_room(bootargs: &str, cpus: usize) -> Option<usize> {
    let text = bootargs.split_whitespace().find_map(|word| word.strip_prefix("trace="))?;
    // A ring has a power of two of them.
    let most = 1 << (MOST_RECORDS / cpus.max(1)).max(1).ilog2();
    match text.parse() {
        Ok(asked) if asked <= most => Some(asked),
        Ok(asked) => {
            log::warn!("boot arguments: trace={asked}: each of {cpus} CPUs keeps {most} records at most");
            Some(most)
        }
        Err(_) => {
            log::warn!("boot arguments: trace={text}: expected how many records each CPU keeps");
            None
        }
    }
}

/// Opens a console for each guest, and says what the machine is.
///
/// # Errors
/// The consoles cannot be opened.
pub fn open_consoles<A: Arch>(
    source: &Source,
    image: Image,
    console: &Console,
    memory: &Memory,
    tenants: &[Tenant<A>],
    cpus: usize,
) -> Result<(), Failure> {
    let names: Vec<_> = tenants.iter().map(|tenant| tenant.domain.name.to_string()).collect();
    console.open(console_mode(&source.tree), names).map_err(|error| alloc::format!("consoles: {error:?}"))?;
    let total = memory.all().total() >> 20;
    log::info!("{cpus} CPUs, {total} MiB of memory, {} guests", tenants.len());
    log::info!("memory before guests: {} KiB", image.end.saturating_sub(image.start) >> 10);
    Ok(())
}

/// What the machine is made from.
pub struct Parts<A: Arch> {
    /// The terminal.
    pub console: &'static Console,
    /// The line of its interrupt.
    pub console_line: Option<u32>,
    /// How many CPUs it has.
    pub cpus: usize,
    /// Its guests.
    pub tenants: Vec<Tenant<A>>,
    /// Its memory.
    pub memory: Memory,
    /// Ticks in a second.
    pub hz: u64,
    /// The time.
    pub now: fn() -> Ticks,
}

impl<A: Arch> Parts<A> {
    /// Puts the machine together.
    pub fn assemble(self, source: &Source, image: Image) -> Machine<A> {
        let room = trace_room(platform::bootargs(&source.tree).unwrap_or(""), self.cpus);
        let vcpus = self.tenants.iter().map(|tenant| tenant.domain.cpus as usize).sum();
        let guests = self.tenants.len();
        Machine {
            console: self.console,
            console_line: self.console_line,
            cpus: (0..self.cpus).map(|_| CpuShared::new(guests, vcpus, room.unwrap_or(RECORDS))).collect(),
            shelf: Mutex::default(),
            dumping: if room.is_some() { Dumping::AtTheEnd } else { Dumping::OnDemand },
            pool: Pool::new(self.cpus),
            tenants: self.tenants.into(),
            memory: Mutex::new(self.memory),
            heap: image.heap,
            audit: Arc::new(AuditSwitch::default()),
            shell: Shell::new(),
            hz: self.hz,
            now: self.now,
        }
    }
}

/// Starts the prompt and every guest, and runs the loop of the CPU that started the machine.
///
/// # Errors
/// There is no guest.
pub fn run_guests<A: Arch>(mut local: Local<A>) -> Result<core::convert::Infallible, Failure> {
    let machine = local.machine;
    let guests = machine.tenants.len();
    if guests == 0 {
        return Err(
            "the device tree describes no guest that can run: /chosen has no usable node compatible with \
                    \"xen,domain\""
                .into(),
        );
    }
    machine.shell.start(machine.console);
    for n in 0..guests {
        local.launch(VmId(n as u16), Cause::Wanted);
    }
    local.run()
}

/// Says on the console why nothing can run. The caller switches the machine off.
pub fn give_up(console: &Console, message: &str) {
    log::error!("cannot start: {message}");
    log::info!("halted");
    console.flush();
}

#[cfg(test)]
mod tests {
    use super::trace_room;

    #[test]
    fn the_trace_takes_no_more_of_the_heap_than_it_may() {
        for (bootargs, cpus, room) in [
            ("quiet", 2, None),
            ("trace=", 2, None),
            ("trace=many", 2, None),
            ("quiet trace=8192", 2, Some(8192)),
            ("trace=65536", 1, Some(65536)),
            ("trace=65536", 2, Some(32768)),
            ("trace=16384", 6, Some(16384)),
            ("trace=18446744073709551615", 6, Some(16384)),
            ("trace=8192", 64, Some(1024)),
        ] {
            assert_eq!(trace_room(bootargs, cpus), room, "{bootargs} on {cpus}");
        }
    }
}
