//! What the kernel says of a running process: its threads, its memory, how it is confined (Linux,
//! Documentation/filesystems/proc.rst; proc(5)).

mod memory;

pub use memory::Memory;

use super::Root;
use crate::units::CpuList;
use serde::Serialize;
use std::fs;
use std::ops::Range;
use std::time::Duration;

/// Ticks a second of the times in `/proc/PID/stat`: USER_HZ, which every x86 Linux has at 100.
const TICKS_PER_SECOND: u64 = 100;

/// A process by its number. Each question reads the kernel's file anew, and is answered `None` when the process is gone or
/// hidden from this user.
#[derive(Clone, Debug)]
pub struct Process {
    root: Root,
    folder: String,
}

/// One line of `/proc/PID/stat`, or a thread's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// R running, S sleeping, D waiting for a device, T stopped, t traced, Z dead.
    pub state: char,
    /// CPU time taken, in user and kernel mode and in guests.
    pub cpu_time: Duration,
    /// When it was started, in ticks since the host was.
    pub start_ticks: u64,
    /// The CPU it ran on last.
    pub last_cpu: u32,
    /// Priority of SCHED_FIFO and SCHED_RR, 0 for others.
    pub realtime_priority: u32,
    /// Scheduling policy, a SCHED_* of sched.h.
    pub policy: u32,
}

/// A thread, as the kernel's files show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// R running, S sleeping, D waiting for a device, T stopped.
    pub state: char,
    /// The CPUs it may run on.
    pub affinity: CpuList,
    /// The CPU it ran on last.
    pub last_cpu: u32,
    /// Scheduling policy: `SCHED_OTHER`, `SCHED_FIFO`, ...
    pub policy: &'static str,
    /// Priority of SCHED_FIFO and SCHED_RR, 0 for others.
    pub realtime_priority: u32,
    /// CPU time taken, in milliseconds.
    pub cpu_time_ms: u64,
    /// How it is confined.
    #[serde(flatten)]
    pub confinement: Confinement,
}

/// How a thread is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// No new privileges by executing a file (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: Option<bool>,
    /// 0 none, 1 strict, 2 filters.
    pub seccomp_mode: Option<u32>,
    /// Seccomp filters in force; told since Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// Effective, permitted and inheritable capabilities together, one bit each (capabilities(7)).
    pub capabilities: Option<u64>,
}

impl Process {
    /// Process `pid` of the host below `root`.
    pub fn new(root: &Root, pid: u32) -> Self {
        Self { root: root.clone(), folder: format!("/proc/{pid}") }
    }

    /// This process.
    pub fn this() -> Self {
        Self { root: Root::default(), folder: "/proc/self".to_owned() }
    }

    fn read(&self, name: &str) -> Option<String> {
        self.root.read(format!("{}/{name}", self.folder))
    }

    /// State and times.
    pub fn stat(&self) -> Option<Stat> {
        Stat::parse(&self.read("stat")?)
    }

    /// The user it runs as (effective user id).
    pub fn user(&self) -> Option<u32> {
        field(&self.read("status")?, "Uid")?.split_whitespace().nth(1)?.parse().ok()
    }

    /// How long ago it was started.
    pub fn uptime(&self) -> Option<Duration> {
        let started = self.stat()?.start_ticks;
        let now = self.root.read("/proc/uptime")?;
        let now: f64 = now.split_whitespace().next()?.parse().ok()?;
        let now = Duration::try_from_secs_f64(now).ok()?;
        Some(now.saturating_sub(ticks(started)))
    }

    /// Its threads by number. KVM's own threads, which are shown among those of the process that made the machine, come too.
    pub fn threads(&self) -> Vec<Thread> {
        let mut tids: Vec<u32> =
            self.root.list(format!("{}/task", self.folder)).iter().filter_map(|name| name.parse().ok()).collect();
        tids.sort_unstable();
        tids.into_iter().filter_map(|tid| self.thread(tid)).collect()
    }

    fn thread(&self, tid: u32) -> Option<Thread> {
        let stat = Stat::parse(&self.read(&format!("task/{tid}/stat"))?)?;
        let status = self.read(&format!("task/{tid}/status")).unwrap_or_default();
        Some(Thread {
            tid,
            name: self.read(&format!("task/{tid}/comm")).unwrap_or_default(),
            state: stat.state,
            affinity: field(&status, "Cpus_allowed_list").and_then(CpuList::parse).unwrap_or_default(),
            last_cpu: stat.last_cpu,
            policy: policy_name(stat.policy),
            realtime_priority: stat.realtime_priority,
            cpu_time_ms: u64::try_from(stat.cpu_time.as_millis()).unwrap_or(u64::MAX),
            confinement: Confinement::parse(&status),
        })
    }

    /// The memory behind ranges of its addresses.
    pub fn memory(&self, ranges: &[Range<u64>]) -> Option<Memory> {
        let mut memory = Memory::of_smaps(&self.read("smaps")?, ranges);
        if let Some(maps) = self.read("numa_maps") {
            memory.add_nodes(&maps, ranges);
        }
        Some(memory)
    }

    /// Its control groups, one line for each hierarchy: `0::/path`, or `number:controllers:/path` in version 1.
    pub fn control_groups(&self) -> Vec<String> {
        self.read("cgroup").unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// What its file descriptors refer to, by number.
    pub fn descriptors(&self) -> Option<Vec<String>> {
        let folder = self.root.join(format!("{}/fd", self.folder));
        let mut found: Vec<(u32, String)> = fs::read_dir(folder)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect();
        found.sort();
        Some(found.into_iter().map(|(_, target)| target).collect())
    }
}

impl Stat {
    /// Reads the line. The name in it may hold anything, parentheses too: the last one ends it.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        // proc(5) numbers the fields from 1; the state is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let small = |field: usize| number(field).and_then(|n| u32::try_from(n).ok());
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu_time: ticks(number(14)?.saturating_add(number(15)?)),
            start_ticks: number(22)?,
            last_cpu: small(39)?,
            realtime_priority: small(40)?,
            policy: small(41)?,
        })
    }
}

impl Confinement {
    fn parse(status: &str) -> Self {
        let number = |name| field(status, name)?.parse::<u32>().ok();
        let set = |name| u64::from_str_radix(field(status, name)?, 16).ok();
        Self {
            no_new_privileges: number("NoNewPrivs").map(|n| n != 0),
            seccomp_mode: number("Seccomp"),
            seccomp_filters: number("Seccomp_filters"),
            capabilities: set("CapEff").zip(set("CapPrm")).zip(set("CapInh")).map(|((e, p), i)| e | p | i),
        }
    }
}

/// The value of a `name:<white space>value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count.saturating_mul(1000 / TICKS_PER_SECOND))
}

/// A scheduling policy's name (sched(7)).
fn policy_name(policy: u32) -> &'static str {
    match policy {
        0 => "SCHED_OTHER",
        1 => "SCHED_FIFO",
        2 => "SCHED_RR",
        3 => "SCHED_BATCH",
        5 => "SCHED_IDLE",
        6 => "SCHED_DEADLINE",
        7 => "SCHED_EXT",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
