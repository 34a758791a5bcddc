//! The seam: everything the portable core asks of an architecture.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;

use crate::addr::{CpuId, Gpa, Ticks, VmId};
use crate::dev::{Level, Uart};
use crate::domain::Domain;
pub use crate::exit::Reply;
use crate::exit::{Exit, Kicks};
use crate::fp::{FpContext, Units};
use crate::mem::Region;

/// An architecture: a bundle of types and a few facts about its virtual machine.
pub trait Arch: Sized + Send + Sync + 'static {
    /// The name used in device trees, test names and traces.
    const NAME: &'static str;
    /// Where the guest's UART answers.
    const UART: Range<u64>;
    /// The UART's interrupt line at the guest's interrupt controller.
    const UART_LINE: u32;
    /// Names the widest of some floating-point units, for the monitor.
    fn fp_name(units: Units) -> &'static str;
    /// A guest's registers while it is not running.
    type Guest: Guest + Send;
    /// A guest's floating-point state while it is not running.
    type Fp: FpContext<Limit: Send + Sync> + Send;
    /// What all vCPUs of a guest share in hardware: address space, interrupt controller, identity.
    type Chips: Chips<Self>;
    /// The model of UART that guests of this architecture expect.
    type Uart: Uart + Default + Send;
    /// One physical CPU.
    type Cpu: Cpu<Self>;
}

/// A guest's registers, as the core and its devices need to see them.
pub trait Guest {
    /// Puts the registers in power-on state, to start at `pc` with one argument.
    fn reset(&mut self, pc: Gpa, arg: u64);
    /// Completes the load that stopped the guest, and steps past the instruction once it is complete.
    fn finish_load(&mut self, value: u64);
    /// Completes the store that stopped the guest, likewise.
    fn finish_store(&mut self);
    /// Puts the answer to a call where the guest expects it.
    fn finish_call(&mut self, reply: Reply);
    /// When a timer next needs attention that the hardware does not give while the guest runs.
    fn emulated_deadline(&self) -> Option<Ticks>;
    /// When any of its timers next raises an interrupt; asked while it is not loaded.
    fn deadline(&self) -> Option<Ticks>;
}

/// What a new guest is made from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Its number.
    pub vm: VmId,
    /// What it asked for.
    pub domain: &'a Domain<'static>,
    /// The memory it gets, in the order in which it appears from the start of its RAM.
    pub ram: &'a [Region],
    /// The time, which becomes the zero of its counter.
    pub now: Ticks,
}

/// Where a new guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction.
    pub pc: Gpa,
    /// Its first argument.
    pub arg: u64,
}

/// The hardware that all vCPUs of one guest share.
pub trait Chips<A: Arch>: Sized + Send + Sync {
    /// Why a guest could not be built: a message that names what was found and what was expected.
    type Error: fmt::Display;
    /// Builds a guest's address space, chips and first contents of memory.
    fn build(plan: &Plan<'_>) -> Result<(Arc<Self>, Start), Self::Error>;
    /// Registers of its vCPU `index`, powered off.
    fn guest(&self, index: usize) -> A::Guest;
    /// What its vCPUs may be given of the floating-point units.
    fn fp_limit(&self) -> <A::Fp as FpContext>::Limit;
    /// Drives an input line of its interrupt controller.
    fn set_line(&self, line: u32, level: Level) -> Kicks;
    /// The hardware's timer of the loaded `guest` fired.
    fn timer_fired(&self, guest: &mut A::Guest);
    /// Brings the lines of the timers that are emulated for `guest` up to date.
    fn update_timers(&self, guest: &mut A::Guest, now: Ticks) -> Kicks;
    /// A vCPU, whose registers are not loaded, goes off: it handles no interrupt any more.
    fn powered_off(&self, guest: &mut A::Guest) -> Kicks;
    /// A vCPU, whose registers are not loaded, is about to sleep: whether it may, or an interrupt would wake it at
    /// once. Other vCPUs may get something pending by it.
    fn rest(&self, guest: &mut A::Guest) -> (Rest, Kicks);
    /// Whether `at` is in the guest's memory.
    fn is_memory(&self, at: Gpa) -> bool;
    /// The address space is no longer used: forgets what any CPU has cached of it.
    fn retire(&self, cpu: &mut A::Cpu);
}

/// Whether a vCPU can sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing is pending that would wake it.
    Sound,
    /// An interrupt is pending that it waits for.
    Broken,
}

/// An exception raised inside a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An instruction that does not exist.
    Undefined,
    /// A fetch from an address that nothing answers.
    Fetch(Gpa),
    /// A load from such an address.
    Load(Gpa),
    /// A store to such an address.
    Store(Gpa),
}

/// The physical CPU the code is running on.
///
/// All of the hypervisor runs with interrupts masked: a physical interrupt waits until the next entry into
/// a guest, which it ends at once, or until [`Cpu::wait`].
pub trait Cpu<A: Arch> {
    /// Which one.
    fn id(&self) -> CpuId;
    /// Ticks in a second.
    fn hz(&self) -> u64;
    /// The time.
    fn now(&self) -> Ticks;
    /// Asks for [`Interrupt::Alarm`] at `when` in place of any earlier request, or for none.
    fn alarm(&mut self, when: Option<Ticks>);
    /// Puts a guest's privileged state, address space and pending interrupts into the hardware.
    /// Other vCPUs may get something pending by it.
    fn load(&mut self, guest: &mut A::Guest, chips: &A::Chips) -> Kicks;
    /// Takes a guest's privileged state back out of the hardware.
    fn unload(&mut self, guest: &mut A::Guest, chips: &A::Chips);
    /// Hands what is pending to the loaded guest. Other vCPUs may get something pending by it.
    fn refresh(&mut self, guest: &mut A::Guest, chips: &A::Chips) -> Kicks;
    /// Whether an interrupt would wake the loaded guest. Call after [`Cpu::refresh`].
    fn wants_interrupt(&mut self, guest: &mut A::Guest, chips: &A::Chips) -> bool;
    /// Runs the loaded guest until it stops.
    fn enter(&mut self, guest: &mut A::Guest, chips: &A::Chips) -> Exit;
    /// How often the guest stopped during the last [`Cpu::enter`] and was let go on there, because the architecture
    /// dealt with it. Whoever wants the loop to look at something has sent an interrupt, which ends that.
    #[inline]
    fn handled(&self) -> u64 {
        0
    }
    /// Raises an exception inside the loaded guest.
    fn inject(&mut self, guest: &mut A::Guest, fault: Fault);
    /// This CPU's floating-point registers.
    fn fp(&mut self) -> &mut <A::Fp as FpContext>::File;
    /// Takes one pending interrupt, if there is one.
    fn take_interrupt(&mut self) -> Option<Interrupt>;
    /// Interrupts another CPU.
    fn kick(&mut self, other: CpuId);
    /// Sleeps until an interrupt is pending.
    fn wait(&mut self);
    /// Switches the machine off.
    fn power_off(&mut self) -> !;
}

/// A physical interrupt, already acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The alarm set with [`Cpu::alarm`].
    Alarm,
    /// Another CPU called [`Cpu::kick`].
    Kick,
    /// The hardware's timer of the loaded guest.
    GuestTimer,
    /// The loaded guest's interrupt interface wants attention.
    Lists,
    /// A device, by its line.
    Line(u32),
}
