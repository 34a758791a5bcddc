//! Shows that FP registers arrive when somebody puts another guest's into this one: vCPU 0 fills all of its own with the
//! pattern of `seed=`, waits until they change, and checks that every one of them is that of `then=`, and stays so.
//!
//! Arguments: `seed=` (default 1), `then=` (none: hold still and wait), `seconds=` (default 60, how long to wait).
#![no_std]
#![no_main]

use guests::fp::{self, Owner, State, Units};
use guests::report::{Done, Outcome};
use guests::{args, ensure, irq, println, report, timer};

guests::guest!(main);

/// How often the registers that arrived are looked at, with sleep in between.
const LOOKS: u64 = 50;

fn main() {
    irq::on_interrupt(|number| {
        if number == irq::TIMER {
            timer::on_irq();
        }
    });
    let seed = args::number("seed", 1);
    fp::enable(fp::present());
    let mine = pattern(seed);
    mine.load();
    println!("fp-travel: {} of seed {seed} is in the registers", fp::present());
    match args::number("then", 0) {
        0 => report::test("registers-stay", || stay(&mine)),
        then => report::test("registers-arrive", || arrive(&mine, &pattern(then))),
    }
}

/// Makes a pattern without LoongArch's TM (an even round), so that to read it changes nothing.
fn pattern(seed: u64) -> State {
    State::pattern(Owner { seed: seed as u16, worker: 0 }, 0, fp::present())
}

/// Leaves the registers alone until the time is over: what is read of them meanwhile is what was loaded.
fn stay(mine: &State) -> Outcome {
    timer::sleep(timer::micros(seconds() * 1_000_000));
    ensure!(mine.check().is_none(), "{}", mine.check().expect("just seen"));
    Ok(Done::Passed)
}

fn arrive(mine: &State, theirs: &State) -> Outcome {
    let end = timer::now() + timer::micros(seconds() * 1_000_000);
    // Reading these changes nothing, so what is put into the registers meanwhile is not lost. It may come in the middle,
    // and then some are old and some are new.
    while mine.compare(&State::read(Units::BASE)).is_none() {
        ensure!(timer::now() < end, "nothing arrived");
        timer::sleep(timer::micros(1000));
    }
    for look in 0..LOOKS {
        let wrong = theirs.check();
        ensure!(wrong.is_none(), "look {look}: {}", wrong.expect("just seen"));
        timer::sleep(timer::micros(1000));
    }
    Ok(Done::Passed)
}

fn seconds() -> u64 {
    args::number("seconds", 60)
}
