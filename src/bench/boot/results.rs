//! What a run of the benchmark found: raw samples first, and what is made of them.

use serde::Serialize;

use super::load::Load;
use super::memory::Memory;
use super::phases::Phases;
use super::subjects::Kind;
use super::sweep::Growth;
use crate::bench::container::NotRun;
use crate::bench::drift;
use crate::bench::environment::{Environment, Noise, Warning};
use crate::bench::statistics::{self, Estimate, Sample, Summary};

/// Version of the JSON report's schema; fields may be added under the same number, none is taken away or changed.
pub const SCHEMA: u32 = 1;
/// What the report calls itself.
pub const PROGRAM: &str = "ringfence bench boot";

/// What is measured of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// From exec to the payload's line.
    Userspace,
    /// From exec to exit.
    Exit,
    /// From exec to the boot timer's ring: the guest's first instruction in userspace. ringfence alone has this device.
    Bell,
    /// From exec to the first KVM_RUN, in traced runs.
    FirstRun,
    /// The same less the time inside KVM's ioctls.
    OwnShare,
    /// Time inside KVM_SET_USER_MEMORY_REGION before it.
    TakingRam,
    /// From exec to the first KVM_RUN by the monitor's own report, with nothing traced.
    FirstRunReported,
    /// The same less the time inside KVM's ioctls.
    OwnShareReported,
}

impl Measure {
    /// All, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Userspace,
        Self::Exit,
        Self::FirstRun,
        Self::OwnShare,
        Self::TakingRam,
        Self::FirstRunReported,
        Self::OwnShareReported,
        Self::Bell,
    ];

    /// For a table's title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Userspace => "exec to payload (its line has arrived)",
            Self::Exit => "exec to exit",
            Self::Bell => "exec to the boot timer's ring (ringfence's own device)",
            Self::FirstRun => "exec to first KVM_RUN (traced runs)",
            Self::OwnShare => "own share of it: without the time inside KVM's ioctls",
            Self::TakingRam => "of it inside KVM_SET_USER_MEMORY_REGION",
            Self::FirstRunReported => "exec to first KVM_RUN, nothing traced (by the program's own report)",
            Self::OwnShareReported => "own share of it: without the time inside KVM's ioctls, nothing traced",
        }
    }

    /// For files and columns.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Exit => "exit",
            Self::Bell => "bell",
            Self::FirstRun => "first_run",
            Self::OwnShare => "own_share",
            Self::TakingRam => "taking_ram",
            Self::FirstRunReported => "first_run_reported",
            Self::OwnShareReported => "own_share_reported",
        }
    }
}

/// One subject's samples of one measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What was measured.
    pub measure: Measure,
    /// The turn each was made in: samples of the same turn are neighbours in time.
    pub turns: Vec<u32>,
    /// Microseconds, turn by turn.
    pub us: Sample,
    /// What a table shows of them. The mean's interval is by stretches of runs ([`drift::estimate`]).
    pub summary: Option<Summary>,
    /// The median, with its interval by stretches of runs.
    pub p50: Option<Estimate>,
    /// Turns outside of Tukey's outer fences; they are in all figures.
    pub outlier_turns: Vec<u32>,
    /// The median of the ratios to the baseline, turn by turn.
    pub ratio: Option<Estimate>,
}

impl Series {
    /// No samples yet.
    pub fn new(measure: Measure) -> Self {
        let (turns, us) = (Vec::new(), Sample::default());
        Self { measure, turns, us, summary: None, p50: None, outlier_turns: Vec::new(), ratio: None }
    }

    /// Adds a sample.
    pub fn push(&mut self, turn: u32, us: f64) {
        self.turns.push(turn);
        self.us.push(us);
    }

    /// Makes the summary, once all samples are there.
    fn sum_up(&mut self) {
        let mean = || drift::estimate(&self.us, |values| statistics::mean(values));
        self.summary = self.us.summary().map(|summary| Summary { mean: mean(), ..summary });
        self.p50 = (!self.us.is_empty()).then(|| drift::median(&self.us));
        self.outlier_turns = self.us.outliers().into_iter().map(|i| self.turns[i]).collect();
    }

    /// The median of the ratios of samples made in the same turn; `None` when no turn has both.
    fn ratio_to(&self, base: &Self) -> Option<Estimate> {
        let pairs = self.turns.iter().zip(self.us.values()).filter_map(|(turn, value)| {
            let at = base.turns.iter().position(|other| other == turn)?;
            Some((*value, base.us.values()[at]))
        });
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        (!ratios.is_empty()).then(|| drift::median(&Sample::new(ratios)))
    }
}

/// One subject's results.
#[derive(Clone, Debug, Serialize)]
pub struct SubjectResult {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it says its version is.
    pub version: Option<String>,
    /// What a user would type.
    pub command: String,
    /// Samples, by measure.
    pub series: Vec<Series>,
    /// Phases, from runs of their own.
    pub phases: Option<Phases>,
    /// Memory, from the warm-up run.
    pub memory: Option<Memory>,
    /// Runs that failed, with the turn and the reason.
    pub failures: Vec<String>,
}

impl SubjectResult {
    /// Samples of one measure; `None` when there are none.
    pub fn series(&self, measure: Measure) -> Option<&Series> {
        self.series.iter().find(|series| series.measure == measure && !series.us.is_empty())
    }

    /// Adds a sample.
    pub fn push(&mut self, measure: Measure, turn: u32, us: f64) {
        if !self.series.iter().any(|series| series.measure == measure) {
            self.series.push(Series::new(measure));
        }
        if let Some(series) = self.series.iter_mut().find(|series| series.measure == measure) {
            series.push(turn, us);
        }
    }
}

/// Subjects that took turns.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `linux` or `trivial`.
    pub name: &'static str,
    /// For people.
    pub title: String,
    /// Whom ratios are to.
    pub baseline: Option<String>,
    /// Their results.
    pub subjects: Vec<SubjectResult>,
    /// What could not be measured.
    pub not_run: Vec<NotRun>,
}

impl Group {
    /// Makes summaries and ratios; `baseline` as asked for, else the first subject.
    pub fn sum_up(&mut self, baseline: &str) {
        let base = self.subjects.iter().find(|subject| subject.name == baseline).or(self.subjects.first()).cloned();
        self.baseline = base.as_ref().map(|base| base.name.clone());
        for series in self.subjects.iter_mut().flat_map(|subject| &mut subject.series) {
            series.sum_up();
            series.ratio = base.as_ref().and_then(|base| series.ratio_to(base.series(series.measure)?));
        }
    }
}

/// What the harness itself does to a subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Harness {
    /// What a run by the harness takes longer than a bare posix_spawn and wait, pair by pair, in microseconds: the median.
    pub overhead_us: Estimate,
    /// Runs of each.
    pub runs: usize,
    /// The middle half of the runs of a plain process lies within this share of their median.
    pub spread: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`PROGRAM`].
    pub program: &'static str,
    /// The command line that made this.
    pub command: String,
    /// When it began, in seconds since 1970 (UTC).
    pub began_unix: u64,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// Into how many sittings the timed runs were divided.
    pub sittings: u32,
    /// How long it took from the first timed run to the last, in seconds.
    pub spread_s: f64,
    /// vCPUs of every guest.
    pub cpus: u32,
    /// RAM of every guest, in bytes.
    pub memory_bytes: u64,
    /// Whether caches were dropped before every run, and how.
    pub cold: Option<String>,
    /// The guests' kernel and command line.
    pub guests: Vec<(String, String)>,
    /// The machine.
    pub environment: Environment,
    /// Probes of its noise, before, between and after.
    pub noise: Vec<Noise>,
    /// What makes the figures doubtful.
    pub warnings: Vec<Warning>,
    /// The harness by itself.
    pub harness: Option<Harness>,
    /// One after the other.
    pub groups: Vec<Group>,
    /// Several at once.
    pub loads: Vec<Load>,
    /// Over sizes.
    pub growths: Vec<Growth>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, samples: &[(u32, f64)]) -> SubjectResult {
        let mut subject = SubjectResult {
            name: name.to_owned(),
            kind: Kind::Process,
            version: None,
            command: String::new(),
            series: Vec::new(),
            phases: None,
            memory: None,
            failures: Vec::new(),
        };
        samples.iter().for_each(|(turn, us)| subject.push(Measure::Exit, *turn, *us));
        subject
    }

    /// Proves that ratios are of the same turn's samples only, that a baseline that is not there is the first subject, and that
    /// an outlier is named by its turn and stays in the figures.
    #[test]
    fn ratios_go_turn_by_turn() {
        let steady: Vec<(u32, f64)> = (0..9).map(|turn| (turn, 100.0 + f64::from(turn))).chain([(9, 1e6)]).collect();
        let subjects = vec![subject("a", &steady), subject("b", &[(3, 206.0), (8, 216.0)]), subject("c", &[(77, 1.0)])];
        let mut group = Group { name: "linux", title: String::new(), baseline: None, subjects, not_run: Vec::new() };
        group.sum_up("nobody");
        assert_eq!(group.baseline.as_deref(), Some("a"));
        let series = |i: usize| group.subjects[i].series(Measure::Exit).unwrap();
        assert!((series(1).ratio.unwrap().value - 2.0).abs() < 1e-9);
        assert_eq!(series(2).ratio, None);
        assert_eq!(series(0).outlier_turns, [9]);
        assert!((series(0).summary.as_ref().unwrap().max - 1e6).abs() < 1e-9);
        assert!(group.subjects[0].series(Measure::Bell).is_none());
    }
}
