//! `ringfence bench`: figures of this machine.

use clap::{Args, Subcommand};

use super::{bench_boot, bench_compare, bench_floor};

/// Measure how long starts take, on this machine
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Boot(Box<bench_boot::BootArgs>),
    Compare(bench_compare::CompareArgs),
    #[command(hide = true)]
    Floor(bench_floor::FloorArgs),
}

/// Runs `ringfence bench`.
///
/// # Errors
/// As the subcommand's.
pub fn run(args: &BenchArgs) -> anyhow::Result<i32> {
    match &args.command {
        BenchCommand::Boot(args) => bench_boot::run(args),
        BenchCommand::Compare(args) => bench_compare::run(args),
        BenchCommand::Floor(args) => bench_floor::run(args),
    }
}
