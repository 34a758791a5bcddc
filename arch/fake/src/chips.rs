//! What the vCPUs of a pretend guest share: its interrupt controller and its memory.

use std::sync::{Arc, Mutex, PoisonError};

use kernel::addr::{Gpa, Ticks};
use kernel::arch::{Chips, Plan, Rest, Start};
use kernel::dev::Level;
use kernel::exit::Kicks;

use crate::guest::FakeGuest;
use crate::script::{HARD_IRQ, IPIS, Plot, SOFT_IRQ, UART_IRQ};
use crate::watch::Who;
use crate::world::World;
use crate::{Fake, FakeCpu, RAM, fp};

thread_local! {
    /// The machine whose CPU runs on this thread.
    static WORLD: std::cell::RefCell<Option<Arc<World>>> = const { std::cell::RefCell::new(None) };
}

/// Tells guests that are built on this thread which machine they are on.
pub fn settle_in(world: &Arc<World>) {
    WORLD.set(Some(Arc::clone(world)));
}

/// The machine whose CPU runs on this thread.
pub(crate) fn world_here() -> Option<Arc<World>> {
    WORLD.with_borrow(Clone::clone)
}

/// What is pending, apart from what vCPUs hold.
struct Controller {
    /// By vCPU, one bit per interrupt.
    private: Vec<u32>,
    /// Whether the UART's line is up.
    line: Level,
    /// vCPUs that are on, as bits.
    on: u64,
}

/// The hardware that the vCPUs of one guest share, from one start to its end.
pub struct Shared {
    /// The machine.
    pub world: Arc<World>,
    /// The number of its life.
    pub life: usize,
    /// What it does.
    pub plot: Plot,
    /// How often it was started before.
    pub past: usize,
    memory: u64,
    controller: Mutex<Controller>,
}

/// The hardware that the vCPUs of one guest share.
pub struct FakeChips(pub Arc<Shared>);

impl Shared {
    fn controller<T>(&self, deed: impl FnOnce(&mut Controller) -> T) -> T {
        deed(&mut self.controller.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes for the observer whom the line concerns.
    fn tell_line(&self, controller: &Controller) -> Option<usize> {
        let target = controller.target().filter(|_| controller.line == Level::High);
        self.world.with(|state| {
            let now = state.now();
            state.watch.line(self.life, target, now);
        });
        target
    }

    /// vCPU `from` sends an interrupt.
    pub fn send(&self, to: usize, irq: usize) -> Kicks {
        let new = self.controller(|controller| {
            let pending = &mut controller.private[to];
            let new = *pending >> irq & 1 == 0;
            *pending |= 1 << irq;
            new
        });
        self.world.with(|state| {
            let now = state.now();
            state.watch.claims((self.life, to), irq, Some(now));
        });
        if new { Kicks(1 << to) } else { Kicks::NONE }
    }

    /// Whether an interrupt is pending that nobody has handed over.
    pub fn is_pending(&self, index: usize, irq: usize) -> bool {
        self.controller(|controller| controller.private[index] >> irq & 1 != 0)
    }

    /// An interrupt is not pending any more.
    pub fn retract(&self, index: usize, irq: usize) {
        self.controller(|controller| controller.private[index] &= !(1 << irq));
    }

    fn raise(&self, who: usize, irq: usize) {
        self.controller(|controller| controller.private[who] |= 1 << irq);
    }

    /// Hands a vCPU what is pending for it.
    pub fn collect(&self, index: usize, held: &mut u32) {
        self.controller(|controller| {
            *held = *held & !(1 << UART_IRQ) | core::mem::take(&mut controller.private[index]);
            if controller.line == Level::High && controller.target() == Some(index) {
                *held |= 1 << UART_IRQ;
            }
        });
    }

    /// Whether the UART's line is up for this vCPU; after it was looked after.
    pub fn line_is_up(&self, index: usize) -> bool {
        self.controller(|controller| controller.line == Level::High && controller.target() == Some(index))
    }

    /// A vCPU is on, with nothing in its hands.
    pub fn power_on(&self, index: usize) {
        self.controller(|controller| {
            controller.on |= 1 << index;
            self.tell_line(controller);
        });
    }
}

impl Controller {
    /// Who gets the line's interrupt.
    fn target(&self) -> Option<usize> {
        (self.on != 0).then(|| self.on.trailing_zeros() as usize)
    }
}

impl Chips<Fake> for FakeChips {
    type Error = String;

    fn build(plan: &Plan<'_>) -> Result<(Arc<Self>, Start), String> {
        let world = world_here().ok_or("there is no machine on this thread")?;
        let (vm, vcpus) = (usize::from(plan.vm.0), plan.domain.cpus as usize);
        let plot = world.setting.plots[vm].clone();
        let (past, life) = world.with(|state| {
            let past = state.watch.count(vm);
            (past, state.watch.born(vm, &plot, vcpus, plan.ram))
        });
        let life = match life {
            Ok(life) => life,
            Err(wrong) => {
                world.fail(wrong.clone());
                return Err(wrong);
            }
        };
        let controller = Controller { private: vec![0; vcpus], line: Level::Low, on: 0 };
        let memory = plan.ram.iter().map(|region| region.size()).sum();
        let controller = Mutex::new(controller);
        let shared = Shared { world, life, plot, past, memory, controller };
        Ok((Arc::new(Self(Arc::new(shared))), Start { pc: Gpa(RAM), arg: life as u64 }))
    }

    fn guest(&self, index: usize) -> FakeGuest {
        FakeGuest::new(Arc::clone(&self.0), index)
    }

    fn fp_limit(&self) -> fp::Limit {
        self.0.plot.limit
    }

    fn set_line(&self, line: u32, level: Level) -> Kicks {
        assert_eq!(line, UART_IRQ as u32, "a line that does not exist");
        self.0.controller(|controller| {
            controller.line = level;
            let target = self.0.tell_line(controller);
            target.map_or(Kicks::NONE, |target| Kicks(1 << target))
        })
    }

    fn timer_fired(&self, guest: &mut FakeGuest) {
        self.0.world.step_here();
        guest.hard.fire();
        self.0.raise(guest.index(), HARD_IRQ);
    }

    fn update_timers(&self, guest: &mut FakeGuest, Ticks(now): Ticks) -> Kicks {
        self.0.world.step_here();
        if !guest.soft.is_due(now) {
            return Kicks::NONE;
        }
        guest.soft.fire();
        self.0.raise(guest.index(), SOFT_IRQ);
        Kicks(1 << guest.index())
    }

    fn powered_off(&self, guest: &mut FakeGuest) -> Kicks {
        self.0.world.step_here();
        let index = guest.index();
        // What peers sent stays pending; timers are off like everything else.
        let held = core::mem::take(&mut guest.held);
        self.0.controller(|controller| {
            let pending = &mut controller.private[index];
            *pending = (*pending | held) & ((1 << IPIS) - 1);
            controller.on &= !(1 << index);
            match self.0.tell_line(controller) {
                Some(target) => Kicks(1 << target),
                None => Kicks::NONE,
            }
        })
    }

    fn rest(&self, guest: &mut FakeGuest) -> (Rest, Kicks) {
        self.0.world.step_here();
        let index = guest.index();
        let pending = self.0.controller(|controller| controller.private[index]);
        (if guest.held | pending != 0 { Rest::Broken } else { Rest::Sound }, Kicks::NONE)
    }

    fn is_memory(&self, at: Gpa) -> bool {
        self.0.world.step_here();
        (RAM..RAM + self.0.memory).contains(&at.0)
    }

    fn retire(&self, _: &mut FakeCpu) {
        self.0.world.step_here();
        self.0.world.with(|state| {
            let now = state.now();
            if let Err(wrong) = state.watch.retired(self.0.life, now) {
                state.fail(wrong);
            }
        });
    }
}

impl Shared {
    /// Tells the observer something about a vCPU, who says whether it is right.
    pub(crate) fn check(
        &self,
        index: usize,
        tell: impl FnOnce(&mut crate::watch::Watch, Who, u64) -> Result<(), String>,
    ) {
        self.world.with(|state| {
            let now = state.now();
            if let Err(wrong) = tell(&mut state.watch, (self.life, index), now) {
                state.fail(wrong);
            }
        });
    }

    /// Tells the observer something about a vCPU.
    pub(crate) fn note<T>(
        &self,
        index: usize,
        tell: impl FnOnce(&mut crate::watch::Watch, Who, u64) -> T,
    ) -> T {
        self.world.with(|state| {
            let now = state.now();
            tell(&mut state.watch, (self.life, index), now)
        })
    }
}
