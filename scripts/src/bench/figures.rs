//! The figures, their limits, and how they are shown.

use super::operations::KINDS;
use crate::arch::Arch;
use crate::run::vm::Policy;
use std::fmt::Write;

/// Longest image, in KiB. LoongArch's instructions for the same take a quarter more room.
const fn image_limit(arch: Arch) -> u64 {
    match arch {
        Arch::Aarch64 => 512,
        Arch::Loongarch64 => 576,
    }
}
/// Most memory Fermata may use before it starts guests, in KiB.
const MEMORY_LIMIT: u64 = 8192;

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) policy: Option<Policy>,
    pub(super) instructions: u64,
    pub(super) loads: u64,
    pub(super) saves: u64,
    pub(super) skips: u64,
    pub(super) bytes: u64,
}

/// All figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) arch: Arch,
    pub(super) rows: Vec<Row>,
    /// The length of the image in memory, in bytes.
    pub(super) image: u64,
    /// Memory before guests, in KiB, as Fermata says.
    pub(super) memory: Option<u64>,
}
impl Row {
    /// Tells whether it holds for this policy.
    pub(super) fn is_of(&self, policy: Policy) -> bool {
        self.policy.is_none_or(|own| own == policy)
    }

    /// Returns the most instructions it may show. Under `eager` the registers of both move whether they are used or
    /// not, so that the limit for both holds there.
    fn limit(&self, arch: Arch) -> Option<u64> {
        let name = match (self.name.as_str(), self.policy) {
            ("switch_none", Some(Policy::Eager)) => "switch_both",
            (name, _) => name,
        };
        KINDS.iter().find(|kind| kind.name == name)?.limit(arch)
    }

    /// Says why it is over its limit, if it is.
    fn over(&self, arch: Arch) -> Option<String> {
        let policy = self.policy.map_or_else(String::new, |policy| format!(" ({policy})"));
        if let Some(limit) = self.limit(arch).filter(|limit| self.instructions > *limit) {
            return Some(format!(
                "{}{policy} takes {} instructions, {limit} is the limit",
                self.name, self.instructions
            ));
        }
        let one_user = matches!(self.name.as_str(), "switch_one" | "switch_sve_one" | "switch_lasx_one");
        let moved = self.policy == Some(Policy::Hold) && one_user && self.loads + self.saves != 0;
        moved.then(|| {
            format!("{}{policy} has {} loads and {} saves, not 0", self.name, self.loads, self.saves)
        })
    }
}

impl Figures {
    /// Names everything over its limit.
    pub(super) fn over(&self) -> Vec<String> {
        let mut over: Vec<String> = self.rows.iter().filter_map(|row| row.over(self.arch)).collect();
        let limit = image_limit(self.arch);
        if self.image > limit << 10 {
            over.push(format!("the image has {} KiB, {limit} is the limit", self.image.div_ceil(1024)));
        }
        match self.memory {
            None => over.push("Fermata did not say how much memory it takes before guests".to_string()),
            Some(memory) if memory > MEMORY_LIMIT => {
                over.push(format!("Fermata takes {memory} KiB before guests, {MEMORY_LIMIT} is the limit"));
            }
            Some(_) => {}
        }
        over
    }

    /// Writes the table.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:<16} {:<9} {:>12} {:>6} {:>6} {:>6} {:>7} {:>6}\n",
            "name", "policy", "instructions", "loads", "saves", "skips", "bytes", "limit"
        );
        for row in &self.rows {
            let policy = row.policy.map_or("-", Policy::name);
            let limit = row.limit(self.arch).map_or_else(|| "-".to_string(), |limit| limit.to_string());
            let mark = if row.over(self.arch).is_some() { "  over" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<16} {policy:<9} {:>12} {:>6} {:>6} {:>6} {:>7} {limit:>6}{mark}",
                row.name, row.instructions, row.loads, row.saves, row.skips, row.bytes
            );
        }
        let _ = writeln!(text, "image: {} KiB (limit {})", self.image.div_ceil(1024), image_limit(self.arch));
        if let Some(memory) = self.memory {
            let _ = writeln!(text, "memory before guests: {memory} KiB (limit {MEMORY_LIMIT})");
        }
        text
    }

    /// Writes the array of objects.
    pub(super) fn json(&self) -> String {
        let arch = self.arch;
        let object = |row: &Row| {
            let policy = row.policy.map_or_else(|| "null".to_string(), |policy| format!("\"{policy}\""));
            format!(
                "  {{\"arch\": \"{arch}\", \"name\": \"{}\", \"policy\": {policy}, \"instructions\": {}, \"loads\": {}, \
                 \"saves\": {}, \"skips\": {}, \"bytes\": {}}}",
                row.name, row.instructions, row.loads, row.saves, row.skips, row.bytes
            )
        };
        format!("[\n{}\n]\n", self.rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
    }
}
#[cfg(test)]
mod tests {
    use super::super::operations::{memory, row};
    use super::*;

    fn figures(lines: &[&str], policy: Policy) -> Figures {
        let rows = lines.iter().map(|line| row(line, policy).unwrap()).collect();
        Figures {
            arch: Arch::Aarch64,
            rows,
            image: 300_000,
            memory: memory("[ 0.1] fermata: memory before guests: 1234 KiB"),
        }
    }

    #[test]
    fn every_limit_is_kept_or_named() {
        let good = figures(&["bench hypercall 250 0 0 0 0", "bench switch_one 3000 0 0 2 0"], Policy::Hold);
        assert_eq!(good.over(), [""; 0]);
        for (line, policy, word) in [
            ("bench hypercall 251 0 0 0 0", Policy::Hold, "251 instructions, 250"),
            ("bench switch_one 3000 1 0 0 0", Policy::Hold, "1 loads"),
            ("bench switch_both 4601 2 2 0 0", Policy::Lazy, "switch_both (lazy)"),
            ("bench switch_sve_one 3000 0 1 0 2208", Policy::Hold, "1 saves"),
            ("bench touch_sve 407 1 1 0 0", Policy::Lazy, "407 instructions, 406"),
            ("bench switch_lasx_one 3000 1 0 0 1032", Policy::Hold, "1 loads"),
        ] {
            let over = figures(&[line], policy).over();
            assert!(over.len() == 1 && over[0].contains(word), "{over:?}");
        }
        let slower = |lines: &[&str]| Figures { arch: Arch::Loongarch64, ..figures(lines, Policy::Resident) };
        assert_eq!(slower(&["bench hypercall 300 0 0 0 0"]).over(), [""; 0]);
        assert_eq!(slower(&["bench switch_lasx_both 5201 2 2 0 0"]).over().len(), 1);
        assert_eq!(figures(&["bench switch_one 3000 1 1 0 0"], Policy::Lazy).over(), [""; 0]);
        let fat = Figures { image: 513 << 10, memory: Some(8193), rows: vec![], ..good.clone() };
        assert_eq!(fat.over().len(), 2);
        assert_eq!(Figures { memory: None, ..good }.over().len(), 1);
    }

    #[test]
    pub(super) fn table_and_json_show_the_same() {
        let figures =
            figures(&["bench hypercall 251 0 0 0 0", "bench switch_one 3000 0 0 2 0"], Policy::Hold);
        let table = figures.table();
        assert!(table.contains("hypercall        -                  251"), "{table}");
        assert!(table.contains("250  over\n") && table.contains("switch_one       hold"), "{table}");
        assert!(table.contains("image: 293 KiB") && table.contains("1234 KiB"), "{table}");
        assert_eq!(
            figures.json(),
            "[\n  {\"arch\": \"aarch64\", \"name\": \"hypercall\", \"policy\": null, \"instructions\": 251, \"loads\": 0, \
             \"saves\": 0, \"skips\": 0, \"bytes\": 0},\n  {\"arch\": \"aarch64\", \"name\": \"switch_one\", \"policy\": \
             \"hold\", \"instructions\": 3000, \"loads\": 0, \"saves\": 0, \"skips\": 2, \"bytes\": 0}\n]\n"
        );
    }
}
