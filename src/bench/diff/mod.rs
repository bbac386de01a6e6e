//! Two reports of the boot benchmark beside each other: what changed, and whether it is real.
//!
//! Between two reports the machine's own speed drifts, so that times alone tell nothing of a subject. What decides is each
//! subject's ratio to a reference that was measured in the same turns of the same report: the least that the machine charges for
//! such a start, `kvm-calls` or `process`. The medians of these ratios are compared by a permutation test that shuffles stretches of
//! consecutive runs whole ([`super::drift`]). As many are compared at once, the p-values are adjusted by Holm's method ("A simple
//! sequentially rejective multiple test procedure", 1979), so that the chance of calling any change real that is none stays
//! below 5 %.

mod report;

use super::drift::{Shift, shift};
use super::statistics::{Estimate, Interval, SHUFFLES};
use super::table::{Table, ratio};

pub use report::{DiffError, Report, differences};
use report::{Group, Subject};

/// A change is called real below this adjusted p-value.
const ALPHA: f64 = 0.05;
/// With fewer samples on a side, no order of them is rare enough to tell anything.
const SAMPLES_MIN: usize = 5;
/// So many subjects must change alike, each by more than this share, for the machine to be suspected.
const ALIKE_MIN: usize = 3;
const ALIKE_LEAST: f64 = 0.03;
/// What is compared: traced runs count too, memory does not.
const MEASURES: [&str; 5] = ["userspace", "exit", "first_run", "own_share", "bell"];
/// The least that the machine charges for a start, where they were measured.
const REFERENCES: [&str; 2] = ["kvm-calls", "process"];

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
    /// None: others are compared with it.
    Reference,
}

/// One measure of one subject in both reports.
#[derive(Clone, Debug)]
pub struct Change {
    /// The group's name.
    pub group: String,
    /// The subject's.
    pub subject: String,
    /// The measure's key.
    pub measure: &'static str,
    /// Medians in microseconds.
    pub p50_us: [f64; 2],
    /// The ratio of the second's median to the first's.
    pub times: Estimate,
    /// The same of the ratios to the reference, by its name; `None` where there is no reference, or this is it.
    pub relative: Option<(String, Estimate)>,
    /// Adjusted p-value.
    pub p: f64,
    /// What it means.
    pub verdict: Verdict,
}

impl Change {
    /// What the verdict is about.
    fn decisive(&self) -> &Estimate {
        self.relative.as_ref().map_or(&self.times, |(_, relative)| relative)
    }

    /// In words.
    pub fn words(&self) -> String {
        let percent = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
        let range = |e: &Estimate| format!("{} to {} %", percent(e.interval.low), percent(e.interval.high));
        let by = format!("{:.1} %", (self.decisive().value - 1.0).abs() * 100.0);
        let (with, own) = match &self.relative {
            Some((name, _)) => {
                (format!(" beside {name}"), format!("; its times alone: {} %", percent(self.times.value)))
            }
            None => (String::new(), String::new()),
        };
        let between = range(self.decisive());
        let what = match self.verdict {
            Verdict::Faster => {
                format!("is faster by {by}{with} ({between}), and that is real (p = {:.4}){own}", self.p)
            }
            Verdict::Slower => {
                format!("is slower by {by}{with} ({between}), and that is real (p = {:.4}){own}", self.p)
            }
            Verdict::Same => {
                format!("shows no difference that chance does not explain{with} ({between}, p = {:.2}){own}", self.p)
            }
            Verdict::Unknown => format!("has too few runs to tell; {SAMPLES_MIN} in each report are the least"),
            Verdict::Reference => format!(
                "its times changed by {} % ({}); it is the reference, so that this is the machine",
                percent(self.times.value),
                range(&self.times)
            ),
        };
        format!("{} ({}), {}: {what}.", self.subject, self.group, title(self.measure))
    }
}

/// Everything in words: what changed one by one, the rest together.
pub fn summary(changes: &[Change]) -> Vec<String> {
    let real = |change: &&Change| matches!(change.verdict, Verdict::Faster | Verdict::Slower);
    let mut said: Vec<String> = changes.iter().filter(real).map(Change::words).collect();
    let same = listed(changes, Verdict::Same);
    if !same.is_empty() {
        said.push(format!("There is no difference that chance does not explain in {same}."));
    }
    let unknown = listed(changes, Verdict::Unknown);
    if !unknown.is_empty() {
        said.push(format!("Too few runs to tell, where {SAMPLES_MIN} in each report are the least: {unknown}."));
    }
    // Of each reference once, from beginning to end where it was so measured.
    let mut told: Vec<&Change> = Vec::new();
    for change in changes.iter().filter(|c| c.verdict == Verdict::Reference) {
        match told.iter_mut().find(|told| told.group == change.group) {
            Some(told) if change.measure == "exit" => *told = change,
            Some(_) => {}
            None => told.push(change),
        }
    }
    said.extend(told.into_iter().map(Change::words));
    said
}

/// Subjects with a verdict and their measures: `runc (linux): exec to payload, exec to exit; crun (linux): ...`.
fn listed(changes: &[Change], verdict: Verdict) -> String {
    let mut subjects: Vec<(String, Vec<&str>)> = Vec::new();
    for change in changes.iter().filter(|c| c.verdict == verdict) {
        let name = format!("{} ({})", change.subject, change.group);
        match subjects.iter_mut().find(|(known, _)| *known == name) {
            Some((_, measures)) => measures.push(title(change.measure)),
            None => subjects.push((name, vec![title(change.measure)])),
        }
    }
    let subjects = subjects.into_iter().map(|(name, measures)| format!("{name}: {}", measures.join(", ")));
    subjects.collect::<Vec<_>>().join("; ")
}

fn title(measure: &str) -> &'static str {
    match measure {
        "userspace" => "exec to payload",
        "exit" => "exec to exit",
        "first_run" => "exec to first KVM_RUN",
        "own_share" => "own share of the start",
        _ => "exec to the boot timer's ring",
    }
}

/// Everything that both reports have. `reference` is the subject that others are compared with, where both have it; without one
/// it is chosen.
///
/// # Errors
/// [`DiffError::NothingInCommon`], [`DiffError::NoReference`].
pub fn compare(a: &Report, b: &Report, reference: Option<&str>) -> Result<Vec<Change>, DiffError> {
    let mut changes = Vec::new();
    let mut found = false;
    for group in &a.groups {
        let both = |name: &str| Some([a.subject(&group.name, name)?, b.subject(&group.name, name)?]);
        let chosen = reference.or_else(|| choose(group, b)).and_then(both);
        found |= chosen.is_some();
        for pair in group.subjects.iter().filter_map(|subject| both(&subject.name)) {
            changes.extend(MEASURES.iter().filter_map(|measure| change(&group.name, pair, chosen, measure)));
        }
    }
    if changes.is_empty() {
        return Err(DiffError::NothingInCommon);
    }
    if let Some(name) = reference.filter(|_| !found) {
        return Err(DiffError::NoReference(name.to_owned()));
    }
    judge(&mut changes);
    Ok(changes)
}

/// The subject of a group least likely to have been changed between two reports: the least that the machine charges, else the first
/// that is not a ringfence. A group of one has none.
fn choose<'a>(group: &'a Group, b: &Report) -> Option<&'a str> {
    let names = || group.subjects.iter().filter(|s| b.subject(&group.name, &s.name).is_some());
    if names().count() < 2 {
        return None;
    }
    let named = REFERENCES.iter().find_map(|name| names().find(|subject| subject.name == *name));
    let foreign = |subject: &&Subject| {
        let of = subject.version.as_deref().unwrap_or(&subject.name);
        !of.starts_with("ringfence")
    };
    named.or_else(|| names().find(foreign)).map(|subject| &*subject.name)
}

/// One measure; `None` when a report has it not.
fn change(
    group: &str,
    [before, after]: [&Subject; 2],
    reference: Option<[&Subject; 2]>,
    measure: &'static str,
) -> Option<Change> {
    let (a, b) = (before.samples(measure)?, after.samples(measure)?);
    let is_reference = reference.is_some_and(|[one, _]| one.name == before.name);
    let times = shift(&a, &b);
    let relative = reference.filter(|_| !is_reference).and_then(|[base_a, base_b]| {
        // The boot timer rings in ringfence alone, in the traced runs.
        let other = if measure == "bell" { "first_run" } else { measure };
        let (a, b) = (before.ratios(measure, (base_a, other))?, after.ratios(measure, (base_b, other))?);
        Some((a.len().min(b.len()), base_a.name.clone(), shift(&a, &b)))
    });
    let fewest = relative.as_ref().map_or(a.len().min(b.len()), |(count, ..)| *count);
    let Shift { p, .. } = relative.as_ref().map_or(times, |(.., shift)| *shift);
    let verdict = match (is_reference, fewest >= SAMPLES_MIN) {
        (true, _) => Verdict::Reference,
        (_, true) => Verdict::Same,
        _ => Verdict::Unknown,
    };
    Some(Change {
        group: group.to_owned(),
        subject: before.name.clone(),
        measure,
        p50_us: [a.median(), b.median()],
        times: times.ratio,
        relative: relative.map(|(_, name, shift)| (name, shift.ratio)),
        p: if verdict == Verdict::Same { p } else { 1.0 },
        verdict,
    })
}

/// Adjusts the p-values by Holm's method, and gives the verdicts.
fn judge(changes: &mut [Change]) {
    let mut tested: Vec<&mut Change> = changes.iter_mut().filter(|c| c.verdict == Verdict::Same).collect();
    tested.sort_by(|a, b| a.p.total_cmp(&b.p));
    let count = tested.len();
    let mut so_far: f64 = 0.0;
    for (rank, change) in tested.into_iter().enumerate() {
        so_far = so_far.max(change.p * (count - rank) as f64).min(1.0);
        change.p = so_far;
        if so_far < ALPHA {
            change.verdict = if change.decisive().value < 1.0 { Verdict::Faster } else { Verdict::Slower };
        }
    }
}

/// Groups whose subjects' times all became longer, or all shorter, from exec to exit: what they have in common is the machine.
pub fn alike(changes: &[Change]) -> Vec<String> {
    let mut groups: Vec<(&str, Vec<f64>)> = Vec::new();
    for change in changes.iter().filter(|c| c.measure == "exit" && c.verdict != Verdict::Unknown) {
        match groups.iter_mut().find(|(name, _)| *name == change.group) {
            Some((_, members)) => members.push(change.times.value),
            None => groups.push((&change.group, vec![change.times.value])),
        }
    }
    let mut found = Vec::new();
    for (group, members) in groups.iter().filter(|(_, members)| members.len() >= ALIKE_MIN) {
        let low = members.iter().copied().fold(f64::INFINITY, f64::min);
        let high = members.iter().copied().fold(0.0, f64::max);
        if low > 1.0 + ALIKE_LEAST || high < 1.0 - ALIKE_LEAST {
            let way = if low > 1.0 { "slower" } else { "faster" };
            found.push(format!(
                "all {} subjects ({group}) became {way} from exec to exit, {low:.2} to {high:.2} times: that is the machine, or \
                 whatever else they share",
                members.len()
            ));
        }
    }
    found
}

/// The tables of all changes, one of each group.
pub fn tables(changes: &[Change]) -> Vec<Table> {
    let mut groups: Vec<&str> = changes.iter().map(|change| &*change.group).collect();
    groups.dedup();
    let tested = changes.iter().filter(|c| !matches!(c.verdict, Verdict::Unknown | Verdict::Reference)).count();
    let of_group = |group: &str| {
        let name = changes.iter().filter(|c| c.group == group).find_map(|c| c.relative.as_ref());
        let beside = name.map_or("beside nothing".to_owned(), |(name, _)| format!("beside {name}"));
        let heads = ["subject", "measure", "before", "after", "change", &*beside, "p"];
        let mut table = Table::new(format!("Before and after ({group}), medians in ms"), &heads);
        for change in changes.iter().filter(|c| c.group == group) {
            let [before, after] = change.p50_us.map(|us| ratio(us / 1e3));
            let relative = change.relative.as_ref().map(|(_, relative)| {
                let Interval { low, high } = relative.interval;
                let ends = if high.is_finite() { format!(" [{low:.2}, {high:.2}]") } else { String::new() };
                format!("{:.2}{ends}", relative.value)
            });
            let relative = relative.unwrap_or_else(|| "-".to_owned());
            let p = match change.verdict {
                Verdict::Unknown | Verdict::Reference => "-".to_owned(),
                _ => format!("{:.4}", change.p),
            };
            let times = format!("{:.2}", change.times.value);
            table.row([change.subject.clone(), change.measure.to_owned(), before, after, times, relative, p]);
        }
        match name {
            Some((name, _)) => table.note(format!(
                "change: of the times; beside {name}: of their ratios to {name} in the same turn, [ ]: 95 % interval; p: of these \
                 ratios"
            )),
            None => table.note(
                "change: of the times; p: of these. Nothing beside them tells how the machine's own speed drifted: measure kvm-calls \
                 or process with them",
            ),
        };
        table.note(format!(
            "p: permutation test of the medians, {SHUFFLES} shuffles of whole stretches of runs, adjusted for {tested} comparisons \
             (Holm); real below {ALPHA}"
        ));
        table
    };
    groups.into_iter().map(of_group).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
