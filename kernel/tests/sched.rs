//! The laws of one queue, in simulated time: shares follow weights, sleepers neither starve nor starve others, and
//! every sleeper is woken once. The laws of many CPUs are in `balance.rs`.

use kernel::addr::{CpuId, VcpuId};
use kernel::sched::{Account, CpuSet, Next, Occasion, Pool, RunQueue, Standing, Tuning, Turn, Woken};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

struct Someone {
    id: u32,
    weight: u32,
    affinity: CpuSet,
    cost: u32,
    account: Account,
}

impl Someone {
    fn new(id: u32, weight: u32) -> Box<Self> {
        Box::new(Self { id, weight, affinity: CpuSet::ALL, cost: 0, account: Account::default() })
    }

    fn ran(&self) -> u64 {
        self.account.ran
    }
}

impl Turn for Someone {
    fn id(&self) -> VcpuId {
        VcpuId(self.id)
    }
    fn weight(&self) -> u32 {
        self.weight
    }
    fn affinity(&self) -> CpuSet {
        self.affinity
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

fn queue() -> RunQueue<Someone> {
    RunQueue::new(CpuId(0), &Pool::new(2), Tuning::default())
}

fn queue_of(weights: &[u32]) -> RunQueue<Someone> {
    let mut queue = queue();
    for (id, &weight) in weights.iter().enumerate() {
        let _ = queue.admit(Someone::new(id as u32, weight), 0);
    }
    queue
}

/// Lets everybody run whenever they may, until `end`. Returns who had a turn, in order.
fn run_hogs(queue: &mut RunQueue<Someone>, mut now: u64, end: u64) -> Vec<u32> {
    let mut turns = Vec::new();
    while now < end {
        let someone = queue.pick(now).expect("somebody is ready");
        turns.push(someone.id);
        now = queue.alarm().unwrap_or(end).min(end);
        queue.settle(someone, Next::Ready, now);
    }
    turns
}

fn times(queue: &RunQueue<Someone>) -> Vec<u64> {
    let mut all: Vec<_> = queue.iter().map(|(someone, _)| (someone.id, someone.ran())).collect();
    all.sort();
    all.into_iter().map(|(_, ran)| ran).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_follow_weights_within_five_percent(weights in prop::collection::vec(8u32..=1024, 2..10)) {
        let mut queue = queue_of(&weights);
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let least = u64::from(*weights.iter().min().unwrap());
        // Long enough for forty of the shortest slices of the lightest.
        let end = (40 * MS * total / least).max(2 * SECOND);
        run_hogs(&mut queue, 0, end);
        for (weight, ran) in weights.iter().zip(times(&queue)) {
            let fair = end * u64::from(*weight) / total;
            prop_assert!(ran.abs_diff(fair) * 20 <= fair, "weight {weight} of {total}: {ran}, fair is {fair}");
        }
    }

    #[test]
    fn equal_weights_go_round_robin(count in 1usize..64, weight in 1u32..=1024) {
        let turns = run_hogs(&mut queue_of(&vec![weight; count]), 0, SECOND);
        for round in turns.windows(count) {
            let mut round = round.to_vec();
            round.sort();
            round.dedup();
            prop_assert_eq!(round.len(), count);
        }
    }

    #[test]
    fn slices_stay_between_one_millisecond_and_the_latency(weights in prop::collection::vec(1u32..=1024, 2..20)) {
        let mut queue = queue_of(&weights);
        let mut now = 0;
        for _ in 0..100 {
            let someone = queue.pick(now).unwrap();
            let slice = queue.alarm().unwrap() - now;
            prop_assert!((MS..=4 * MS).contains(&slice), "{}", slice);
            prop_assert!(!queue.slice_over(now + slice - 1) && queue.slice_over(now + slice));
            now += slice;
            queue.settle(someone, Next::Ready, now);
        }
    }

    /// Others may sleep, wake, yield and burst as they like: who always wants to run gets its share.
    #[test]
    fn a_hog_gets_its_share_whatever_others_do(
        hog in 32u32..=1024,
        others in prop::collection::vec((1u32..=1024, 1u64..8000, 0u64..20_000, any::<bool>()), 1..8),
    ) {
        let total: u64 = u64::from(hog) + others.iter().map(|other| u64::from(other.0)).sum::<u64>();
        let end = 10 * SECOND;
        let (ran, slowest) = run_with_sleepers(hog, &others, end);
        let fair = end * u64::from(hog) / total;
        // One latency of each other may be owed at the end, at their weights relative to the hog's.
        let owed: u64 = others.len() as u64 * 4 * MS;
        prop_assert!(ran + owed >= fair * 95 / 100, "{ran} of {fair}");
        prop_assert!(slowest <= SECOND * 2, "slowest wake-up took {slowest}");
    }

    /// Who wants little waits for the turn under way at most, and beside a single hog not even for that.
    #[test]
    fn a_light_sleeper_is_next(hogs in 1usize..6, burst in 10u64..200, pause in 3000u64..20_000) {
        let others = [(256, burst, pause, false)];
        let mut all = vec![(256, 1_000_000, 0, false); hogs - 1];
        all.splice(0..0, others);
        let (_, slowest) = run_with_sleepers(256, &all, 5 * SECOND);
        let longest = if hogs == 1 { 0 } else { (4 * MS / hogs as u64).max(MS) };
        prop_assert!(slowest <= longest, "{slowest} ns");
    }

    #[test]
    fn every_deadline_is_named_once_and_none_early(untils in prop::collection::vec(prop::option::of(1u64..1000), 1..20)) {
        let mut queue = queue();
        for (id, &until) in untils.iter().enumerate() {
            queue.park(Someone::new(id as u32, 256), until, 0);
        }
        let mut named = vec![false; untils.len()];
        for now in (0..1100).step_by(7) {
            while let Some(VcpuId(id)) = queue.expired(now) {
                prop_assert!(untils[id as usize].unwrap() <= now);
                prop_assert!(!core::mem::replace(&mut named[id as usize], true), "{} named twice", id);
                if id % 2 == 0 {
                    let _ = queue.wake(VcpuId(id), now);
                }
            }
            let rest = untils.iter().flatten().filter(|&&until| until > now).min();
            prop_assert_eq!(queue.next_deadline(), rest.copied());
        }
        let timed: Vec<_> = untils.iter().map(Option::is_some).collect();
        prop_assert_eq!(named, timed);
    }
}

/// A hog with number 0 and sleepers that run `burst` us (or yield half-way) and sleep `pause` us. Returns what the hog
/// ran, and the longest time (ns) from the wake-up of number 1 to its turn.
fn run_with_sleepers(hog: u32, others: &[(u32, u64, u64, bool)], end: u64) -> (u64, u64) {
    let mut queue = queue_of(&[hog]);
    let mut left = vec![u64::MAX];
    for (at, other) in others.iter().enumerate() {
        let _ = queue.admit(Someone::new(at as u32 + 1, other.0), 0);
        left.push(other.1 * 1000);
    }
    let (mut now, mut slowest, mut woke) = (0, 0, vec![0; left.len()]);
    while now < end {
        let mut someone = queue.pick(now).unwrap();
        let at = someone.id as usize;
        if at == 1 && someone.account().turns > 0 && woke[1] != 0 {
            slowest = slowest.max(now - core::mem::take(&mut woke[1]));
        }
        let mut preempted = false;
        while !preempted && left[at] > 0 && !queue.slice_over(now) && now < end {
            let stop = queue.alarm().unwrap_or(end).min(now.saturating_add(left[at])).min(end);
            left[at] -= stop - now;
            now = stop;
            while let Some(id) = queue.expired(now) {
                woke[id.0 as usize] = now;
                left[id.0 as usize] = others[id.0 as usize - 1].1 * 1000;
                preempted |= queue.wake(id, now) == Woken::Preempt;
            }
        }
        let next = match () {
            () if left[at] == 0 => Next::Sleep(Some(now + others[at - 1].2 * 1000 + 1)),
            () if at > 0 && others[at - 1].3 => Next::Yield,
            () => Next::Ready,
        };
        someone.account_mut();
        queue.settle(someone, next, now);
        while let Some(id) = queue.expired(now) {
            woke[id.0 as usize] = now;
            left[id.0 as usize] = others[id.0 as usize - 1].1 * 1000;
            let _ = queue.wake(id, now);
        }
    }
    (times(&queue)[0], slowest)
}

#[test]
fn a_lone_vcpu_has_no_slice_until_another_comes() {
    let mut queue = queue_of(&[256]);
    let alone = queue.pick(0).unwrap();
    assert_eq!(queue.alarm(), None);
    queue.park(Someone::new(1, 256), Some(50 * MS), 0);
    assert_eq!(queue.alarm(), Some(50 * MS));
    assert_eq!(queue.expired(50 * MS - 1), None);
    assert_eq!(queue.expired(50 * MS), Some(VcpuId(1)));
    assert_eq!(queue.expired(50 * MS), None);
    assert_eq!(queue.wake(VcpuId(1), 50 * MS), Woken::Preempt);
    assert_eq!(queue.alarm(), Some(51 * MS));
    queue.settle(alone, Next::Ready, 50 * MS);
    assert_eq!(queue.pick(50 * MS).unwrap().id, 1);
}

#[test]
fn who_just_ran_does_not_preempt() {
    let mut queue = queue_of(&[256, 256]);
    let first = queue.pick(0).unwrap();
    let first_id = first.id();
    queue.settle(first, Next::Sleep(None), MS);
    let second = queue.pick(MS).unwrap();
    assert_eq!(queue.wake(first_id, MS + 1000), Woken::Queued);
    assert_eq!(queue.wake(first_id, MS + 1000), Woken::NotAsleep);
    assert_eq!(queue.wake(second.id(), MS + 1000), Woken::NotAsleep);
    assert_eq!(queue.wake(VcpuId(77), MS + 1000), Woken::NotAsleep);
}

#[test]
fn who_yields_lets_another_run_and_alone_goes_on() {
    let mut queue = queue_of(&[256, 256]);
    let first = queue.pick(0).unwrap();
    let first_id = first.id;
    queue.settle(first, Next::Yield, 10);
    let second = queue.pick(10).unwrap();
    assert_ne!(second.id, first_id);
    queue.settle(second, Next::Sleep(None), 20);
    for now in 20..30 {
        let someone = queue.pick(now).unwrap();
        assert_eq!(someone.id, first_id);
        queue.settle(someone, Next::Yield, now);
    }
}

#[test]
fn sleep_does_not_save_up_and_the_lightest_wakes_fairly_after_centuries() {
    let mut queue = queue_of(&[1]);
    queue.park(Someone::new(1, 1), None, 0);
    let mut now = 0;
    // Virtual time wraps around several times, to no round number.
    for _ in 0..40 {
        let lone = queue.pick(now).unwrap();
        now += (1 << 52) + 12345 * SECOND;
        queue.settle(lone, Next::Ready, now);
    }
    assert_eq!(queue.wake(VcpuId(1), now), Woken::Preempt);
    let before = times(&queue);
    run_hogs(&mut queue, now, now + 10 * SECOND);
    let after = times(&queue);
    let got: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert!(got[0].abs_diff(got[1]) <= 20 * MS, "{got:?}");
}

#[test]
fn what_is_owed_travels_along() {
    let mut here = queue_of(&[256, 256]);
    let mut there = queue_of(&[256]);
    let ahead = here.pick(0).unwrap();
    let ahead_id = ahead.id();
    here.settle(ahead, Next::Ready, 3 * MS);
    let runner = here.pick(3 * MS).unwrap();
    let mut traveller = here.evict(ahead_id, 3 * MS).unwrap();
    assert!(here.evict(runner.id(), 3 * MS).is_none(), "the running one is not in the queue");
    traveller.id = 9;
    let _ = there.admit(traveller, 3 * MS);
    // It ran 3 ms more than its share there; here it waits for as long.
    let other = there.pick(3 * MS).unwrap();
    assert_eq!(other.id, 0);
    there.settle(other, Next::Ready, 5 * MS);
    assert_eq!(there.pick(5 * MS).unwrap().id, 0);
}

#[test]
fn powered_off_waits_for_wake_only_and_the_dismissed_is_forgotten() {
    let mut queue = queue_of(&[256]);
    let mut someone = queue.pick(0).unwrap();
    queue.settle(someone, Next::Off, MS);
    assert_eq!((queue.alarm(), queue.load(), queue.waiting()), (None, 0, 0));
    assert_eq!(queue.iter().map(|(_, standing)| standing).collect::<Vec<_>>(), [Standing::Asleep(None)]);
    queue.find_mut(VcpuId(0)).unwrap().cost = 3;
    assert_eq!(queue.wake(VcpuId(0), 2 * MS), Woken::Preempt);
    someone = queue.pick(2 * MS).unwrap();
    assert_eq!((someone.cost, queue.running(5 * MS)), (3, Some((VcpuId(0), 3 * MS))));
    queue.dismiss(&mut someone, 3 * MS);
    assert_eq!((someone.ran(), someone.account().turns), (2 * MS, 2));
    assert_eq!((queue.running(3 * MS), queue.load(), queue.iter().count()), (None, 0, 0));
}

#[test]
fn the_one_that_loses_least_moves() {
    let pool = Pool::new(2);
    let mut queue = queue_of(&[256; 4]);
    for (id, cost) in [(0, 5), (1, 2), (2, 2), (3, 0)] {
        queue.find_mut(VcpuId(id)).unwrap().cost = cost;
    }
    queue.find_mut(VcpuId(3)).unwrap().affinity = CpuSet::only(CpuId(0));
    let runner = queue.pick(0).unwrap();
    let candidate = queue.steal_candidate(CpuId(1)).unwrap();
    assert!(candidate != runner.id() && [VcpuId(1), VcpuId(2)].contains(&candidate), "{candidate:?}");
    assert_eq!(pool.enter_idle(CpuId(1)), None, "nothing is published yet");
    let (moved, to) = queue.send_off(Occasion::Routine, &pool, 0).unwrap();
    assert_eq!((moved.id(), to), (candidate, CpuId(1)));
    assert!(queue.send_off(Occasion::Routine, &pool, 0).is_none(), "the idle CPU was claimed");
    assert_eq!(pool.enter_idle(CpuId(1)), Some(CpuId(0)));
}

#[test]
fn a_deadline_that_was_forestalled_rings_once_at_most() {
    let mut queue = queue();
    queue.park(Someone::new(0, 256), Some(5 * MS), 0);
    queue.park(Someone::new(1, 256), Some(9 * MS), 0);
    let _ = queue.wake(VcpuId(0), MS);
    let runner = queue.pick(MS).unwrap();
    if queue.alarm() == Some(5 * MS) {
        assert_eq!(queue.expired(5 * MS), None);
    }
    assert_eq!(queue.alarm(), Some(9 * MS));
    queue.settle(runner, Next::Sleep(Some(7 * MS)), 5 * MS);
    assert_eq!(queue.alarm(), Some(7 * MS));
}

#[test]
fn who_is_alone_again_has_no_slice() {
    let pool = Pool::new(2);
    let mut queue = queue_of(&[256; 2]);
    let runner = queue.pick(0).unwrap();
    assert_eq!(queue.alarm(), Some(2 * MS));
    pool.enter_idle(CpuId(1));
    assert!(queue.send_off(Occasion::SliceEnd, &pool, 3 * MS).is_some());
    assert!(!queue.slice_over(3 * MS));
    assert_eq!(queue.alarm(), None, "an alarm in the past would ring for ever");
    queue.settle(runner, Next::Ready, 4 * MS);
}

#[test]
fn a_cpu_that_idles_with_a_vcpu_loaded_gets_work() {
    let pool = Pool::new(2);
    let mut busy = queue_of(&[256; 3]);
    let mut dozing = RunQueue::new(CpuId(1), &pool, Tuning::default());
    let _ = dozing.admit(Someone::new(9, 1024), 0);
    let loaded = dozing.pick(0).unwrap();
    assert!(dozing.send_off(Occasion::Routine, &pool, 0).is_none());
    let runner = busy.pick(0).unwrap();
    assert!(busy.send_off(Occasion::Routine, &pool, 0).is_none());
    assert_eq!(pool.enter_idle(CpuId(1)), Some(CpuId(0)));
    assert!(busy.send_off(Occasion::Asked(CpuId(1)), &pool, 0).is_some());
    // The request is answered; what else waits here has it no better there.
    assert!(busy.send_off(Occasion::Asked(CpuId(1)), &pool, 0).is_none());
    busy.settle(runner, Next::Ready, 1);
    dozing.settle(loaded, Next::Ready, 1);
}

#[test]
fn a_pause_is_not_charged() {
    let mut queue = queue_of(&[256; 2]);
    let runner = queue.pick(0).unwrap();
    queue.pause(MS, 6 * MS);
    assert_eq!(queue.alarm(), Some(7 * MS));
    queue.settle(runner, Next::Ready, 7 * MS);
    assert!(times(&queue).contains(&(2 * MS)));
}

#[test]
fn long_sleep_is_not_saved_up() {
    let mut queue = queue_of(&[256]);
    queue.park(Someone::new(1, 256), None, 0);
    run_hogs(&mut queue, 0, 100 * SECOND);
    let hog = queue.pick(100 * SECOND).unwrap();
    assert_eq!(queue.wake(VcpuId(1), 100 * SECOND), Woken::Preempt);
    queue.settle(hog, Next::Ready, 100 * SECOND);
    let turns = run_hogs(&mut queue, 100 * SECOND, 100 * SECOND + 20 * MS);
    assert_eq!(turns[..4], [1, 0, 1, 0]);
}

#[test]
fn an_old_debt_is_forgiven() {
    let mut queue = queue_of(&[1, 256]);
    let light = queue.pick(0).unwrap();
    assert_eq!(light.id, 0);
    // A thousand slices, which only a broken clock could give it.
    queue.settle(light, Next::Sleep(None), SECOND);
    assert_eq!(queue.wake(VcpuId(0), SECOND), Woken::Preempt);
    let turns = run_hogs(&mut queue, SECOND, 2 * SECOND + 50 * MS);
    assert!(turns.contains(&0));
}

#[test]
fn who_yields_lets_go_even_of_a_claim() {
    let mut queue = queue_of(&[256, 256]);
    let first = queue.pick(0).unwrap();
    let first_id = first.id;
    queue.settle(first, Next::Ready, 3 * MS);
    let second = queue.pick(3 * MS).unwrap();
    queue.settle(second, Next::Yield, 3 * MS + 1000);
    assert_eq!(queue.pick(3 * MS + 1000).unwrap().id, first_id);
}

/// A pool of three CPUs, and the queue of CPU 0 with vCPUs of weight 256 and these affinities, the first running.
fn three_cpus(affinities: &[u64]) -> (Pool, RunQueue<Someone>, Box<Someone>) {
    let pool = Pool::new(3);
    let mut queue = RunQueue::new(CpuId(0), &pool, Tuning::default());
    for (id, &affinity) in affinities.iter().enumerate() {
        let mut someone = Someone::new(id as u32, 256);
        someone.affinity = CpuSet::from_bits(affinity);
        let _ = queue.admit(someone, 0);
    }
    let runner = queue.pick(0).unwrap();
    (pool, queue, runner)
}

/// What CPU 0 would do at this time, in ms.
fn plan(queue: &RunQueue<Someone>, occasion: Occasion, pool: &Pool, ms: u64) -> Option<(u32, usize)> {
    queue.balance(occasion, pool, ms * MS).map(|plan| (plan.vcpu.0, plan.to.0))
}

#[test]
fn a_vcpu_goes_to_an_idle_cpu_where_it_may_run() {
    let (pool, queue, _runner) = three_cpus(&[0b111, 0b101]);
    assert_eq!(plan(&queue, Occasion::Routine, &pool, 0), None);
    pool.enter_idle(CpuId(1));
    assert_eq!(plan(&queue, Occasion::Routine, &pool, 0), None);
    pool.enter_idle(CpuId(2));
    assert_eq!(plan(&queue, Occasion::Routine, &pool, 0), Some((1, 2)));
    pool.leave_idle(CpuId(2));
    assert_eq!(plan(&queue, Occasion::Routine, &pool, 0), None);
    assert_eq!(plan(&queue, Occasion::Asked(CpuId(1)), &pool, 0), None);
    assert_eq!(plan(&queue, Occasion::Asked(CpuId(2)), &pool, 0), Some((1, 2)));
}

#[test]
fn of_two_that_could_go_the_cheaper_goes_to_its_own_cpu() {
    let (pool, mut queue, _runner) = three_cpus(&[0b111, 0b101, 0b011]);
    pool.enter_idle(CpuId(1));
    pool.enter_idle(CpuId(2));
    for (costly, expected) in [(2, (1, 2)), (1, (2, 1))] {
        for id in [1, 2] {
            queue.find_mut(VcpuId(id)).unwrap().cost = u32::from(id == costly);
        }
        assert_eq!(plan(&queue, Occasion::Routine, &pool, 0), Some(expected));
    }
}

#[test]
fn a_vcpu_goes_to_a_less_loaded_cpu_where_it_may_run_after_a_calm() {
    let (pool, mut queue, _runner) = three_cpus(&[0b111, 0b101, 0b101]);
    queue.find_mut(VcpuId(2)).unwrap().cost = 1;
    assert_eq!(plan(&queue, Occasion::SliceEnd, &pool, 15), None);
    assert_eq!(plan(&queue, Occasion::SliceEnd, &pool, 16), Some((1, 2)));
    assert_eq!(plan(&queue, Occasion::Routine, &pool, 16), None);
}

#[test]
fn loads_that_a_move_only_exchanges_are_exchanged_seldom_and_by_whom_was_here_longest() {
    let (pool, mut queue, runner) = three_cpus(&[0b11]);
    let mut other = RunQueue::new(CpuId(1), &pool, Tuning::default());
    let _ = other.admit(Someone::new(7, 256), 0);
    let _busy = other.pick(0).unwrap();
    assert!(other.send_off(Occasion::Routine, &pool, 0).is_none());
    let mut late = Someone::new(1, 256);
    late.affinity = CpuSet::from_bits(0b11);
    let _ = queue.admit(late, 200 * MS);
    assert_eq!(plan(&queue, Occasion::SliceEnd, &pool, 330), None, "it came last");
    queue.settle(runner, Next::Ready, 330 * MS);
    let late = queue.pick(330 * MS).unwrap();
    assert_eq!(late.id, 1);
    assert_eq!(plan(&queue, Occasion::SliceEnd, &pool, 327), None, "127 ms after the last move");
    assert_eq!(plan(&queue, Occasion::SliceEnd, &pool, 328), Some((0, 1)));
}

#[test]
fn a_load_that_was_expected_is_corrected() {
    let (pool, mut queue, _runner) = three_cpus(&[0b11, 0b11]);
    let mut other = RunQueue::new(CpuId(1), &pool, Tuning::default());
    assert!(other.send_off(Occasion::Routine, &pool, 0).is_none());
    pool.enter_idle(CpuId(1));
    let (sent, _) = queue.send_off(Occasion::Routine, &pool, 0).unwrap();
    assert_eq!((pool.load(CpuId(0)), pool.load(CpuId(1))), (256, 256));
    let _ = other.admit(sent, 0);
    let mut sent = other.pick(0).unwrap();
    other.dismiss(&mut sent, 0);
    assert!(other.send_off(Occasion::Routine, &pool, 0).is_none());
    assert_eq!(pool.load(CpuId(1)), 0);
}
