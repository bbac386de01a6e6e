//! `ringfence inspect`: the allocation asked for and the allocation found.

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::ps::{State, print, uptime};
use super::table::{Mark, Section, Style, wrap};
use crate::registry::{self, Allocation, Record, Running, Verdict};
use crate::sandbox::ThreadKind;

/// Version of the JSON report's schema; fields may be added under the same number, none is taken away or changed.
const SCHEMA: u32 = 1;

/// Exit status when what was found differs from what was asked for.
const DIFFERS: i32 = 1;

/// Show the allocation asked for beside the one found
///
/// Line by line: threads and the CPUs they may run on, guest RAM and its pages, how each thread is confined, all from the
/// kernel's own files. Lines marked ok were asked for and found, DIFFERS asked for and not found; lines without a mark only
/// tell.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 all that was asked for was found, 1 something differs, 125 no such machine, or inspect failed."
)]
pub struct InspectArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// The machine, by its name or its process's number
    #[arg(value_name = "NAME|PID")]
    machine: String,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    same: bool,
    user: u32,
    state: State,
    machine: &'a Record,
    compared: &'a [registry::Section],
    found: &'a Allocation,
    /// What the filters of each kind of thread allow; empty for a machine that is not confined.
    system_calls: &'a [Allowed],
}

/// The system calls that a kind of thread may make.
#[derive(Serialize)]
struct Allowed {
    thread: String,
    calls: Vec<Call>,
}

#[derive(Serialize)]
struct Call {
    call: &'static str,
    /// With one of these arguments; empty: with any.
    with: Vec<&'static str>,
    purpose: &'static str,
}

impl Allowed {
    /// The lists that the filters are made from. A machine of another version may have others.
    fn of(record: &Record) -> Vec<Self> {
        if !record.asked.confined || record.ringfence != env!("CARGO_PKG_VERSION") {
            return Vec::new();
        }
        let list = |kind: ThreadKind| Self {
            thread: kind.to_string(),
            calls: kind
                .rules()
                .iter()
                .map(|rule| {
                    let with = rule.cases.iter().map(|case| case.text).collect();
                    Call { call: rule.call, with, purpose: rule.purpose }
                })
                .collect(),
        };
        ThreadKind::ALL.map(list).into()
    }
}

/// Runs `ringfence inspect`.
///
/// # Errors
/// When there is no such machine, or more than one, or the report can't be written.
pub fn run(args: &InspectArgs) -> anyhow::Result<i32> {
    let machine = find(&args.machine)?;
    let found = Allocation::of(&machine);
    let compared = found.compare(machine.record.pid, &machine.record.asked);
    let same = !compared.iter().flat_map(|s| &s.lines).any(|line| line.verdict == Verdict::Differs);
    let state = State::of(&machine, &found);
    let system_calls = Allowed::of(&machine.record);
    let output = if args.json {
        let (record, user) = (&machine.record, machine.user);
        let report = Report {
            schema: SCHEMA,
            same,
            user,
            state,
            machine: record,
            compared: &compared,
            found: &found,
            system_calls: &system_calls,
        };
        serde_json::to_string_pretty(&report).context("cannot put the report into JSON")? + "\n"
    } else {
        let style = Style::of_stdout();
        let first = introduce(&machine, &found, state).render(style);
        first + "\n" + &lines(&compared, style) + &allowed(&system_calls, style) + &verdict(same, style)
    };
    print(&output)?;
    Ok(if same { 0 } else { DIFFERS })
}

/// The machine that the user means: by name, else by process.
fn find(wanted: &str) -> anyhow::Result<Running> {
    let listed = registry::list(&registry::folders());
    let (mut named, others): (Vec<_>, Vec<_>) = listed.machines.into_iter().partition(|m| m.record.name == wanted);
    if named.is_empty() {
        named = others.into_iter().filter(|m| m.record.pid.to_string() == wanted).collect();
    }
    if named.len() > 1 {
        let pids: Vec<_> = named.iter().map(|m| m.record.pid.to_string()).collect();
        bail!("users have {} machines named \"{wanted}\"; say which by process: {}", named.len(), pids.join(", "));
    }
    if let Some(machine) = named.pop() {
        return Ok(machine);
    }
    let problems: Vec<_> = listed.problems.iter().map(|problem| format!("; {problem}")).collect();
    bail!(
        "no machine named \"{}\" runs; `ringfence ps` lists those that do{}",
        wanted.escape_debug(),
        problems.concat()
    )
}

/// What the machine is.
fn introduce(machine: &Running, found: &Allocation, state: State) -> Section {
    let record = &machine.record;
    let mut section = Section::new("Machine");
    let up = found.uptime_seconds.map_or(String::new(), |s| format!(", up {}", uptime(s)));
    section
        .row(Mark::None, "name", &record.name)
        .row(Mark::None, "state", format!("{}{up}", state.text()))
        .row(Mark::None, "process", format!("{}, user {}, ringfence {}", record.pid, machine.user, record.ringfence))
        .row(Mark::None, "kernel", record.kernel.to_string_lossy())
        .row(Mark::None, "console", &record.console);
    if let Some(initrd) = &record.initrd {
        section.row(Mark::None, "initrd", initrd.to_string_lossy());
    }
    if !record.command.is_empty() {
        section.row(Mark::None, "command", record.command.join(" "));
    }
    section
}

/// What was asked for and what was found.
fn lines(compared: &[registry::Section], style: Style) -> String {
    let mut out = String::new();
    for section in compared {
        let mut table = Section::new(section.title);
        for line in &section.lines {
            let (mark, text) = match (line.verdict, &line.asked) {
                (Verdict::Ok, _) => (Mark::Ok, line.found.clone()),
                (Verdict::Differs, asked) => {
                    (Mark::Error, format!("DIFFERS: asked {}, found {}", asked.as_deref().unwrap_or("-"), line.found))
                }
                (Verdict::Hidden, Some(asked)) => (Mark::Absent, format!("asked {asked}; {}", line.found)),
                (Verdict::Hidden, None) => (Mark::Absent, line.found.clone()),
                (Verdict::Told, _) => (Mark::None, line.found.clone()),
            };
            table.row(mark, &line.name, text);
        }
        out += &table.render(style);
        out.push('\n');
    }
    out
}

fn allowed(all: &[Allowed], style: Style) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = Section::new("System calls that the filters allow (with which arguments: --json)");
    for Allowed { thread, calls } in all {
        let names: Vec<_> = calls.iter().map(|call| call.call).collect();
        table.row(Mark::None, format!("{thread} thread"), format!("{}: {}", names.len(), names.join(", ")));
    }
    table.render(style) + "\n"
}

fn verdict(same: bool, style: Style) -> String {
    let text = if same {
        "All that was asked for was found."
    } else {
        "Not all that was asked for was found: see the lines above that differ."
    };
    wrap(text, style.width).join("\n") + "\n"
}
