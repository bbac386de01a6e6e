//! `ringfence bench boot`: starts, timed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::ps::print;
use crate::bench::boot::guest::GuestKind;
use crate::bench::boot::session::{self, Plan};
use crate::bench::boot::subjects::{Shape, Variant};
use crate::bench::boot::sweep::Sweep;
use crate::bench::boot::{csv, html, text};
use crate::bench::child::{Stop, words};
use crate::bench::page::write_whole;
use crate::units::ByteSize;

/// Which guests monitors boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// A few instructions: what is left is the monitor
    Trivial,
    /// Linux, beside containers and processes
    Linux,
    /// One after the other
    Both,
}

/// Time starts: ringfence beside other monitors, containers and plain processes
///
/// Each subject starts the same payload, timed by one clock from exec until the payload's line arrives and until exit. They
/// take turns; what cannot run here is named with the reason. What takes over two seconds a start, as Linux does where KVM
/// emulates the guest's kernel, is started only three times.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Runs of each subject
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Spread the runs over so many seconds at least, in which a machine's speed drifts; 0 to hurry
    ///
    /// With eight runs or more. Whatever else is measured comes between them, and waiting where that is not enough.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(..=86_400))]
    over: u32,
    /// Runs of subjects that take over two seconds a start [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slow_runs: Option<u32>,
    /// What monitors boot: trivial, linux or both
    #[arg(long, value_name = "WHICH", default_value = "both", hide_possible_values = true)]
    guest: Which,
    /// Only these subjects, with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<String>,
    /// Also ringfence with other arguments, as NAME=ARGUMENTS; may be given again
    #[arg(long, value_name = "VARIANT", allow_hyphen_values = true)]
    variant: Vec<Variant>,
    /// The subject that ratios are to
    #[arg(long, value_name = "NAME", default_value = "ringfence")]
    baseline: String,
    /// vCPUs of every guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: u32,
    /// RAM of every guest
    #[arg(short, long, value_name = "SIZE", default_value = "128M")]
    memory: ByteSize,
    /// Kernel for every monitor [default: the one that comes with ringfence]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Words added to the kernel command line of every Linux
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// A distribution's kernel for ringfence besides [default: the newest in /boot]
    #[arg(long, value_name = "FILE")]
    distribution_kernel: Option<PathBuf>,
    /// Empty the page cache before every run: all of it as root, else the subject's files
    #[arg(long)]
    cold: bool,
    /// Also with so many starts at once, with commas between: 1,4,16,64
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Vec<u32>,
    /// Also over sizes, doubled from first to last: memory=128M..8G,cpus=1..4
    #[arg(long, value_name = "SIZES", default_value = "", hide_default_value = true, value_parser = sweep)]
    sweep: Sweep,
    /// Write everything, raw samples too, as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write raw samples as comma-separated values to FILE
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write one page with its plots to DIR/index.html, and the plots as SVG beside it
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
}

fn sweep(text: &str) -> Result<Sweep, session::SweepError> {
    if text.is_empty() { Ok(Sweep::default()) } else { text.parse() }
}

/// Runs `ringfence bench boot`.
///
/// # Errors
/// When nothing could be measured, or the results cannot be written.
pub fn run(args: &BootArgs) -> anyhow::Result<i32> {
    let stop = Stop::on_signals().context("cannot take signals")?;
    let results = session::run(&plan(args)?, &stop)?;
    print(&text::render(&results))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string(&results).context("cannot put the results into JSON")?;
        write_whole(path, &(json + "\n"))?;
    }
    if let Some(path) = &args.csv {
        write_whole(path, &csv::render(&results))?;
    }
    if let Some(dir) = &args.html {
        let page = html::page(&results).write(dir)?;
        eprintln!("ringfence: the page is {}", page.display());
    }
    Ok(0)
}

fn plan(args: &BootArgs) -> anyhow::Result<Plan> {
    let guests = match args.guest {
        Which::Trivial => vec![GuestKind::Trivial],
        Which::Linux => vec![GuestKind::Linux],
        Which::Both => vec![GuestKind::Trivial, GuestKind::Linux],
    };
    let mut words_typed = std::process::Command::new("ringfence");
    words_typed.args(std::env::args_os().skip(1));
    Ok(Plan {
        runs: args.runs,
        over: Duration::from_secs(u64::from(args.over)),
        slow_runs: args.slow_runs,
        shape: Shape { cpus: args.cpus, memory: args.memory },
        guests,
        kernel: args.kernel.clone(),
        cmdline: args.cmdline.clone().unwrap_or_default(),
        distribution: args.distribution_kernel.clone(),
        variants: args.variant.clone(),
        only: args.subjects.clone(),
        baseline: args.baseline.clone(),
        cold: args.cold,
        at_once: args.parallel.clone(),
        sweep: args.sweep.clone(),
        ringfence: std::env::current_exe().context("cannot tell where this program is")?,
        command: words(&words_typed),
    })
}
