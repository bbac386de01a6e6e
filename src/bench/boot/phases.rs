//! The phases between exec and exit: by ringfence's own report, by the kernel's trace for any monitor, by the payload's line
//! for everything.

use std::path::Path;

use serde::Serialize;

use super::attempt::Stamps;
use super::trace::Start;
use crate::bench::clock::Instant;

/// What a phase is part of: the colour of its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Before the guest or the payload: the monitor or the runtime.
    Start,
    /// The guest's kernel.
    Kernel,
    /// The guest's init, and the payload until its line is here.
    Init,
    /// Kernel, init and payload of a monitor that does not tell them apart.
    Guest,
    /// From the payload's line until nothing is left.
    End,
}

impl Part {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Start, Self::Kernel, Self::Init, Self::Guest, Self::End];

    /// For a legend.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "monitor or runtime",
            Self::Kernel => "guest kernel",
            Self::Init => "guest init",
            Self::Guest => "whole guest",
            Self::End => "end",
        }
    }
}

/// A point and what lies before it.
pub type Point = (&'static str, Part, Instant);
/// One run's start and its points.
pub type Dated = (Instant, Vec<Point>);

/// A phase's mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// What is done in it.
    pub name: &'static str,
    /// What it is part of.
    pub part: Part,
    /// Its mean, in microseconds.
    pub mean_us: f64,
}

/// The phases of one subject, from runs of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Phases {
    /// How many runs the means are of.
    pub runs: usize,
    /// In their order.
    pub phases: Vec<Phase>,
    /// The mean of the whole, exec to exit, in microseconds.
    pub whole_us: f64,
    /// What the phases leave of the whole, in microseconds.
    pub unexplained_us: f64,
    /// Runs that did not come by the same points and are left out.
    pub odd_runs: usize,
}

/// ringfence's points in the order they are shown in. Those made at the same time by two threads come as they do in most
/// runs; one that was reached already takes no time.
const POINTS: [(&str, &str, Part); 10] = [
    ("start", "exec, until main", Part::Start),
    ("configured", "command line read", Part::Start),
    ("vm_created", "machine made by KVM", Part::Start),
    ("loaded", "kernel and tables loaded", Part::Start),
    ("memory_mapped", "RAM known to KVM", Part::Start),
    ("first_run", "last steps to KVM_RUN", Part::Start),
    ("userspace", "guest kernel", Part::Kernel),
    ("payload", "guest init", Part::Init),
    ("ended", "end of the guest", Part::End),
    ("done", "machine given back", Part::End),
];
const LINE: (&str, Part) = ("payload, until its line is here", Part::Init);

/// The points of one run, from start to exit.
pub fn points(stamps: &Stamps, report: Option<&Path>, trace: Option<&Start>, is_monitor: bool) -> Vec<Point> {
    let reported = report.map(read_report).unwrap_or_default();
    let mut points: Vec<Point> = Vec::new();
    let find = |key: &str| reported.iter().find(|(name, _)| name == key).map(|(_, at)| *at);
    for (key, name, part) in POINTS {
        if let Some(at) = find(key) {
            points.push((name, part, at));
        }
    }
    if points.is_empty() {
        points.extend(trace.map(|start| ("monitor, until KVM_RUN", Part::Start, start.first_run_at)));
        let part = if is_monitor {
            ("guest, until its line is here", Part::Guest)
        } else {
            ("until its line is here", Part::Start)
        };
        points.push((part.0, part.1, stamps.line));
    } else {
        let end = points.iter().position(|point| point.1 == Part::End).unwrap_or(points.len());
        points.insert(end, (LINE.0, LINE.1, stamps.line));
    }
    points.extend(stamps.end.map(|end| ("process gone", Part::End, end)));
    // Two threads reach some points in either order, and the console's thread writes the line while the guest goes on.
    let mut latest = stamps.start;
    for point in &mut points {
        latest = latest.max(point.2);
        point.2 = latest;
    }
    points
}

/// When the guest rang its bell, by ringfence's report: userspace reached, in microseconds from `start`.
pub fn bell(report: &Path, start: Instant) -> Option<f64> {
    let at = read_report(report).into_iter().find(|(name, _)| name == "userspace")?.1;
    Some(at.since(start).as_secs_f64() * 1e6)
}

/// From `start` to the first KVM_RUN, and the same less the time inside KVM's ioctls, by a monitor's report, in microseconds.
pub fn first_run(report: &Path, start: Instant) -> Option<(f64, f64)> {
    let report = parse(report);
    let at = phases_of(&report).into_iter().find(|(name, _)| name == "first_run")?.1;
    let inside = report["kvm_setup_ns"].as_u64()?;
    let whole = at.since(start).as_secs_f64() * 1e6;
    Some((whole, (whole - inside as f64 / 1e3).max(0.0)))
}

/// A report; null when the file is not one.
fn parse(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The phases of `ringfence run --report`; none when the file is not one.
fn read_report(path: &Path) -> Vec<(String, Instant)> {
    phases_of(&parse(path))
}

fn phases_of(report: &serde_json::Value) -> Vec<(String, Instant)> {
    let phases = report["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let phase =
        |phase: &serde_json::Value| Some((phase[0].as_str()?.to_owned(), Instant::from_nanos(phase[1].as_u64()?)));
    phases.iter().filter_map(phase).collect()
}

/// The means of several runs' phases. As every run's phases add up to its whole, so do the means.
pub fn means(runs: &[Dated]) -> Phases {
    let names = |points: &[Point]| points.iter().map(|point| point.0).collect::<Vec<_>>();
    let Some((_, first)) = runs.first() else { return Phases::default() };
    let alike: Vec<_> = runs.iter().filter(|(_, points)| names(points) == names(first)).collect();
    let count = alike.len() as f64;
    let us = |from: Instant, to: Instant| to.since(from).as_secs_f64() * 1e6;
    let mut phases = Vec::new();
    for (i, (name, part, _)) in first.iter().enumerate() {
        let each = alike
            .iter()
            .map(|(start, points)| us(i.checked_sub(1).map_or(*start, |before| points[before].2), points[i].2));
        phases.push(Phase { name, part: *part, mean_us: each.sum::<f64>() / count });
    }
    let wholes = alike.iter().filter_map(|(start, points)| Some(us(*start, points.last()?.2)));
    let whole_us = wholes.sum::<f64>() / count;
    let explained: f64 = phases.iter().map(|phase| phase.mean_us).sum();
    Phases {
        runs: alike.len(),
        phases,
        whole_us,
        unexplained_us: whole_us - explained,
        odd_runs: runs.len() - alike.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    const STAMPS: Stamps = Stamps {
        start: Instant::from_nanos(1_000_000),
        line: Instant::from_nanos(1_500_000),
        end: Some(Instant::from_nanos(2_000_000)),
    };

    /// Proves that ringfence's phases are read from its report, in order, and add up to the whole.
    #[test]
    fn phases_add_up_to_the_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // RAM was known to KVM before the kernel was loaded, by another thread; and an odd entry is passed over.
        let report = r#"{"phases": [["start", 1100000], ["configured", 1150000], ["vm_created", 1200000],
            ["memory_mapped", 1220000], ["loaded", 1250000], ["first_run", 1300000], ["userspace", 1400000], [7],
            ["ended", 1600000], ["done", 1900000]], "kvm_setup_ns": 120000}"#;
        std::fs::write(file.path(), report).unwrap();
        let points = points(&STAMPS, Some(file.path()), None, true);
        let phases = means(&[(STAMPS.start, points.clone()), (STAMPS.start, points), (at(1000), Vec::new())]);
        assert_eq!((phases.runs, phases.odd_runs), (2, 1));
        let parts: Vec<_> = phases.phases.iter().map(|p| (p.name, p.mean_us.round() as i64)).collect();
        let expected = [
            ("exec, until main", 100),
            ("command line read", 50),
            ("machine made by KVM", 50),
            ("kernel and tables loaded", 50),
            ("RAM known to KVM", 0),
            ("last steps to KVM_RUN", 50),
            ("guest kernel", 100),
            ("payload, until its line is here", 100),
            ("end of the guest", 100),
            ("machine given back", 300),
            ("process gone", 100),
        ];
        assert_eq!(parts, expected);
        assert!((phases.whole_us - 1000.0).abs() < 1e-6 && phases.unexplained_us.abs() < 1e-6, "{phases:?}");
        assert_eq!(bell(file.path(), STAMPS.start).map(f64::round), Some(400.0));
        let (whole, own) = first_run(file.path(), STAMPS.start).unwrap();
        assert_eq!((whole.round(), own.round()), (300.0, 180.0));
    }

    /// Proves that another monitor's phases come from the trace, and a container's from its line alone.
    #[test]
    fn others_are_seen_from_outside() {
        let start = Start { first_run_at: at(1200), first_run_us: 0.0, own_share_us: 0.0, taking_ram_us: 0.0 };
        let monitor = points(&STAMPS, None, Some(&start), true);
        assert_eq!(monitor.iter().map(|p| p.1).collect::<Vec<_>>(), [Part::Start, Part::Guest, Part::End]);
        let container = points(&Stamps { end: None, ..STAMPS }, None, None, false);
        assert_eq!(container, [("until its line is here", Part::Start, at(1500))]);
        assert_eq!(means(&[]), Phases::default());
        assert_eq!(bell(Path::new("/nonexistent"), STAMPS.start), None);
    }
}
