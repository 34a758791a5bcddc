//! Models of what CPUs say to each other, run under every interleaving and every value a load may return:
//! `RUSTFLAGS="--cfg loom" cargo test -p kernel --release --test loom`.
//!
//! Each model has a twin, `without_...`, in which one ordering or one check is missing and which must fail: it shows
//! that the model can see the fault that the real code avoids.
#![cfg(loom)]

use kernel::addr::CpuId;
use kernel::mail::{Delivery, Doorbell, EventPending, Kick, Mail, Mailbox, Phase, PowerOnError, Ring};
use kernel::sched::{Account, CpuSet, Next, Occasion, Pool, RunQueue, Tuning, Turn};
use kernel::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

/// Runs a model under every interleaving in which at most `overtakings` times a CPU is overtaken that could have gone
/// on: for models that would take minutes otherwise.
fn bounded_model(overtakings: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(overtakings);
    builder.check(model);
}

const HERE: CpuId = CpuId(0);
const THERE: CpuId = CpuId(1);

/// What a ringer made pending, written and read without any ordering of its own: the doorbell has to provide it.
struct Pending([AtomicBool; 2]);

impl Pending {
    fn new() -> Self {
        Self([AtomicBool::new(false), AtomicBool::new(false)])
    }

    fn set(&self, who: usize) {
        self.0[who].store(true, Ordering::Relaxed);
    }

    fn seen(&self) -> [bool; 2] {
        [0, 1].map(|who| self.0[who].load(Ordering::Relaxed))
    }
}

fn running() -> Doorbell {
    let doorbell = Doorbell::new(HERE);
    assert_eq!(doorbell.power_on(), Ok(HERE));
    doorbell.start();
    doorbell.run_on(HERE);
    doorbell
}

/// The turn of a vCPU that wants to sleep: it looks, and sleeps if nothing is pending. Returns what it saw.
fn turn_until_asleep(doorbell: &Doorbell, pending: &Pending) -> [bool; 2] {
    let mut seen = [false; 2];
    loop {
        if doorbell.take_event() {
            seen = pending.seen();
        }
        match doorbell.sleep() {
            Ok(()) => return seen,
            Err(EventPending) => assert!(doorbell.has_event()),
        }
    }
}

#[test]
fn a_ring_is_seen_or_wakes() {
    loom::model(|| {
        let shared = Arc::new((running(), Pending::new()));
        let ringer = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(0);
                shared.0.ring()
            })
        };
        let seen = turn_until_asleep(&shared.0, &shared.1)[0];
        let ring = ringer.join().unwrap();
        // The owner sleeps. Either it saw what is pending, or a wake-up is on its way to it.
        match ring {
            Ring::WakeOn(HERE) => {
                assert!(!seen);
                assert_eq!(shared.0.deliver(HERE), Delivery::Wake);
                assert_eq!(shared.0.phase(), Phase::Queued);
            }
            _ => assert!(seen, "asleep, {ring:?}, and what is pending was not seen"),
        }
    });
}

/// As above, but the owner looks and then sleeps, in two steps.
#[test]
#[should_panic = "lost wake-up"]
fn without_the_refusal_to_sleep() {
    loom::model(|| {
        let shared = Arc::new((running(), Pending::new()));
        let ringer = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(0);
                shared.0.ring()
            })
        };
        let seen = shared.0.take_event() && shared.1.seen()[0];
        // What `sleep` would be if it did not look at EVENT.
        while shared.0.sleep().is_err() {
            shared.0.take_event();
        }
        let ring = ringer.join().unwrap();
        assert!(seen || matches!(ring, Ring::WakeOn(_)), "lost wake-up");
    });
}

#[test]
fn two_ringers_cause_one_wake_up_and_both_are_seen() {
    loom::model(|| {
        let shared = Arc::new((running(), Pending::new()));
        assert_eq!(shared.0.sleep(), Ok(()));
        let ringers = [0, 1].map(|who| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(who);
                shared.0.ring()
            })
        });
        let rings = ringers.map(|ringer| ringer.join().unwrap());
        let wakes = rings.iter().filter(|&&ring| ring == Ring::WakeOn(HERE)).count();
        assert_eq!(wakes, 1, "{rings:?}");
        assert_eq!(shared.0.deliver(HERE), Delivery::Wake);
        shared.0.run_on(HERE);
        assert!(shared.0.take_event());
        assert_eq!(shared.1.seen(), [true, true]);
    });
}

/// Its own CPU rings without a message while another rings with one, and the vCPU sleeps again in between.
#[test]
fn its_own_cpu_and_another_ring() {
    bounded_model(3, || {
        let shared = Arc::new((running(), Pending::new()));
        assert_eq!(shared.0.sleep(), Ok(()));
        let ringer = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(1);
                shared.0.ring()
            })
        };
        shared.1.set(0);
        assert!(!shared.0.ring_here(THERE));
        assert!(shared.0.ring_here(HERE));
        shared.0.run_on(HERE);
        let mut seen = turn_until_asleep(&shared.0, &shared.1);
        let ring = ringer.join().unwrap();
        if ring == Ring::WakeOn(HERE) && shared.0.deliver(HERE) == Delivery::Wake {
            shared.0.run_on(HERE);
            seen = turn_until_asleep(&shared.0, &shared.1);
        }
        assert_eq!(seen, [true, true], "{ring:?}");
        assert_eq!(shared.0.ring(), Ring::WakeOn(HERE), "{ring:?}");
    });
}

/// Two ring a vCPU that takes turns meanwhile; whoever delivers a wake-up runs it to sleep again.
#[test]
fn two_ringers_and_a_sleeper_that_runs() {
    bounded_model(3, || {
        let shared = Arc::new((running(), Pending::new()));
        let ringers = [0, 1].map(|who| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(who);
                shared.0.ring()
            })
        });
        let mut seen = turn_until_asleep(&shared.0, &shared.1);
        let rings = ringers.map(|ringer| ringer.join().unwrap());
        for ring in rings {
            if ring == Ring::WakeOn(HERE) {
                assert_eq!(shared.0.deliver(HERE), Delivery::Wake, "one at a time: {rings:?}");
                shared.0.run_on(HERE);
                seen = turn_until_asleep(&shared.0, &shared.1);
            }
        }
        assert_eq!(seen, [true, true], "{rings:?}");
        assert_eq!(shared.0.ring(), Ring::WakeOn(HERE), "{rings:?}");
    });
}

/// The second ringer finds EVENT set and returns without writing: its data is not ordered before the take.
#[test]
#[should_panic = "the event was taken and its data not seen"]
fn without_the_second_ringers_write() {
    const EVENT: u32 = 1;
    bounded_model(3, || {
        let shared = Arc::new((AtomicU32::new(0), Pending::new()));
        let ringers = [0, 1].map(|who| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.set(who);
                if shared.0.load(Ordering::Acquire) & EVENT == 0 {
                    shared.0.fetch_or(EVENT, Ordering::AcqRel);
                    return false;
                }
                true
            })
        });
        let taken = shared.0.load(Ordering::Relaxed) & EVENT != 0;
        let mut seen = [false; 2];
        if taken {
            shared.0.fetch_and(!EVENT, Ordering::AcqRel);
            seen = shared.1.seen();
        }
        let left_it = ringers.map(|ringer| ringer.join().unwrap());
        let again = shared.0.load(Ordering::Relaxed) & EVENT != 0;
        for who in 0..2 {
            let announced = taken && !again && left_it[who];
            assert!(!announced || seen[who], "the event was taken and its data not seen");
        }
    });
}

/// A vCPU that is woken by its timer moves to another CPU and sleeps there, while somebody rings, twice.
#[test]
fn a_ring_finds_a_vcpu_that_moves() {
    bounded_model(3, || {
        let shared = Arc::new((running(), Pending::new()));
        assert_eq!(shared.0.sleep(), Ok(()));
        let ringer = {
            let shared = shared.clone();
            thread::spawn(move || {
                [0, 1].map(|what| {
                    shared.1.set(what);
                    shared.0.ring()
                })
            })
        };
        shared.0.wake();
        let mailbox = Arc::new(Mailbox::with_room(1));
        let there = {
            let (shared, mailbox) = (shared.clone(), mailbox.clone());
            thread::spawn(move || {
                let arrived = mailbox.take().is_some();
                arrived.then(|| arrive_there(&shared.0, &shared.1))
            })
        };
        shared.0.queue_on(THERE);
        assert_eq!(mailbox.post(()), Ok(Kick::Needed));
        let mut seen = there.join().unwrap().unwrap_or_else(|| {
            assert_eq!(mailbox.take(), Some(Mail::Item(())));
            arrive_there(&shared.0, &shared.1)
        });
        let rings = ringer.join().unwrap();
        for ring in rings {
            if let Ring::WakeOn(cpu) = ring
                && delivered(&shared.0, cpu)
            {
                seen = arrive_there(&shared.0, &shared.1);
            }
        }
        assert_eq!(seen, [true, true], "{rings:?}");
        // No wake-up is under way; so the next ring sends one.
        assert_eq!(shared.0.ring(), Ring::WakeOn(THERE), "{rings:?}");
    });
}

fn arrive_there(doorbell: &Doorbell, pending: &Pending) -> [bool; 2] {
    doorbell.run_on(THERE);
    turn_until_asleep(doorbell, pending)
}

/// Takes a wake-up to where it belongs. Returns whether it woke the vCPU.
fn delivered(doorbell: &Doorbell, mut cpu: CpuId) -> bool {
    loop {
        match doorbell.deliver(cpu) {
            Delivery::Wake => return true,
            Delivery::Stale => return false,
            Delivery::Forward(to) => {
                assert_ne!(to, cpu);
                cpu = to;
            }
        }
    }
}

/// As above, but the CPU that gets a wake-up for a vCPU it has no longer throws it away.
#[test]
#[should_panic = "lost wake-up"]
fn without_forwarding() {
    bounded_model(3, || {
        let shared = Arc::new((running(), Pending::new()));
        assert_eq!(shared.0.sleep(), Ok(()));
        let first = {
            let shared = shared.clone();
            thread::spawn(move || shared.0.ring())
        };
        shared.0.wake();
        shared.0.run_on(THERE);
        turn_until_asleep(&shared.0, &shared.1);
        let ring = first.join().unwrap();
        shared.1.set(1);
        let second = shared.0.ring();
        // The first wake-up, if there was one, is still under way: the second is left to it.
        let woken = [ring, second].iter().any(|&ring| match ring {
            Ring::WakeOn(cpu) => shared.0.deliver(cpu) == Delivery::Wake,
            _ => false,
        });
        assert!(woken, "lost wake-up");
    });
}

#[test]
fn power_on_has_one_winner() {
    bounded_model(3, || {
        let doorbell = Arc::new(running());
        let starters = [0, 1].map(|_| {
            let doorbell = doorbell.clone();
            thread::spawn(move || doorbell.power_on())
        });
        // The vCPU powers itself off while others try to power it on.
        doorbell.power_off();
        let answers = starters.map(|starter| starter.join().unwrap());
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(won <= 1, "{answers:?}");
        match won {
            0 => assert_eq!(answers, [Err(PowerOnError::AlreadyOn); 2]),
            _ => assert_eq!(doorbell.phase(), Phase::Starting),
        }
        if won == 0 {
            assert_eq!(doorbell.phase(), Phase::Off);
        }
    });
}

/// Power-on as a look and a write.
#[test]
#[should_panic = "two winners"]
fn without_the_exchange_of_power_on() {
    loom::model(|| {
        let doorbell = Arc::new(AtomicU32::new(0));
        let starters = [0, 1].map(|_| {
            let doorbell = doorbell.clone();
            thread::spawn(move || {
                let off = doorbell.load(Ordering::Acquire) == 0;
                if off {
                    doorbell.store(1, Ordering::Release);
                }
                off
            })
        });
        let won = starters.map(|starter| starter.join().unwrap());
        assert!(won != [true, true], "two winners");
    });
}

/// A CPU as far as kicks are concerned: an interrupt that stays pending until acknowledged.
struct Line(AtomicBool);

impl Line {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }
    /// An exchange, because two kicks that merge into one announce the messages of both: each sender waits until its
    /// message is visible to all before it sends the interrupt.
    fn kick(&self) {
        self.0.swap(true, Ordering::AcqRel);
    }
    fn acknowledge(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

fn post_and_kick(mailbox: &Mailbox<u32>, line: &Line, message: u32) {
    if mailbox.post(message) == Ok(Kick::Needed) {
        line.kick();
    }
}

/// The owner acknowledges, empties, and waits; what is posted then has a kick pending that ends the wait.
#[test]
fn a_message_is_read_or_kicks() {
    bounded_model(3, || {
        let shared = Arc::new((Mailbox::with_room(2), Line::new()));
        let posters = [1, 2].map(|message| {
            let shared = shared.clone();
            thread::spawn(move || post_and_kick(&shared.0, &shared.1, message))
        });
        let mut read = 0;
        for _ in 0..2 {
            shared.1.acknowledge();
            while let Some(Mail::Item(message)) = shared.0.take() {
                read += message;
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        assert!(read == 3 || shared.1.acknowledge(), "waits with mail and no kick");
        while let Some(Mail::Item(message)) = shared.0.take() {
            read += message;
        }
        assert_eq!(read, 3);
        assert!(shared.0.is_empty());
    });
}

/// The owner empties and then acknowledges, so that it may take back the kick of a message it has not read.
#[test]
#[should_panic = "waits with mail and no kick"]
fn without_the_order_of_acknowledging() {
    loom::model(|| {
        let shared = Arc::new((Mailbox::with_room(2), Line::new()));
        let poster = {
            let shared = shared.clone();
            thread::spawn(move || post_and_kick(&shared.0, &shared.1, 3))
        };
        let read = shared.0.take().is_some();
        shared.1.acknowledge();
        poster.join().unwrap();
        assert!(read || shared.1.acknowledge(), "waits with mail and no kick");
    });
}

/// The owner takes one message per kick.
#[test]
#[should_panic = "waits with mail and no kick"]
fn without_emptying_the_mailbox() {
    loom::model(|| {
        let shared = Arc::new((Mailbox::with_room(2), Line::new()));
        let poster = {
            let shared = shared.clone();
            thread::spawn(move || {
                post_and_kick(&shared.0, &shared.1, 1);
                post_and_kick(&shared.0, &shared.1, 2);
            })
        };
        if shared.1.acknowledge() {
            let _ = shared.0.take();
        }
        poster.join().unwrap();
        if shared.1.acknowledge() {
            let _ = shared.0.take();
        }
        assert!(shared.0.is_empty() || shared.1.acknowledge(), "waits with mail and no kick");
    });
}

struct Someone(u32, Account);

impl Turn for Someone {
    fn id(&self) -> kernel::addr::VcpuId {
        kernel::addr::VcpuId(self.0)
    }
    fn weight(&self) -> u32 {
        256
    }
    fn affinity(&self) -> CpuSet {
        CpuSet::ALL
    }
    fn account(&self) -> &Account {
        &self.1
    }
    fn account_mut(&mut self) -> &mut Account {
        &mut self.1
    }
}

/// One CPU gets a second vCPU while the other runs out of work: one of them notices.
#[test]
fn no_vcpu_waits_beside_an_idle_cpu() {
    loom::model(|| {
        let pool = Arc::new(Pool::new(2));
        let busy = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut queue = RunQueue::new(HERE, &pool, Tuning::default());
                let _ = queue.admit(Box::new(Someone(0, Account::default())), 0);
                let runner = queue.pick(0).unwrap();
                let _ = queue.admit(Box::new(Someone(1, Account::default())), 0);
                let sent = queue.send_off(Occasion::Routine, &pool, 0).map(|(_, to)| to);
                queue.settle(runner, Next::Ready, 1);
                sent
            })
        };
        let asks = pool.enter_idle(THERE);
        let sent = busy.join().unwrap();
        assert!(asks == Some(HERE) || sent == Some(THERE), "one idles, one waits, neither knows");
    });
}

/// Write and read on both sides, without the fence between.
#[test]
#[should_panic = "neither knows"]
fn without_the_fences_of_the_pool() {
    loom::model(|| {
        let shared = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
        let busy = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(true, Ordering::Release);
                shared.1.load(Ordering::Acquire)
            })
        };
        shared.1.store(true, Ordering::Release);
        let asks = shared.0.load(Ordering::Acquire);
        assert!(busy.join().unwrap() || asks, "one idles, one waits, neither knows");
    });
}

/// Of two CPUs with something to give, one gives.
#[test]
fn an_idle_cpu_is_claimed_once() {
    bounded_model(3, || {
        let pool = Arc::new(Pool::new(3));
        pool.enter_idle(CpuId(2));
        let givers = [0, 1].map(|cpu| {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut queue = RunQueue::new(CpuId(cpu), &pool, Tuning::default());
                let _ = queue.admit(Box::new(Someone(0, Account::default())), 0);
                let _ = queue.admit(Box::new(Someone(1, Account::default())), 0);
                let runner = queue.pick(0).unwrap();
                let sent = queue.send_off(Occasion::Routine, &pool, 0).is_some();
                queue.settle(runner, Next::Ready, 1);
                sent
            })
        });
        let gave = givers.map(|giver| giver.join().unwrap());
        assert!(gave[0] != gave[1], "{gave:?}");
    });
}
