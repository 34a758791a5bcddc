//! `cargo xtask bench fp`: what each FP policy costs, by who uses FP and what.
//!
//! A boot of the bench guest for each policy and kind of registers plays all mixes. The figures are held to what the policy
//! `adaptive` promises.

use super::{Boot, Log};
use crate::arch::Arch;
use crate::lab::Lab;
use crate::run::units::Sve;
use crate::run::vm::Policy;
use crate::run::watch::Listener;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::path::Path;

/// Boots at one time; each keeps about a core busy, and instructions are counted whatever else the machine does.
const AT_ONCE: usize = 2;
/// vCPUs of the guest: four take turns, one waits for them.
const CPUS: u32 = 5;
/// The mixes, in the order of the table, and who uses FP in them. `guests/src/bin/bench/mix.rs` plays them.
const MIXES: [(&str, &str); 6] = [
    ("mix_none", "none of four vCPUs uses FP"),
    ("mix_one", "one uses it in every turn"),
    ("mix_half", "two do"),
    ("mix_all", "all do"),
    ("mix_turns", "one does, another in every other turn"),
    ("mix_phases", "three in 50 turns, then not in 50"),
];
/// `adaptive` takes at most so many hundredths of the instructions of the worse of `lazy` and `hold`.
const OF_THE_WORSE: u64 = 105;
/// And of the best of the policies that always do the same.
const OF_THE_BEST: u64 = 110;

/// Registers that are used, in a guest that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers {
    name: &'static str,
    /// What the bench guest calls them.
    units: &'static str,
    /// The guest's longest vectors.
    sve: Sve,
    /// Bytes of what they hold, as the ledger counts them (docs/fp.md).
    bytes: u64,
}

impl Registers {
    const fn new(name: &'static str, units: &'static str, sve: Sve, bytes: u64) -> Self {
        Self { name, units, sve, bytes }
    }

    /// Lists all of an architecture.
    const fn of(arch: Arch) -> &'static [Self] {
        match arch {
            Arch::Aarch64 => AARCH64,
            Arch::Loongarch64 => LOONGARCH64,
        }
    }
}

/// From the narrowest to the widest.
const AARCH64: &[Registers] = &[
    Registers::new("simd", "simd", Sve::Hidden, 528),
    Registers::new("sve-128", "sve", Sve::Bits(128), 570),
    Registers::new("sve-512", "sve", Sve::Bits(512), 2208),
    Registers::new("sve-2048", "sve", Sve::Bits(2048), 8760),
];
/// The same; the guest has all units that the machine has.
const LOONGARCH64: &[Registers] = &[
    Registers::new("fpu", "fpu", Sve::Hidden, 264),
    Registers::new("lsx", "lsx", Sve::Hidden, 520),
    Registers::new("lasx", "lasx", Sve::Hidden, 1032),
];

/// What a mix took under a policy, all rounds together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    rounds: u64,
    instructions: u64,
    traps: u64,
    loads: u64,
    saves: u64,
    skips: u64,
    bytes: u64,
    /// Saves and loads that no scheme can do without.
    moves: u64,
}

/// What a mix took under each policy, in the order of [`Policy::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mix {
    registers: Registers,
    name: &'static str,
    costs: [Cost; Policy::ALL.len()],
}

/// All of an architecture.
#[derive(Debug)]
pub(super) struct Table {
    arch: Arch,
    mixes: Vec<Mix>,
}

/// Measures everything for `cargo xtask test`, with the output in a log.
///
/// # Errors
/// It cannot be measured, or `adaptive` breaks a promise; all that it breaks are named.
pub(crate) fn check(lab: &Lab, log: &Path) -> Result<()> {
    let mut listener = Log::default();
    let table = measure(lab, &mut listener);
    let text = table.as_ref().map_or_else(|_| String::new(), Table::text);
    std::fs::write(log, listener.0 + &text).with_context(|| log.display().to_string())?;
    let broken = table?.broken();
    ensure!(broken.is_empty(), "{}", broken.join(", "));
    Ok(())
}

/// Measures everything.
///
/// # Errors
/// It cannot be measured.
pub(super) fn measure(lab: &Lab, listener: &mut dyn Listener) -> Result<Table> {
    let mut mixes = Vec::new();
    for registers in Registers::of(lab.arch) {
        let mut by_policy = Vec::new();
        for policies in Policy::ALL.chunks(AT_ONCE) {
            for (costs, log) in measure_some(lab, registers, policies) {
                log.0.lines().for_each(|line| listener.line(usize::MAX, registers.name, line));
                by_policy.push(costs?);
            }
        }
        for (n, (name, _)) in MIXES.into_iter().enumerate() {
            let costs = std::array::from_fn(|policy| by_policy[policy][n]);
            mixes.push(Mix { registers: *registers, name, costs });
        }
    }
    Ok(Table { arch: lab.arch, mixes })
}

/// What each mix took, in the order of [`MIXES`].
type Costs = [Cost; MIXES.len()];

/// Measures under some policies at the same time.
fn measure_some(lab: &Lab, registers: &Registers, policies: &[Policy]) -> Vec<(Result<Costs>, Log)> {
    let one = |policy: Policy| {
        let mut log = Log::default();
        let costs = measure_one(lab, registers, policy, &mut log);
        (costs.with_context(|| format!("the bench guest under policy {policy}")), log)
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = policies.iter().map(|policy| scope.spawn(move || one(*policy))).collect();
        runs.into_iter().map(|run| run.join().expect("a measurement does not panic")).collect()
    })
}

/// Boots the bench guest once; returns what each mix took.
fn measure_one(
    lab: &Lab,
    registers: &Registers,
    policy: Policy,
    listener: &mut dyn Listener,
) -> Result<Costs> {
    let only = MIXES.map(|(name, _)| name).join(",");
    let cmdline = format!("only={only} units={}", registers.units);
    let boot = Boot { cpus: CPUS, policy, sve: registers.sve, cmdline };
    let mut reader = Reader { costs: [None; MIXES.len()], problem: None, listener };
    boot.run(lab, &mut reader)?;
    if let Some(problem) = reader.problem {
        bail!(problem);
    }
    let said = |n: usize| reader.costs[n].with_context(|| format!("it said nothing of {}", MIXES[n].0));
    let costs = (0..MIXES.len()).map(said).collect::<Result<Vec<_>>>()?;
    Ok(std::array::from_fn(|n| costs[n]))
}

/// Reads figures out of what is said, and passes everything on.
struct Reader<'a> {
    costs: [Option<Cost>; MIXES.len()],
    problem: Option<String>,
    listener: &'a mut dyn Listener,
}

impl Listener for Reader<'_> {
    fn line(&mut self, console: usize, name: &str, line: &str) {
        self.listener.line(console, name, line);
        match cost(line) {
            _ if console != 1 => {}
            Some((mix, cost)) => self.costs[mix] = Some(cost),
            None if line.starts_with("mix ") => self.problem = Some(format!("no figure: {line}")),
            None if line.starts_with("not ok") => self.problem = Some(line.to_string()),
            None => {}
        }
    }
}

/// Reads `mix NAME ROUNDS INSTRUCTIONS TRAPS LOADS SAVES SKIPS BYTES MOVES`; the mix is an index of [`MIXES`].
fn cost(line: &str) -> Option<(usize, Cost)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["mix", name, numbers @ ..] = words.as_slice() else { return None };
    let mix = MIXES.iter().position(|(known, _)| known == name)?;
    let numbers: Option<Vec<u64>> = numbers.iter().map(|number| number.parse().ok()).collect();
    let [rounds, instructions, traps, loads, saves, skips, bytes, moves] = numbers?.try_into().ok()?;
    (rounds > 0).then_some((mix, Cost { rounds, instructions, traps, loads, saves, skips, bytes, moves }))
}

impl Cost {
    /// Writes a number of it per round, rounded to hundredths, or to whole ones where hundredths say nothing.
    fn each(&self, total: u64) -> String {
        let hundredths = (total * 100 + self.rounds / 2) / self.rounds;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// Returns a number of it per round, rounded.
    const fn whole(&self, total: u64) -> u64 {
        (total + self.rounds / 2) / self.rounds
    }
}

impl Mix {
    fn cost(&self, policy: Policy) -> &Cost {
        let place = Policy::ALL.iter().position(|known| *known == policy);
        &self.costs[place.expect("every policy is in the list of all")]
    }

    /// Returns the bytes that any correct scheme moves: where a vCPU uses registers after another, what that one left in
    /// them has to be saved, and what this one had in them has to be loaded.
    fn least(&self) -> u64 {
        self.registers.bytes * self.costs[0].moves
    }

    /// Says which promise of `adaptive` the figures break.
    fn broken(&self) -> Option<String> {
        let of = |policy: Policy| self.cost(policy).instructions;
        let adaptive = of(Policy::Adaptive);
        let fixed = Policy::ALL.into_iter().filter(|policy| *policy != Policy::Adaptive).map(of);
        let worse = of(Policy::Lazy).max(of(Policy::Hold));
        let best = fixed.min().unwrap_or(adaptive);
        let (limit, which) = if adaptive * 100 > worse * OF_THE_WORSE {
            (worse * OF_THE_WORSE, "the worse of lazy and hold")
        } else if adaptive * 100 > best * OF_THE_BEST {
            (best * OF_THE_BEST, "the best policy")
        } else {
            return None;
        };
        let rounds = self.costs[0].rounds;
        Some(format!(
            "{} {}: adaptive takes {} instructions, {} is the limit, by {which}",
            self.registers.name,
            self.name,
            adaptive / rounds,
            limit / 100 / rounds
        ))
    }
}

impl Table {
    /// Names every promise of `adaptive` that is broken.
    pub(super) fn broken(&self) -> Vec<String> {
        self.mixes.iter().filter_map(Mix::broken).collect()
    }

    /// Writes the table: per round, which is a turn of each of four vCPUs.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("A round is a turn of each of four vCPUs on one CPU.\n");
        MIXES.iter().for_each(|(name, what)| line(&mut text, format_args!("{name:<10} {what}")));
        line(
            &mut text,
            format_args!(
                "\n{:<9} {:<10} {:<9} {:>12} {:>5} {:>8} {:>5} {:>5} {:>5}",
                "registers", "mix", "policy", "instructions", "traps", "bytes", "loads", "saves", "skips"
            ),
        );
        for mix in &self.mixes {
            let (registers, name) = (mix.registers.name, mix.name);
            let first = &mix.costs[0];
            for (policy, cost) in Policy::ALL.into_iter().zip(&mix.costs) {
                let mark = if policy == Policy::Adaptive && mix.broken().is_some() { "  over" } else { "" };
                line(
                    &mut text,
                    format_args!(
                        "{registers:<9} {name:<10} {policy:<9} {:>12} {:>5} {:>8} {:>5} {:>5} {:>5}{mark}",
                        cost.whole(cost.instructions),
                        cost.each(cost.traps),
                        cost.whole(cost.bytes),
                        cost.each(cost.loads),
                        cost.each(cost.saves),
                        cost.each(cost.skips)
                    ),
                );
            }
            for (bound, bytes) in [("needed", mix.least()), ("nothing", 0)] {
                line(
                    &mut text,
                    format_args!(
                        "{registers:<9} {name:<10} {bound:<9} {:>12} {:>5} {:>8}",
                        "-",
                        "0.00",
                        first.whole(bytes)
                    ),
                );
            }
        }
        text + "needed: the bytes that any correct scheme moves; nothing: what it would be without FP.\n"
    }

    /// Writes the array of objects; all numbers are totals over the rounds.
    pub(super) fn json(&self) -> String {
        let arch = self.arch;
        let object = |mix: &Mix, policy: Policy| {
            let cost = mix.cost(policy);
            format!(
                "  {{\"arch\": \"{arch}\", \"registers\": \"{}\", \"mix\": \"{}\", \"policy\": \"{policy}\", \"rounds\": {}, \
                 \"instructions\": {}, \"traps\": {}, \"loads\": {}, \"saves\": {}, \"skips\": {}, \"bytes\": {}, \
                 \"needed\": {}}}",
                mix.registers.name,
                mix.name,
                cost.rounds,
                cost.instructions,
                cost.traps,
                cost.loads,
                cost.saves,
                cost.skips,
                cost.bytes,
                mix.least()
            )
        };
        let objects = self.mixes.iter().flat_map(|mix| Policy::ALL.map(|policy| object(mix, policy)));
        format!("[\n{}\n]\n", objects.collect::<Vec<_>>().join(",\n"))
    }
}

/// Adds a line, to which writing cannot fail.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mix whose policies take so many instructions in each of 1000 rounds, in the order of the table.
    fn mix(instructions: [u64; 5]) -> Mix {
        let costs = instructions.map(|each| {
            let line = format!("mix mix_half 1000 {} 25 2000 2000 0 2112000 4000", each * 1000);
            cost(&line).unwrap().1
        });
        Mix { registers: Registers::of(Arch::Aarch64)[0], name: "mix_half", costs }
    }

    #[test]
    fn lines_of_the_guest_become_costs() {
        let (index, read) = cost("mix mix_one 1000 7000000 1 2 3 4 5 6").unwrap();
        assert_eq!((MIXES[index].0, read.rounds, read.instructions), ("mix_one", 1000, 7_000_000));
        assert_eq!(
            [read.traps, read.loads, read.saves, read.skips, read.bytes, read.moves],
            [1, 2, 3, 4, 5, 6]
        );
        for wrong in [
            "mix mix_one 1000 7000000 1 2 3 4 5",
            "mix mix_one 1000 7000000 1 2 3 4 5 6 7",
            "mix mix_one 0 7000000 1 2 3 4 5 6",
            "mix mix_two 1000 7000000 1 2 3 4 5 6",
            "bench mix_one 1000 7000000 1 2 3 4 5 6",
            "mix mix_one 1000 x 1 2 3 4 5 6",
        ] {
            assert_eq!(cost(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn promises_of_adaptive_are_kept_or_named() {
        // Eager, lazy, resident, hold, adaptive.
        for kept in
            [[8000, 7000, 7000, 7000, 7000], [8000, 7000, 7500, 7200, 7560], [7000, 8000, 8000, 7700, 7700]]
        {
            assert_eq!(mix(kept).broken(), None, "{kept:?}");
        }
        for (broken, limit) in [
            ([9000, 7000, 7500, 7200, 7561], "7560 is the limit, by the worse of lazy and hold"),
            ([7000, 8000, 8000, 7700, 7701], "7700 is the limit, by the best policy"),
        ] {
            let said = mix(broken).broken().unwrap();
            assert!(said.contains(limit) && said.starts_with("simd mix_half: "), "{said}");
        }
    }

    #[test]
    fn table_and_json_show_figures_bounds_and_breaches() {
        let table = Table {
            arch: Arch::Aarch64,
            mixes: vec![mix([8000, 7000, 7000, 7000, 7000]), mix([9000, 7000, 7000, 7000, 9000])],
        };
        let text = table.text();
        let row = "simd      mix_half   adaptive          7000  0.03     2112  2.00  2.00  0.00\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains(
            "simd      mix_half   adaptive          9000  0.03     2112  2.00  2.00  0.00  over\n"
        ));
        assert!(text.contains("simd      mix_half   needed               -  0.00     2112\n"), "{text}");
        assert!(text.contains("simd      mix_half   nothing              -  0.00        0\n"), "{text}");
        assert_eq!(table.broken().len(), 1);
        let json = table.json();
        assert_eq!(json.matches("\"policy\"").count(), 10);
        assert!(json.contains(
            "{\"arch\": \"aarch64\", \"registers\": \"simd\", \"mix\": \"mix_half\", \"policy\": \"eager\", \
             \"rounds\": 1000, \"instructions\": 8000000, \"traps\": 25, \"loads\": 2000, \"saves\": 2000, \
             \"skips\": 0, \"bytes\": 2112000, \"needed\": 2112000}"
        ));
    }
}
