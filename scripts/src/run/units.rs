//! Amounts of memory, sets of CPUs and of FP units, and vector lengths, as people write them.

use kernel::sched::CpuSet;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// An amount of memory in bytes. Written `256M`, `2G`, `64K`, or a bare number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Memory(pub(crate) u64);

/// Some physical CPUs, at least one. Written `0-1`, `3`, `0+2-3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Cpus(pub(crate) CpuSet);

/// The highest number that a CPU may have.
const HIGHEST_CPU: usize = CpuSet::CAPACITY - 1;

/// The FP units of a guest on LoongArch, in the order of their widths. Written `fpu`, `fpu+lsx`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FpUnits(Vec<&'static str>);

/// The longest SVE vectors that a guest may have. Written as a number of bits, or `max` for what its CPUs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) enum Sve {
    /// It has no SVE.
    #[default]
    Hidden,
    /// That many bits.
    Bits(u32),
    /// As long as its CPUs have them.
    Longest,
}

/// How a TOML file may write a number or a set of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    /// A bare number.
    Number(u64),
    /// Text, as on the command line.
    Text(String),
    /// A list of CPU numbers.
    List(Vec<u32>),
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no amount of memory; write 256M, 2G, or a number of MiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "k" | "kib" => 10,
            "" | "m" | "mib" => 20,
            "g" | "gib" => 30,
            _ => return Err(wrong()),
        };
        match number.checked_mul(1 << shift) {
            Some(0) => Err("no memory at all (0) is too little".to_string()),
            Some(bytes) => Ok(Self(bytes)),
            None => Err(format!("`{text}` is more memory than 64 bits count")),
        }
    }
}

impl TryFrom<Written> for Memory {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(mib) => format!("{mib}M").parse(),
            Written::Text(text) => text.parse(),
            Written::List(_) => Err("memory is one amount, not a list".to_string()),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(out, "{} GiB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(out, "{} MiB", bytes >> 20),
            bytes => write!(out, "{} KiB", bytes.div_ceil(1024)),
        }
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        CpuSet::parse(text).map(Self).ok_or_else(|| {
            format!("`{text}` is no list of CPUs; write 1, 0-3, or 0+2-3, with {HIGHEST_CPU} as the highest number")
        })
    }
}

impl TryFrom<Written> for Cpus {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(cpu) => cpu.to_string().parse(),
            Written::Text(text) => text.parse(),
            Written::List(cpus) => {
                let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
                cpus.join("+").parse()
            }
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The FP units there are, as Fermata names them.
const FP_UNITS: [&str; 4] = ["fpu", "lsx", "lasx", "lbt"];

impl FpUnits {
    /// Names them as Fermata does.
    pub(crate) fn names(&self) -> &[&'static str] {
        &self.0
    }
}

impl FromStr for FpUnits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split('+').map(str::trim).collect();
        match words.iter().find(|word| !FP_UNITS.contains(word)) {
            Some(word) => Err(format!(
                "`{word}` is no FP unit; known are {}, written as in fpu+lsx",
                FP_UNITS.join(", ")
            )),
            None => Ok(Self(FP_UNITS.into_iter().filter(|unit| words.contains(unit)).collect())),
        }
    }
}

impl TryFrom<String> for FpUnits {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Sve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) => Ok(Self::Hidden),
            // DDI0487 B1.4.1: 128 to 2048 bits. Which of them there are depends on the CPU.
            Ok(bits @ 128..=2048) if bits % 128 == 0 => Ok(Self::Bits(bits)),
            _ if text == "max" => Ok(Self::Longest),
            _ => Err(format!("`{text}` is no vector length; write a multiple of 128 up to 2048, or max")),
        }
    }
}

impl TryFrom<Written> for Sve {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(bits) => bits.to_string().parse(),
            Written::Text(text) => text.parse(),
            Written::List(_) => Err("the longest vectors have one length, not a list".to_string()),
        }
    }
}

impl fmt::Display for Sve {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden => out.write_str("none"),
            Self::Bits(bits) => write!(out, "{bits}"),
            Self::Longest => out.write_str("max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp_units_are_a_set() {
        for (text, names) in
            [("fpu", &["fpu"][..]), ("lsx+fpu", &["fpu", "lsx"]), ("lbt+lasx+lsx+fpu+lsx", &FP_UNITS)]
        {
            assert_eq!(text.parse::<FpUnits>().unwrap().names(), names);
        }
        for wrong in ["", "fpu+", "sse", "fpu,lsx"] {
            let why = wrong.parse::<FpUnits>().unwrap_err();
            assert!(why.contains("is no FP unit; known are fpu, lsx, lasx, lbt"), "{why}");
        }
    }

    #[test]
    fn memory_reads_back_as_it_is_shown() {
        for (text, bytes, shown) in [
            ("256M", 256 << 20, "256 MiB"),
            ("2G", 2 << 30, "2 GiB"),
            ("512", 512 << 20, "512 MiB"),
            ("64k", 64 << 10, "64 KiB"),
        ] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!((memory.0, memory.to_string().as_str()), (bytes, shown));
            assert_eq!(shown.parse::<Memory>(), Ok(memory));
        }
        for wrong in ["", "M", "12Q", "-1", "1.5G", "0", "99999999999999999999"] {
            assert!(wrong.parse::<Memory>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpu_lists_read_back_as_they_are_shown() {
        for (written, bits, shown) in
            [("'0'", 1, "0"), ("'3+0-1'", 0b1011, "0-1+3"), ("2", 0b100, "2"), ("[2, 0, 2]", 0b101, "0+2")]
        {
            let list = read(written).unwrap();
            assert_eq!((list.0, list.to_string().as_str()), (CpuSet::from_bits(bits), shown));
            assert_eq!(shown.parse::<Cpus>(), Ok(list));
        }
        for wrong in ["''", "'x'", "'1-'", "'0-64'", "'1-0'", "64", "[]", "[4294967295]"] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains("is no list of CPUs") && why.contains("63"), "{wrong}: {why}");
        }
    }

    /// What a TOML file has as a list of CPUs.
    fn read(written: &str) -> Result<Cpus, String> {
        let table = toml::from_str::<std::collections::BTreeMap<String, Cpus>>(&format!("cpus = {written}"));
        table.map(|table| table["cpus"]).map_err(|error| error.to_string())
    }

    #[test]
    fn vector_lengths_are_multiples_of_128_bits() {
        assert_eq!(
            ["0", "128", "2048", "max"].map(str::parse),
            [Ok(Sve::Hidden), Ok(Sve::Bits(128)), Ok(Sve::Bits(2048)), Ok(Sve::Longest)]
        );
        for text in ["", "64", "200", "2176", "-128", "all", "512b"] {
            let why = text.parse::<Sve>().unwrap_err();
            assert!(why.contains(&format!("`{text}`")) && why.contains("128"), "{why}");
        }
    }
}
