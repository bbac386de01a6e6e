//! The command line: one file a subcommand.

pub mod check;
pub mod docs;
mod table;

use clap::{CommandFactory, Parser, Subcommand};

/// Run a Linux kernel in a micro virtual machine: exactly the vCPUs and the RAM you ask for
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::CheckArgs),
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

/// Runs the command line and returns the process's exit status.
pub fn main() -> i32 {
    let result = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Docs(args) => docs::run(&args, Cli::command()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ringfence: {error:#}");
        125
    })
}
