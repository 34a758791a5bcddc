use proptest::prelude::*;

use super::*;

const MASK: u64 = (1 << 48) - 1;

/// What a one-shot timer does to `TCFG.EN` when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keeps,
    Clears,
}

/// A timer in the hardware.
#[derive(Clone, Debug)]
struct Hardware {
    kind: Kind,
    tcfg: u64,
    ti: bool,
    run: Run,
}

impl Hardware {
    fn new(kind: Kind) -> Self {
        Self { kind, tcfg: 0, ti: false, run: Run::Stopped(0) }
    }

    fn start(&self) -> u64 {
        self.tcfg & MASK & !3
    }

    /// Lets it run until `now`.
    fn advance(&mut self, now: u64) {
        while let Run::Until(Ticks(at)) = self.run
            && at <= now
        {
            self.ti = true;
            if self.tcfg & PERIODIC != 0 {
                self.run = Run::Until(Ticks(at + self.start()));
            } else {
                self.run = Run::Stopped(MASK);
                if self.kind == Kind::Clears {
                    self.tcfg &= !EN;
                }
            }
        }
    }

    fn read(&mut self, now: u64) -> Registers {
        self.advance(now);
        let tval = match self.run {
            Run::Stopped(tval) => tval,
            Run::Until(Ticks(at)) => at - now,
        };
        Registers { tcfg: self.tcfg, tval, ti: self.ti }
    }

    /// As the guest writes `TCFG`: with EN, the counter starts anew.
    fn program(&mut self, tcfg: u64, now: u64) {
        let tval = self.read(now).tval;
        self.tcfg = tcfg;
        self.run = match tcfg & EN {
            0 => Run::Stopped(tval),
            _ => Run::Until(Ticks(now + self.start())),
        };
    }

    /// As `TICLR` does.
    fn clear(&mut self, now: u64) {
        self.advance(now);
        self.ti = false;
    }

    /// As the hypervisor loads it.
    fn load(&mut self, registers: Registers, now: u64) {
        self.program(0, now);
        self.ti = registers.ti;
        self.program(registers.tcfg, now);
        self.run = match self.run {
            Run::Stopped(_) => Run::Stopped(registers.tval),
            Run::Until(_) => Run::Until(Ticks(now + registers.tval)),
        };
        self.advance(now);
    }
}

/// What a guest sees of a timer, whichever kind: EN of a one-shot timer that fired means nothing.
fn visible(registers: Registers) -> Registers {
    let fired = registers.tcfg & PERIODIC == 0 && registers.tval == MASK;
    Registers { tcfg: if fired { registers.tcfg & !EN } else { registers.tcfg }, ..registers }
}

fn away(hardware: &mut Hardware, from: u64, to: u64) {
    let mut timer = Timer::new(48);
    timer.save(hardware.read(from), Ticks(from));
    // Meanwhile another guest has the hardware, and leaves it somehow.
    hardware.program(EN | PERIODIC | 8, from);
    hardware.ti = true;
    hardware.load(timer.restore(Ticks(to)), to);
}

#[test]
fn a_one_shot_timer_runs_on() {
    let mut timer = Timer::new(48);
    timer.save(Registers { tcfg: 1000 | EN, tval: 600, ti: false }, Ticks(5000));
    assert_eq!(timer.deadline(), Some(Ticks(5600)));
    assert_eq!(timer.restore(Ticks(5250)), Registers { tcfg: 1000 | EN, tval: 350, ti: false });
    assert_eq!(timer.restore(Ticks(5600)), Registers { tcfg: 1000, tval: MASK, ti: true });
    assert_eq!(timer.restore(Ticks(1 << 50)), Registers { tcfg: 1000, tval: MASK, ti: true });
}

#[test]
fn a_one_shot_timer_that_fired_does_not_fire_again() {
    // As silicon has it, acknowledged; as QEMU has it, not yet.
    for (tcfg, ti) in [(1000 | EN, false), (1000, true)] {
        let mut timer = Timer::new(48);
        timer.save(Registers { tcfg, tval: MASK, ti }, Ticks(5000));
        assert_eq!(timer.deadline(), None);
        assert_eq!(timer.restore(Ticks(9000)), Registers { tcfg: 1000, tval: MASK, ti });
    }
}

#[test]
fn a_periodic_timer_keeps_its_phase() {
    let mut timer = Timer::new(48);
    timer.save(Registers { tcfg: 1000 | PERIODIC | EN, tval: 600, ti: false }, Ticks(5000));
    let on = |tval, ti| Registers { tcfg: 1000 | PERIODIC | EN, tval, ti };
    assert_eq!(timer.restore(Ticks(5599)), on(1, false));
    assert_eq!(timer.restore(Ticks(5600)), on(1000, true));
    assert_eq!(timer.restore(Ticks(5601)), on(999, true));
    assert_eq!(timer.restore(Ticks(8650)), on(950, true));
}

#[test]
fn a_stopped_timer_stays_where_it_is() {
    let mut timer = Timer::new(48);
    let registers = Registers { tcfg: 1000 | PERIODIC, tval: 600, ti: true };
    timer.save(registers, Ticks(5000));
    assert_eq!(timer.restore(Ticks(9000)), registers);
    assert_eq!(timer.deadline(), None);
}

#[test]
fn a_pending_tick_has_no_deadline() {
    let mut timer = Timer::new(48);
    timer.save(Registers { tcfg: 1000 | EN, tval: 600, ti: true }, Ticks(5000));
    assert_eq!(timer.deadline(), None, "nothing new would happen");
    assert!(timer.pending(Ticks(5000)));
}

#[test]
fn a_periodic_timer_without_a_period_has_the_shortest() {
    let mut timer = Timer::new(48);
    timer.save(Registers { tcfg: PERIODIC | EN, tval: 0, ti: false }, Ticks(5000));
    assert_eq!(timer.restore(Ticks(5001)), Registers { tcfg: PERIODIC | EN, tval: 3, ti: true });
}

/// What happens to a timer.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes.
    Wait(u64),
    /// The guest writes `TCFG`.
    Program(u64),
    /// The guest acknowledges.
    Clear,
    /// The guest is away for so long.
    Away(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![0u64..40, 0u64..2000];
    let tcfg = (1u64..200, 0u64..4).prop_map(|(quarter, flags)| quarter * 4 | flags);
    prop_oneof![
        time.clone().prop_map(Step::Wait),
        tcfg.prop_map(Step::Program),
        Just(Step::Clear),
        time.prop_map(Step::Away),
    ]
}

proptest! {
    /// A guest that is taken from the hardware and put back cannot tell: no tick is lost, none invented, the
    /// phase stays, whatever the hardware does to EN.
    #[test]
    fn being_away_changes_nothing(
        keeps: bool, steps in prop::collection::vec(step(), 1..60), start in 0u64..1 << 60,
    ) {
        let kind = if keeps { Kind::Keeps } else { Kind::Clears };
        let (mut stays, mut moves) = (Hardware::new(kind), Hardware::new(kind));
        let mut now = start;
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Program(tcfg) => {
                    stays.program(tcfg, now);
                    moves.program(tcfg, now);
                }
                Step::Clear => {
                    stays.clear(now);
                    moves.clear(now);
                }
                Step::Away(time) => {
                    away(&mut moves, now, now + time);
                    now += time;
                }
            }
            prop_assert_eq!(visible(moves.read(now)), visible(stays.read(now)), "after {:?}", step);
        }
    }

    /// A tick that comes while the registers are being read comes once, and not before its time.
    #[test]
    fn a_tick_while_reading_comes_once(
        keeps: bool, quarter in 1u64..20, reads in prop::array::uniform6(0u64..20),
        out in prop_oneof![0u64..5, 0u64..100],
    ) {
        let mut hardware = Hardware::new(if keeps { Kind::Keeps } else { Kind::Clears });
        hardware.program(quarter * 4 | EN, 1000);
        let mut at = 1000;
        let mut later = reads.into_iter().map(|time| {
            at += time;
            (hardware.read(at), at)
        });
        let mut next = || later.next().unwrap();
        let registers = Registers::read(next().0.tcfg, next().0.tval, next().0.ti, next().0.tval);
        let now = next().1;
        // It goes on until it is stopped.
        let _ = next();
        let mut timer = Timer::new(48);
        timer.save(registers, Ticks(now));
        at += out;
        hardware.load(timer.restore(Ticks(at)), at);
        let mut ticks = 0;
        while at < 2000 {
            if hardware.read(at).ti {
                prop_assert!(at >= 1000 + quarter * 4, "{} too early", 1000 + quarter * 4 - at);
                ticks += 1;
                hardware.clear(at);
            }
            at += 1;
        }
        prop_assert_eq!(ticks, 1);
    }

    /// The deadline is the time at which the tick comes.
    #[test]
    fn the_deadline_is_when_it_fires(tcfg: u64, tval: u64, ti: bool, now: u64, bits in 0u32..70) {
        let mut timer = Timer::new(bits);
        timer.save(Registers { tcfg, tval, ti }, Ticks(now));
        if let Some(at) = timer.deadline() {
            prop_assert!(timer.pending(at) && at.0 >= now);
            prop_assert!(at.0 == now || !timer.pending(Ticks(at.0 - 1)));
        }
        let _ = timer.restore(Ticks(tval));
    }
}
