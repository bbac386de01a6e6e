//! Two reports of the boot benchmark beside each other: what changed, and whether it is real.
//!
//! Each subject's samples of each measure are compared by a permutation test of their medians. As many are compared at once,
//! the p-values are adjusted by Holm's method ("A simple sequentially rejective multiple test procedure", 1979), so that the
//! chance of calling any change real that is none stays below 5 %.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::boot::results::{PROGRAM, SCHEMA};
use super::statistics::{Estimate, SHUFFLES, Sample, permutation_test, quantile};
use super::table::{Table, ratio};

/// A change is called real below this adjusted p-value.
const ALPHA: f64 = 0.05;
/// With fewer samples on a side, no order of them is rare enough to tell anything.
const SAMPLES_MIN: usize = 5;
/// A spin's 99th percentile on a quiet machine is at most this many times its median.
const NOISY: f64 = 1.2;
/// So many subjects must change alike, each by more than this share, for the machine to be suspected.
const ALIKE_MIN: usize = 3;
const ALIKE_LEAST: f64 = 0.03;
/// Largest report that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;
/// What is compared: traced runs count too, memory does not.
const MEASURES: [&str; 5] = ["userspace", "exit", "first_run", "own_share", "bell"];

/// Why two reports cannot be compared.
#[derive(Debug, Error)]
pub enum DiffError {
    /// A file that cannot be read.
    #[error("cannot read {}; is it a file that `ringfence bench boot --json` wrote?", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file that is no report.
    #[error("{} is no report of `ringfence bench boot --json`: {reason}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing in common.
    #[error("the two reports have no subject in common; measure the same subjects twice")]
    NothingInCommon,
}

/// What is read of a report.
#[derive(Debug, Deserialize)]
pub struct Report {
    schema: u32,
    program: String,
    #[serde(default)]
    cpus: u32,
    #[serde(default)]
    memory_bytes: u64,
    #[serde(default)]
    cold: Option<String>,
    #[serde(default)]
    noise: Vec<Noise>,
    environment: Environment,
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Noise {
    p50_us: f64,
    p99_us: f64,
}

#[derive(Debug, Deserialize)]
struct Environment {
    load: Option<f64>,
    linux: Option<String>,
    kvm: serde_json::Value,
    cpus: Cpus,
}

#[derive(Debug, Deserialize)]
struct Cpus {
    model: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    subjects: Vec<Subject>,
}

#[derive(Debug, Deserialize)]
struct Subject {
    name: String,
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    measure: String,
    us: Vec<f64>,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// [`DiffError::Read`], [`DiffError::Report`].
    pub fn read(path: &Path) -> Result<Self, DiffError> {
        let wrong = |reason: String| DiffError::Report { path: path.to_owned(), reason };
        let failed = |source| DiffError::Read(path.to_owned(), source);
        let size = fs::metadata(path).map_err(failed)?.len();
        if size > FILE_MAX {
            return Err(wrong(format!("it has {size} bytes, more than any report")));
        }
        let text = fs::read(path).map_err(failed)?;
        let report: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if report.program != PROGRAM {
            return Err(wrong(format!("it is one of \"{}\"", super::table::printable(&report.program))));
        }
        if report.schema > SCHEMA {
            return Err(wrong(format!(
                "its schema is {}, and this ringfence knows {SCHEMA}; use a newer one",
                report.schema
            )));
        }
        let values = || report.groups.iter().flat_map(|g| &g.subjects).flat_map(|s| &s.series).flat_map(|s| &s.us);
        if let Some(value) = values().find(|value| !value.is_finite() || **value < 0.0) {
            return Err(wrong(format!("a sample is {value}, which is no time")));
        }
        Ok(report)
    }

    fn samples(&self, group: &str, subject: &str, measure: &str) -> Option<Sample> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        let subject = group.subjects.iter().find(|s| s.name == subject)?;
        let series = subject.series.iter().find(|s| s.measure == measure && !s.us.is_empty())?;
        Some(Sample::new(series.us.clone()))
    }
}

/// What became of one measure of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Really less.
    Faster,
    /// Really more.
    Slower,
    /// No difference that these samples could show.
    Same,
    /// Too few samples to tell.
    Unknown,
}

/// One measure of one subject in both reports.
#[derive(Clone, Debug)]
pub struct Change {
    /// Group and subject.
    pub subject: String,
    /// The measure's key.
    pub measure: &'static str,
    /// Medians in microseconds.
    pub p50_us: [f64; 2],
    /// The ratio of the second's median to the first's.
    pub ratio: Estimate,
    /// Adjusted p-value.
    pub p: f64,
    /// What it means.
    pub verdict: Verdict,
}

impl Change {
    /// In words.
    pub fn words(&self) -> String {
        let percent = (self.ratio.value - 1.0).abs() * 100.0;
        let ends = [self.ratio.interval.low, self.ratio.interval.high].map(|end| (end - 1.0) * 100.0);
        let between = format!("{:+.1} to {:+.1} %", ends[0], ends[1]);
        let measure = match self.measure {
            "userspace" => "exec to payload",
            "exit" => "exec to exit",
            "first_run" => "exec to first KVM_RUN",
            "own_share" => "own share of the start",
            _ => "exec to the boot timer's ring",
        };
        let what = match self.verdict {
            Verdict::Faster => format!("is faster by {percent:.1} % ({between}), and that is real (p = {:.4})", self.p),
            Verdict::Slower => format!("is slower by {percent:.1} % ({between}), and that is real (p = {:.4})", self.p),
            Verdict::Same => format!("shows no difference that chance does not explain ({between}, p = {:.2})", self.p),
            Verdict::Unknown => format!("has too few runs to tell; {SAMPLES_MIN} in each report are the least"),
        };
        format!("{}, {measure}: {what}.", self.subject)
    }
}

/// Everything that both reports have.
///
/// # Errors
/// [`DiffError::NothingInCommon`].
pub fn compare(a: &Report, b: &Report) -> Result<Vec<Change>, DiffError> {
    let mut changes = Vec::new();
    for group in &a.groups {
        for subject in &group.subjects {
            for measure in MEASURES {
                let of = |report: &Report| report.samples(&group.name, &subject.name, measure);
                let (Some(before), Some(after)) = (of(a), of(b)) else { continue };
                let enough = before.len().min(after.len()) >= SAMPLES_MIN;
                let median = |values: &mut [f64]| quantile(values, 0.5);
                let p = if enough { permutation_test(&before, &after, median, SHUFFLES) } else { 1.0 };
                changes.push(Change {
                    subject: format!("{} ({})", subject.name, group.name),
                    measure,
                    p50_us: [before.median(), after.median()],
                    ratio: after.ratio_of_quantiles(&before, 0.5),
                    p,
                    verdict: if enough { Verdict::Same } else { Verdict::Unknown },
                });
            }
        }
    }
    if changes.is_empty() {
        return Err(DiffError::NothingInCommon);
    }
    judge(&mut changes);
    Ok(changes)
}

/// Adjusts the p-values by Holm's method, and gives the verdicts.
fn judge(changes: &mut [Change]) {
    let mut tested: Vec<&mut Change> = changes.iter_mut().filter(|c| c.verdict != Verdict::Unknown).collect();
    tested.sort_by(|a, b| a.p.total_cmp(&b.p));
    let count = tested.len();
    let mut so_far: f64 = 0.0;
    for (rank, change) in tested.into_iter().enumerate() {
        so_far = so_far.max(change.p * (count - rank) as f64).min(1.0);
        change.p = so_far;
        if so_far < ALPHA {
            let faster = change.p50_us[1] < change.p50_us[0];
            change.verdict = if faster { Verdict::Faster } else { Verdict::Slower };
        }
    }
}

/// What differs between the two besides the subjects: each makes the comparison doubtful.
pub fn differences(a: &Report, b: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            let text = format!("{what} differs: {a} before, {b} after");
            found.push(super::table::printable(&text));
        }
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    check("the CPU", text(&a.environment.cpus.model), text(&b.environment.cpus.model));
    check("the host's kernel", text(&a.environment.linux), text(&b.environment.linux));
    check("KVM", a.environment.kvm.to_string(), b.environment.kvm.to_string());
    check("the number of vCPUs", a.cpus.to_string(), b.cpus.to_string());
    check("guest RAM in bytes", a.memory_bytes.to_string(), b.memory_bytes.to_string());
    let load = |report: &Report| report.environment.load.unwrap_or_default();
    // A difference of one task that wants a CPU is nothing to tell.
    if (load(a) - load(b)).abs() > 1.0 {
        check("the machine's load", format!("{:.1}", load(a)), format!("{:.1}", load(b)));
    }
    let noisy = |report: &Report| report.noise.iter().any(|noise| noise.p99_us > NOISY * noise.p50_us);
    let noise = |report: &Report| if noisy(report) { "noisy" } else { "quiet" }.to_owned();
    check("the machine", noise(a), noise(b));
    check("the state of the caches", a.cold.clone().unwrap_or("warm".into()), b.cold.clone().unwrap_or("warm".into()));
    if noisy(a) && noisy(b) {
        found.push("the machine was noisy in both".to_owned());
    }
    found
}

/// Groups whose subjects all became slower, or all faster, from exec to exit: what they have in common is the machine.
pub fn alike(changes: &[Change]) -> Vec<String> {
    let mut groups: Vec<(&str, Vec<&Change>)> = Vec::new();
    for change in changes.iter().filter(|c| c.measure == "exit" && c.verdict != Verdict::Unknown) {
        let Some((_, group)) = change.subject.rsplit_once(" (") else { continue };
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, members)) => members.push(change),
            None => groups.push((group, vec![change])),
        }
    }
    let mut found = Vec::new();
    for (group, members) in groups.iter().filter(|(_, members)| members.len() >= ALIKE_MIN) {
        let ratios = || members.iter().map(|c| c.ratio.value);
        let (low, high) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
        let real = members.iter().any(|c| c.verdict != Verdict::Same);
        if real && (low > 1.0 + ALIKE_LEAST || high < 1.0 - ALIKE_LEAST) {
            let way = if low > 1.0 { "slower" } else { "faster" };
            let (count, group) = (members.len(), group.trim_end_matches(')'));
            found.push(format!(
                "all {count} subjects ({group}) became {way} from exec to exit, {low:.2} to {high:.2} times"
            ));
        }
    }
    found
}

/// The table of all changes.
pub fn table(changes: &[Change]) -> Table {
    let mut table =
        Table::new("Before and after, medians in ms", &["subject", "measure", "before", "after", "after/before", "p"]);
    for change in changes {
        let [before, after] = change.p50_us.map(|us| ratio(us / 1e3));
        let interval = change.ratio.interval;
        let factor = format!("{:.2} [{:.2}, {:.2}]", change.ratio.value, interval.low, interval.high);
        let p = if change.verdict == Verdict::Unknown { "-".to_owned() } else { format!("{:.4}", change.p) };
        table.row([change.subject.clone(), change.measure.to_owned(), before, after, factor, p]);
    }
    table.note(format!(
        "p: permutation test of the medians, {SHUFFLES} shuffles, adjusted for {} comparisons (Holm); real below {ALPHA}",
        changes.len()
    ));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(samples: &[(&str, &[f64])]) -> Report {
        let subjects: Vec<_> = samples
            .iter()
            .map(|(name, us)| serde_json::json!({"name": name, "series": [{"measure": "exit", "us": us}]}))
            .collect();
        let json = serde_json::json!({
            "schema": 1, "program": PROGRAM, "cpus": 1, "memory_bytes": 1,
            "environment": {"linux": "6.1", "kvm": "svm", "cpus": {"model": "a CPU"}},
            "groups": [{"name": "linux", "subjects": subjects}],
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json.to_string()).unwrap();
        Report::read(file.path()).unwrap()
    }

    fn around(us: f64) -> Vec<f64> {
        (0..20).map(|i| us + f64::from(i * 7 % 20) / 10.0).collect()
    }

    /// Proves that a change is called real, that none is called none, and that few runs are called too few.
    #[test]
    fn real_changes_are_told_from_chance() {
        let (fast, slow) = (around(100.0), around(120.0));
        let a = report(&[("same", &fast), ("slower", &fast), ("faster", &slow), ("few", &fast[..3]), ("gone", &fast)]);
        let b = report(&[("same", &fast), ("slower", &slow), ("faster", &fast), ("few", &slow[..3])]);
        let changes = compare(&a, &b).unwrap();
        let verdicts: Vec<_> = changes.iter().map(|c| (c.subject.as_str(), c.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("same (linux)", Verdict::Same),
                ("slower (linux)", Verdict::Slower),
                ("faster (linux)", Verdict::Faster),
                ("few (linux)", Verdict::Unknown)
            ]
        );
        assert!(changes[1].words().contains("is slower by 19.8 % ("), "{}", changes[1].words());
        assert!(changes[1].words().contains("that is real (p = 0.0003)"), "{}", changes[1].words());
        assert!(changes[0].words().contains("no difference"));
        assert!(table(&changes).render().lines().all(|line| line.chars().count() <= 80));
        assert!(differences(&a, &b).is_empty());
        assert!(matches!(compare(&report(&[("x", &fast)]), &b), Err(DiffError::NothingInCommon)));
    }

    /// Proves Holm's adjustment on his kind of example: p-values times the number of those not yet rejected, never falling.
    #[test]
    fn p_values_are_adjusted() {
        let fast = around(100.0);
        let report = report(&[("a", &fast)]);
        let one = compare(&report, &report).unwrap().remove(0);
        let mut changes: Vec<_> =
            [0.04, 0.01, 0.03].into_iter().map(|p| Change { p, p50_us: [2.0, 1.0], ..one.clone() }).collect();
        judge(&mut changes);
        let adjusted: Vec<_> = changes.iter().map(|c| (c.p * 1000.0).round() as u32).collect();
        assert_eq!(adjusted, [60, 30, 60]);
        assert_eq!(changes.iter().filter(|c| c.verdict == Verdict::Faster).count(), 1);
    }

    /// Proves that what is no report is refused with the file's name, and that other machines are told.
    #[test]
    fn what_is_no_report_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, reason) in [
            ("", "EOF"),
            ("{\"schema\": 1}", "missing field"),
            (r#"{"schema":1,"program":"x","environment":{"kvm":1,"cpus":{}},"groups":[]}"#, "one of \"x\""),
            (
                r#"{"schema":9,"program":"ringfence bench boot","environment":{"kvm":1,"cpus":{}},"groups":[]}"#,
                "schema is 9",
            ),
        ] {
            fs::write(file.path(), text).unwrap();
            let error = Report::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()) && error.contains(reason), "{error}");
        }
        assert!(matches!(Report::read(Path::new("/nonexistent")), Err(DiffError::Read(..))));
        let mut other = report(&[("a", &[1.0])]);
        other.environment.cpus.model = Some("another\x1b".to_owned());
        other.memory_bytes = 5;
        other.noise.push(Noise { p50_us: 100.0, p99_us: 900.0 });
        let found = differences(&report(&[("a", &[1.0])]), &other);
        assert_eq!(
            found,
            [
                "the CPU differs: a CPU before, another? after",
                "guest RAM in bytes differs: 1 before, 5 after",
                "the machine differs: quiet before, noisy after"
            ]
        );
    }

    /// Proves that a change of all subjects is put down to the machine, and one of some is not.
    #[test]
    fn what_all_have_in_common_is_the_machine() {
        let (fast, slow) = (around(100.0), around(120.0));
        let told = |after: [&[f64]; 3]| {
            let a = report(&[("x", &fast), ("y", &fast), ("z", &fast)]);
            let b = report(&[("x", after[0]), ("y", after[1]), ("z", after[2])]);
            alike(&compare(&a, &b).unwrap())
        };
        assert_eq!(
            told([&slow, &slow, &slow]),
            ["all 3 subjects (linux) became slower from exec to exit, 1.20 to 1.20 times"]
        );
        assert_eq!(told([&slow, &slow, &fast]), [""; 0]);
        assert_eq!(told([&fast, &fast, &fast]), [""; 0]);
    }
}
