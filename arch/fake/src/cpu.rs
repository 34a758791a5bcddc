//! A pretend CPU.

use std::sync::Arc;

use kernel::addr::{CpuId, Ticks};
use kernel::arch::{Cpu, Fault, Interrupt};
use kernel::exit::{Exit, Kicks};

use crate::chips::world_here;
use crate::fp::File;
use crate::guest::FakeGuest;
use crate::watch::Who;
use crate::world::{HZ, World};
use crate::{Fake, FakeChips};

/// The physical line of the console's interrupt.
pub const CONSOLE_LINE: u32 = 33;
/// How many interrupts may be taken in a row: whoever takes more takes the same one again and again.
const IN_A_ROW: u32 = 1000;

/// A pretend CPU.
pub struct FakeCpu {
    id: usize,
    world: Arc<World>,
    file: Option<File>,
    loaded: Option<Who>,
    in_a_row: u32,
}

impl FakeCpu {
    /// CPU `id` of a machine.
    pub fn new(world: &Arc<World>, id: usize) -> Self {
        let file = File::new(world.setting.seed ^ (id as u64 + 1) << 32);
        Self { id, world: Arc::clone(world), file: Some(file), loaded: None, in_a_row: 0 }
    }

    fn loaded(&self, guest: &FakeGuest) {
        if self.loaded != Some(guest.who()) {
            self.world.fail(format!(
                "CPU {} has {:?} loaded and not {:?}",
                self.id,
                self.loaded,
                guest.who()
            ));
        }
    }

    /// Hands over what is pending.
    fn hand_over(&mut self, guest: &mut FakeGuest) {
        let now = self.world.now();
        if guest.hard.is_due(now) {
            guest.hard.fire();
            guest.held |= 1 << crate::script::HARD_IRQ;
        }
        guest.collect();
        let timer = guest.hard.deadline();
        self.world.with(|state| state.set_timer(self.id, timer));
    }
}

/// Interrupts a CPU, on behalf of the one that runs on this thread. Takes no time: who calls may hold a lock.
pub fn kick_here(CpuId(cpu): CpuId) {
    if let Some(world) = world_here() {
        world.with(|state| state.kick(cpu));
    }
}

impl Drop for FakeCpu {
    fn drop(&mut self) {
        let file = self.file.take();
        self.world.with(|state| state.files[self.id] = file);
    }
}

impl Cpu<Fake> for FakeCpu {
    fn id(&self) -> CpuId {
        CpuId(self.id)
    }

    fn hz(&self) -> u64 {
        HZ
    }

    fn now(&self) -> Ticks {
        self.world.step(self.id);
        Ticks(self.world.now())
    }

    fn alarm(&mut self, when: Option<Ticks>) {
        self.world.step(self.id);
        self.world.with(|state| state.set_alarm(self.id, when.map(|at| at.0)));
    }

    fn load(&mut self, guest: &mut FakeGuest, _: &FakeChips) -> Kicks {
        self.world.step(self.id);
        if let Some(other) = self.loaded.replace(guest.who()) {
            self.world.fail(format!("CPU {} loaded over {other:?}", self.id));
        }
        self.hand_over(guest);
        Kicks::NONE
    }

    fn unload(&mut self, guest: &mut FakeGuest, _: &FakeChips) {
        self.world.step(self.id);
        self.loaded(guest);
        self.loaded = None;
        self.world.with(|state| state.set_timer(self.id, None));
    }

    fn refresh(&mut self, guest: &mut FakeGuest, _: &FakeChips) -> Kicks {
        self.world.step(self.id);
        self.loaded(guest);
        self.hand_over(guest);
        Kicks::NONE
    }

    fn wants_interrupt(&mut self, guest: &mut FakeGuest, _: &FakeChips) -> bool {
        self.world.step(self.id);
        self.loaded(guest);
        guest.held != 0
    }

    fn enter(&mut self, guest: &mut FakeGuest, _: &FakeChips) -> Exit {
        self.in_a_row = 0;
        self.loaded(guest);
        guest.check_in(self.id);
        let Some(file) = &mut self.file else { return Exit::Handled };
        let exit = loop {
            if self.world.with(|state| state.is_pending(self.id)) {
                break Exit::Interrupt;
            }
            guest.take_interrupts();
            if let Some(exit) = guest.go_on(self.id, file) {
                break exit;
            }
        };
        let timer = guest.hard.deadline();
        self.world.with(|state| state.set_timer(self.id, timer));
        guest.check_out();
        self.world.step(self.id);
        exit
    }

    fn inject(&mut self, guest: &mut FakeGuest, fault: Fault) {
        self.loaded(guest);
        guest.inject(fault);
    }

    fn fp(&mut self) -> &mut File {
        self.world.step(self.id);
        self.file.as_mut().expect("a CPU keeps its registers until it is dropped")
    }

    fn take_interrupt(&mut self) -> Option<Interrupt> {
        self.world.step(self.id);
        self.in_a_row += 1;
        if self.in_a_row > IN_A_ROW {
            self.world.fail(format!("CPU {} takes interrupts without end", self.id));
        }
        self.world.with(|state| {
            if state.take_alarm(self.id) {
                Some(Interrupt::Alarm)
            } else if state.take_kick(self.id) {
                Some(Interrupt::Kick)
            } else if state.timer_fires(self.id) {
                // Masked until the guest has dealt with it.
                state.set_timer(self.id, None);
                Some(Interrupt::GuestTimer)
            } else if self.id == 0 && state.is_pending(0) {
                Some(Interrupt::Line(CONSOLE_LINE))
            } else {
                None
            }
        })
    }

    fn kick(&mut self, other: CpuId) {
        self.world.step(self.id);
        self.world.with(|state| state.kick(other.0));
        self.world.step(self.id);
    }

    fn wait(&mut self) {
        self.in_a_row = 0;
        self.world.step(self.id);
        self.world.wait(self.id);
    }

    fn power_off(&mut self) -> ! {
        self.world.halt()
    }
}
