//! Results for a terminal of 80 columns.

use std::fmt::Write;

use super::memory::Memory;
use super::phases::{Part, Phases};
use super::results::{Group, Measure, Results, Series, SubjectResult};
use super::sweep::Axis;
use crate::bench::drift;
use crate::bench::statistics::{Estimate, Summary};
use crate::bench::table::{self, Table, WIDTH, ratio, size, time, wrap};

/// A part of a bar for each of [`Part::ALL`], in characters that a terminal without colours tells apart.
const FILL: [char; 5] = ['█', '▓', '▒', '░', '·'];
/// Sizes beside each other in a table.
const SIZES: usize = 8;
/// Columns of the longest bar.
const BAR: usize = 44;

/// Everything as text.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    for group in &results.groups {
        let _ = writeln!(out, "== {} ==\n", group.title);
        for measure in Measure::ALL {
            out.extend(times(group, measure, Detail::Half).map(|table| table.render() + "\n"));
        }
        if !group.subjects.is_empty() {
            paragraph(&mut out, "", &note(group, "±: half the 95 % interval", HALVES));
            out.push('\n');
        }
        out += &bars(group);
        out.extend(memory(group).map(|table| table.render() + "\n"));
        out.extend(loads(results, group.name).map(|table| table.render() + "\n"));
        out.extend(growths(results, group.name).map(|table| table.render() + "\n"));
        out.extend(sizes(results, group.name).iter().map(|table| table.render() + "\n"));
        failed(results, group.name).iter().for_each(|text| paragraph(&mut out, "failed: ", text));
        out += &notes(group);
    }
    spread(results).into_iter().for_each(|text| paragraph(&mut out, "", &text));
    if let Some(harness) = &results.harness {
        let [value, low, high] =
            [harness.overhead_us.value, harness.overhead_us.interval.low, harness.overhead_us.interval.high];
        let text = format!(
            "The harness adds {value:.0} us [{low:.0}, {high:.0}] to a start (median of {} pairs with a bare posix_spawn and \
             wait); the middle half of a plain process's runs lies within {:.0} % of their median.",
            harness.runs,
            harness.spread * 100.0
        );
        paragraph(&mut out, "", &text);
    }
    for warning in &results.warnings {
        paragraph(&mut out, "warning: ", &format!("{}. {}", warning.what, warning.advice));
    }
    out
}

fn paragraph(out: &mut String, mark: &str, text: &str) {
    for (i, line) in wrap(&format!("{mark}{}", table::printable(text)), WIDTH).into_iter().enumerate() {
        let _ = writeln!(out, "{}{line}", if i == 0 { "" } else { "  " });
    }
}

/// Milliseconds with three digits, without the unit.
pub(super) fn ms(us: f64) -> String {
    ratio(us / 1e3)
}

/// A figure with its interval: `1.04 [1.01, 1.08]`.
fn estimate(estimate: &Estimate) -> String {
    let interval = estimate.interval;
    format!("{} [{}, {}]", fraction(estimate.value), fraction(interval.low), fraction(interval.high))
}

/// Half an estimate's interval as a share of it: ` ±12 %`; nothing for a single run, which says nothing of the next.
fn half(estimate: &Estimate, runs: usize) -> String {
    let interval = estimate.interval;
    let share = (interval.high - interval.low) / 2.0 / estimate.value * 100.0;
    match share {
        share if runs < 2 || !share.is_finite() => String::new(),
        share if share >= 99.5 => " ±>99%".to_owned(),
        share => format!(" ±{share:.0}%"),
    }
}

/// A ratio, the small ones as a fraction: `24.9`, `1/220`.
fn fraction(value: f64) -> String {
    if value > 0.0 && value < 0.095 { format!("1/{}", ratio(1.0 / value)) } else { ratio(value) }
}

/// How closely a table shows how far its figures can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// By half the interval, for a terminal.
    Half,
    /// By both ends of the interval.
    Ends,
}

/// Where the halves of intervals come from.
const HALVES: &str = ", by how far the quarters of the runs differ";

/// What the intervals hold, and what they cannot.
pub(super) fn spread(results: &Results) -> Option<String> {
    let all = || results.groups.iter().flat_map(|group| &group.subjects).flat_map(|subject| &subject.series);
    let stretched = all().any(|series| series.us.len() >= drift::RUNS_MIN);
    let seconds = results.spread_s.round();
    let (minutes, seconds) = ((seconds / 60.0).floor(), seconds % 60.0);
    let sittings =
        if results.sittings == 1 { "one sitting".to_owned() } else { format!("{} sittings", results.sittings) };
    stretched.then(|| {
        format!(
            "The timed runs were made in {sittings} over {minutes:.0}:{seconds:02.0} (--over): how far the machine's speed drifted \
             meanwhile is in the intervals of eight runs or more. Between reports it drifts on, which moves all subjects \
             alike: the ratios hold, and `ringfence bench compare` goes by them."
        )
    })
}

/// What ratios and intervals are.
fn note(group: &Group, trust: &str, how: &str) -> String {
    let how =
        if group.subjects.iter().flat_map(|s| &s.series).any(|s| s.us.len() >= drift::RUNS_MIN) { how } else { "" };
    let base = group.baseline.as_deref().unwrap_or_default();
    let several = group.subjects.len() > 1;
    let to = if several { format!("ratio: to {base}, median of the ratios turn by turn; ") } else { String::new() };
    to + trust + how
}

/// The table of one measure; `None` when nobody has it.
pub(super) fn times(group: &Group, measure: Measure, detail: Detail) -> Option<Table> {
    let rows: Vec<(&SubjectResult, &Series, &Summary)> = group
        .subjects
        .iter()
        .filter_map(|subject| {
            let series = subject.series(measure)?;
            Some((subject, series, series.summary.as_ref()?))
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let heads = ["ms", "runs", "p50", "p90", "p99", "max", "mean", "ratio"];
    let mut table = Table::new(measure.title(), &heads);
    for (subject, series, summary) in &rows {
        let [p50, p90, p99, max] = [summary.p50, summary.p90, summary.p99, summary.max].map(ms);
        let ratio = series.ratio.as_ref().filter(|_| rows.len() > 1);
        let trusted = |found: &Estimate| match detail {
            Detail::Half => ms(found.value) + &half(found, summary.count),
            Detail::Ends => {
                let ends = [found.interval.low, found.interval.high].map(ms);
                format!("{} [{}, {}]", ms(found.value), ends[0], ends[1])
            }
        };
        let (p50, mean) = (series.p50.as_ref().map_or(p50, trusted), trusted(&summary.mean));
        let ratio = ratio.map(|r| match detail {
            Detail::Half => fraction(r.value) + &half(r, series.us.len()),
            Detail::Ends => estimate(r),
        });
        let count = summary.count.to_string();
        table.row([subject.name.clone(), count, p50, p90, p99, max, mean, ratio.unwrap_or_default()]);
    }
    // On a page each table stands by itself; on a terminal the note comes once, below them all.
    if detail == Detail::Ends && rows.len() > 1 {
        table.note(note(group, "[ ]: 95 % interval", HALVES));
    }
    Some(table)
}

/// A bar for each subject, its phases one after the other, and ringfence's phases by name.
fn bars(group: &Group) -> String {
    let phased: Vec<_> = group.subjects.iter().filter_map(|s| Some((s, s.phases.as_ref()?))).collect();
    let longest = phased.iter().map(|(_, phases)| phases.whole_us).fold(0.0, f64::max);
    if longest <= 0.0 {
        return String::new();
    }
    let each = unlike(group);
    let mut out = format!("Phases, exec to exit: means of runs of their own{}\n", if each { EACH } else { "" });
    let legend: Vec<_> = Part::ALL.iter().zip(FILL).map(|(part, fill)| format!("{fill} {}", part.name())).collect();
    let _ = writeln!(out, "{}", legend.join("  "));
    for (subject, phases) in &phased {
        let bar = bar(phases, if each { phases.whole_us } else { longest });
        let _ = writeln!(out, "{:<16} {bar} {}", cut(&subject.name, 16), time(phases.whole_us));
    }
    for (subject, phases) in phased.iter().filter(|(_, phases)| phases.phases.len() > 3) {
        let title = format!("\nPhases of {}", subject.name);
        let mut table = Table::new(title, &["phase", "ms", "share"]);
        for phase in &phases.phases {
            let share = format!("{:.1} %", 100.0 * phase.mean_us / phases.whole_us);
            table.row([phase.name.to_owned(), ms(phase.mean_us), share]);
        }
        table.note(sum(phases));
        out += &table.render();
    }
    out + "\n"
}

/// Why bars of very different subjects are equally long.
pub(super) const EACH: &str = "; each bar is a whole of its own";

/// Whether the shortest whole would be too short to see beside the longest.
pub(super) fn unlike(group: &Group) -> bool {
    let wholes = || group.subjects.iter().filter_map(|subject| Some(subject.phases.as_ref()?.whole_us));
    wholes().fold(0.0, f64::max) > 20.0 * wholes().fold(f64::INFINITY, f64::min)
}

/// What the phases leave of the whole.
pub(super) fn sum(phases: &Phases) -> String {
    let odd = if phases.odd_runs > 0 {
        format!("; {} runs came by other points and are left out", phases.odd_runs)
    } else {
        String::new()
    };
    let runs = if phases.runs == 1 { "1 run".to_owned() } else { format!("{} runs", phases.runs) };
    format!(
        "{runs}, {} in all; the phases leave {:.1} us of it unexplained{odd}",
        time(phases.whole_us),
        phases.unexplained_us.abs()
    )
}

/// Cells of a bar: each part as long as its share of the longest whole, rounded so that the bar's length is right.
fn bar(phases: &Phases, longest: f64) -> String {
    let mut bar = String::new();
    let mut until = 0.0;
    let mut cells = 0;
    for phase in &phases.phases {
        until += phase.mean_us;
        let end = (until / longest * BAR as f64).round() as usize;
        let fill = Part::ALL.iter().position(|part| *part == phase.part).map_or(' ', |i| FILL[i]);
        bar.extend(std::iter::repeat_n(fill, end.saturating_sub(cells)));
        cells = cells.max(end);
    }
    if bar.is_empty() { "▏".to_owned() } else { bar }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width { text.to_owned() } else { text.chars().take(width - 1).chain(['…']).collect() }
}

/// What each takes of the host's memory.
pub(super) fn memory(group: &Group) -> Option<Table> {
    let rows: Vec<(&str, &Memory)> =
        group.subjects.iter().filter_map(|subject| Some((&*subject.name, subject.memory.as_ref()?))).collect();
    if rows.is_empty() {
        return None;
    }
    let title = "Memory while the payload runs: proportional set size";
    let mut table = Table::new(title, &["subject", "processes", "PSS", "of it guest RAM", "rest", "daemons"]);
    for (name, memory) in rows {
        let ram = memory.guest_ram_bytes;
        let rest = size(memory.pss_bytes.saturating_sub(ram.unwrap_or(0)));
        let ram = ram.map_or("-".to_owned(), size);
        let daemons = if memory.daemons.is_empty() { "-".to_owned() } else { size(memory.daemons_pss_bytes) };
        table.row([name.to_owned(), memory.own.len().to_string(), size(memory.pss_bytes), ram, rest, daemons]);
        let names: Vec<_> = memory.daemons.iter().map(|daemon| daemon.name.clone()).collect();
        if !names.is_empty() {
            table.note(format!("{name} needs {}, shared by all its containers", names.join(" and ")));
        }
    }
    Some(table)
}

/// Several at once.
pub(super) fn loads(results: &Results, group: &str) -> Option<Table> {
    let rows: Vec<_> = results.loads.iter().filter(|load| load.group == group).collect();
    if rows.is_empty() {
        return None;
    }
    let title = "Several at once: starts a second, and ms from exec to the payload's line";
    let mut table = Table::new(title, &["subject", "at once", "starts", "a second", "p50", "p90", "p99", "failed"]);
    for load in rows {
        let [p50, p90, p99] = load.userspace.as_ref().map_or([f64::NAN; 3], |s| [s.p50, s.p90, s.p99]).map(ms);
        let (starts, failed) = (load.starts.to_string(), load.failures.len().to_string());
        table.row([
            load.subject.clone(),
            load.at_once.to_string(),
            starts,
            ratio(load.per_second),
            p50,
            p90,
            p99,
            failed,
        ]);
    }
    Some(table)
}

/// Growth with the size.
pub(super) fn growths(results: &Results, group: &str) -> Option<Table> {
    let rows: Vec<_> = results.growths.iter().filter(|growth| growth.group == group).collect();
    if rows.is_empty() {
        return None;
    }
    let title = "Growth of exec to the payload's line with the guest's size";
    let mut table = Table::new(title, &["subject", "more ms", "for each", "at zero", "sizes", "failed"]);
    for growth in rows {
        let [slope, zero] = growth.line.map_or([f64::NAN; 2], |line| [line.slope_us, line.at_zero_us]).map(ms);
        let (sizes, failed) = (growth.points.len().to_string(), growth.failures.len().to_string());
        table.row([growth.subject.clone(), slope, growth.axis.unit().to_owned(), zero, sizes, failed]);
    }
    table.note("a straight line through all samples by the median of their pairwise slopes (Theil, Sen)");
    Some(table)
}

/// Medians by size, a table for each axis; long ones go on in another.
pub(super) fn sizes(results: &Results, group: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    for axis in [Axis::Memory, Axis::Cpus] {
        let rows: Vec<_> = results.growths.iter().filter(|g| g.group == group && g.axis == axis).collect();
        let mut places: Vec<f64> = rows.iter().flat_map(|growth| growth.points.iter().map(|point| point.0)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        for places in places.chunks(SIZES) {
            let heads: Vec<String> = places.iter().map(|place| axis.place(*place)).collect();
            let heads: Vec<&str> = std::iter::once("ms").chain(heads.iter().map(String::as_str)).collect();
            let mut table = Table::new(format!("Median of exec to the payload's line by {}", axis.name()), &heads);
            for growth in &rows {
                let at = |place: &f64| growth.points.iter().find(|point| point.0 == *place);
                let medians = places.iter().map(|place| at(place).map_or("-".to_owned(), |point| ms(point.1.median())));
                table.row(std::iter::once(growth.subject.clone()).chain(medians));
            }
            tables.push(table);
        }
    }
    tables
}

/// Starts that failed several at once or at some size, with one reason for all of a kind.
pub(super) fn failed(results: &Results, group: &str) -> Vec<String> {
    let told = |what: String, failures: &[String]| {
        let first = failures.first()?;
        let more = if failures.len() > 1 {
            format!(" ({} in all; the first: {first})", failures.len())
        } else {
            format!(" ({first})")
        };
        Some(what + &more)
    };
    let loads = results.loads.iter().filter(|load| load.group == group);
    let loads = loads.filter_map(|load| told(format!("{}, {} at once", load.subject, load.at_once), &load.failures));
    let growths = results.growths.iter().filter(|growth| growth.group == group);
    loads
        .chain(growths.filter_map(|growth| told(format!("{}, over sizes", growth.subject), &growth.failures)))
        .collect()
}

/// Outliers, failures and what could not run.
fn notes(group: &Group) -> String {
    let mut out = String::new();
    for subject in &group.subjects {
        for series in subject.series.iter().filter(|series| !series.outlier_turns.is_empty()) {
            let turns: Vec<_> = series.outlier_turns.iter().map(ToString::to_string).collect();
            let text = format!("{}, {}: turns {}", subject.name, series.measure.key(), turns.join(", "));
            paragraph(&mut out, "outlier, in all figures: ", &text);
        }
        subject
            .failures
            .iter()
            .for_each(|failure| paragraph(&mut out, "failed: ", &format!("{}: {failure}", subject.name)));
    }
    for not_run in &group.not_run {
        paragraph(&mut out, "not run: ", &format!("{}: {}. {}", not_run.name, not_run.reason, not_run.remedy));
    }
    if out.is_empty() { out } else { out + "\n" }
}

#[cfg(test)]
mod tests {
    use super::super::phases::Phase;
    use super::super::subjects::Kind;
    use super::*;
    use crate::bench::container::NotRun;

    fn subject(name: &str, us: &[f64], phases: &[(Part, f64)]) -> SubjectResult {
        let phases: Vec<_> = phases.iter().map(|&(part, mean_us)| Phase { name: "a phase", part, mean_us }).collect();
        let whole_us = phases.iter().map(|phase| phase.mean_us).sum();
        let mut subject = SubjectResult {
            name: name.to_owned(),
            kind: Kind::Monitor,
            version: None,
            command: String::new(),
            series: Vec::new(),
            phases: Some(Phases { runs: 3, phases, whole_us, unexplained_us: 0.0, odd_runs: 0 }),
            memory: Some(Memory { pss_bytes: 3 << 20, guest_ram_bytes: Some(1 << 20), ..Memory::default() }),
            failures: Vec::new(),
        };
        (0..).zip(us).for_each(|(turn, us)| subject.push(Measure::Exit, turn, *us));
        subject
    }

    fn group() -> Group {
        let subjects = vec![
            subject(
                "ringfence",
                &[10_000.0, 20_000.0],
                &[(Part::Start, 1000.0), (Part::Kernel, 3000.0), (Part::End, 0.4)],
            ),
            subject("cloud-hypervisor", &[50.0, 100.0], &[(Part::Start, 2000.0)]),
        ];
        let not_run =
            vec![NotRun { name: "runc".into(), reason: "not installed".into(), remedy: "Install it.".into() }];
        let mut group = Group { name: "linux", title: "T".into(), baseline: None, subjects, not_run };
        group.sum_up("ringfence");
        group
    }

    /// Proves that a table shows what was measured in milliseconds, a small ratio as a fraction, and one run without an interval.
    #[test]
    fn tables_show_milliseconds_and_ratios() {
        let text = times(&group(), Measure::Exit, Detail::Half).unwrap().render();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["ms", "runs", "p50", "p90", "p99", "max", "mean", "ratio"]);
        assert_eq!(rows[2], ["ringfence", "2", "15.0", "±33%", "20.0", "20.0", "20.0", "15.0", "±33%", "1.00", "±0%"]);
        assert_eq!(rows[3][0], "cloud-hypervisor");
        assert_eq!(rows[3][9..], ["1/200", "±0%"]);
        assert!(times(&group(), Measure::Bell, Detail::Half).is_none());
        let one = Estimate { value: 0.5, interval: crate::bench::statistics::Interval { low: 0.5, high: 0.5 } };
        assert_eq!(half(&one, 1), "");
        assert_eq!([fraction(0.0), fraction(0.5), fraction(0.01)], ["0.00", "0.50", "1/100"]);
    }

    /// Proves that bars are as long as their share, and their parts too.
    #[test]
    fn bars_are_as_long_as_their_share() {
        let text = bars(&group());
        let cells = |name: &str, fill: char| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.chars().filter(|c| *c == fill).count()
        };
        assert_eq!([cells("ringfence", '█'), cells("ringfence", '▓'), cells("cloud", '█')], [11, 33, 22]);
        assert!(!unlike(&group()));
    }

    /// Proves that what could not run is told with its remedy, and that everything fits 80 columns.
    #[test]
    fn all_of_it_fits_a_terminal() {
        let group = group();
        let all = [
            times(&group, Measure::Exit, Detail::Half).unwrap().render(),
            bars(&group),
            memory(&group).unwrap().render(),
            notes(&group),
        ];
        for line in all.iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(all[3].contains("not run: runc: not installed. Install it."));
        assert!(all[2].contains("1.00 MiB"));
    }
}
