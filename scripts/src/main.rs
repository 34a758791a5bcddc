//! The host tool, `cargo xtask`: sets the machine up, builds, runs, tests and measures.
//!
//! A command is a module with a `COMMAND` constant; this file finds it in the table, prints help and errors, and
//! does nothing else.

mod arch;
mod bench;
mod flat;
mod fp;
mod lab;
mod payload;
mod run;
mod scratch;
mod setup;
mod test;
mod workspace;
mod zboot;

use std::process::ExitCode;

/// A command of the tool.
struct Command {
    /// What is typed after `cargo xtask`.
    name: &'static str,
    /// What it does, in half a line.
    summary: &'static str,
    /// The text of `cargo xtask NAME --help`.
    help: &'static str,
    /// Runs it with the arguments after its name. An error is printed with its causes and exits with 1.
    run: fn(lexopt::Parser) -> anyhow::Result<ExitCode>,
}

/// Every command, in the order of the help text.
const COMMANDS: &[Command] = &[setup::COMMAND, run::COMMAND, test::COMMAND, bench::COMMAND, fp::COMMAND];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let name = args.next().map(|arg| arg.to_string_lossy().into_owned());
    let rest: Vec<_> = args.collect();
    let Some(name) = name.filter(|name| !matches!(name.as_str(), "help" | "-h" | "--help")) else {
        return help(rest.first().and_then(|arg| arg.to_str()));
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let known: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
        eprintln!("error: unknown command {name:?}: expected one of {}", known.join(", "));
        return ExitCode::FAILURE;
    };
    if rest.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h") {
        return help(Some(command.name));
    }
    (command.run)(lexopt::Parser::from_args(rest)).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
        ExitCode::FAILURE
    })
}

/// Prints the help text of a command, or the list of commands.
fn help(name: Option<&str>) -> ExitCode {
    match COMMANDS.iter().find(|command| Some(command.name) == name) {
        Some(command) => print!("{}", command.help),
        None => {
            println!("cargo xtask COMMAND [OPTIONS]\n\nCommands:");
            COMMANDS.iter().for_each(|command| println!("  {:<8} {}", command.name, command.summary));
            println!("\n`cargo xtask COMMAND --help` says more about one.");
        }
    }
    ExitCode::SUCCESS
}
