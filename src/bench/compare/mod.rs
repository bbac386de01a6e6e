//! `ringfence compare`: a guest beside containers on this host. What each isolates, what a noisy neighbour does to each, what
//! each takes of memory.

mod clocks;
mod facts;
mod guest;
mod isolation;
mod memory;
mod neighbour;
mod pages;
mod place;
mod slices;
mod switched;
mod tables;
mod work;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use self::guest::{GuestError, Guests};
use self::isolation::{Isolation, Panic};
use self::memory::Memory;
use self::neighbour::{Bench, Measured, Plan};
use self::place::Places;
use self::slices::Company;
use super::cgroup::{self, CgroupError};
use super::child::{ChildError, Stop};
use super::container::{self, ContainerError, NotRun, RootFs, RootFsError, Runtime};
use super::environment::{Environment, Noise, Warning};
use super::progress::Progress;
use crate::host::Root;
use crate::units::{ByteSize, CpuList};

/// Version of the JSON report's schema; fields may be added under the same number, none is taken away or changed.
const SCHEMA: u32 = 1;
/// The time-stamp counter's rate in a guest and on the host may differ by this share.
const RATES_AGREE: f64 = 0.01;
/// A host that takes more than this share of a CPU is worth a word.
const STOLEN: f64 = 0.005;
/// A neighbour on an idle machine has at least this share of the CPUs it may use.
const NOISY: f64 = 0.5;

/// Why a comparison, or one subject of it, gave nothing.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A program.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The work's record.
    #[error(transparent)]
    Record(#[from] work::RecordError),
    /// The work's times and the host's.
    #[error(transparent)]
    Clock(#[from] clocks::ClockError),
    /// What a guest's monitor noted.
    #[error("cannot read the monitor's report {}; please report this", .0.display())]
    Report(PathBuf, #[source] io::Error),
    /// The containers' root file system.
    #[error(transparent)]
    RootFs(#[from] RootFsError),
    /// A file.
    #[error("cannot write {}; is the disk full, or TMPDIR another's?", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Where the neighbour may run.
    #[error("cannot keep the neighbour on CPUs {0}; are they all online?")]
    Affinity(CpuList, #[source] io::Error),
    /// The neighbour ended.
    #[error("the neighbour's process {0} ended by itself; is this host out of memory?")]
    NeighbourGone(u32),
    /// It is not as it was told to be.
    #[error("the neighbour's process {0} did not stop or go on within 5 s of being told; is the machine overloaded?")]
    NotSwitched(u32),
    /// A payload was faster than its measurement.
    #[error("`{0}` took all its memory before the little it held was measured; is the machine overloaded?")]
    Early(String),
    /// A container was not where it was to be.
    #[error("{runtime} was told to keep its container on CPUs {asked} and let it run on {found}")]
    Ignored {
        /// Its name.
        runtime: &'static str,
        /// What it was told.
        asked: CpuList,
        /// Where the container could run.
        found: String,
    },
    /// Nothing was measured.
    #[error("nothing was measured of {0}")]
    Nothing(String),
    /// The guest that was to panic did not.
    #[error("`{0}` did not panic; please report this")]
    NoPanic(String),
    /// Signals.
    #[error("cannot take signals, to clean up after Ctrl-C")]
    Signals(#[source] io::Error),
}

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary to start guests with.
    pub ringfence: PathBuf,
    /// Pieces of work for each subject, alone and beside the neighbour each, at least.
    pub runs: usize,
    /// Turns that these are divided into.
    pub rounds: usize,
    /// Guest RAM.
    pub memory: ByteSize,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this schema.
    pub schema: u32,
    /// The command that makes it again.
    pub command: String,
    /// The machine.
    pub environment: Environment,
    /// The machine's noise, before, between and after.
    pub noise: Vec<Noise>,
    /// What the reader must know.
    pub warnings: Vec<Warning>,
    /// The host's kernel.
    pub host_kernel: String,
    /// System calls that x86_64 Linux has.
    pub system_calls: usize,
    /// Isolation by subject.
    pub isolation: Vec<Isolation>,
    /// What a panic did.
    pub panic: Option<Panic>,
    /// The CPUs of the noisy neighbour's runs.
    pub places: Option<Places>,
    /// What ran the neighbour.
    pub neighbour: String,
    /// The noisy neighbour by subject, with all samples.
    pub neighbours: Vec<Measured>,
    /// Memory by subject.
    pub memory: Vec<Memory>,
    /// What could not be measured.
    pub not_run: Vec<NotRun>,
}

impl Report {
    /// The report for an 80-column terminal.
    pub fn text(&self) -> String {
        tables::text(self)
    }

    /// Writes the report as a page with its plots into the folder `dir`; returns the page's path.
    ///
    /// # Errors
    /// [`super::page::PageError`].
    pub fn write_page(&self, dir: &Path) -> Result<PathBuf, super::page::PageError> {
        pages::page(self).write(dir)
    }
}

/// A subject that gave nothing, with the reason and the remedy.
fn not_run(name: &str, error: &CompareError) -> NotRun {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !reason.contains(&more) {
            reason = format!("{reason}: {more}");
        }
        cause = error.source();
    }
    let remedy = match error {
        CompareError::Guest(_) => "Do what the message says, then compare again.",
        CompareError::Ignored { .. } => "Run as root.",
        CompareError::Cgroup(_) => "Run as root, and one comparison at a time.",
        CompareError::Record(_) => "Run it again; if it stays so, please report it.",
        _ => "Make the command work by itself, then compare again.",
    };
    NotRun { name: name.to_owned(), reason, remedy: remedy.to_owned() }
}

/// Compares. Nothing of it is left on the host afterwards, whatever happens.
///
/// # Errors
/// [`CompareError`] when the user stops it, or nothing at all can be measured; what can't be by itself is listed in the report.
pub fn run(options: &Options) -> Result<Report, CompareError> {
    let stop = Stop::on_signals().map_err(CompareError::Signals)?;
    let folder = tempfile::Builder::new().prefix("ringfence-compare-").tempdir();
    let folder = folder.map_err(|e| CompareError::File(std::env::temp_dir(), e))?;
    let result = compare(options, folder.path(), &stop);
    cgroup::remove_parents();
    result
}

fn compare(options: &Options, folder: &Path, stop: &Stop) -> Result<Report, CompareError> {
    let environment = Environment::of(&Root::default());
    let mut noise = vec![Noise::probe()];
    let mut not_run_list = Vec::new();
    let rootfs = RootFs::make(&folder.join("rootfs"), &[("work", work::PROGRAM)])?;
    let (runtimes, absent) = container::find(&rootfs, &folder.join("runtimes"), stop)?;
    not_run_list.extend(absent);
    let guests = match Guests::new(&options.ringfence, folder, options.memory) {
        Ok(guests) => Some(guests),
        Err(error) => {
            not_run_list.push(not_run("guest", &error.into()));
            None
        }
    };
    let places = Places::of(&environment.cpus.allowed, &Root::default());
    let plan = Plan { runs: options.runs, rounds: options.rounds.max(1) };
    let emulated = environment.kvm.emulates_ring_0();
    let first = trusted(&runtimes, places.as_ref(), stop, &mut not_run_list)?;
    let subjects = places.as_ref().map(|places| neighbour::subjects(first, guests.as_ref(), places));
    let subjects = subjects.unwrap_or_default();
    let memory_subjects = runtimes.len() as f64 + if guests.is_some() { 2.0 } else { 0.0 };
    let total = neighbour::expected(&subjects, plan, emulated)
        + memory_subjects * memory::EXPECTED
        + (runtimes.len() as f64 + 1.0) * isolation::EXPECTED;
    let mut progress = Progress::new(total);

    let (isolation, panic) = isolate(&runtimes, guests.as_ref(), stop, &mut progress, &mut not_run_list)?;
    let absent = &mut not_run_list;
    let memory = memory::measure(&runtimes, guests.as_ref(), places.as_ref(), stop, &mut progress, absent)?;
    let aside = places.as_ref().map_or_else(CpuList::default, |places| places.rest.clone());
    let bench = Bench { runtime: first, folder, plan, aside: &aside, emulated, stop };
    let neighbours = bench.measure(&subjects, &mut progress, &mut noise, absent)?;
    noise.push(Noise::probe());
    if places.is_none() {
        let reason = "needs two CPU cores: one for the work, one for the neighbour".to_owned();
        not_run_list.push(NotRun {
            name: "noisy neighbour".into(),
            reason,
            remedy: "Give this machine another.".into(),
        });
    }
    drop(progress);
    let mut warnings = environment.warnings(&noise);
    warnings.extend(rates(&neighbours));
    warnings.extend(stolen(&neighbours));
    warnings.extend(quiet(&neighbours));
    Ok(Report {
        schema: SCHEMA,
        command: command_line(options),
        environment,
        noise,
        warnings,
        host_kernel: facts::host_kernel(),
        system_calls: super::seccomp::total(),
        isolation,
        panic,
        places,
        neighbour: first.map_or("a process in a control group of its own", |r| r.name).to_owned(),
        neighbours,
        memory,
        not_run: not_run_list,
    })
}

/// The first runtime that keeps its containers where they belong: the one for the noisy neighbour.
fn trusted<'a>(
    runtimes: &'a [Runtime],
    places: Option<&Places>,
    stop: &Stop,
    absent: &mut Vec<NotRun>,
) -> Result<Option<&'a Runtime>, CompareError> {
    let Some(places) = places else { return Ok(None) };
    for runtime in runtimes {
        let name = format!("{} beside a neighbour", runtime.name);
        if kept(&name, neighbour::confirm_limits(runtime, &places.own, stop), absent)?.is_some() {
            return Ok(Some(runtime));
        }
    }
    Ok(None)
}

/// Looks into every runtime and the guest, and lets a guest panic.
fn isolate(
    runtimes: &[Runtime],
    guests: Option<&Guests>,
    stop: &Stop,
    progress: &mut Progress,
    absent: &mut Vec<NotRun>,
) -> Result<(Vec<Isolation>, Option<Panic>), CompareError> {
    let mut found = Vec::new();
    for runtime in runtimes {
        progress.step(&format!("isolation of {}", runtime.name));
        found.extend(kept(runtime.name, isolation::of_container(runtime, stop), absent)?);
        progress.done(isolation::EXPECTED);
    }
    let mut panic = None;
    if let Some(guests) = guests {
        progress.step("isolation of a guest, and a panic in another");
        // Nothing of either is a measure of time or memory.
        let (view, panicked) = std::thread::scope(|scope| {
            let panicked = scope.spawn(|| isolation::panic(guests, stop));
            let view = isolation::of_guest(guests, stop);
            (view, panicked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        found.extend(kept("guest", view, absent)?);
        panic = kept("guest that panics", panicked, absent)?;
        progress.done(isolation::EXPECTED);
    }
    Ok((found, panic))
}

/// A result, or nothing and a line among what was not run; the user's wish to stop goes on.
fn kept<T>(name: &str, result: Result<T, CompareError>, absent: &mut Vec<NotRun>) -> Result<Option<T>, CompareError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(CompareError::Child(ChildError::Stopped)) => Err(ChildError::Stopped.into()),
        Err(error) => {
            absent.push(not_run(name, &error));
            Ok(None)
        }
    }
}

/// A time-stamp counter that runs at another rate in one run than in another would make its times another unit.
fn rates(measured: &[Measured]) -> Option<Warning> {
    let all: Vec<f64> = measured.iter().flat_map(|subject| subject.counts_per_second.iter().copied()).collect();
    let (low, high) = all.iter().fold((f64::INFINITY, 0.0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    (high > low * (1.0 + RATES_AGREE)).then(|| {
        Warning::new(
            format!(
                "the time-stamp counter ran at {:.0} to {:.0} MHz by the host's clock in different runs",
                low / 1e6,
                high / 1e6
            ),
            "Trust ratios of one subject more than times between subjects.",
        )
    })
}

/// Time that this machine's own host took from the subjects' CPUs, where it says so.
fn stolen(measured: &[Measured]) -> Option<Warning> {
    let share = |subject: &Measured, company| subject.mean(company, |slice| slice.steal_cpus);
    let shares = measured.iter().map(|s| (s, share(s, Company::Alone), share(s, Company::Beside)));
    let (subject, alone, beside) =
        shares.filter(|(_, a, b)| a.max(*b) > STOLEN).max_by(|a, b| a.1.max(a.2).total_cmp(&b.1.max(b.2)))?;
    Some(Warning::new(
        format!(
            "this machine's own host took CPU time from it (steal): up to {:.1} % of a CPU alone and {:.1} % beside the \
             neighbour, with {}",
            100.0 * alone,
            100.0 * beside,
            subject.name
        ),
        "What it takes shows in the tails of both; try again at another time.",
    ))
}

/// A neighbour that other programs kept from the CPUs.
fn quiet(measured: &[Measured]) -> Option<Warning> {
    let share = |s: &Measured| s.mean(Company::Beside, |slice| slice.neighbour_cpus) / s.neighbour_cpus.len() as f64;
    let (subject, least) = measured.iter().map(|s| (s, share(s))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    (least < NOISY).then(|| {
        Warning::new(
            format!(
                "the neighbour was less noisy than it could be: beside {}, it had {:.0} % of the CPUs it may use, for other \
                 programs had the rest, alone and beside",
                subject.name,
                100.0 * least
            ),
            "End what else runs, and try again.",
        )
    })
}

fn command_line(options: &Options) -> String {
    let mib = options.memory.as_u64() >> 20;
    format!("ringfence compare --runs {} --rounds {} --memory {mib}M", options.runs, options.rounds)
}
