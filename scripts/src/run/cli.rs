//! The command line of `cargo xtask run`.

use super::machine::{Board, Machine};
use super::units::Memory;
use super::vm::{self, Written};
use crate::arch::{Arch, Emulator};
use anyhow::{Context, Result, anyhow, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The help text of the options.
pub(crate) const HELP: &str = r#"cargo xtask run [OPTIONS] [-- QEMU ARGUMENTS]

Sets up what is missing, builds Fermata, and boots guests under it in QEMU. Without --vm or --config these are two
Debian Linux guests, linux0 and linux1, with two vCPUs and 256 MiB each.

  --arch A              architecture: aarch64, loongarch64 (aarch64)
  --board B             board (virt)
  --qemu EMULATOR       for loongarch64: lvz, the QEMU that set-up builds, with the virtualisation extension; or stock,
                        one without it, on which no guest starts (lvz)
  --cpu MODEL           QEMU's CPU model. aarch64: cortex-a53, cortex-a57, cortex-a72, neoverse-v1, ... (max);
                        loongarch64: la464 and what it has (la464,lvz=on,lbt=on, and la464 on stock)
  --cpus N              physical CPUs (2)
  --memory M            physical memory, such as 512M or 4G; a bare number is MiB (2G)
  --vm KEY=VALUE,...    a guest; may be given again for more
  --config FILE         guests from a TOML file: [[vm]] tables with the same keys; paths are relative to the file
  --headless            no terminal: every line with its console's name before it. Also without --headless when
                        standard input or output is no terminal
  --fp-report FILE      draw what the FP registers of each CPU held over time, as an HTML page (headless): the newest
                        8,192 trace records of each CPU, and of which time they are
  --script FILE         type lines on expected output (headless); see below
  --timeout S           stop after S seconds; that is a failure
  --dry-run             print QEMU's command line and build nothing
  -- ...                everything after this goes to QEMU as it is

Keys of --vm, with what holds when one is left out:
  name=NAME             letters, digits, . _ - (linux0, linux1, ... or vm0, vm1, ...)
  kernel=PATH           aarch64: a raw arm64 Image or any flat binary with that header. loongarch64: a raw Image or an ELF
                        file. An EFI zboot image packed with zstd is unpacked (Debian's kernel)
  initrd=PATH           an initial RAM disk (busybox, if the kernel is Debian's)
  cmdline=TEXT          the kernel's command line (if the kernel is Debian's, console=ttyAMA0 fermata.name=NAME, with
                        console=ttyS0,115200 on loongarch64)
  cpus=N                vCPUs (2)
  memory=M              memory (256M)
  fp=POLICY             how FP registers are kept: eager, lazy, resident, hold, adaptive (hold)
  fp-units=U+U...       loongarch64: the FP units it has, of fpu, lsx, lasx, lbt (all that the machine has)
  sve=BITS              SVE with vectors of at most that many bits, or max (0: none)
  affinity=CPUS         physical CPUs it may run on: 1, 0-3, 0+2-3 (all)
  weight=N              its share of the CPUs (256)
A value may contain `=`. One with a comma is put in double quotes, and those are protected from the shell:
  cargo xtask run --vm 'name=a,cmdline="console=ttyAMA0 isolcpus=0,1",fp=lazy' --vm name=b

At a terminal one guest is in front, and every key including Ctrl-C goes to it. Ctrl-] brings the next console to the
front: the other guests, and Fermata's own prompt, where `help` lists the commands and `quit` ends everything. The run
also ends when every guest has powered off (`poweroff` in Linux).

The exit status is 0 if every guest powered off (or `quit` was typed at a terminal). If one crashed or was not started,
Fermata panicked, QEMU ended early, the script failed or the time was over, it is 1 and the reason is printed.

Scripts are lines of
  CONSOLE expect "TEXT"   wait until TEXT appears on CONSOLE (a guest's name, `fermata`, or `*` for any of them),
                          after what an earlier `expect` on it found; it need not be a whole line
  CONSOLE send "TEXT"     type TEXT and Enter
  CONSOLE type "TEXT"     type TEXT alone
  save VCPU "FILE"        write the newest FP snapshot of VCPU to FILE (`fp snapshot VCPU` at the prompt takes one)
  load VCPU "FILE"        import a snapshot from FILE for VCPU (`fp restore VCPU` then puts it back)
  timeout SECONDS         how long each `expect` and `save` from here on may take (60 at first)
  pause SECONDS           wait
  # ...                   a comment
In TEXT, \n \r \t \e \" \\ and \xHH are what they are in Rust or C. When the script is over, the run goes on until
every guest has powered off or its own --timeout.
"#;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// The machine.
    pub(crate) machine: Machine,
    /// The guests, as they were written; empty for the default pair.
    pub(crate) vms: Vec<Written>,
    /// Lines with console names even at a terminal.
    pub(crate) headless: bool,
    /// A script to follow.
    pub(crate) script: Option<PathBuf>,
    /// How long the run may take.
    pub(crate) timeout: Option<Duration>,
    /// Only print what would run.
    pub(crate) dry_run: bool,
    /// Where to draw what the FP registers held.
    pub(crate) fp_report: Option<PathBuf>,
}

/// Options as they come in.
#[derive(Debug, Default)]
struct Options {
    arch: Option<Arch>,
    board: Option<String>,
    qemu: Option<Emulator>,
    cpu: Option<String>,
    cpus: Option<u32>,
    memory: Option<Memory>,
    vms: Vec<Written>,
    headless: bool,
    script: Option<PathBuf>,
    timeout: Option<Duration>,
    dry_run: bool,
    fp_report: Option<PathBuf>,
}

/// Reads the arguments of `cargo xtask run`.
///
/// # Errors
/// Names the option and what it takes.
pub(crate) fn parse(mut parser: Parser) -> Result<Request> {
    // All after `--` is QEMU's, untouched, so it is taken away before any of it can be misread.
    let mut words: Vec<OsString> = parser.raw_args()?.collect();
    let extra = match words.iter().position(|word| word == "--") {
        Some(at) => words.split_off(at).split_off(1),
        None => Vec::new(),
    };
    let mut options = Options::default();
    let mut parser = Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long(name) => {
                let name = name.to_string();
                options.set(&name, &mut parser).with_context(|| format!("--{name}"))?;
            }
            Arg::Value(value) => bail!(
                "`{}` belongs to no option; a guest is --vm KEY=VALUE,... and what is for QEMU comes after --",
                value.to_string_lossy()
            ),
            Arg::Short(_) => return Err(argument.unexpected()).context("see cargo xtask run --help"),
        }
    }
    options.finish(extra)
}

impl Options {
    fn set(&mut self, name: &str, parser: &mut Parser) -> Result<()> {
        let mut text = || -> Result<String> { Ok(parser.value()?.string()?) };
        match name {
            "arch" => self.arch = Some(text()?.parse()?),
            "board" => self.board = Some(text()?),
            "qemu" => self.qemu = Some(text()?.parse()?),
            "cpu" => self.cpu = Some(text()?),
            "cpus" => {
                let text = text()?;
                let cpus = text.parse().ok().filter(|cpus| (1..=512).contains(cpus));
                self.cpus =
                    Some(cpus.with_context(|| format!("`{text}` is no number of CPUs; write 1 to 512"))?);
            }
            "memory" => self.memory = Some(text()?.parse().map_err(anyhow::Error::msg)?),
            "vm" => self.vms.push(text()?.parse()?),
            "config" => self.vms.extend(vm::read_config(&PathBuf::from(parser.value()?))?),
            "headless" => self.headless = true,
            "fp-report" => {
                let path = PathBuf::from(parser.value()?);
                let drawing = path.extension().is_some_and(|name| name == "svg");
                ensure!(!drawing, "{}: the picture is part of an HTML page", path.display());
                self.fp_report = Some(path);
            }
            "script" => self.script = Some(parser.value()?.into()),
            "timeout" => self.timeout = Some(seconds(&text()?)?),
            "dry-run" => self.dry_run = true,
            _ => bail!("there is no such option; cargo xtask run --help lists them"),
        }
        Ok(())
    }

    fn finish(self, extra: Vec<OsString>) -> Result<Request> {
        let board = Board::find(self.arch.unwrap_or(Arch::Aarch64), self.board.as_deref())?;
        let default = Machine::new(board, self.qemu)?;
        let machine = Machine {
            cpu: self.cpu.unwrap_or(default.cpu),
            cpus: self.cpus.unwrap_or(default.cpus),
            memory: self.memory.unwrap_or(default.memory),
            extra,
            ..default
        };
        ensure!(!machine.cpu.is_empty(), "--cpu: a CPU model has a name");
        Ok(Request {
            machine,
            vms: self.vms,
            headless: self.headless || self.script.is_some() || self.fp_report.is_some(),
            fp_report: self.fp_report,
            script: self.script,
            timeout: self.timeout,
            dry_run: self.dry_run,
        })
    }
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|length| !length.is_zero()).ok_or_else(|| anyhow!("`{text}` is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Result<Request> {
        parse(Parser::from_args(words))
    }

    fn why(words: &[&str]) -> String {
        format!("{:#}", request(words).unwrap_err())
    }

    #[test]
    fn options_reach_the_machine_and_the_rest_reaches_qemu() {
        let words = "--cpu cortex-a72 --cpus 4 --memory 4G --vm name=a --vm=name=b,cmdline=x=y --timeout 1.5 --headless -- -s -d --cpu";
        let request = request(&words.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((request.machine.cpu.as_str(), request.machine.cpus), ("cortex-a72", 4));
        assert_eq!(request.machine.memory, Memory(4 << 30));
        assert_eq!(request.machine.extra, ["-s", "-d", "--cpu"]);
        assert_eq!(request.vms[1].cmdline.as_deref(), Some("x=y"));
        assert_eq!(request.timeout, Some(Duration::from_millis(1500)));
        assert!(request.headless && !request.dry_run);
    }

    #[test]
    fn an_architecture_brings_its_emulator_and_cpu() {
        let machine = |words: &[&str]| request(words).unwrap().machine;
        let loongarch = machine(&["--arch", "loongarch64"]);
        assert_eq!((loongarch.emulator, loongarch.cpu.as_str()), (Emulator::Lvz, "la464,lvz=on,lbt=on"));
        let stock = machine(&["--arch", "loongarch64", "--qemu", "stock"]);
        assert_eq!((stock.emulator, stock.cpu.as_str()), (Emulator::Stock, "la464"));
        assert_eq!(machine(&[]).emulator, Emulator::Stock);
        assert!(why(&["--qemu", "lvz"]).contains("aarch64"));
        assert!(why(&["--qemu", "bochs"]).contains("bochs"));
    }

    #[test]
    fn a_script_needs_no_terminal() {
        assert!(request(&["--script", "x"]).unwrap().headless);
        assert!(!request(&[]).unwrap().headless);
    }

    #[test]
    fn wrong_options_are_named() {
        assert!(why(&["--colour", "red"]).contains("--colour: there is no such option"));
        assert!(why(&["--vm", "colour=red"]).contains("`colour`"));
        assert!(why(&["--cpus", "0"]).contains("--cpus: `0`"));
        assert!(why(&["--timeout", "soon"]).contains("--timeout: `soon`"));
        assert!(why(&["--board", "toaster"]).contains("toaster"));
        assert!(why(&["--arch", "vax"]).contains("vax"));
        assert!(why(&["linux"]).contains("`linux` belongs to no option"));
        assert!(why(&["--config", "/no/such"]).contains("/no/such"));
        assert!(why(&["--cpu"]).contains("--cpu"));
        assert!(
            why(&["--fp-report", "x.svg"])
                .contains("--fp-report: x.svg: the picture is part of an HTML page")
        );
    }
}
