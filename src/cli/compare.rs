//! `ringfence compare`: a guest beside containers on this host.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::bench::child::ChildError;
use crate::bench::compare::{self, CompareError, Options};
use crate::bench::page;
use crate::units::ByteSize;

/// Status of a run that the user stopped, as a shell shows SIGINT.
const STOPPED: i32 = 130;

/// Compare a guest with containers on this host
///
/// Shows which kernel, system calls and facts of the host a workload can reach, what a noisy neighbour does to a fixed piece
/// of work, and what each takes of memory: in a guest and under runc, crun, youki, podman, docker and nerdctl, as far as they
/// are installed. Takes some minutes; best as root on an otherwise idle machine. Nothing is left behind.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Write everything, with all samples, as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one self-contained page, and its plots as SVG, to DIR
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// Pieces of work timed for each subject, alone and beside the neighbour each, at least
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    runs: u32,
    /// Turns that these are divided into; each starts a subject anew
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Guest RAM
    #[arg(short, long, value_name = "SIZE", default_value = "256M")]
    memory: ByteSize,
}

/// Runs `ringfence compare`: 0 when it compared, 130 when it was stopped.
///
/// # Errors
/// When nothing can be measured or the report can't be written.
pub fn run(args: &CompareArgs) -> anyhow::Result<i32> {
    let options = Options {
        ringfence: std::env::current_exe().context("cannot find out where ringfence itself is")?,
        runs: args.runs as usize,
        rounds: args.rounds as usize,
        memory: args.memory,
    };
    let report = match compare::run(&options) {
        Err(CompareError::Child(ChildError::Stopped)) => {
            eprintln!("ringfence: stopped; nothing is left behind");
            return Ok(STOPPED);
        }
        result => result?,
    };
    match io::stdout().write_all(report.text().as_bytes()) {
        // A reader that has seen enough (`| head`) is no failure of ours.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the report to stdout")?,
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).context("cannot put the report into JSON")? + "\n";
        page::write_whole(path, &text)?;
    }
    if let Some(dir) = &args.html {
        let page = report.write_page(dir)?;
        eprintln!("ringfence: the page is {}", page.display());
    }
    Ok(0)
}
