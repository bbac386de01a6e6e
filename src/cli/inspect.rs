//! `ringfence inspect`: the allocation asked for and the allocation found.

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::ps::{State, print, uptime};
use super::table::{Mark, Section, Style, wrap};
use crate::registry::{self, Allocation, Record, Running, Verdict};

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
    let output = if args.json {
        let (record, user) = (&machine.record, machine.user);
        let report = Report { schema: SCHEMA, same, user, state, machine: record, compared: &compared, found: &found };
        serde_json::to_string_pretty(&report).context("cannot put the report into JSON")? + "\n"
    } else {
        render(&machine, &found, state, &compared, same, Style::of_stdout())
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

fn render(
    machine: &Running,
    found: &Allocation,
    state: State,
    compared: &[registry::Section],
    same: bool,
    style: Style,
) -> String {
    let record = &machine.record;
    let mut first = Section::new("Machine");
    let up = found.uptime_seconds.map_or(String::new(), |s| format!(" for {}", uptime(s)));
    first
        .row(Mark::None, "name", &record.name)
        .row(Mark::None, "state", format!("{}{up}", state.text()))
        .row(Mark::None, "process", format!("{}, user {}, ringfence {}", record.pid, machine.user, record.ringfence))
        .row(Mark::None, "kernel", record.kernel.to_string_lossy())
        .row(Mark::None, "console", &record.console);
    if let Some(initrd) = &record.initrd {
        first.row(Mark::None, "initrd", initrd.to_string_lossy());
    }
    if !record.command.is_empty() {
        first.row(Mark::None, "command", record.command.join(" "));
    }
    let mut out = first.render(style) + "\n";
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
    let verdict = if same {
        "All that was asked for was found."
    } else {
        "Not all that was asked for was found: see the lines above that differ."
    };
    for line in wrap(verdict, style.width) {
        out += &line;
        out.push('\n');
    }
    out
}
