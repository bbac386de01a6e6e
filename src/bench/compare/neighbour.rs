//! The noisy neighbour: a fixed piece of work timed thousands of times, alone and beside a neighbour that burns every CPU it may
//! use and streams memory. Both in one run of the work: the neighbour is stopped and let run in short slices, so that what else
//! the machine does is done to both.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use serde::Serialize;

use super::clocks::HostClock;
use super::guest::Guests;
use super::place::{self, Places};
use super::slices::{self, Company, SliceFigures, Sorted};
use super::switched::Neighbour;
use super::{CompareError, work};
use crate::bench::cgroup::{CpuGroup, SHARES};
use crate::bench::child::{self, Child, Stop};
use crate::bench::clock::Instant;
use crate::bench::container::{Container, Limits, NotRun, Runtime};
use crate::bench::environment::Noise;
use crate::bench::paired::{Pair, Pairs};
use crate::bench::progress::Progress;
use crate::bench::statistics::{Estimate, Sample, Summary};
use crate::layout::BOOT_TIMER_PORT;
use crate::units::CpuList;

/// How long a start may take, and a measurement.
const PATIENCE: Duration = Duration::from_secs(240);
/// Pieces timed for each that is asked for alone and beside: beside, a subject may get a fourth of a CPU, and pieces close to
/// a switch are dropped.
const SPARE: usize = 6;
/// Pieces timed in one turn, at least: some pairs of slices.
const PIECES_MIN: usize = 8_000;
/// Turns beyond the rounds, at most, for subjects with too few pieces by then.
const MORE_ROUNDS: usize = 3;
/// A piece takes about this long, in seconds.
const PIECE: f64 = 1e-4;
/// Bytes a second that an emulated serial port brings, roughly, and a real one.
const CONSOLE: [f64; 2] = [1e4, 1e6];

/// What runs the work.
enum How<'a> {
    Container(&'a Runtime, Limits),
    Guest(&'a Guests, Vec<String>),
}

/// A way to run the work.
pub struct Subject<'a> {
    name: String,
    how: How<'a>,
    /// The CPUs it may use itself.
    own: CpuList,
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
    /// The slices of time that these are from, in their order: each pair is one of each.
    pub slices: Vec<SliceFigures>,
    /// Pieces that began too close to a switch of the neighbour, and are in neither.
    pub dropped: usize,
    /// Pairs of slices left out, since the neighbour was not as it was told to be or too little work was done.
    pub unfit_pairs: usize,
    /// What the figures of both are.
    pub figures: Figures,
    /// Counts of the time-stamp counter in a second of the host's clock, as each run saw them.
    pub counts_per_second: Vec<f64>,
    /// How far off the host's time of a piece may be in the worst of the runs, in microseconds.
    pub clock_uncertainty_us: f64,
}

impl Measured {
    /// The ratio of 99th percentiles, beside over alone, in each pair of slices.
    pub fn p99_ratios(&self) -> Vec<f64> {
        let of = |pair: &[SliceFigures]| {
            let (alone, beside) = if pair[0].company == Company::Alone { (0, 1) } else { (1, 0) };
            pair[beside].p99_us / pair[alone].p99_us
        };
        self.slices.chunks_exact(2).map(of).collect()
    }

    /// The mean over time of what `of` tells of each slice, alone or beside.
    pub fn mean(&self, company: Company, of: fn(&SliceFigures) -> f64) -> f64 {
        let slices = || self.slices.iter().filter(|slice| slice.company == company);
        let seconds: f64 = slices().map(|slice| slice.seconds).sum();
        slices().map(|slice| of(slice) * slice.seconds).sum::<f64>() / seconds
    }
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
    /// The median of the ratios of 99th percentiles in each pair of slices.
    pub p99_ratio_by_pairs: Estimate,
    /// The same ratio of 99th percentiles in each round by itself.
    pub p99_ratio_by_round: Vec<f64>,
    /// Pieces a second beside the neighbour over those alone: the share of the CPU that was left.
    pub throughput_ratio: f64,
}

/// The subjects: containers with CPU shares and with a cpuset, guests unpinned, pinned, and pinned with real-time priority. `first` is the
/// runtime for the containers.
pub fn subjects<'a>(first: Option<&'a Runtime>, guests: Option<&'a Guests>, places: &Places) -> Vec<Subject<'a>> {
    let mut subjects = Vec::new();
    let mut add = |name: String, how, own: &CpuList, neighbour: &CpuList| {
        subjects.push(Subject { name, how, own: own.clone(), neighbour: neighbour.clone() });
    };
    let Places { all, own, rest } = places;
    if let Some(runtime) = first {
        let shares = || Limits { cpu_shares: Some(SHARES), ..Limits::default() };
        let cpuset = || Limits { cpuset: Some(own.clone()), ..shares() };
        add(format!("{}, CPU shares", runtime.name), How::Container(runtime, shares()), all, all);
        add(format!("{}, cpuset", runtime.name), How::Container(runtime, cpuset()), own, all);
        add(format!("{}, cpuset kept free", runtime.name), How::Container(runtime, cpuset()), own, rest);
    }
    if let Some(guests) = guests {
        let pinned = ["--cpuset-cpus".to_owned(), own.to_string(), "--reserve".to_owned()];
        add("guest, unpinned".to_owned(), How::Guest(guests, Vec::new()), all, all);
        let real_time = [&pinned[..], &["--realtime".to_owned(), "1".to_owned()]].concat();
        add("guest, pinned, reserved".to_owned(), How::Guest(guests, pinned.to_vec()), own, rest);
        add("guest, the same, real-time".to_owned(), How::Guest(guests, real_time), own, rest);
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
    /// Pieces of work for each subject, alone and beside the neighbour each, at least.
    pub runs: usize,
    /// Turns that these are divided into: a subject is started anew for each.
    pub rounds: usize,
}

impl Plan {
    /// Pieces timed in one turn, those of both conditions and those that are dropped.
    fn pieces(self) -> usize {
        (SPARE * self.runs.div_ceil(self.rounds)).clamp(PIECES_MIN, work::COUNT_MAX)
    }
}

impl Subject<'_> {
    /// Roughly how long a turn of it takes, in seconds.
    fn expected(&self, plan: Plan, emulated: bool) -> f64 {
        let pieces = plan.pieces() as f64;
        let start = match (&self.how, emulated) {
            (How::Container(..), _) => 0.7,
            (How::Guest(..), false) => 1.0 + pieces / CONSOLE[1],
            (How::Guest(..), true) => 10.0 + pieces / CONSOLE[0],
        };
        start + PIECE * pieces
    }
}

/// How long all subjects take, in seconds, roughly.
pub fn expected(subjects: &[Subject<'_>], plan: Plan, emulated: bool) -> f64 {
    let turn: f64 = subjects.iter().map(|subject| subject.expected(plan, emulated)).sum();
    turn * plan.rounds as f64
}

/// Everything that the measurement needs.
pub struct Bench<'a> {
    /// Who runs the neighbour as a container; without one it is a plain process in a control group.
    pub runtime: Option<&'a Runtime>,
    /// A folder for the program.
    pub folder: &'a Path,
    /// How often.
    pub plan: Plan,
    /// CPUs that no subject has to itself: where those who start and stop the neighbour run.
    pub aside: &'a CpuList,
    /// Whether KVM emulates ring 0.
    pub emulated: bool,
    /// Whether the user wants to stop.
    pub stop: &'a Stop,
}

/// What one run of a subject gave.
struct Turn {
    sorted: Sorted,
    clock: HostClock,
}

impl Bench<'_> {
    /// Measures all subjects in turns, the first one another in each round. Probes the machine's noise before each round, and adds
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
        let mut turns: Vec<Vec<Turn>> = subjects.iter().map(|_| Vec::new()).collect();
        let mut failed = vec![false; subjects.len()];
        for round in 0..self.plan.rounds + MORE_ROUNDS {
            let more = round >= self.plan.rounds;
            let wanted = |turns: &[Turn], failed: bool| !(failed || more && self.has_enough(turns));
            if !(0..subjects.len()).any(|index| wanted(&turns[index], failed[index])) {
                break;
            }
            noise.push(Noise::probe());
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            order.rotate_left(round % subjects.len());
            for index in order {
                let subject = &subjects[index];
                if wanted(&turns[index], failed[index]) {
                    progress.step(&format!("{}, alone and beside the neighbour", subject.name));
                    let seed = (round * subjects.len() + index) as u64;
                    let turn = super::kept(&subject.name, self.turn(subject, seed), absent)?;
                    failed[index] = turn.is_none();
                    turns[index].extend(turn);
                }
                if !more {
                    progress.done(subject.expected(self.plan, self.emulated));
                }
            }
        }
        let mut measured = Vec::new();
        for (index, subject) in subjects.iter().enumerate().filter(|(index, _)| !failed[*index]) {
            measured.extend(super::kept(&subject.name, self.judge(subject, &turns[index]), absent)?);
        }
        Ok(measured)
    }

    /// Whether there are as many pieces as were asked for, alone and beside.
    fn has_enough(&self, turns: &[Turn]) -> bool {
        let pairs = || turns.iter().flat_map(|turn| &turn.sorted.pairs);
        let of = |count: fn(&Pair) -> usize| pairs().map(count).sum::<usize>() >= self.plan.runs;
        of(|pair| pair.base.len()) && of(|pair| pair.treated.len())
    }

    /// One turn of one subject.
    fn turn(&self, subject: &Subject<'_>, seed: u64) -> Result<Turn, CompareError> {
        let neighbour = match self.runtime {
            Some(runtime) => Neighbour::container(runtime, &subject.neighbour, self.stop)?,
            None => Neighbour::process(&self.program()?, &subject.neighbour, self.stop)?,
        };
        let began = Instant::now();
        let mut run = self.prepare(subject)?;
        let mut child = Child::spawn(run.command())?;
        let _group = run.join_group(&child)?;
        child.wait_for(work::BEGIN, PATIENCE, self.stop)?;
        let switched = place::on(self.aside, || neighbour.slices(&child, &subject.own, PATIENCE, seed, self.stop))?;
        let done = child.wait(PATIENCE, self.stop).and_then(child::Finished::success)?;
        let record = work::read(&done.stdout)?;
        let clock = match &run {
            Run::Container(_) => HostClock::of_container(&record, began, Instant::now())?,
            Run::Guest { report, .. } => HostClock::of_guest(&record, &rings(report)?, began, Instant::now())?,
        };
        let sorted = slices::sort(&record.stamps, &clock, &switched, neighbour.cpus());
        Ok(Turn { sorted, clock })
    }

    fn prepare<'s>(&self, subject: &'s Subject<'_>) -> Result<Run<'s>, CompareError> {
        let (count, turns) = (self.plan.pieces().to_string(), work::TURNS.to_string());
        let mut arguments = vec!["/work", "time", &count, &turns];
        Ok(match &subject.how {
            How::Container(runtime, limits) => Run::Container(runtime.container(&id("work"), &arguments, limits)?),
            How::Guest(guests, flags) => {
                let port = BOOT_TIMER_PORT.to_string();
                arguments.push(&port);
                let report = self.folder.join("rings.json");
                let mut command = guests.command(&arguments, flags)?;
                command.arg("--report").arg(&report);
                Run::Guest { command, report, real_time: flags.iter().any(|flag| flag == "--realtime") }
            }
        })
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

    fn judge(&self, subject: &Subject<'_>, turns: &[Turn]) -> Result<Measured, CompareError> {
        let pairs: Vec<Pair> = turns.iter().flat_map(|turn| turn.sorted.pairs.clone()).collect();
        let pooled = |pairs: &[Pair], of: fn(&Pair) -> &Vec<f64>| -> Sample {
            Sample::new(pairs.iter().flat_map(of).copied().collect())
        };
        let (alone, beside) = (pooled(&pairs, |pair| &pair.base), pooled(&pairs, |pair| &pair.treated));
        let (Some(mut a), Some(mut b)) = (alone.summary(), beside.summary()) else {
            return Err(CompareError::Nothing(subject.name.clone()));
        };
        let by_round = turns.iter().map(|turn| &turn.sorted.pairs).map(|pairs| {
            pooled(pairs, |pair| &pair.treated).quantile(0.99) / pooled(pairs, |pair| &pair.base).quantile(0.99)
        });
        let by_round = by_round.filter(|ratio| ratio.is_finite()).collect();
        let measured = Pairs::new(&pairs);
        [a.mean, b.mean] = measured.means();
        let figures = Figures {
            p50_ratio: measured.ratio_of_quantiles(0.5),
            p99_ratio: measured.ratio_of_quantiles(0.99),
            p999_ratio: measured.ratio_of_quantiles(0.999),
            p99_ratio_by_pairs: measured.median_of_ratios(0.99),
            p99_ratio_by_round: by_round,
            throughput_ratio: a.mean.value / b.mean.value,
            alone: a,
            beside: b,
        };
        let rounds = turns.iter().enumerate();
        let worst = turns.iter().map(|turn| turn.clock.uncertainty_ns).fold(0.0, f64::max);
        Ok(Measured {
            name: subject.name.clone(),
            command: child::words(self.prepare(subject)?.command()),
            neighbour_cpus: subject.neighbour.clone(),
            slices: rounds.flat_map(|(round, turn)| slices::figures(round, &turn.sorted)).collect(),
            dropped: turns.iter().map(|turn| turn.sorted.dropped).sum(),
            unfit_pairs: turns.iter().map(|turn| turn.sorted.unfit).sum(),
            counts_per_second: turns.iter().map(|turn| turn.clock.counts_per_second).collect(),
            clock_uncertainty_us: worst / 1e3,
            alone,
            beside,
            figures,
        })
    }
}

/// The rings in a monitor's report.
fn rings(report: &Path) -> Result<Vec<(u8, u64)>, CompareError> {
    #[derive(serde::Deserialize)]
    struct Rings {
        rings: Vec<(u8, u64)>,
    }
    let failed = |source| CompareError::Report(report.to_owned(), source);
    let text = fs::read(report).map_err(failed)?;
    let rings: Rings = serde_json::from_slice(&text).map_err(|error| failed(io::Error::from(error)))?;
    Ok(rings.rings)
}

/// A name for a group or a container that no other comparison has.
pub fn id(what: &str) -> String {
    format!("rf-{what}-{}", std::process::id())
}

enum Run<'a> {
    Container(Container<'a>),
    Guest { command: Command, report: PathBuf, real_time: bool },
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
