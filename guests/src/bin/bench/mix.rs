//! Mixes: four vCPUs on one CPU take turns in a ring, and use FP by habits that differ.
//!
//! One line `mix NAME ROUNDS INSTRUCTIONS TRAPS LOADS SAVES SKIPS BYTES MOVES` each, totals over all rounds. A
//! round is a turn of each of the four; MOVES are the saves and loads that no scheme can do without. Every mix has vCPUs
//! that have just been switched on, so it includes what a policy takes to learn, and does not depend on the mixes before
//! it. vCPU 0 sleeps meanwhile. Argument: `units=NAME` is what is used (default: what every CPU has).

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::{args, cpu, fp, irq, println, smp, timer};

use crate::{IPI, Touch, arch, instructions, ledger, taken};

const PLAYERS: usize = 4;
/// Long against what `adaptive` learns in, which looks again after at most 63 turns. Not so long that whoever uses FP has had
/// half a millisecond more than the others: from then on they interrupt its turns (docs/scheduling.md), and what is counted
/// is the scheduler. A turn with FP takes up to 1,100 instructions more than one without.
const ROUNDS: u64 = 400;
/// Microseconds before the first turn.
const PAUSE: u64 = 20_000;
/// So many turns with FP, then so many without.
const PHASE: u64 = 50;

/// Which mix is played, as an index of [`MIXES`].
static MIX: AtomicUsize = AtomicUsize::new(0);
/// How FP is used, as a [`Touch`].
static TOUCH: AtomicUsize = AtomicUsize::new(0);
/// What player 1 read when its first turn began, and what came on top of it until all rounds were over.
static COUNTED: [AtomicU64; COUNTERS] = [const { AtomicU64::new(0) }; COUNTERS];

/// Time, traps, and the ledger's loads, saves, skips and bytes.
const COUNTERS: usize = 6;

/// In which of its turns a vCPU uses FP.
#[derive(Clone, Copy)]
enum Use {
    Never,
    Always,
    EveryOther,
    /// In phases, so many turns late.
    Phases(u64),
}

/// A name and who does what.
type Mix = (&'static str, [Use; PLAYERS]);

/// All mixes. `cargo xtask` knows them, too.
const MIXES: [Mix; 6] = [
    ("mix_none", [Use::Never; PLAYERS]),
    ("mix_one", [Use::Always, Use::Never, Use::Never, Use::Never]),
    ("mix_half", [Use::Always, Use::Never, Use::Always, Use::Never]),
    ("mix_all", [Use::Always; PLAYERS]),
    ("mix_turns", [Use::Always, Use::EveryOther, Use::Never, Use::Never]),
    ("mix_phases", [Use::Phases(0), Use::Phases(PHASE), Use::Phases(PHASE / 2), Use::Never]),
];

impl Use {
    const fn is_due(self, turn: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::EveryOther => turn.is_multiple_of(2),
            Self::Phases(late) => ((turn + late) / PHASE).is_multiple_of(2),
        }
    }
}

/// Plays the mixes that are wanted and returns how many those were.
pub(crate) fn play_all(wanted: impl Fn(&str) -> bool) -> u64 {
    let mut played = 0;
    for (index, (name, uses)) in MIXES.iter().enumerate() {
        if !wanted(name) {
            continue;
        }
        if smp::count() <= PLAYERS {
            println!("bench: {name} needs {} vCPUs", PLAYERS + 1);
            continue;
        }
        let Some(touch) = touch() else {
            println!("not ok {name}: no such units here");
            continue;
        };
        TOUCH.store(touch as usize, Release);
        play(index);
        let [ticks, traps, loads, saves, skips, bytes] =
            COUNTED.each_ref().map(|counter| counter.load(Acquire));
        println!(
            "mix {name} {ROUNDS} {} {traps} {loads} {saves} {skips} {bytes} {}",
            instructions(ticks),
            moves(uses)
        );
        played += 1;
    }
    played
}

/// Counts the saves and loads that no scheme can do without: where FP is used by another than used it last, what that one
/// left has to be saved, and what this one left has to be loaded, if it has used FP before.
fn moves(uses: &[Use; PLAYERS]) -> u64 {
    let turns = (0..ROUNDS).flat_map(|turn| uses.iter().map(move |one| one.is_due(turn)).enumerate());
    let (mut last, mut known, mut moves) = (None, [false; PLAYERS], 0);
    for (player, _) in turns.filter(|(_, uses)| *uses) {
        if last.is_some_and(|last| last != player) {
            moves += 1 + u64::from(known[player]);
        }
        (last, known[player]) = (Some(player), true);
    }
    moves
}

/// Returns what uses the units that are asked for, if they are here.
fn touch() -> Option<Touch> {
    let units = args::text("units").map_or(Some(fp::Units::BASE), fp::Units::parse)?;
    fp::present().has(units).then(|| arch::touch_of(units)).flatten()
}

/// Starts the players and waits for the ball. Player 1 is the last to start, and waits before it begins: until then this
/// vCPU sleeps, and what was printed has gone out.
fn play(mix: usize) {
    MIX.store(mix, Release);
    let mut before = 0;
    for player in (1..=PLAYERS).rev() {
        before = taken(0);
        smp::start(player, run).expect("a player starts");
        cpu::sleep_until(|| taken(0) != before);
    }
    cpu::sleep_until(|| taken(0) - before > 1);
    (1..=PLAYERS).for_each(smp::join);
}

/// A player: waits for the ball, uses FP or not, passes it on.
fn run(me: usize) {
    let uses = MIXES[MIX.load(Acquire)].1[me - 1];
    // SAFETY: `play_all` stored a `Touch` before it started any player.
    let touch = unsafe { core::mem::transmute::<usize, Touch>(TOUCH.load(Acquire)) };
    // To set a vector length is a use, too.
    if !matches!(uses, Use::Never) {
        arch::enable_all();
    }
    let first = taken(me);
    irq::send(IPI, 0);
    if me == 1 {
        // The timer throws the ball.
        irq::enable(irq::TIMER);
        timer::arm(timer::now() + timer::micros(PAUSE));
    }
    for turn in 0..=ROUNDS {
        cpu::sleep_until(|| taken(me) - first > turn);
        let is_last = turn == ROUNDS;
        if me == 1 && turn == 0 {
            count(|_, now| now);
        }
        if me == 1 && is_last {
            count(|before, now| now.wrapping_sub(before));
        }
        if !is_last && uses.is_due(turn) {
            touch();
        }
        let next = if me < PLAYERS {
            me + 1
        } else if is_last {
            0
        } else {
            1
        };
        irq::send(IPI, next);
    }
}

/// Brings what is counted up to date.
fn count(change: impl Fn(u64, u64) -> u64) {
    let [loads, saves, skips, bytes] = ledger();
    let now = [timer::now(), arch::traps(), loads, saves, skips, bytes];
    for (counter, now) in COUNTED.iter().zip(now) {
        counter.store(change(counter.load(Relaxed), now), Release);
    }
}
