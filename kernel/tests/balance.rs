//! The laws of many CPUs, in a simulated machine whose CPUs have nothing in common but mailboxes, doorbells and the
//! pool, and whose kicks take their time: nothing is lost or in two places, nobody runs where it may not, no CPU
//! idles for long while an allowed vCPU waits, no wake-up is lost, no mailbox overflows, loads even out.

use kernel::addr::{CpuId, VcpuId};
use kernel::mail::{Delivery, Doorbell, Kick, Mail, Mailbox, PER_VCPU, Phase, Ring};
use kernel::sched::{Account, CpuSet, Next, Occasion, Pool, RunQueue, Standing, Tuning, Turn, Woken};
use proptest::prelude::*;

const US: u64 = 1000;
const MS: u64 = 1000 * US;
const NEVER: u64 = u64::MAX;
/// How long a kick takes at most.
const KICK: u64 = 20 * US;

/// How a vCPU behaves: runs about `burst`, sleeps about `pause` (0: never), rings others or not.
#[derive(Clone, Copy, Debug)]
struct Habit {
    weight: u32,
    affinity: u64,
    burst: u64,
    pause: u64,
    timer: bool,
    rings: bool,
}

impl Habit {
    const HOG: Self =
        Self { weight: 256, affinity: u64::MAX, burst: MS, pause: 0, timer: false, rings: false };
}

struct Vcpu {
    id: u32,
    habit: Habit,
    cost: u32,
    left: u64,
    account: Account,
}

impl Turn for Vcpu {
    fn id(&self) -> VcpuId {
        VcpuId(self.id)
    }
    fn weight(&self) -> u32 {
        self.habit.weight
    }
    fn affinity(&self) -> CpuSet {
        CpuSet::from_bits(self.habit.affinity)
    }
    fn moving_cost(&self) -> u32 {
        self.cost
    }
    fn account(&self) -> &Account {
        &self.account
    }
    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

enum Message {
    Take(Box<Vcpu>),
    Wake(VcpuId),
    Affinity(VcpuId, u64),
}

struct Cpu {
    queue: RunQueue<Vcpu>,
    current: Option<Box<Vcpu>>,
    idle: bool,
    since: u64,
    kick_at: u64,
    /// Since when it idles while somebody who could run here waits.
    wasted_since: u64,
}

struct Machine {
    now: u64,
    pool: Pool,
    mail: Vec<Mailbox<Message>>,
    bells: Vec<Doorbell>,
    cpus: Vec<Cpu>,
    flying: Vec<bool>,
    /// Since when something is pending that the vCPU has not seen.
    pending: Vec<Option<u64>>,
    seed: u64,
    longest_waste: u64,
}

impl Machine {
    fn new(cpus: usize, habits: &[Habit], seed: u64) -> Self {
        let pool = Pool::new(cpus);
        let cpu = |id| Cpu {
            queue: RunQueue::new(CpuId(id), &pool, Tuning::default()),
            current: None,
            idle: false,
            since: 0,
            kick_at: 0,
            wasted_since: NEVER,
        };
        let mut machine = Self {
            now: 0,
            mail: (0..cpus).map(|_| Mailbox::with_room(habits.len() * PER_VCPU)).collect(),
            bells: Vec::new(),
            cpus: (0..cpus).map(cpu).collect(),
            pool,
            flying: vec![false; habits.len()],
            pending: vec![None; habits.len()],
            seed: seed | 1,
            longest_waste: 0,
        };
        for (id, &habit) in habits.iter().enumerate() {
            // All start on CPU 0, wherever they may run.
            let bell = Doorbell::new(CpuId(0));
            assert_eq!(bell.power_on(), Ok(CpuId(0)));
            bell.start();
            machine.bells.push(bell);
            let cost = id as u32 % 3;
            let vcpu = Vcpu { id: id as u32, habit, cost, left: habit.burst, account: Account::default() };
            let _ = machine.cpus[0].queue.admit(Box::new(vcpu), 0);
        }
        machine
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below.max(1)
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            let (at, cpu) = (0..self.cpus.len()).map(|cpu| (self.next_event(cpu), cpu)).min().unwrap();
            if at > until {
                self.now = until;
                break;
            }
            self.now = at.max(self.now);
            self.step(cpu);
            self.check();
        }
    }

    fn next_event(&self, cpu: usize) -> u64 {
        let cpu = &self.cpus[cpu];
        let done = cpu.current.as_ref().map_or(NEVER, |vcpu| cpu.since + vcpu.left);
        cpu.kick_at.min(done).min(cpu.queue.alarm().unwrap_or(NEVER))
    }

    fn kick(&mut self, cpu: usize) {
        let at = self.now + self.random(KICK);
        self.cpus[cpu].kick_at = self.cpus[cpu].kick_at.min(at);
    }

    fn post(&mut self, to: CpuId, message: Message) {
        if let Message::Take(vcpu) = &message {
            assert!(!core::mem::replace(&mut self.flying[vcpu.id as usize], true), "sent twice");
        }
        match self.mail[to.0].post(message) {
            Ok(Kick::Needed) => self.kick(to.0),
            Ok(Kick::NotNeeded) => {}
            Err(_) => panic!("the mailbox is full"),
        }
    }

    /// Some CPU (`by`, or a device) makes something pending for a vCPU. Returns whether `by` must end its turn.
    fn ring(&mut self, vcpu: VcpuId, by: Option<usize>) -> bool {
        let at = vcpu.0 as usize;
        self.pending[at].get_or_insert(self.now);
        if let Some(cpu) = by
            && self.bells[at].ring_here(CpuId(cpu))
        {
            return self.cpus[cpu].queue.wake(vcpu, self.now) == Woken::Preempt;
        }
        match self.bells[at].ring() {
            Ring::Nothing => false,
            Ring::KickCpu(cpu) => {
                self.kick(cpu.0);
                false
            }
            Ring::WakeOn(cpu) => {
                self.post(cpu, Message::Wake(vcpu));
                false
            }
        }
    }

    fn deliver(&mut self, cpu: usize, vcpu: VcpuId) -> bool {
        match self.bells[vcpu.0 as usize].deliver(CpuId(cpu)) {
            Delivery::Wake => {
                let woken = self.cpus[cpu].queue.wake(vcpu, self.now);
                assert_ne!(woken, Woken::NotAsleep);
                woken == Woken::Preempt
            }
            Delivery::Stale => false,
            Delivery::Forward(to) => {
                self.post(to, Message::Wake(vcpu));
                false
            }
        }
    }

    /// What a CPU does when it stops for whatever reason: a turn of the loop.
    fn step(&mut self, cpu: usize) {
        let now = self.now;
        let this = &mut self.cpus[cpu];
        if this.kick_at <= now {
            this.kick_at = NEVER;
        }
        if core::mem::take(&mut this.idle) {
            self.pool.leave_idle(CpuId(cpu));
        }
        if let Some(vcpu) = &mut this.current {
            vcpu.left -= now - this.since;
        }
        this.since = now;

        let mut end_turn = self.read_mail(cpu);
        while let Some(id) = self.cpus[cpu].queue.expired(now) {
            self.bells[id.0 as usize].wake();
            end_turn |= self.cpus[cpu].queue.wake(id, now) == Woken::Preempt;
        }
        let slice_over = self.cpus[cpu].queue.slice_over(now);
        self.go_on(cpu, end_turn || slice_over);
        while self.cpus[cpu].current.is_none() && self.start_turn(cpu) {
            self.go_on(cpu, false);
        }
        self.send_off(cpu, if slice_over { Occasion::SliceEnd } else { Occasion::Routine });
        if self.cpus[cpu].current.is_none() {
            self.cpus[cpu].idle = true;
            if let Some(busy) = self.pool.enter_idle(CpuId(cpu))
                && self.mail[busy.0].ask(CpuId(cpu)) == Kick::Needed
            {
                self.kick(busy.0);
            }
        }
    }

    fn read_mail(&mut self, cpu: usize) -> bool {
        let now = self.now;
        let mut preempt = false;
        while let Some(mail) = self.mail[cpu].take() {
            match mail {
                Mail::Ask(by) => self.send_off(cpu, Occasion::Asked(by)),
                Mail::Review => unreachable!("each vCPU is told by a message of its own"),
                Mail::Item(Message::Take(vcpu)) => {
                    assert!(core::mem::take(&mut self.flying[vcpu.id as usize]));
                    preempt |= self.cpus[cpu].queue.admit(vcpu, now) == Woken::Preempt;
                }
                Mail::Item(Message::Wake(id)) => preempt |= self.deliver(cpu, id),
                Mail::Item(Message::Affinity(id, set)) => {
                    let this = &mut self.cpus[cpu];
                    if let Some(vcpu) = this.queue.find_mut(id) {
                        vcpu.habit.affinity = set;
                        this.queue.refresh(id, now);
                    } else if let Some(vcpu) = this.current.as_mut().filter(|vcpu| vcpu.id() == id) {
                        vcpu.habit.affinity = set;
                        preempt = true;
                    }
                }
            }
        }
        preempt
    }

    /// Goes on with the current vCPU, or ends its turn.
    fn go_on(&mut self, cpu: usize, end_turn: bool) {
        let now = self.now;
        let Some(mut vcpu) = self.cpus[cpu].current.take() else { return };
        let id = vcpu.id as usize;
        if self.bells[id].take_event() {
            self.pending[id] = None;
        }
        let mut preempted = end_turn;
        if vcpu.left == 0 {
            if vcpu.habit.rings {
                let other = self.random(self.bells.len() as u64) as u32;
                preempted |= other != vcpu.id && self.ring(VcpuId(other), Some(cpu));
            }
            vcpu.left = vcpu.habit.burst / 2 + self.random(vcpu.habit.burst) + 1;
            if vcpu.habit.pause > 0 && self.bells[id].sleep().is_ok() {
                let pause = vcpu.habit.pause / 2 + self.random(vcpu.habit.pause) + 1;
                let until = vcpu.habit.timer.then_some(now + pause);
                return self.cpus[cpu].queue.settle(vcpu, Next::Sleep(until), now);
            }
        }
        if preempted {
            self.bells[id].queue_on(CpuId(cpu));
            self.cpus[cpu].queue.settle(vcpu, Next::Ready, now);
        } else {
            self.cpus[cpu].current = Some(vcpu);
        }
    }

    fn start_turn(&mut self, cpu: usize) -> bool {
        let Some(vcpu) = self.cpus[cpu].queue.pick(self.now) else { return false };
        let allowed = vcpu.affinity() & self.pool.online();
        assert!(allowed.is_empty() || allowed.contains(CpuId(cpu)), "it may not run here");
        self.bells[vcpu.id as usize].run_on(CpuId(cpu));
        self.cpus[cpu].current = Some(vcpu);
        true
    }

    fn send_off(&mut self, cpu: usize, occasion: Occasion) {
        while let Some((vcpu, to)) = self.cpus[cpu].queue.send_off(occasion, &self.pool, self.now) {
            assert_ne!(to, CpuId(cpu));
            self.bells[vcpu.id as usize].queue_on(to);
            self.post(to, Message::Take(vcpu));
            if let Occasion::Asked(_) = occasion {
                return;
            }
        }
    }

    fn check(&mut self) {
        let mut places = self.flying.iter().map(|&flying| usize::from(flying)).collect::<Vec<_>>();
        for (at, cpu) in self.cpus.iter().enumerate() {
            for (vcpu, standing) in cpu.queue.iter() {
                places[vcpu.id as usize] += 1;
                let bell = &self.bells[vcpu.id as usize];
                let asleep = matches!(standing, Standing::Asleep(_));
                assert_eq!((bell.home(), bell.phase() == Phase::Sleeping), (CpuId(at), asleep));
                assert_ne!(standing, Standing::Leaving, "it was not sent away");
            }
            if let Some(vcpu) = &cpu.current {
                places[vcpu.id as usize] += 1;
                let bell = &self.bells[vcpu.id as usize];
                assert_eq!((bell.home(), bell.phase()), (CpuId(at), Phase::Running));
            }
        }
        assert!(places.iter().all(|&count| count == 1), "lost or doubled: {places:?}");
        for (bell, pending) in self.bells.iter().zip(&self.pending) {
            if let (Phase::Sleeping, Some(since)) = (bell.phase(), pending) {
                // A kick to where it was, and one to where it moved.
                assert!(self.now - since <= 2 * KICK, "a wake-up was lost");
            }
        }
        self.check_waste();
    }

    fn check_waste(&mut self) {
        let waits_for = |idle: usize| {
            let waits = |cpu: &Cpu| {
                let mut ready = cpu.queue.iter().filter(|(_, standing)| *standing == Standing::Ready);
                cpu.current.is_some() && ready.any(|(vcpu, _)| vcpu.affinity().contains(CpuId(idle)))
            };
            self.cpus.iter().any(waits)
        };
        let wasted: Vec<_> = (0..self.cpus.len())
            .map(|cpu| self.cpus[cpu].idle && self.mail[cpu].is_empty() && waits_for(cpu))
            .collect();
        for (cpu, wasted) in self.cpus.iter_mut().zip(wasted) {
            cpu.wasted_since = if wasted { cpu.wasted_since.min(self.now) } else { NEVER };
            self.longest_waste = self.longest_waste.max(self.now.saturating_sub(cpu.wasted_since));
        }
        // One balance step: a request and its answer; or the end of a slice, if another CPU was asked.
        assert!(self.longest_waste <= 4 * MS + KICK, "idles beside work for {} ns", self.longest_waste);
    }

    /// What each vCPU ran, in ms, and how often it moved.
    fn ran(&self) -> Vec<(u64, u64)> {
        let mut all = vec![(0, 0); self.bells.len()];
        for cpu in &self.cpus {
            let (_, turn) = cpu.queue.running(self.now).unwrap_or((VcpuId(0), 0));
            let current = cpu.current.as_deref().map(|vcpu| (vcpu, turn));
            for (vcpu, turn) in cpu.queue.iter().map(|(vcpu, _)| (vcpu, 0)).chain(current) {
                all[vcpu.id as usize] = ((vcpu.account.ran + turn) / MS, vcpu.account.moves);
            }
        }
        all
    }
}

fn habit() -> impl Strategy<Value = Habit> {
    let affinity = prop_oneof![Just(u64::MAX), any::<u64>(), (0u64..6).prop_map(|cpu| 1 << cpu)];
    let pause = prop_oneof![Just(0), US..20 * MS];
    (1u32..=1024, affinity, 10 * US..5 * MS, pause, any::<bool>(), any::<bool>()).prop_map(
        |(weight, affinity, burst, pause, timer, rings)| Habit {
            weight,
            affinity,
            burst,
            pause,
            timer,
            rings,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_no_cpu_idles_beside_work(
        cpus in 1usize..6,
        habits in prop::collection::vec(habit(), 1..14),
        seed: u64,
    ) {
        let mut machine = Machine::new(cpus, &habits, seed);
        for _ in 0..400 {
            let pause = machine.random(2 * MS);
            machine.run(machine.now + pause);
            let vcpu = VcpuId(machine.random(habits.len() as u64) as u32);
            machine.ring(vcpu, None);
            if machine.random(8) == 0 {
                let set = machine.random(1 << cpus);
                let home = machine.bells[vcpu.0 as usize].home();
                machine.post(home, Message::Affinity(vcpu, set));
            }
        }
    }

    /// As many as there are CPUs, or a multiple: everybody has the same, and stays where it is.
    #[test]
    fn equal_hogs_spread_and_stay(cpus in 1usize..6, each in 1usize..4, seed: u64) {
        let mut machine = Machine::new(cpus, &vec![Habit::HOG; cpus * each], seed);
        machine.run(200 * MS);
        let before = machine.ran();
        machine.run(1200 * MS);
        for (before, after) in before.iter().zip(machine.ran()) {
            prop_assert!((after.0 - before.0).abs_diff(1000 / each as u64) <= 13, "{:?} {:?}", before, after);
            prop_assert_eq!(before.1, after.1, "it moved");
        }
    }

    /// More than CPUs, but no multiple: in the long run everybody has the same.
    #[test]
    fn hogs_take_turns_to_have_the_emptier_cpu(cpus in 2usize..5, more in 1usize..4, seed: u64) {
        let count = cpus + more;
        let mut machine = Machine::new(cpus, &vec![Habit::HOG; count], seed);
        machine.run(8000 * MS);
        let fair = (8000 * cpus / count) as u64;
        for (ran, moves) in machine.ran() {
            prop_assert!(ran.abs_diff(fair) * 10 <= fair, "{} instead of {}", ran, fair);
            prop_assert!(moves <= 8000 / 60, "{} moves", moves);
        }
    }
}

/// A heavy vCPU has a CPU almost for itself while light ones share the other.
#[test]
fn weights_count_across_cpus() {
    let light = Habit { weight: 64, ..Habit::HOG };
    let heavy = Habit { weight: 1024, ..Habit::HOG };
    let mut machine = Machine::new(2, &[light, light, light, light, heavy], 7);
    machine.run(10_000 * MS);
    let ran = machine.ran();
    assert!(ran[4].0 >= 9000, "{ran:?}");
    assert!(ran[..4].iter().all(|&(ran, _)| (2000..=3000).contains(&ran)), "{ran:?}");
}

/// Somebody who sleeps and wakes often beside hogs does not push them around.
#[test]
fn a_sleeper_does_not_make_hogs_bounce() {
    let sleeper = Habit { burst: 100 * US, pause: 2 * MS, timer: true, ..Habit::HOG };
    let mut machine = Machine::new(2, &[Habit::HOG, Habit::HOG, sleeper], 3);
    machine.run(10_000 * MS);
    let ran = machine.ran();
    assert!(ran[..2].iter().all(|&(ran, moves)| ran >= 9000 && moves <= 20), "{ran:?}");
}
