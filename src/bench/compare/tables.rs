//! The report's tables, for a terminal and for the page.

use super::Report;
use super::isolation::Isolation;
use super::neighbour::Measured;
use super::slices::Company;
use crate::bench::seccomp::Reach;
use crate::bench::statistics::Estimate;
use crate::bench::table::{Table, ratio, size, time};

/// The whole report as text.
pub(super) fn text(report: &Report) -> String {
    let mut parts = vec![];
    let mut environment = Table::new("This machine", &["", ""]);
    for (name, value) in report.environment.rows() {
        environment.note(format!("{name}: {value}"));
    }
    parts.push(lines_only(&environment));
    if !report.isolation.is_empty() {
        parts.push(isolation(report).render());
    }
    if !report.neighbours.is_empty() {
        parts.push(neighbour(report).render());
        parts.push(ratios(report).render());
    }
    if !report.memory.is_empty() {
        parts.push(memory(report).render());
    }
    if !report.not_run.is_empty() {
        let mut absent = Table::new("Not run", &["", ""]);
        for subject in &report.not_run {
            absent.note(format!("{}: {} {}", subject.name, sentence(&subject.reason), subject.remedy));
        }
        parts.push(lines_only(&absent));
    }
    if !report.warnings.is_empty() {
        let mut warnings = Table::new("Warnings", &["", ""]);
        for warning in &report.warnings {
            warnings.note(format!("- {}. {}", warning.what, warning.advice));
        }
        parts.push(lines_only(&warnings));
    }
    parts.join("\n")
}

/// A table of notes alone: its title and the notes.
fn lines_only(table: &Table) -> String {
    let rendered = table.render();
    let mut lines = rendered.lines();
    let title = lines.next().unwrap_or_default();
    format!("{title}\n{}\n", lines.skip(1).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

/// A reason as a sentence.
pub(super) fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// Isolation: a row for each question, a column for each subject.
pub(super) fn isolation(report: &Report) -> Table {
    let mut heads = vec![""];
    heads.extend(report.isolation.iter().map(|subject| subject.name.as_str()));
    let mut table = Table::new("What stands between a workload and this host", &heads);
    let mut row = |question: &str, answer: &dyn Fn(&Isolation) -> String| {
        let answers = report.isolation.iter().map(answer);
        table.row([question.to_owned()].into_iter().chain(answers));
    };
    row("kernel", &|s| if s.own_kernel { "own".to_owned() } else { "host's".to_owned() });
    row("host system calls that the workload makes directly", &|s| {
        if s.own_kernel { "none".to_owned() } else { reach(s.reach()) }
    });
    row("host system calls after a break-out into the monitor", &|s| {
        if s.own_kernel { reach(s.reach()) } else { "-".to_owned() }
    });
    row("facts of the host in /proc and /sys", &|s| format!("{} of {}", s.view.host_facts(), s.view.facts.len()));
    row("processes seen", &|s| s.view.processes.to_string());
    row("capabilities on the host", &|s| s.privileges.capabilities.to_string());
    row("capabilities it could gain", &|s| {
        if s.privileges.no_new_privileges { "none".to_owned() } else { s.privileges.bounding.to_string() }
    });
    row("user on the host", &|s| if s.privileges.uid == 0 { "root".to_owned() } else { s.privileges.uid.to_string() });
    row("a kernel panic inside takes down", &|s| if s.own_kernel { "itself" } else { "the host" }.to_owned());
    table.note(format!(
        "This host's kernel is {}; x86_64 Linux has {} system calls.",
        report.host_kernel, report.system_calls
    ));
    for note in isolation_notes(report) {
        table.note(note);
    }
    table
}

fn reach(reach: Option<Reach>) -> String {
    match reach {
        None => "not read".to_owned(),
        Some(reach) if reach.filters == 0 => format!("all {}", reach.count()),
        Some(reach) => reach.count().to_string(),
    }
}

fn isolation_notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    for subject in &report.isolation {
        let same = subject.view.kernel == report.host_kernel;
        let whose = if same { ", the host's".to_owned() } else { format!(": {}", subject.view.kernel) };
        notes.push(format!("{}: the kernel it sees{whose}.", subject.name));
        if let Some(reason) = &subject.unread {
            notes.push(format!("{}: its filters were not read: {reason}.", subject.name));
        }
        let unfiltered = subject.threads.iter().any(|thread| thread.reach.filters == 0);
        if unfiltered && !subject.own_kernel {
            notes.push(format!(
                "{}: no seccomp filter is installed, as `runc spec` sets none; engines such as docker and podman add one.",
                subject.name
            ));
        }
        if subject.own_kernel && subject.threads.len() > 1 {
            let each = subject.threads.iter().map(|t| format!("{} {}", t.thread, reach(Some(t.reach.clone()))));
            notes.push(format!(
                "{}: system calls by thread of the monitor: {}.",
                subject.name,
                each.collect::<Vec<_>>().join(", ")
            ));
        }
    }
    if let Some(panic) = &report.panic {
        notes.push(format!(
            "A guest was made to panic (\"{}\"): its ringfence process ended after {:.1} s with status {}, the host went on.",
            panic.said,
            panic.seconds,
            panic.status.map_or("?".to_owned(), |status| status.to_string())
        ));
    }
    if report.isolation.iter().any(|subject| !subject.own_kernel) {
        notes.push(
            "A panic caused from a container is one of the host's only kernel and ends everything on the machine; it was not tried."
                .to_owned(),
        );
    }
    notes
}

/// The noisy neighbour's times.
pub(super) fn neighbour(report: &Report) -> Table {
    let title = "A fixed piece of work, alone and beside a noisy neighbour";
    let mut table = Table::new(title, &["", "p50", "p99", "p99.9", "max"]);
    for subject in &report.neighbours {
        let f = &subject.figures;
        for (how, s) in [("alone", &f.alone), ("beside", &f.beside)] {
            table.row([format!("{} {how}", subject.name), time(s.p50), time(s.p99), time(s.p999), time(s.max)]);
        }
    }
    if let Some(places) = &report.places {
        table.note(format!(
            "The neighbour ({}) keeps every CPU it may use busy and streams memory. It may use CPUs {} beside subjects that share, \
             and CPUs {} beside those kept free; these have CPU {} to themselves as far as the neighbour goes.",
            report.neighbour, places.all, places.rest, places.own
        ));
    }
    table
}

/// What the neighbour did to each subject.
pub(super) fn ratios(report: &Report) -> Table {
    let title = "Beside the neighbour / alone, with 95 % intervals";
    let mut table = Table::new(title, &["", "p50", "p99", "interval", "by pairs", "interval", "work"]);
    let interval = |estimate: &Estimate| format!("{}-{}", ratio(estimate.interval.low), ratio(estimate.interval.high));
    for subject in &report.neighbours {
        let f = &subject.figures;
        table.row([
            subject.name.clone(),
            ratio(f.p50_ratio.value),
            ratio(f.p99_ratio.value),
            interval(&f.p99_ratio),
            ratio(f.p99_ratio_by_pairs.value),
            interval(&f.p99_ratio_by_pairs),
            format!("{} %", (100.0 * f.throughput_ratio).round()),
        ]);
    }
    table.note(
        "p99: of all pieces beside over all alone. By pairs: the median of that ratio in each pair of slices by itself, which a \
         busy machine sways least. Work: pieces done beside in the time of those alone."
            .to_owned(),
    );
    for subject in &report.neighbours {
        table.note(slices_note(subject));
    }
    table
}

/// What a subject's figures are made of.
fn slices_note(subject: &Measured) -> String {
    let rounds: Vec<String> = subject.figures.p99_ratio_by_round.iter().map(|r| ratio(*r)).collect();
    let unfit = if subject.unfit_pairs > 0 { format!(" and {} left out", subject.unfit_pairs) } else { String::new() };
    let busy = |company| subject.mean(company, |slice| slice.neighbour_cpus);
    format!(
        "{}: {} pairs{unfit}; {} pieces alone, {} beside, {} near a switch dropped; p99 ratio by round {}; the neighbour had \
         {:.2} CPUs beside, {:.2} while stopped; pieces placed in time to {}.",
        subject.name,
        subject.slices.len() / 2,
        subject.alone.len(),
        subject.beside.len(),
        subject.dropped,
        rounds.join(", "),
        busy(Company::Beside),
        busy(Company::Alone),
        time(subject.clock_uncertainty_us.max(0.01))
    )
}

/// Memory on the host.
pub(super) fn memory(report: &Report) -> Table {
    let mut table = Table::new(
        "Memory on the host: proportional set size of all processes of a subject",
        &["", "idle", "holding 64 MiB", "page tables"],
    );
    for subject in &report.memory {
        let tables: u64 = subject.working.processes.iter().map(|p| p.page_table_bytes).sum();
        let (idle, working) = (subject.idle.total_bytes(), subject.working.total_bytes());
        table.row([subject.name.clone(), size(idle), size(working), size(tables)]);
    }
    for subject in &report.memory {
        table.note(format!("{}: {}; {}.", subject.name, subject.working.names(), subject.note));
    }
    table
}
