//! Reports as they are read again, and what makes two of them hard to compare.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::bench::boot::results::{PROGRAM, SCHEMA};
use crate::bench::statistics::Sample;
use crate::bench::table::printable;

/// A spin's 99th percentile on a quiet machine is at most this many times its median.
const NOISY: f64 = 1.2;
/// Largest report that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;

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
    /// A reference that is not in both.
    #[error("the reports do not both have the subject \"{0}\", which others are to be compared with; name another")]
    NoReference(String),
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
    pub(super) groups: Vec<Group>,
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
pub(super) struct Group {
    pub(super) name: String,
    pub(super) subjects: Vec<Subject>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Subject {
    pub(super) name: String,
    #[serde(default)]
    pub(super) version: Option<String>,
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    measure: String,
    /// The turn of each sample; empty in a report that does not tell.
    #[serde(default)]
    turns: Vec<u32>,
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
            return Err(wrong(format!("it is one of \"{}\"", printable(&report.program))));
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

    /// One subject, if the report has it.
    pub(super) fn subject(&self, group: &str, name: &str) -> Option<&Subject> {
        self.groups.iter().find(|g| g.name == group)?.subjects.iter().find(|s| s.name == name)
    }
}

impl Subject {
    fn series(&self, measure: &str) -> Option<&Series> {
        self.series.iter().find(|s| s.measure == measure && !s.us.is_empty())
    }

    /// Samples of one measure, if there are any.
    pub(super) fn samples(&self, measure: &str) -> Option<Sample> {
        Some(Sample::new(self.series(measure)?.us.clone()))
    }

    /// The ratios of one measure's samples to those of another subject's measure made in the same turn; `None` when there are none
    /// above zero.
    pub(super) fn ratios(&self, measure: &str, other: (&Self, &str)) -> Option<Sample> {
        let (ours, theirs) = (self.series(measure)?, other.0.series(other.1)?);
        let ratio = |(turn, us): (u32, f64)| {
            let (_, other) = theirs.dated().find(|(other, _)| *other == turn)?;
            Some(us / other).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
        };
        let ratios: Vec<f64> = ours.dated().filter_map(ratio).collect();
        (!ratios.is_empty()).then(|| Sample::new(ratios))
    }
}

impl Series {
    /// Samples with their turns.
    fn dated(&self) -> impl Iterator<Item = (u32, f64)> {
        let told = self.turns.len() == self.us.len();
        (0..).zip(&self.us).map(move |(i, us)| (if told { self.turns[i as usize] } else { i }, *us))
    }
}

/// What differs between the two besides the subjects: each makes the comparison doubtful.
pub fn differences(a: &Report, b: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            let text = format!("{what} differs: {a} before, {b} after");
            found.push(printable(&text));
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report with the given samples from exec to exit.
    pub(in crate::bench::diff) fn report(samples: &[(&str, &[f64])]) -> Report {
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

    /// Proves that ratios are of samples of the same turn, also where a run failed, and that times of zero give none.
    #[test]
    fn ratios_are_of_the_same_turn() {
        let subject = |turns: &[u32], us: &[f64]| {
            let series = serde_json::json!([{"measure": "exit", "turns": turns, "us": us}]);
            serde_json::from_value::<Subject>(serde_json::json!({"name": "x", "series": series})).unwrap()
        };
        let base = subject(&[0, 1, 3], &[10.0, 20.0, 40.0]);
        let ours = subject(&[1, 2, 3], &[30.0, 7.0, 20.0]);
        assert_eq!(ours.ratios("exit", (&base, "exit")).unwrap().values(), [1.5, 0.5]);
        assert_eq!(ours.ratios("exit", (&base, "bell")), None);
        assert_eq!(ours.ratios("exit", (&subject(&[1], &[0.0]), "exit")), None);
        assert_eq!(subject(&[], &[5.0, 6.0]).ratios("exit", (&base, "exit")).unwrap().values(), [0.5, 0.3]);
    }
}
