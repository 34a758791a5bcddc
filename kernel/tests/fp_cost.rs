//! What the policy that chooses costs, held against those that do not.
//!
//! Guests take turns on one CPU and use floating point by habits of all kinds; the ledger counts, and a price per event
//! makes instructions of it. The prices are those of AArch64 with SIMD, as `cargo xtask bench` counts them.

use std::sync::Arc;

use arch_fake::fp::{EXTRA, File, Limit, Mind, Mishap, Op, Regs, SCALAR, VECTOR};
use kernel::addr::{CpuId, VcpuId};
use kernel::fp::{AuditSwitch, FpKey, FpSlot, FpUnit, Policy, PolicyCell, Tally, Touch};
use proptest::prelude::*;

/// Instructions of a turn in which nobody uses floating point: the switch, and the least a guest does.
const TURN: u64 = 1700;
/// Instructions of a trap, up to the load.
const TRAP: u64 = 260;
/// Instructions of an entry that exposes something.
const EXPOSURE: u64 = 90;
/// Instructions of a load or a save.
const MOVE: u64 = 45;

/// When a guest uses floating point.
#[derive(Clone, Debug)]
enum Use {
    Never,
    Always,
    /// In so many turns, then not in so many.
    Bursts(usize, usize),
    /// In so many turns of 256, by chance.
    Sometimes(u8),
    /// Until it finds its registers there without a trap; then not in so many turns.
    Sly(usize),
}

#[derive(Clone, Debug)]
struct Life {
    uses: Use,
    op: Op,
}

/// Everything that happens: guests, and whose turn it is, with a die for each.
#[derive(Clone, Debug)]
struct Story {
    lives: Vec<Life>,
    turns: Vec<(usize, u8)>,
}

struct Guest {
    key: FpKey,
    mind: Mind,
    turns: usize,
    rest: usize,
}

/// Plays a story under a policy and returns what the CPU counted.
fn play(story: &Story, policy: Policy) -> Tally {
    let mut file = File::new(1);
    let mut unit = FpUnit::<Regs>::new(CpuId(0), Arc::new(AuditSwitch::off()));
    let policy = Arc::new(PolicyCell::new(policy));
    let mut guests: Vec<Guest> = (0..story.lives.len())
        .map(|n| {
            let slot = FpSlot::new(VcpuId(n as u32), Limit::default(), Arc::clone(&policy));
            Guest {
                key: unit.enroll(Box::new(slot)),
                mind: Mind::new(Limit::default(), n as u16 + 1),
                turns: 0,
                rest: 0,
            }
        })
        .collect();
    for &(who, die) in &story.turns {
        let (guest, life) = (&mut guests[who % story.lives.len()], &story.lives[who % story.lives.len()]);
        guest.turns += 1;
        let uses = match life.uses {
            Use::Never => false,
            Use::Always => true,
            Use::Bursts(on, off) => guest.turns % (on + off) < on,
            Use::Sometimes(chance) => die < chance,
            Use::Sly(_) => guest.rest == 0,
        };
        unit.arrive(&guest.key);
        unit.enter(&mut file);
        guest.rest = guest.rest.saturating_sub(1);
        if uses {
            let mut trapped = false;
            while let Err(Mishap::Trap(touched)) = guest.mind.attempt(&mut file, life.op) {
                assert_eq!(unit.request(touched), Touch::Granted);
                unit.enter(&mut file);
                trapped = true;
            }
            if let Use::Sly(rest) = life.uses
                && !trapped
            {
                guest.rest = rest;
            }
        }
        unit.leave(&mut file);
    }
    unit.ledger().tally()
}

/// What it comes to in instructions.
fn price(story: &Story, tally: &Tally) -> u64 {
    story.turns.len() as u64 * TURN
        + tally.requests() * TRAP
        + tally.exposures() * EXPOSURE
        + (tally.loads + tally.saves()) * MOVE
}

fn cost(story: &Story, policy: Policy) -> u64 {
    price(story, &play(story, policy))
}

fn any_life(uses: impl Strategy<Value = Use>) -> impl Strategy<Value = Life> {
    let op = prop::sample::select(vec![Op::Read(SCALAR), Op::Read(VECTOR), Op::Read(EXTRA)]);
    (uses, op).prop_map(|(uses, op)| Life { uses, op })
}

fn any_use() -> impl Strategy<Value = Use> {
    prop_oneof![
        Just(Use::Never),
        Just(Use::Always),
        (1..100usize, 1..100usize).prop_map(|(on, off)| Use::Bursts(on, off)),
        any::<u8>().prop_map(Use::Sometimes),
        (1..100usize).prop_map(Use::Sly),
    ]
}

/// Turns in a ring, or in any order, or a ring in which somebody is left out now and then.
fn story(uses: impl Strategy<Value = Use>) -> impl Strategy<Value = Story> {
    let turns = (200..4000usize, 0..3u8, any::<u64>()).prop_map(|(count, order, seed)| {
        let mut state = seed | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let turn = |n: usize| {
            let chance = draw();
            let who = match order {
                0 => n,
                1 => (chance >> 8) as usize & 0xffff,
                _ => n + usize::from(chance >> 8 & 7 == 0),
            };
            (who, chance as u8)
        };
        (0..count).map(turn).collect()
    });
    (prop::collection::vec(any_life(uses), 1..=5), turns).prop_map(|(lives, turns)| Story { lives, turns })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever guests do.
    #[test]
    fn adaptive_is_never_much_worse_than_the_worse_of_lazy_and_hold(story in story(any_use())) {
        let [adaptive, lazy, hold] = [Policy::Adaptive, Policy::Lazy, Policy::Hold].map(|policy| cost(&story, policy));
        let worse = lazy.max(hold);
        prop_assert!(adaptive * 100 <= worse * 105, "adaptive {adaptive}, lazy {lazy}, hold {hold}");
    }

    /// Where each guest uses floating point always or never.
    #[test]
    fn adaptive_is_close_to_the_best_where_use_is_bimodal(story in story(prop_oneof![Just(Use::Never), Just(Use::Always)])) {
        let adaptive = cost(&story, Policy::Adaptive);
        let fixed = [Policy::Eager, Policy::Lazy, Policy::Resident, Policy::Hold];
        let best = fixed.into_iter().map(|policy| cost(&story, policy)).min().unwrap_or(0);
        prop_assert!(adaptive * 100 <= best * 110, "adaptive {adaptive}, the best {best}");
    }
}

/// Guests in a ring; each uses floating point always or never.
fn ring(users: usize, turns: usize) -> Story {
    let life =
        |n: usize| Life { uses: if n < users { Use::Always } else { Use::Never }, op: Op::Read(SCALAR) };
    Story { lives: (0..4).map(life).collect(), turns: (0..turns).map(|n| (n, 0)).collect() }
}

#[test]
fn adaptive_hardly_traps_where_all_use_floating_point_in_every_turn() {
    let tally = play(&ring(4, 4000), Policy::Adaptive);
    assert!(tally.requests() < 4000 / 20, "{tally:?}");
    assert_eq!(tally.loads, 4000);
}

#[test]
fn adaptive_moves_nothing_where_one_guest_uses_floating_point() {
    let tally = play(&ring(1, 4000), Policy::Adaptive);
    assert_eq!((tally.loads, tally.saves()), (1, 0));
}

#[test]
fn adaptive_exposes_nothing_to_a_guest_that_has_stopped_using_floating_point() {
    let mut story = ring(1, 4000);
    story.lives[0].uses = Use::Bursts(10, 10_000);
    let (adaptive, hold) = (play(&story, Policy::Adaptive), play(&story, Policy::Hold));
    assert!(adaptive.exposures() < 20, "{adaptive:?}");
    assert!(hold.exposures() > 900, "{hold:?}");
}
