//! The noisy neighbour: a fixed piece of work timed thousands of times, alone and beside a neighbour that burns every CPU it may
//! use and streams memory.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use super::guest::Guests;
use super::place::Places;
use super::{CompareError, work};
use crate::bench::cgroup::{CpuGroup, SHARES};
use crate::bench::child::{self, Child, Stop};
use crate::bench::container::{Container, Limits, NotRun, Runtime};
use crate::bench::environment::Noise;
use crate::bench::progress::Progress;
use crate::bench::statistics::{Estimate, Sample, Summary};
use crate::units::CpuList;

/// Memory that each of the neighbour's processes streams through, in MiB: more than a CPU's own caches hold.
const STREAMED_MIB: &str = "64";
/// From the neighbour's first word until all of it runs.
const SETTLE: Duration = Duration::from_millis(200);
/// How long a start may take, and how many times its expected time a measurement may.
const PATIENCE: Duration = Duration::from_secs(240);

/// Whether the neighbour runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Company {
    /// It does not.
    Alone,
    /// It does.
    Beside,
}

/// What runs the work.
enum How<'a> {
    Container(&'a Runtime, Limits),
    Guest(&'a Guests, Vec<String>),
}

/// A way to run the work.
pub struct Subject<'a> {
    name: String,
    how: How<'a>,
    /// The CPUs the neighbour may use beside it.
    neighbour: CpuList,
}

/// What one subject's runs gave.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The subject.
    pub name: String,
    /// As it was started first.
    pub command: String,
    /// CPUs that the neighbour could use.
    pub neighbour_cpus: CpuList,
    /// The work's times alone, in microseconds, in their order.
    pub alone: Sample,
    /// The same beside the neighbour.
    pub beside: Sample,
    /// What the figures of both are.
    pub figures: Figures,
    /// Counts of the time-stamp counter in a second as each run saw them.
    pub counts_per_second: Vec<f64>,
}

/// Summaries and ratios of a subject.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Alone, in microseconds.
    pub alone: Summary,
    /// Beside the neighbour, in microseconds.
    pub beside: Summary,
    /// Median beside the neighbour over median alone.
    pub p50_ratio: Estimate,
    /// The 99th percentile beside the neighbour over that alone.
    pub p99_ratio: Estimate,
    /// The same of the 99.9th.
    pub p999_ratio: Estimate,
    /// The same ratio of 99th percentiles in each round by itself.
    pub p99_ratio_by_round: Vec<f64>,
    /// Pieces a second beside the neighbour over those alone: the share of the CPU that was left.
    pub throughput_ratio: f64,
}

/// The subjects: containers with CPU shares and with a cpuset, guests unpinned, pinned, and pinned with real-time priority. `first` is the
/// runtime for the containers.
pub fn subjects<'a>(first: Option<&'a Runtime>, guests: Option<&'a Guests>, places: &Places) -> Vec<Subject<'a>> {
    let mut subjects = Vec::new();
    let mut add = |name: String, how, neighbour: &CpuList| {
        subjects.push(Subject { name, how, neighbour: neighbour.clone() });
    };
    if let Some(runtime) = first {
        let shares = || Limits { cpu_shares: Some(SHARES), ..Limits::default() };
        let cpuset = || Limits { cpuset: Some(places.own.clone()), ..shares() };
        add(format!("{}, CPU shares", runtime.name), How::Container(runtime, shares()), &places.all);
        add(format!("{}, cpuset", runtime.name), How::Container(runtime, cpuset()), &places.all);
        add(format!("{}, cpuset kept free", runtime.name), How::Container(runtime, cpuset()), &places.rest);
    }
    if let Some(guests) = guests {
        let pinned = ["--cpuset-cpus".to_owned(), places.own.to_string(), "--reserve".to_owned()];
        add("guest, unpinned".to_owned(), How::Guest(guests, Vec::new()), &places.all);
        let real_time = [&pinned[..], &["--realtime".to_owned(), "1".to_owned()]].concat();
        add("guest, pinned, reserved".to_owned(), How::Guest(guests, pinned.to_vec()), &places.rest);
        add("guest, the same, real-time".to_owned(), How::Guest(guests, real_time), &places.rest);
    }
    subjects
}

/// Makes sure that `runtime` keeps a container on the CPUs it is told, as some do not without root.
///
/// # Errors
/// [`CompareError::Ignored`] when it does not.
pub fn confirm_limits(runtime: &Runtime, cpus: &CpuList, stop: &Stop) -> Result<(), CompareError> {
    const FIELD: &str = "Cpus_allowed_list:";
    let limits = Limits { cpu_shares: Some(SHARES), cpuset: Some(cpus.clone()), memory: None };
    let mut container =
        runtime.container(&id("limits"), &["/bin/busybox", "grep", FIELD, "/proc/self/status"], &limits)?;
    let said = child::run(container.command(), PATIENCE, stop)?.success()?.stdout;
    let said = String::from_utf8_lossy(&said).replace(FIELD, "").trim().to_owned();
    if CpuList::parse(&said).as_ref() == Some(cpus) {
        return Ok(());
    }
    Err(CompareError::Ignored { runtime: runtime.name, asked: cpus.clone(), found: said })
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Pieces of work for each subject, alone and beside the neighbour each.
    pub runs: usize,
    /// Turns that these are divided into.
    pub rounds: usize,
}

impl Plan {
    /// Pieces in one turn.
    fn pieces(self) -> usize {
        self.runs.div_ceil(self.rounds).max(1)
    }

    /// Roughly what a turn of one subject takes, in seconds, with a start of `start` seconds.
    fn expected(self, start: f64) -> f64 {
        start + 1e-4 * self.pieces() as f64 * 1.5
    }
}

impl Subject<'_> {
    /// Roughly how long its start takes, in seconds.
    fn start_seconds(&self, emulated: bool) -> f64 {
        match (&self.how, emulated) {
            (How::Container(..), _) => 0.1,
            (How::Guest(..), false) => 0.5,
            (How::Guest(..), true) => 6.0,
        }
    }
}

/// How long all subjects take, in seconds, roughly.
pub fn expected(subjects: &[Subject<'_>], plan: Plan, emulated: bool) -> f64 {
    let turn: f64 = subjects.iter().map(|s| plan.expected(s.start_seconds(emulated))).sum();
    turn * 2.0 * plan.rounds as f64
}

/// Everything that the measurement needs.
pub struct Bench<'a> {
    /// Who runs the neighbour as a container; without one it is a plain process in a control group.
    pub runtime: Option<&'a Runtime>,
    /// A folder for the program.
    pub folder: &'a Path,
    /// How often.
    pub plan: Plan,
    /// Whether KVM emulates ring 0.
    pub emulated: bool,
    /// Whether the user wants to stop.
    pub stop: &'a Stop,
}

/// Samples by subject, by company, one for each round.
type Rounds = BTreeMap<(usize, Company), Vec<work::Times>>;

impl Bench<'_> {
    /// Measures all subjects in turns, each alone and beside the neighbour. Probes the machine's noise before each round, and adds
    /// to `absent` those that could not be measured.
    ///
    /// # Errors
    /// [`CompareError`] when the user stops it; a subject that fails is no error.
    pub fn measure(
        &self,
        subjects: &[Subject<'_>],
        progress: &mut Progress,
        noise: &mut Vec<Noise>,
        absent: &mut Vec<NotRun>,
    ) -> Result<Vec<Measured>, CompareError> {
        let mut rounds = Rounds::new();
        let mut failed = vec![false; subjects.len()];
        for round in 0..self.plan.rounds {
            noise.push(Noise::probe());
            for (index, subject) in subjects.iter().enumerate() {
                // Every other round the other way about, so that neither is always the first.
                let mut companies = [Company::Alone, Company::Beside];
                companies.rotate_left(round % 2);
                for company in companies {
                    let seconds = self.plan.expected(subject.start_seconds(self.emulated));
                    if !failed[index] {
                        progress.step(&format!("{}, {}", subject.name, company.words()));
                        let times = super::kept(&subject.name, self.turn(subject, company), absent)?;
                        failed[index] = times.is_none();
                        rounds.entry((index, company)).or_default().extend(times);
                    }
                    progress.done(seconds);
                }
            }
        }
        let measured = subjects.iter().enumerate().filter(|(index, _)| !failed[*index]);
        measured.map(|(index, subject)| self.judge(subject, index, &rounds)).collect()
    }

    /// One turn of one subject.
    fn turn(&self, subject: &Subject<'_>, company: Company) -> Result<work::Times, CompareError> {
        let neighbour = (company == Company::Beside).then(|| self.neighbour(&subject.neighbour)).transpose()?;
        let mut run = self.prepare(subject)?;
        let mut child = Child::spawn(run.command())?;
        let _group = run.join_group(&child)?;
        let ready = child.wait_for(b"RFWORK1 ", PATIENCE, self.stop);
        let done = ready.and_then(|()| child.wait(PATIENCE, self.stop)).and_then(child::Finished::success)?;
        drop(neighbour);
        Ok(work::read(&done.stdout)?)
    }

    fn prepare<'s>(&self, subject: &'s Subject<'_>) -> Result<Run<'s>, CompareError> {
        let (count, turns) = (self.plan.pieces().to_string(), work::TURNS.to_string());
        let arguments = ["/work", "time", &count, &turns];
        Ok(match &subject.how {
            How::Container(runtime, limits) => Run::Container(runtime.container(&id("work"), &arguments, limits)?),
            How::Guest(guests, flags) => Run::Guest {
                command: guests.command(&arguments, flags)?,
                real_time: flags.iter().any(|flag| flag == "--realtime"),
            },
        })
    }

    /// Starts the neighbour and waits until it runs.
    fn neighbour(&self, cpus: &CpuList) -> Result<Neighbour<'_>, CompareError> {
        let arguments = ["/work", "burn", STREAMED_MIB];
        let limits = Limits { cpu_shares: Some(SHARES), cpuset: Some(cpus.clone()), memory: None };
        let mut neighbour = match self.runtime {
            Some(runtime) => {
                let mut container = runtime.container(&id("neighbour"), &arguments, &limits)?;
                Neighbour { child: Child::spawn(container.command())?, _container: Some(container), _group: None }
            }
            None => {
                let mut command = Command::new(self.program()?);
                command.args(&arguments[1..]);
                let child = spawn_on(&mut command, cpus)?;
                let group = CpuGroup::new(&id("neighbour"), SHARES).ok().filter(|group| group.add(child.pid()).is_ok());
                Neighbour { child, _container: None, _group: group }
            }
        };
        neighbour.child.wait_for(b"RFREADY", PATIENCE, self.stop)?;
        self.stop.sleep(SETTLE)?;
        Ok(neighbour)
    }

    /// The program as a file on the host.
    fn program(&self) -> Result<PathBuf, CompareError> {
        let path = self.folder.join("work");
        if !path.exists() {
            let failed = |source| CompareError::File(path.clone(), source);
            fs::write(&path, work::PROGRAM).map_err(failed)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(path)
    }

    fn judge(&self, subject: &Subject<'_>, index: usize, rounds: &Rounds) -> Result<Measured, CompareError> {
        let of = |company| rounds.get(&(index, company)).map_or(&[][..], |times| times);
        let (alone, beside) = (of(Company::Alone), of(Company::Beside));
        let pooled = |times: &[work::Times]| {
            let mut sample = Sample::default();
            times.iter().for_each(|times| sample.append(&times.us));
            sample
        };
        let counts_per_second = alone.iter().chain(beside).map(|times| times.counts_per_second).collect();
        let by_round = alone.iter().zip(beside).map(|(a, b)| b.us.quantile(0.99) / a.us.quantile(0.99)).collect();
        let (alone, beside) = (pooled(alone), pooled(beside));
        let (Some(a), Some(b)) = (alone.summary(), beside.summary()) else {
            return Err(CompareError::Nothing(subject.name.clone()));
        };
        let figures = Figures {
            p50_ratio: beside.ratio_of_quantiles(&alone, 0.5),
            p99_ratio: beside.ratio_of_quantiles(&alone, 0.99),
            p999_ratio: beside.ratio_of_quantiles(&alone, 0.999),
            p99_ratio_by_round: by_round,
            throughput_ratio: a.mean.value / b.mean.value,
            alone: a,
            beside: b,
        };
        let command = child::words(self.prepare(subject)?.command());
        let (name, neighbour_cpus) = (subject.name.clone(), subject.neighbour.clone());
        Ok(Measured { name, command, neighbour_cpus, alone, beside, figures, counts_per_second })
    }
}

impl Company {
    const fn words(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Beside => "beside the neighbour",
        }
    }
}

/// A name for a group or a container that no other comparison has.
pub fn id(what: &str) -> String {
    format!("rf-{what}-{}", std::process::id())
}

enum Run<'a> {
    Container(Container<'a>),
    Guest { command: Command, real_time: bool },
}

impl Run<'_> {
    fn command(&mut self) -> &mut Command {
        match self {
            Self::Container(container) => container.command(),
            Self::Guest { command, .. } => command,
        }
    }

    /// Gives a guest the CPU shares that a container has by its runtime: otherwise its threads would weigh more than the
    /// neighbour's. Without root there are no groups for either.
    fn join_group(&self, child: &Child) -> Result<Option<CpuGroup>, CompareError> {
        match self {
            Self::Guest { real_time, .. } if rustix::process::geteuid().is_root() => {
                let group = CpuGroup::new(&id("guest"), SHARES)?;
                if *real_time {
                    group.allow_real_time()?;
                }
                group.add(child.pid())?;
                Ok(Some(group))
            }
            _ => Ok(None),
        }
    }
}

/// The neighbour while it runs. The container is deleted first, then its runtime ends, then the group goes.
struct Neighbour<'a> {
    _container: Option<Container<'a>>,
    child: Child,
    _group: Option<CpuGroup>,
}

/// Starts a program that may use only `cpus`: a child inherits the affinity of the thread that makes it.
fn spawn_on(command: &mut Command, cpus: &CpuList) -> Result<Child, CompareError> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(cpu as usize));
    std::thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            sched_setaffinity(None, &set).map_err(|e| CompareError::Affinity(cpus.clone(), io::Error::from(e)))?;
            Ok(Child::spawn(command)?)
        });
        spawned.join().unwrap_or_else(|_| Err(CompareError::Nothing("the neighbour".to_owned())))
    })
}
