//! The laws of the whole machine: the loop, its messages, launch and end of guests, on pretend CPUs.
//!
//! The rig runs the same code as hardware does, CPU by CPU, under a virtual clock, and interrupts it at every point
//! where it touches the hardware. Everything in [`rig::Run::check`] holds of every machine.

mod rig;
mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use arch_fake::fp::{self, EXTRA, Limit, Narrow, SCALAR, VECTOR};
use arch_fake::script::{Op, RESETS, Timer, Way};
use arch_fake::world::Outcome;
use kernel::addr::CpuId;
use kernel::fp::Policy;
use kernel::sched::CpuSet;
use proptest::prelude::*;
use rig::{Case, Command, Guest, run};

fn fp_op() -> impl Strategy<Value = fp::Op> {
    prop_oneof![
        3 => prop_oneof![Just(SCALAR), Just(VECTOR), Just(EXTRA)].prop_map(fp::Op::Read),
        3 => (0..fp::MAIN_REGS).prop_map(fp::Op::Scalar),
        3 => (0..fp::MAIN_REGS).prop_map(fp::Op::Vector),
        1 => (0..=fp::TWIST).prop_map(fp::Op::Mode),
        2 => (0..fp::EXTRA_REGS).prop_map(fp::Op::Extra),
    ]
}

/// What does not end anything.
fn calm_op() -> impl Strategy<Value = Op> {
    let timer = prop_oneof![Just(Timer::Hard), Just(Timer::Soft)];
    let way = prop_oneof![Just(Way::Load), Just(Way::Store)];
    prop_oneof![
        14 => (1..3000u32).prop_map(Op::Compute),
        3 => (1..2000u32).prop_map(Op::Mask),
        24 => fp_op().prop_map(Op::Fp),
        12 => (0..4u8, 0..5u8).prop_map(|(to, irq)| Op::Ipi { to, irq }),
        6 => Just(Op::Wait),
        10 => (0..5000u32).prop_map(Op::WaitFor),
        10 => (timer, 0..4000u32).prop_map(|(timer, ticks)| Op::Timer(timer, ticks)),
        1 => Just(Op::Listen),
        4 => (1..40u8).prop_map(Op::Put),
        3 => way.prop_map(Op::Nothing),
        8 => (0..5u8, 0..12u8).prop_map(|(vcpu, entry)| Op::On { vcpu, entry }),
        1 => (0..4u8).prop_map(Op::OnNowhere),
        3 => (0..5u8).prop_map(Op::State),
        1 => Just(Op::Odd),
        2 => Just(Op::Ledger),
        1 => Just(Op::Touches),
        4 => (1..6u8).prop_map(Op::Again),
        2 => Just(Op::Off),
        1 => Just(Op::Spin),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => calm_op(),
        1 => Just(Op::PowerOff),
        1 => Just(Op::Reset),
        1 => Just(Op::Crash),
    ]
}

/// Makes a guest of random scripts: its first vCPU starts the others, mostly, and has the UART for itself.
fn furnish(mut scripts: Vec<Vec<Op>>, starts: bool, last: Option<Op>) -> Vec<Vec<Op>> {
    let count = scripts.len() as u8;
    for script in scripts.iter_mut().skip(1) {
        for op in script {
            if matches!(op, Op::Put(_) | Op::Listen) {
                *op = Op::Compute(10);
            }
        }
    }
    if starts {
        let others = (1..count).map(|vcpu| Op::On { vcpu, entry: 0 });
        scripts[0].splice(0..0, others);
    }
    scripts[0].extend(last);
    scripts
}

fn guest(
    op: impl Strategy<Value = Op>,
    last: impl Strategy<Value = Option<Op>>,
) -> impl Strategy<Value = Guest> {
    let units = prop_oneof![
        4 => Just(SCALAR | VECTOR | EXTRA),
        1 => Just(SCALAR | VECTOR),
        1 => Just(SCALAR),
    ];
    let narrow = prop_oneof![Just(Narrow::Undefined), Just(Narrow::Zeroes)];
    let limit = (units, narrow).prop_map(|(units, narrow)| Limit { units, narrow });
    let scripts = prop::collection::vec(prop::collection::vec(op, 0..14), 1..=4);
    let scripts = (scripts, prop::bool::weighted(0.8), last)
        .prop_map(|(scripts, starts, last)| furnish(scripts, starts, last));
    let weight = prop::sample::select(vec![128u32, 256, 512]);
    let affinity = prop_oneof![2 => Just(0u64), 1 => 1..8u64];
    let policy = prop::sample::select(Policy::ALL.to_vec());
    (scripts, limit, affinity, weight, policy, 1..4u64).prop_map(
        |(scripts, limit, affinity, weight, policy, granules)| Guest {
            scripts,
            limit,
            affinity,
            weight,
            policy,
            granules,
        },
    )
}

fn command(guests: usize, changes: bool) -> impl Strategy<Value = Command> {
    let guest = 0..guests;
    let say = move |line: &'static str| guest.clone().prop_map(move |n| Command::Say(format!("{line} @{n}")));
    let view = prop::sample::select(vec![
        "vm",
        "vcpu",
        "cpu",
        "fp",
        "fp dump",
        "trace 5",
        "trace dump",
        "fp audit off",
        "fp audit on",
    ]);
    let policy = (0..guests, prop::sample::select(Policy::ALL.to_vec()));
    let affinity = (0..guests, 1..8u64);
    let change = u32::from(changes) * 3;
    prop_oneof![
        change => say("vm stop"),
        change => say("vm start"),
        change => say("vm restart"),
        2 => (0..guests, 0..4u8).prop_map(|(n, vcpu)| Command::Say(format!("fp snapshot @{n}/{vcpu}"))),
        4 => policy.prop_map(|(n, policy)| Command::Say(format!("fp policy @{n} {}", policy.name()))),
        3 => affinity.prop_map(|(n, cpus)| Command::Say(format!("vm affinity @{n} {}", CpuSet::from_bits(cpus)))),
        2 => view.prop_map(|line| Command::Say(line.into())),
        2 => (0..guests, prop::collection::vec(b'a'..=b'z', 1..6)).prop_map(|(n, bytes)| Command::Type(n, bytes)),
    ]
}

fn case(guest: impl Strategy<Value = Guest> + Clone, changes: bool) -> impl Strategy<Value = Case> {
    (1..=3usize, prop::collection::vec(guest, 1..=4), 1..12u64).prop_flat_map(
        move |(cpus, guests, byte_time)| {
            let typed = prop::collection::vec((0..60_000u64, command(guests.len(), changes)), 0..10);
            (typed, any::<u64>()).prop_map(move |(typed, seed)| Case {
                cpus,
                guests: guests.clone(),
                typed,
                seed,
                byte_time,
                ..Case::new(cpus, guests.clone())
            })
        },
    )
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    run(case).check().map_err(TestCaseError::fail)
}

/// The same cases every time: a machine is as repeatable as its seed.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        max_shrink_time: 60_000,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0xfe27_a7a5),
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn everybody_gets_what_is_due_to_them(case in case(guest(calm_op(), Just(None)).boxed(), false)) {
        check(&case)?;
    }

    #[test]
    fn guests_end_and_start_anew_at_any_moment(case in case(guest(op(), Just(None)).boxed(), true)) {
        check(&case)?;
    }
}

/// Runs a machine under many seeds.
fn always(case: Case, look: impl Fn(&rig::Run)) {
    for seed in 0..20 {
        let run = run(&Case { seed, ..case.clone() });
        if let Err(what) = run.check() {
            panic!("seed {seed}: {what}");
        }
        look(&run);
    }
}

#[test]
fn a_machine_without_work_halts_when_its_guests_are_off() {
    let off: &[Op] = &[Op::Compute(100), Op::PowerOff];
    always(Case::new(2, vec![Guest::new(&[off]), Guest::new(&[off])]), |run| {
        assert_eq!(run.outcome, Outcome::Halted);
    });
}

/// A CPU whose only vCPU never stops has no reason of its own to leave it.
#[test]
fn lines_are_shown_while_the_first_cpu_is_in_a_guest_that_never_stops() {
    let odd: &[Op] = &[Op::Compute(5000), Op::Odd, Op::Spin];
    let off: &[Op] = &[Op::Compute(5000), Op::PowerOff];
    // The one is logged on the second CPU, the other on the first.
    for (script, line) in [(odd, "vCPU 0 does something odd"), (off, "vm beryl powered off")] {
        let guests = vec![Guest::new(&[&[Op::Spin]]).on(1), Guest::new(&[script]).on(2)];
        always(Case::new(2, guests), |run| {
            let shown = run.output(0);
            assert!(shown.contains(&format!("fermata: {line}\r\n")), "{shown}");
        });
    }
}

/// No block of the heap is so large as the page tables of 32 GiB may need beside the rest.
#[test]
fn a_guest_for_which_the_heap_is_too_small_is_named_and_the_others_run() {
    let small: &[Op] = &[Op::Compute(3000), Op::Reset];
    let guests = vec![Guest::new(&[small]), Guest { granules: 1 << 14, ..Guest::new(&[small]) }];
    let run = run(&Case { heap: |_| 9, ..Case::new(2, guests) });
    assert_eq!(run.errors, ["vm beryl not started: heap: asked for 32 x 28 KiB, which it does not have"]);
    assert_eq!(run.outcome, Outcome::Halted);
    assert_eq!([0, 1].map(|vm| run.lives(vm, |lives| lives.len())), [1 + RESETS, 0]);
}

/// For some time the heap has room for one guest, and then none would be left for who wants to start anew.
#[test]
fn who_ran_starts_anew_when_the_heap_has_no_room_for_anybody_else() {
    let resets: &[Op] = &[Op::Compute(3000), Op::Reset];
    let guests = vec![Guest::new(&[resets]), Guest::new(&[&[Op::Spin]]), Guest::new(&[&[Op::Spin]])];
    let typed =
        [(5000, "vm stop @1"), (10_000, "vm start @1"), (20_000, "vm restart @2"), (70_000, "vm start @1")];
    let typed = typed.map(|(at, line)| (at, Command::Say(line.into()))).into();
    let heap = |now| if (5000..60_000).contains(&now) { 1 } else { 2 };
    let run = run(&Case { typed, heap, ..Case::new(2, guests) });
    assert_eq!(run.errors, ["vm beryl not started: heap: asked for 32 x 16 KiB, which it does not have"]);
    assert_eq!([0, 1, 2].map(|vm| run.lives(vm, |lives| lives.len())), [1 + RESETS, 2, 2]);
}

#[test]
fn the_oldest_snapshots_are_forgotten_when_the_heap_is_nearly_full() {
    let guests = vec![Guest::new(&[&[Op::Spin]]), Guest::new(&[&[Op::Spin]])];
    let typed: Vec<_> = (0..8)
        .map(|n| (5000 + 5000 * n, Command::Say(format!("fp snapshot @{}/0", n % 2))))
        .chain([(60_000, Command::Say("fp snapshot @0/0".into()))])
        .collect();
    let kept = |heap| {
        let run = run(&Case { typed: typed.clone(), time: 10_000, heap, ..Case::new(2, guests.clone()) });
        run.check().unwrap();
        let shelf = run.machine.shelf.lock();
        let owners = shelf.iter().map(|(id, _)| id.0 >> 8).collect::<Vec<_>>();
        (owners, run.output(0).contains("no snapshot: there is too little left of the heap"))
    };
    assert_eq!(kept(|_| 100), (vec![1, 0, 1, 0], false));
    // Two of them take the room that the last one needs.
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let two = |now| if now < 50_000 || ASKED.fetch_add(1, Ordering::Relaxed) >= 2 { 2 } else { 1 };
    assert_eq!(kept(two), (vec![0, 1, 0], false));
    assert_eq!(kept(|now| if now < 50_000 { 2 } else { 1 }), (vec![], true));
}

/// Those that run, sleep and are off go where they are sent, with their registers, and none is where it may not be.
#[test]
fn vcpus_go_where_they_are_sent_while_they_run() {
    const ROUND: u64 = 20_000;
    let (scalar, vector, look) =
        (Op::Fp(fp::Op::Scalar(1)), Op::Fp(fp::Op::Vector(2)), Op::Fp(fp::Op::Read(VECTOR)));
    let busy: &[Op] = &[scalar, Op::Compute(3000), vector, Op::Compute(300), look, Op::Again(100)];
    let asleep: &[Op] = &[vector, Op::WaitFor(2500), look, scalar, Op::Again(255)];
    let off: &[Op] = &[vector, Op::Off];
    let on = |vcpu| Op::On { vcpu, entry: 0 };
    let first: Vec<Op> = [1, 2, 3].into_iter().map(on).chain(busy.iter().copied()).collect();
    for sent in [0, 1, 2] {
        let pins = ["0", "1", "2", "0-1"].into_iter().zip(1..);
        let guests = vec![Guest::new(&[&first, asleep, off, busy]), Guest::new(&[busy])];
        let mut typed: Vec<_> =
            pins.map(|(cpus, n)| (n * ROUND, Command::Say(format!("vm affinity @0 {cpus}")))).collect();
        typed.push((5 * ROUND, Command::Say(format!("vm affinity @0 {sent}"))));
        always(Case { typed, time: 30_000, ..Case::new(3, guests) }, |run| {
            let vm = run.machine.tenants[0].vm().expect("it runs");
            for index in [0, 1, 3] {
                assert_eq!(vm.bell(index).home(), CpuId(sent), "vCPU {index}");
                let moves = vm.stats(index).account().2;
                assert!(moves >= 3, "vCPU {index} moved {moves} times");
            }
            assert!(vm.fp_tally().migration_flushes > 0, "no registers were moved");
        });
    }
}

/// Pinned vCPUs have the CPU to themselves: others do without it, and it does without others.
#[test]
fn a_cpu_that_all_guests_were_sent_away_from_runs_none() {
    let busy: &[Op] = &[Op::Spin];
    let typed = vec![
        (5_000, Command::Say("vm affinity @0 1".into())),
        (5_100, Command::Say("vm affinity @1 1".into())),
        (40_000, Command::Say("cpu".into())),
        (80_000, Command::Say("cpu".into())),
    ];
    let first: &[Op] = &[Op::On { vcpu: 1, entry: 0 }, Op::Spin];
    let guests = vec![Guest::new(&[first, busy]), Guest::new(&[busy])];
    always(Case { typed, time: 20_000, ..Case::new(2, guests) }, |run| {
        let shown = run.output(0);
        let runs: Vec<_> = shown.lines().filter(|line| line.starts_with("cpu0 ")).collect();
        assert_eq!(runs.len(), 2, "{shown}");
        for line in runs {
            assert_eq!(line.split_whitespace().nth(3), Some("-"), "{shown}");
        }
    });
}
