//! Descriptions of guests: what people write on the command line or in a file, and what it means.

use super::units::{Cpus, FpUnits, Memory, Sve};
use crate::arch::Arch;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The keys of `--vm`, for messages and help.
pub(crate) const KEYS: &[&str] =
    &["name", "kernel", "initrd", "cmdline", "cpus", "memory", "fp", "fp-units", "sve", "affinity", "weight"];

/// How a guest's FP registers are kept, as Fermata names it (docs/fp.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Policy {
    /// Save and load at each switch.
    Eager,
    /// Load at first use, save at each switch.
    Lazy,
    /// Save at each switch, skip the load while nobody else used the registers.
    Resident,
    /// Keep the registers where they are until somebody else needs them.
    #[default]
    Hold,
    /// Load ahead for who uses FP in every turn and at first use for others; keep the registers as `Hold` does.
    Adaptive,
}

impl Policy {
    /// Every policy: the most eager first, the one that chooses last.
    pub(crate) const ALL: [Self; 5] = [Self::Eager, Self::Lazy, Self::Resident, Self::Hold, Self::Adaptive];

    /// Returns the name Fermata knows the policy by.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
            Self::Resident => "resident",
            Self::Hold => "hold",
            Self::Adaptive => "adaptive",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("unknown FP policy `{text}`; known are {}", known()))
    }
}

impl TryFrom<String> for Policy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A guest as somebody wrote it: everything may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// The guest's name.
    pub(crate) name: Option<String>,
    /// A kernel that Fermata boots on the architecture, or an EFI zboot image of one.
    pub(crate) kernel: Option<PathBuf>,
    /// An initial RAM disk.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) cmdline: Option<String>,
    /// How many vCPUs it has.
    pub(crate) cpus: Option<u32>,
    /// How much memory it has.
    pub(crate) memory: Option<Memory>,
    /// Its FP policy.
    pub(crate) fp: Option<Policy>,
    /// The FP units it has.
    #[serde(rename = "fp-units")]
    pub(crate) fp_units: Option<FpUnits>,
    /// Its longest SVE vectors.
    pub(crate) sve: Option<Sve>,
    /// The physical CPUs it may run on.
    pub(crate) affinity: Option<Cpus>,
    /// Its share of the CPUs.
    pub(crate) weight: Option<u32>,
}

/// A configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The guests, in order.
    #[serde(default)]
    vm: Vec<Written>,
}

/// The kernel and RAM disk of guests that name none: Debian's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linux {
    /// Debian's kernel, a raw Image.
    pub(crate) kernel: PathBuf,
    /// An initial RAM disk with busybox.
    pub(crate) initrd: PathBuf,
    /// What these are and where from, for people.
    pub(crate) origin: String,
}

/// Returns the command line of Debian's kernel under Fermata: the emulated UART is the console, and the RAM disk's first
/// process is told the guest's name.
pub(crate) fn linux_cmdline(arch: Arch, name: &str) -> String {
    let console = match arch {
        Arch::Aarch64 => "ttyAMA0",
        Arch::Loongarch64 => "ttyS0,115200",
    };
    format!("console={console} fermata.name={name}")
}

/// A guest with every question answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vm {
    /// Unique; also the name of its node in the device tree.
    pub(crate) name: String,
    /// A kernel that Fermata boots on the architecture.
    pub(crate) kernel: PathBuf,
    /// An initial RAM disk.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// How many vCPUs it has.
    pub(crate) cpus: u32,
    /// How much memory it has.
    pub(crate) memory: Memory,
    /// Its FP policy.
    pub(crate) fp: Policy,
    /// The FP units it has, of those that the machine has; all of them where absent.
    pub(crate) fp_units: Option<FpUnits>,
    /// Its longest SVE vectors.
    pub(crate) sve: Sve,
    /// The physical CPUs it may run on; all of them where absent.
    pub(crate) affinity: Option<Cpus>,
    /// Its share of the CPUs, 256 being the ordinary one.
    pub(crate) weight: u32,
}

impl Written {
    /// Answers what was left open: for the guest at place `index`, with Debian's kernel where none is named.
    pub(crate) fn resolve(self, index: usize, arch: Arch, linux: &Linux) -> Vm {
        let debian = self.kernel.is_none();
        let name = self.name.unwrap_or_else(|| format!("{}{index}", if debian { "linux" } else { "vm" }));
        let cmdline = || if debian { linux_cmdline(arch, &name) } else { String::new() };
        Vm {
            cmdline: self.cmdline.unwrap_or_else(cmdline),
            name,
            kernel: self.kernel.unwrap_or_else(|| linux.kernel.clone()),
            initrd: self.initrd.or_else(|| debian.then(|| linux.initrd.clone())),
            cpus: self.cpus.unwrap_or(2),
            memory: self.memory.unwrap_or(Memory(256 << 20)),
            fp: self.fp.unwrap_or_default(),
            fp_units: self.fp_units,
            sve: self.sve.unwrap_or_default(),
            affinity: self.affinity,
            weight: self.weight.unwrap_or(256),
        }
    }

    /// Sets one key, as `--vm` writes it.
    fn set(&mut self, key: &str, value: String) -> Result<()> {
        let number = |text: &str| text.parse().map_err(|_| anyhow!("`{text}` is no number"));
        match key {
            "name" => once(&mut self.name, value),
            "kernel" => once(&mut self.kernel, value.into()),
            "initrd" => once(&mut self.initrd, value.into()),
            "cmdline" => once(&mut self.cmdline, value),
            "cpus" => once(&mut self.cpus, number(&value)?),
            "memory" => once(&mut self.memory, value.parse().map_err(anyhow::Error::msg)?),
            "fp" => once(&mut self.fp, value.parse().map_err(anyhow::Error::msg)?),
            "fp-units" => once(&mut self.fp_units, value.parse().map_err(anyhow::Error::msg)?),
            "sve" => once(&mut self.sve, value.parse().map_err(anyhow::Error::msg)?),
            "affinity" => once(&mut self.affinity, value.parse().map_err(anyhow::Error::msg)?),
            "weight" => once(&mut self.weight, number(&value)?),
            _ => bail!("unknown key; known are {}", KEYS.join(", ")),
        }
    }
}

/// Fills `slot`, which must be empty.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    ensure!(slot.is_none(), "given twice");
    *slot = Some(value);
    Ok(())
}

impl FromStr for Written {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut vm = Self::default();
        for part in split(text)? {
            let Some((key, value)) = part.split_once('=') else {
                bail!(
                    "--vm {text}: `{part}` is not KEY=VALUE; a value with a comma needs double quotes that reach \
                     this program: --vm 'cmdline=\"quiet,loud\",cpus=2'"
                );
            };
            vm.set(key, unquote(value)).with_context(|| format!("--vm {text}: key `{key}`"))?;
        }
        Ok(vm)
    }
}

/// Splits at commas outside double quotes; a backslash keeps the character after it from meaning anything.
fn split(text: &str) -> Result<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    ensure!(!quoted, "--vm {text}: a double quote is never closed");
    parts.push(&text[start..]);
    Ok(parts)
}

/// Takes the double quotes off, and inside them the backslash off what it protects.
fn unquote(value: &str) -> String {
    let (mut plain, mut quoted, mut escaped) = (String::new(), false, false);
    for c in value.chars() {
        match c {
            _ if escaped => {
                plain.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => plain.push(c),
        }
    }
    plain
}

/// Reads a configuration file. Paths in it are relative to the file.
///
/// # Errors
/// The file cannot be read or is not what `[[vm]]` tables may hold; the message names the line.
pub(crate) fn read_config(path: &Path) -> Result<Vec<Written>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
    let mut vms = parse_config(&text).with_context(|| format!("--config {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for file in vms.iter_mut().flat_map(|vm| [&mut vm.kernel, &mut vm.initrd]).flatten() {
        *file = folder.join(&*file);
    }
    ensure!(!vms.is_empty(), "--config {}: it has no [[vm]] table", path.display());
    Ok(vms)
}

/// Reads the text of a configuration file.
fn parse_config(text: &str) -> Result<Vec<Written>> {
    Ok(toml::from_str::<Config>(text)?.vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux() -> Linux {
        Linux { kernel: "vmlinuz".into(), initrd: "initrd.cpio".into(), origin: "Debian".into() }
    }

    fn why(text: &str) -> String {
        format!("{:#}", text.parse::<Written>().unwrap_err())
    }

    #[test]
    fn every_key_is_read() {
        let vm: Written =
            "name=a,kernel=k,initrd=i,cmdline=console=ttyAMA0 quiet,cpus=3,memory=64M,fp=lazy,fp-units=fpu+lsx,sve=512,affinity=0+2,weight=512"
                .parse()
                .unwrap();
        let expected = Vm {
            name: "a".into(),
            kernel: "k".into(),
            initrd: Some("i".into()),
            cmdline: "console=ttyAMA0 quiet".into(),
            cpus: 3,
            memory: Memory(64 << 20),
            fp: Policy::Lazy,
            fp_units: Some("fpu+lsx".parse().unwrap()),
            sve: Sve::Bits(512),
            affinity: Some("0+2".parse().unwrap()),
            weight: 512,
        };
        assert_eq!(vm.resolve(7, Arch::Aarch64, &linux()), expected);
    }

    #[test]
    fn toml_says_the_same_as_the_command_line() {
        let toml = r#"
            [[vm]]
            name = "a"
            cmdline = "a=b,c"
            memory = 64
            affinity = [2, 0]
            fp = "eager"
            fp-units = "fpu+lbt"
            sve = 2048
            [[vm]]
        "#;
        let line = r#"name=a,cmdline="a=b,c",memory=64M,affinity=0+2,fp=eager,fp-units=lbt+fpu,sve=2048"#;
        assert_eq!(parse_config(toml).unwrap(), [line.parse().unwrap(), Written::default()]);
    }

    #[test]
    fn what_is_left_open_is_debian_linux() {
        let vm = Written::default().resolve(1, Arch::Aarch64, &linux());
        assert_eq!(
            (vm.name.as_str(), vm.cpus, vm.memory, vm.fp),
            ("linux1", 2, Memory(256 << 20), Policy::Hold)
        );
        assert_eq!(vm.cmdline, "console=ttyAMA0 fermata.name=linux1");
        assert_eq!((vm.kernel, vm.initrd), ("vmlinuz".into(), Some("initrd.cpio".into())));
        let vm = Written::default().resolve(1, Arch::Loongarch64, &linux());
        assert_eq!(vm.cmdline, "console=ttyS0,115200 fermata.name=linux1");
        let vm = "kernel=mine".parse::<Written>().unwrap().resolve(0, Arch::Aarch64, &linux());
        assert_eq!((vm.name.as_str(), vm.initrd, vm.cmdline.as_str()), ("vm0", None, ""));
    }

    #[test]
    fn quotes_protect_commas_and_backslashes_protect_quotes() {
        let vm: Written = r#"cmdline="a,b=\"c, d\" \\",name=x"#.parse().unwrap();
        assert_eq!(vm.cmdline.as_deref(), Some(r#"a,b="c, d" \"#));
        assert_eq!(vm.name.as_deref(), Some("x"));
        assert!(why(r#"cmdline="a,b"#).contains("never closed"));
    }

    #[test]
    fn a_wrong_description_names_the_culprit_and_the_choice() {
        let text = why("name=a,colour=red");
        assert!(text.contains("`colour`") && text.contains("known are name, kernel"), "{text}");
        let text = why("fp=sloppy");
        assert!(
            text.contains("`sloppy`") && text.contains("eager, lazy, resident, hold, adaptive"),
            "{text}"
        );
        let text = why("cmdline=a,b,name=x");
        assert!(text.contains("`b` is not KEY=VALUE") && text.contains("quotes"), "{text}");
        assert!(why("cpus=two").contains("`two` is no number"));
        assert!(why("cpus=1,cpus=2").contains("given twice"));
        let text = format!("{:#}", parse_config("[[vm]]\ncolour = 1").unwrap_err());
        assert!(text.contains("colour") && text.contains("`cmdline`"), "{text}");
        let text = format!("{:#}", parse_config("[[vm]]\nfp = \"sloppy\"").unwrap_err());
        assert!(text.contains("unknown FP policy `sloppy`"), "{text}");
    }
}
