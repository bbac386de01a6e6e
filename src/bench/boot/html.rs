//! Results as one page, with its plots as files beside it.

use super::memory::Memory;
use super::phases::Part;
use super::results::{Group, Measure, Results, SubjectResult};
use super::sweep::{Axis, Growth};
use super::text::{self, Detail};
use crate::bench::page::Page;
use crate::bench::plot::{self, Bar, PlotError, Series, Svg};
use crate::bench::table::{Table, size, time};

/// More curves than this on a plot cannot be told apart.
const CURVES: usize = 8;

/// The page.
pub fn page(results: &Results) -> Page {
    let title = "How long until it runs";
    let lead = format!(
        "From exec to a payload's first line and to exit, for ringfence, other monitors and containers on one machine: {} vCPU, {} \
         of RAM for every guest, the same kernel, initial RAM disk and command line.",
        results.cpus,
        size(results.memory_bytes)
    );
    let mut page = Page::new(title, &lead);
    page.warnings(&results.warnings);
    for group in &results.groups {
        add_group(&mut page, results, group);
    }
    method(&mut page, results);
    page
}

fn add_group(page: &mut Page, results: &Results, group: &Group) {
    page.section(&group.title);
    for measure in [Measure::Userspace, Measure::Exit, Measure::FirstRun] {
        let Some(table) = text::times(group, measure, Detail::Ends) else { continue };
        let key = measure.key();
        // The distribution first: a table of quantiles is its summary.
        figure(page, &format!("{}-{key}", group.name), measure.title(), distribution(group, measure));
        page.table(&table);
    }
    for measure in
        [Measure::OwnShare, Measure::TakingRam, Measure::FirstRunReported, Measure::OwnShareReported, Measure::Bell]
    {
        if let Some(table) = text::times(group, measure, Detail::Ends) {
            page.table(&table);
        }
    }
    figure(
        page,
        &format!("{}-phases", group.name),
        "Phases from exec to exit, means of runs of their own.",
        phases(group),
    );
    for subject in &group.subjects {
        let Some(phases) = subject.phases.as_ref().filter(|phases| phases.phases.len() > 3) else { continue };
        let mut table = Table::new(format!("Phases of {}", subject.name), &["phase", "time", "share"]);
        for phase in &phases.phases {
            let share = format!("{:.1} %", 100.0 * phase.mean_us / phases.whole_us);
            table.row([phase.name.to_owned(), time(phase.mean_us), share]);
        }
        table.note(text::sum(phases));
        page.table(&table);
    }
    let caption = "Memory while the payload runs: proportional set size of everything the subject started. Daemons that several \
                   containers share are counted apart.";
    figure(page, &format!("{}-memory", group.name), caption, memory(group));
    if let Some(table) = text::memory(group) {
        page.table(&table);
    }
    add_loads(page, results, group);
    add_growths(page, results, group);
    for text in text::failed(results, group.name) {
        page.paragraph(&format!("Failed: {text}"));
    }
    if !group.not_run.is_empty() {
        let mut table = Table::new("Not run", &["subject", "why", "what to do"]);
        for not_run in &group.not_run {
            table.row([&*not_run.name, &*not_run.reason, &*not_run.remedy]);
        }
        page.words(&table);
    }
    for subject in &group.subjects {
        for failure in &subject.failures {
            page.paragraph(&format!("Failed: {}: {failure}", subject.name));
        }
        for series in subject.series.iter().filter(|series| !series.outlier_turns.is_empty()) {
            let turns: Vec<_> = series.outlier_turns.iter().map(ToString::to_string).collect();
            page.paragraph(&format!(
                "Outliers of {}, {}, in all figures: turns {}.",
                subject.name,
                series.measure.title(),
                turns.join(", ")
            ));
        }
    }
}

/// A plot that cannot be drawn is left out: its table says the same.
fn figure(page: &mut Page, name: &str, caption: &str, svg: Result<Svg, PlotError>) {
    if let Ok(svg) = svg {
        page.figure(name, caption, &svg);
    }
}

fn distribution(group: &Group, measure: Measure) -> Result<Svg, PlotError> {
    let ms = |subject: &SubjectResult| -> Vec<f64> {
        subject.series(measure).map(|series| series.us.values().iter().map(|us| us / 1e3).collect()).unwrap_or_default()
    };
    let named = curves(group, ms);
    let series: Vec<_> = named.iter().map(|(name, values)| Series { name, values }).collect();
    plot::distributions(&format!("{}-{}", group.name, measure.key()), "ms", &series, None)
}

/// What is to be drawn of each subject, at the subject's own place, so that it has one colour in all plots of a group; where there
/// are more subjects than colours, of the first that have something to draw.
fn curves<T>(group: &Group, of: impl Fn(&SubjectResult) -> Vec<T>) -> Vec<(&str, Vec<T>)> {
    let mut curves: Vec<_> = group.subjects.iter().map(|subject| (&*subject.name, of(subject))).collect();
    if curves.len() > CURVES {
        curves.retain(|curve| !curve.1.is_empty());
        curves.truncate(CURVES);
    }
    curves
}

fn phases(group: &Group) -> Result<Svg, PlotError> {
    let unlike = text::unlike(group);
    let bars: Vec<Bar> = group
        .subjects
        .iter()
        .filter_map(|subject| {
            let phases = subject.phases.as_ref()?;
            let part = |part: Part| Part::ALL.iter().position(|other| *other == part).unwrap_or(0);
            let scale = if unlike { phases.whole_us } else { 1.0 };
            let parts = phases.phases.iter().map(|phase| (part(phase.part), phase.mean_us / scale)).collect();
            Some(Bar { name: subject.name.clone(), label: time(phases.whole_us), parts })
        })
        .collect();
    plot::bars("phases", &Part::ALL.map(Part::name), &bars)
}

fn memory(group: &Group) -> Result<Svg, PlotError> {
    let bar = |name: &str, memory: &Memory| {
        let ram = memory.guest_ram_bytes.unwrap_or(0).min(memory.pss_bytes);
        let own = memory.pss_bytes - ram;
        let parts = [own, ram, memory.daemons_pss_bytes].iter().enumerate().map(|(i, n)| (i, *n as f64)).collect();
        Bar { name: name.to_owned(), label: size(memory.pss_bytes + memory.daemons_pss_bytes), parts }
    };
    let bars = group.subjects.iter().filter_map(|subject| Some(bar(&subject.name, subject.memory.as_ref()?)));
    plot::bars("memory", &["processes", "guest RAM touched", "shared daemons"], &bars.collect::<Vec<_>>())
}

fn add_loads(page: &mut Page, results: &Results, group: &Group) {
    let Some(table) = text::loads(results, group.name) else { return };
    let measured = |subject: &SubjectResult| {
        let loads = results.loads.iter().filter(|l| l.group == group.name && l.subject == subject.name);
        let points = loads.map(|load| (f64::from(load.at_once), load.per_second));
        points.filter(|point| point.1.is_finite()).collect::<Vec<_>>()
    };
    let curves = curves(group, measured);
    let svg = plot::lines("at-once", "starts at once", "starts a second", &curves);
    figure(
        page,
        &format!("{}-at-once", group.name),
        "Finished starts a second, several going on at the same time.",
        svg,
    );
    page.table(&table);
}

fn add_growths(page: &mut Page, results: &Results, group: &Group) {
    let Some(table) = text::growths(results, group.name) else { return };
    for axis in [Axis::Memory, Axis::Cpus] {
        let medians = |subject: &SubjectResult| {
            let own = |g: &&Growth| g.group == group.name && g.axis == axis && g.subject == subject.name;
            let points = results.growths.iter().filter(own).flat_map(|growth| &growth.points);
            points.map(|(x, sample)| (*x, sample.median() / 1e3)).collect::<Vec<_>>()
        };
        let curves = curves(group, medians);
        let svg = plot::lines("growth", axis.title(), "ms", &curves);
        let (name, unit) = (if axis == Axis::Memory { "memory-size" } else { "cpus" }, axis.title());
        figure(
            page,
            &format!("{}-{name}", group.name),
            &format!("Median from exec to the payload's line, by {unit}."),
            svg,
        );
    }
    page.table(&table);
    for table in text::sizes(results, group.name) {
        page.table(&table);
    }
}

fn method(page: &mut Page, results: &Results) {
    page.section("How it was measured");
    page.paragraph(
        "Every subject is a child process of the harness, timed by the host's CLOCK_MONOTONIC: just before it is made, when its \
         payload's line has arrived at the harness, when its end is known. The payload is the same for all: a static program of \
         one page that writes a line and ends; in the guest of a few instructions, one byte written to the serial port. Subjects \
         take turns; a warm-up run of each, from which memory is counted, is not among the samples. Phases come from runs of \
         their own, with ringfence's report and the kernel's trace of the other monitors' system calls.",
    );
    page.paragraph(
        "Quantiles: Hyndman and Fan 1996, definition 8. Intervals, at 95 %: of eight runs or more by Student's t of the figure in four \
         stretches of consecutive runs (Ibragimov and Mueller 2010), which holds where the machine's speed drifts; of fewer runs \
         the percentile bootstrap (Efron and Tibshirani 1993). Ratios: the median of the ratios of runs in the same turn. Outliers: beyond three times the quartiles' distance (Tukey 1977); \
         named, never left out. The share of runs is drawn on a scale that shows the tail.",
    );
    if let Some(text) = text::spread(results) {
        page.paragraph(&text);
    }
    if let Some(harness) = &results.harness {
        page.paragraph(&format!(
            "The harness itself adds {:.0} us [{:.0}, {:.0}] to a start, by {} pairs with a bare posix_spawn and wait; the middle \
             half of a plain process's runs lies within {:.0} % of their median.",
            harness.overhead_us.value,
            harness.overhead_us.interval.low,
            harness.overhead_us.interval.high,
            harness.runs,
            harness.spread * 100.0
        ));
    }
    page.section("How to reproduce it");
    page.code(&results.command);
    page.paragraph("What the subjects were started with, in runs that are timed:");
    for subject in results.groups.iter().flat_map(|group| &group.subjects) {
        let version = subject.version.as_ref().map(|version| format!("  # {version}")).unwrap_or_default();
        page.code(&format!("{}{version}", subject.command));
    }
    for (kernel, cmdline) in &results.guests {
        page.paragraph(&format!("Guest kernel: {kernel}; command line: {cmdline}"));
    }
    page.section("The machine");
    let mut table = Table::new("Environment", &["what", "value"]);
    for (name, value) in results.environment.rows() {
        table.row([name.to_owned(), value]);
    }
    page.words(&table);
    let mut table = Table::new("Noise: times of one fixed spin, us", &["probe", "p50", "p99", "max"]);
    for (i, noise) in results.noise.iter().enumerate() {
        let [p50, p99, max] = [noise.p50_us, noise.p99_us, noise.max_us].map(|us| format!("{us:.1}"));
        table.row([(i + 1).to_string(), p50, p99, max]);
    }
    page.table(&table);
}
