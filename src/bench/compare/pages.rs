//! The report as a page.

use std::ops::Range;

use super::neighbour::Measured;
use super::slices::Company;
use super::{Report, tables};
use crate::bench::page::Page;
use crate::bench::plot::{self, Bar, PlotError, Series, Svg};
use crate::bench::table::{self, Table};

const LEAD: &str = "The same work in a ringfence guest and in containers, on one machine, in one run: what stands between it and \
    the host, what a noisy neighbour does to it, and what it takes of memory.";
const RATIO: &str = "p99 beside / p99 alone of a pair of slices (logarithmic)";
const UNIT: &str = "time of one piece of work, us (logarithmic)";

/// Builds the page.
pub(super) fn page(report: &Report) -> Page {
    let mut page = Page::new("ringfence compare", LEAD);
    page.warnings(&report.warnings);
    if !report.isolation.is_empty() {
        page.section("Isolation").table(&tables::isolation(report));
        views(report, &mut page);
    }
    if !report.neighbours.is_empty() {
        page.section("Noisy neighbour");
        page.paragraph(
            "One piece of work is 20,000 dependent steps in a 16 KiB table: about 100 us of a CPU and its first cache, no \
             system call, no new page. Pieces are timed back to back by the time-stamp counter, so that no time goes unseen. The \
             work does not stream memory: what is shown is CPU time taken away, not memory bandwidth.",
        );
        page.paragraph(
            "Alone and beside are of the same runs. While a subject works, the neighbour is stopped and let go on in slices of a \
             tenth of a second, in pairs of one slice each whose order is drawn, so that whatever else this machine does at the \
             time is done to both. A piece belongs to the slice in which it began.",
        );
        neighbour_figures(report, &mut page);
        page.table(&tables::neighbour(report));
        page.table(&tables::ratios(report));
    }
    if !report.memory.is_empty() {
        page.section("Memory");
        match memory_bars(report) {
            Ok(svg) => {
                page.figure("memory", "Host memory of a payload that holds 1 MiB, and what 64 MiB more cost.", &svg)
            }
            Err(error) => page.paragraph(&error.to_string()),
        };
        page.table(&tables::memory(report));
    }
    if !report.not_run.is_empty() {
        page.section("Not run");
        for subject in &report.not_run {
            page.paragraph(&format!("{}: {} {}", subject.name, tables::sentence(&subject.reason), subject.remedy));
        }
    }
    closing(report, &mut page);
    page
}

/// Which facts of the host each subject sees.
fn views(report: &Report, page: &mut Page) {
    let mut heads = vec!["Fact of the host"];
    heads.extend(report.isolation.iter().map(|subject| subject.name.as_str()));
    let mut table = Table::new("What /proc and /sys show of the host", &heads);
    let Some(first) = report.isolation.first() else { return };
    for fact in &first.view.facts {
        let answers = report.isolation.iter().map(|subject| {
            let seen = subject.view.facts.iter().find(|seen| seen.file == fact.file);
            if seen.is_some_and(|seen| seen.of_the_host) { "shown" } else { "hidden" }.to_owned()
        });
        table.row([format!("{} ({})", fact.name, fact.file)].into_iter().chain(answers));
    }
    page.table(&table);
    for subject in report.isolation.iter().filter(|subject| !subject.threads.is_empty()) {
        if let Some(reach) = subject.reach().filter(|reach| reach.filters > 0) {
            let calls: Vec<&str> = reach.allowed.iter().chain(&reach.sometimes).copied().collect();
            page.paragraph(&format!("{}: {} system calls of the host can be reached:", subject.name, calls.len()));
            page.code(&calls.join(" "));
        }
    }
}

fn neighbour_figures(report: &Report, page: &mut Page) {
    let all = report.neighbours.iter().flat_map(|s| s.alone.values().iter().chain(s.beside.values()));
    let range = plot::span(all.copied());
    let both = [
        (Company::Alone, "neighbour-alone", "Neighbour stopped: the share of pieces done within a time."),
        (Company::Beside, "neighbour-beside", "Neighbour running, in slices of the same runs; on the same scales."),
    ];
    for (company, name, caption) in both {
        match cdf(name, &report.neighbours, company, &range) {
            Ok(svg) => page.figure(name, caption, &svg),
            Err(error) => page.paragraph(&error.to_string()),
        };
    }
    let ratios: Vec<Vec<f64>> = report.neighbours.iter().map(Measured::p99_ratios).collect();
    let series: Vec<Series<'_>> =
        report.neighbours.iter().zip(&ratios).map(|(s, values)| Series { name: &s.name, values }).collect();
    let caption =
        "Each pair of slices by itself: the share of pairs whose p99 beside is at most so many times its p99 alone.";
    match plot::even_distributions("neighbour-pairs", RATIO, &series) {
        Ok(svg) => page.figure("neighbour-pairs", caption, &svg),
        Err(error) => page.paragraph(&error.to_string()),
    };
}

fn cdf(name: &str, measured: &[Measured], company: Company, range: &Range<f64>) -> Result<Svg, PlotError> {
    let series: Vec<Series<'_>> = measured
        .iter()
        .map(|subject| {
            let sample = if company == Company::Alone { &subject.alone } else { &subject.beside };
            Series { name: &subject.name, values: sample.values() }
        })
        .collect();
    plot::distributions(name, UNIT, &series, Some(range.clone()))
}

fn memory_bars(report: &Report) -> Result<Svg, PlotError> {
    let bars: Vec<Bar> = report
        .memory
        .iter()
        .map(|subject| {
            let (idle, working) = (subject.idle.total_bytes(), subject.working.total_bytes());
            let more = working.saturating_sub(idle);
            Bar {
                name: subject.name.clone(),
                label: table::size(idle.max(working)),
                parts: vec![(0, idle as f64), (1, more as f64)],
            }
        })
        .collect();
    plot::bars("memory", &["before any work", "more under work"], &bars)
}

/// The machine, the commands and how to do it again.
fn closing(report: &Report, page: &mut Page) {
    page.section("This machine");
    let mut machine = Table::new("Measured on", &["", "value"]);
    for (name, value) in report.environment.rows() {
        machine.row([name.to_owned(), value]);
    }
    for noise in &report.noise {
        machine.note(format!(
            "A fixed spin: median {:.1} us, p99 {:.1} us, longest {:.0} us.",
            noise.p50_us, noise.p99_us, noise.max_us
        ));
    }
    page.table(&machine);
    page.section("Do it again").code(&report.command);
    page.paragraph("Every command of the noisy neighbour's runs:");
    let commands: Vec<&str> = report.neighbours.iter().map(|subject| subject.command.as_str()).collect();
    page.code(&commands.join("\n"));
    page.paragraph(
        "Methods: quantiles by Hyndman and Fan (1996), definition 8; intervals at 95 % by a percentile bootstrap of whole pairs of \
         slices (blocks that do not overlap: Carlstein, 1986; Davison and Hinkley, 1997), as pieces of one slice are not \
         independent. Pieces that began within 2 ms of the end of a slice, or less certain to be in it, are in neither and \
         counted above; no other piece is dropped. The JSON report has all of them, and every slice.",
    );
}
