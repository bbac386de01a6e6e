//! `ringfence ps`: the machines that run now.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::table::Style;
use crate::host::Root;
use crate::host::process::Process;
use crate::registry::{self, Allocation, Running};
use crate::units::{ByteSize, CpuList};

/// Version of the JSON list's schema; fields may be added under the same number, none is taken away or changed.
const SCHEMA: u32 = 1;

/// List the machines that run now
///
/// Yours; as root, those of every user. CPUS is the number of vCPUs, and behind an @ the CPUs they are pinned to, vCPU 0
/// first. STATE is running, idle (every vCPU halts), stopped (by a signal) or starting.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Starting,
    Running,
    Idle,
    Stopped,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    pid: u32,
    user: u32,
    vcpus: u32,
    /// vCPU i runs on the i-th alone.
    pinned: Option<CpuList>,
    memory_bytes: u64,
    resident_bytes: Option<u64>,
    uptime_seconds: Option<f64>,
    state: State,
    kernel: String,
    console: String,
    command: Vec<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    machines: &'a [Row],
}

/// Runs `ringfence ps`.
///
/// # Errors
/// When the list can't be written. Records that can't be read are told of on standard error.
pub fn run(args: &PsArgs) -> anyhow::Result<i32> {
    let listed = registry::list(&registry::folders());
    for problem in &listed.problems {
        eprintln!("ringfence: warning: {problem}");
    }
    let rows: Vec<Row> = listed.machines.iter().map(Row::of).collect();
    let output = if args.json {
        let report = Report { schema: SCHEMA, machines: &rows };
        serde_json::to_string_pretty(&report).context("cannot put the list into JSON")? + "\n"
    } else {
        render(&rows, Style::of_stdout())
    };
    print(&output)?;
    Ok(0)
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(output: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(output.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

impl State {
    /// What the machine does, by the states of its process and its vCPUs' threads.
    pub(super) fn of(machine: &Running, allocation: &Allocation) -> Self {
        let pid = machine.record.pid;
        let process = Process::new(&Root::default(), pid).stat().map(|stat| stat.state);
        let vcpus = allocation.vcpus(pid);
        match process {
            Some('T' | 't') => Self::Stopped,
            _ if vcpus.len() < machine.record.asked.vcpus as usize => Self::Starting,
            _ if vcpus.iter().any(|(_, thread)| thread.state != 'S') => Self::Running,
            _ => Self::Idle,
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
        }
    }

    /// Its colour (ECMA-48, section 8.3.117, SGR).
    const fn sgr(self) -> &'static str {
        match self {
            Self::Running => "\x1b[32m",
            Self::Stopped => "\x1b[33m",
            Self::Starting | Self::Idle => "",
        }
    }
}

impl Row {
    fn of(machine: &Running) -> Self {
        let (record, found) = (&machine.record, Allocation::of(machine));
        Self {
            name: record.name.clone(),
            pid: record.pid,
            user: machine.user,
            vcpus: record.asked.vcpus,
            pinned: found.pinned(record.pid),
            memory_bytes: record.asked.memory_bytes,
            resident_bytes: found.guest_ram.as_ref().map(|ram| ram.resident),
            uptime_seconds: found.uptime_seconds,
            state: State::of(machine, &found),
            kernel: record.kernel.to_string_lossy().into_owned(),
            console: record.console.clone(),
            command: record.command.clone(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let pinned = self.pinned.as_ref().map_or(String::new(), |list| format!("@{list}"));
        [
            self.name.clone(),
            self.pid.to_string(),
            format!("{}{pinned}", self.vcpus),
            ByteSize::bytes(self.memory_bytes).rounded(),
            self.resident_bytes.map_or("-".to_owned(), |n| ByteSize::bytes(n).rounded()),
            self.uptime_seconds.map_or("-".to_owned(), uptime),
            self.state.text().to_owned(),
        ]
    }
}

/// A time as people say it, in its two largest units: `12s`, `3m 12s`, `2h 5m`, `4d 3h`.
pub(super) fn uptime(seconds: f64) -> String {
    let all = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (all / 86_400, all / 3600 % 24, all / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{all}s"),
        (0, 0, _) => format!("{minutes}m {}s", all % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

const HEADINGS: [&str; 7] = ["NAME", "PID", "CPUS", "MEMORY", "RESIDENT", "UPTIME", "STATE"];
/// Space between columns.
const GAP: usize = 2;
/// A name keeps at least so many characters, and a list of CPUs.
const LEAST: usize = 8;

/// The table. A name or a list of CPUs that makes it wider than the style allows is cut.
fn render(rows: &[Row], style: Style) -> String {
    let mut table: Vec<[String; 7]> = vec![HEADINGS.map(str::to_owned)];
    table.extend(rows.iter().map(Row::cells));
    let widths = |table: &[[String; 7]]| -> [usize; 7] {
        std::array::from_fn(|at| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
    };
    for column in [0, 2] {
        let total: usize = widths(&table).iter().sum::<usize>() + GAP * (HEADINGS.len() - 1);
        let most = widths(&table)[column].saturating_sub(total.saturating_sub(style.width)).max(LEAST);
        table.iter_mut().for_each(|row| cut(&mut row[column], most));
    }
    let widths = widths(&table);
    let mut out = String::new();
    for (at, row) in table.iter().enumerate() {
        let (on, off) = match at.checked_sub(1).map(|row| rows[row].state.sgr()) {
            _ if !style.colour => ("", ""),
            None => ("\x1b[1m", "\x1b[0m"),
            Some("") => ("", ""),
            Some(sgr) => (sgr, "\x1b[0m"),
        };
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let (state, cells) = cells.split_last().map_or(("", &[][..]), |(last, rest)| (last.trim_end(), rest));
        let cells = cells.join("  ");
        let line = if at == 0 { format!("{on}{cells}  {state}{off}") } else { format!("{cells}  {on}{state}{off}") };
        let _ = writeln!(out, "{line}");
    }
    out
}

fn cut(cell: &mut String, most: usize) {
    if cell.chars().count() > most {
        *cell = cell.chars().take(most - 1).chain(['…']).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, pinned: &str, seconds: f64, state: State) -> Row {
        Row {
            name: name.to_owned(),
            pid: 4_194_304,
            user: 0,
            vcpus: 2,
            pinned: CpuList::parse(pinned).filter(|list| !list.is_empty()),
            memory_bytes: 256 << 20,
            resident_bytes: Some((41 << 20) + (300 << 10)),
            uptime_seconds: Some(seconds),
            state,
            kernel: "k".to_owned(),
            console: "stdio".to_owned(),
            command: Vec::new(),
        }
    }

    /// Proves that columns line up, that the widest names and lists are cut to 80 columns, and that colours come only when
    /// asked for.
    #[test]
    fn the_table_fits() {
        let rows = [
            row("web", "1-2", 192.0, State::Running),
            row(&"x".repeat(64), "1,3,5,7,9,11,13,15,17,19,21", 4.5e5, State::Idle),
            row("db", "", 3.0, State::Stopped),
        ];
        let text = render(&rows, Style { width: 80, colour: false });
        assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\x1b'), "{text}");
        let expected = "\
NAME      PID      CPUS                       MEMORY   RESIDENT  UPTIME  STATE
web       4194304  2@1-2                      256 MiB  41.2 MiB  3m 12s  running
xxxxxxx…  4194304  2@1,3,5,7,9,11,13,15,17,…  256 MiB  41.2 MiB  5d 5h   idle
db        4194304  2                          256 MiB  41.2 MiB  3s      stopped
";
        assert_eq!(text, expected);
        let coloured = render(&rows, Style { width: 80, colour: true });
        assert!(coloured.contains("\x1b[32mrunning\x1b[0m"), "{coloured}");
        assert_eq!(render(&[], Style { width: 80, colour: false }).lines().count(), 1);
    }

    /// Proves that a time is told in its two largest units.
    #[test]
    fn times_as_people_say_them() {
        for (seconds, text) in [
            (0.4, "0s"),
            (59.9, "59s"),
            (60.0, "1m 0s"),
            (3599.0, "59m 59s"),
            (7500.0, "2h 5m"),
            (356_400.0, "4d 3h"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
