//! The command line: one file a subcommand.

/// As the standard library's, for everything below: a reader of stderr that has gone away is no reason to panic.
macro_rules! eprintln {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}

pub mod bench;
mod bench_boot;
mod bench_compare;
mod bench_floor;
pub mod check;
pub mod compare;
pub mod docs;
pub mod inspect;
pub mod kernel;
#[allow(unsafe_code)]
mod process;
pub mod ps;
pub mod run;
mod table;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::machine;

/// Run a Linux kernel in a micro virtual machine: exactly the vCPUs and the RAM you ask for
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, max_term_width = 100)]
#[command(
    after_help = "Exit status of run: the guest's own; 124 --timeout passed, 125 ringfence failed, 126 the command cannot be \
    executed, 127 it was not found, 128+n it was ended by signal n."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Ps(ps::PsArgs),
    Inspect(inspect::InspectArgs),
    Check(check::CheckArgs),
    Compare(compare::CompareArgs),
    Kernel(kernel::KernelArgs),
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

/// ringfence failed, or was misused: the container convention, so that it is told apart from the guest's own status.
const EXIT_FAILED: i32 = 125;

/// Runs the command line and returns the process's exit status.
pub fn main() -> i32 {
    let start = machine::now_ns();
    process::prepare();
    let words: Vec<_> = std::env::args_os().collect();
    let ahead = run::head_start(&words);
    let cli = match parse(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only when nobody reads it.
            let _ = error.print();
            return if error.use_stderr() { EXIT_FAILED } else { 0 };
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args, start, ahead),
        Command::Ps(args) => ps::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Docs(args) => docs::run(&args, Cli::command()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ringfence: {}", causes(&error));
        EXIT_FAILED
    })
}

/// Reads the command line. `run` is tried by itself first: to describe every subcommand to the
/// parser is work that a start need not wait for. Help and errors are the whole description's.
fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    if let [_, subcommand, rest @ ..] = words
        && subcommand == "run"
    {
        let alone = run::RunArgs::augment_args(clap::Command::new("run").no_binary_name(true));
        let args = alone.try_get_matches_from(rest).and_then(|matches| run::RunArgs::from_arg_matches(&matches));
        if let Ok(args) = args {
            return Ok(Cli { command: Command::Run(Box::new(args)) });
        }
    }
    Cli::try_parse_from(words)
}

/// Writes to stdout; a reader that has seen enough (`| head`) is no failure of ours.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_ref()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// An error and its causes on one line, leaving out a cause that its effect already quotes.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the short way to `run` reads what the whole description reads, and that what only that one knows still works.
    #[test]
    fn both_ways_read_the_same() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in [
            "ringfence run",
            "ringfence run --cpus 4 -m 1G --console pty -v --timeout 2.5 --flavour full",
            "ringfence run --kernel k --initrd none --cmdline-only -x --entry pvh -- sh -c --help run",
        ] {
            let short = parse(&words(line)).unwrap();
            let whole = Cli::try_parse_from(words(line)).unwrap();
            assert_eq!(format!("{short:?}"), format!("{whole:?}"), "{line}");
        }
        for line in ["ringfence run --help", "ringfence run --cpus x", "ringfence", "ringfence nonsense"] {
            let (short, whole) = (parse(&words(line)).unwrap_err(), Cli::try_parse_from(words(line)).unwrap_err());
            assert_eq!(short.to_string(), whole.to_string(), "{line}");
        }
    }
}
