//! The allocation asked for beside the allocation found, line by line.

use std::time::Duration;

use serde::Serialize;

use super::list::Running;
use super::record::Asked;
use crate::host::Root;
use crate::host::process::{Memory, Process, Thread};
use crate::units::{ByteSize, CpuList};

/// Whether what was found is what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is.
    Ok,
    /// It is not.
    Differs,
    /// Nothing was asked for: this is only told.
    Told,
    /// The kernel does not show it, or not to this user.
    Hidden,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Of what.
    pub name: String,
    /// What was asked for, if anything was.
    pub asked: Option<String>,
    /// What was found.
    pub found: String,
    /// Whether that is the same.
    pub verdict: Verdict,
}

/// Lines that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Heading.
    pub title: &'static str,
    /// Lines.
    pub lines: Vec<Line>,
}

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThreadKind {
    /// Runs the vCPU of this number.
    Vcpu(u32),
    /// The event loop.
    Main,
    /// Writes the console's output.
    Console,
    /// A thread of KVM's in the kernel; it runs no code of the process.
    Kvm,
    /// Any other.
    Other,
}

/// What a machine has, from the kernel's files.
#[derive(Clone, Debug, Serialize)]
pub struct Allocation {
    /// How long it has run, in seconds.
    pub uptime_seconds: Option<f64>,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// The memory behind guest RAM; none when this user may not see it.
    pub guest_ram: Option<Memory>,
    /// The memory of the whole process.
    pub process_memory: Option<Memory>,
    /// What its file descriptors are; none when this user may not see it.
    pub descriptors: Option<Vec<String>>,
    /// Its control groups.
    pub control_groups: Vec<String>,
}

impl ThreadKind {
    /// What the thread `tid` named `name` of the process `pid` is for.
    pub fn of(pid: u32, tid: u32, name: &str) -> Self {
        if let Some(id) = name.strip_prefix("vcpu").and_then(|id| id.parse().ok()) {
            return Self::Vcpu(id);
        }
        match name {
            _ if tid == pid => Self::Main,
            "console" => Self::Console,
            _ if name.starts_with("kvm-") => Self::Kvm,
            _ => Self::Other,
        }
    }
}

impl Allocation {
    /// Looks at a machine that runs.
    pub fn of(machine: &Running) -> Self {
        let process = Process::new(&Root::default(), machine.record.pid);
        let ram = machine.record.ram.iter().map(|p| p.host_address..p.host_address.saturating_add(p.bytes));
        Self {
            uptime_seconds: process.uptime().as_ref().map(Duration::as_secs_f64),
            threads: process.threads(),
            guest_ram: process.memory(&ram.collect::<Vec<_>>()),
            process_memory: process.memory(std::slice::from_ref(&(0..u64::MAX))),
            descriptors: process.descriptors(),
            control_groups: process.control_groups(),
        }
    }

    /// The threads of vCPUs, by vCPU.
    pub fn vcpus(&self, pid: u32) -> Vec<(u32, &Thread)> {
        let mut vcpus: Vec<_> = self.threads.iter().filter_map(|t| Some((vcpu(pid, t)?, t))).collect();
        vcpus.sort_by_key(|(id, _)| *id);
        vcpus
    }

    /// The CPU of each vCPU in their order, when each may run on one alone.
    pub fn pinned(&self, pid: u32) -> Option<CpuList> {
        let vcpus = self.vcpus(pid);
        let alone = |(_, thread): &(u32, &Thread)| thread.affinity.iter().next().filter(|_| thread.affinity.len() == 1);
        let list: Option<CpuList> = vcpus.iter().map(alone).collect();
        list.filter(|list| !list.is_empty() && list.len() == vcpus.len())
    }

    /// Line by line, what was asked for and what was found.
    pub fn compare(&self, pid: u32, asked: &Asked) -> Vec<Section> {
        vec![self.cores(pid, asked), self.memory(asked), self.isolation(pid)]
    }

    fn cores(&self, pid: u32, asked: &Asked) -> Section {
        let vcpus = self.vcpus(pid);
        let mut section = Section { title: "Cores", lines: Vec::new() };
        section.compared(
            "vCPUs",
            asked.vcpus.to_string(),
            format!("{} threads", vcpus.len()),
            vcpus.len() == asked.vcpus as usize,
        );
        for (id, thread) in vcpus {
            section.told(format!("vCPU {id}"), running_on(thread));
        }
        for thread in self.threads.iter().filter(|t| vcpu(pid, t).is_none()) {
            section.told(label(pid, thread), running_on(thread));
        }
        section
    }

    fn memory(&self, asked: &Asked) -> Section {
        let mut section = Section { title: "Memory", lines: Vec::new() };
        let size = ByteSize::bytes(asked.memory_bytes);
        let Some(ram) = &self.guest_ram else {
            section.hidden("guest RAM", Some(size.to_string()), "/proc/PID/smaps is not shown to this user");
            return section;
        };
        section.compared("guest RAM", size.to_string(), rounded(ram.mapped), ram.mapped == asked.memory_bytes);
        section.told("resident", rounded(ram.resident));
        section.told("locked", rounded(ram.locked));
        section.told("page sizes", page_sizes(ram));
        section.told("NUMA nodes", nodes(ram));
        section.told("merging", if ram.mergeable > 0 { "allowed (KSM)" } else { "none" });
        if let Some(all) = &self.process_memory {
            let beside = all.proportional.saturating_sub(ram.proportional);
            section.told("beside guest RAM", format!("{} (PSS)", rounded(beside)));
        }
        section
    }

    fn isolation(&self, pid: u32) -> Section {
        let mut section = Section { title: "Isolation", lines: Vec::new() };
        for thread in self.threads.iter().filter(|t| ThreadKind::of(pid, t.tid, &t.name) != ThreadKind::Kvm) {
            section.told(label(pid, thread), confined(thread));
        }
        match &self.descriptors {
            Some(all) => section.told("descriptors", format!("{}: {}", all.len(), counted(all))),
            None => section.hidden("descriptors", None, "/proc/PID/fd is not shown to this user"),
        }
        let own: Vec<&str> = self.control_groups.iter().map(String::as_str).filter(|g| !g.ends_with(":/")).collect();
        let shown = if own.is_empty() { "the root of each hierarchy".to_owned() } else { own.join(", ") };
        section.told("control groups", shown);
        section
    }
}

impl Section {
    fn push(&mut self, name: impl Into<String>, asked: Option<String>, found: impl Into<String>, verdict: Verdict) {
        self.lines.push(Line { name: name.into(), asked, found: found.into(), verdict });
    }

    fn told(&mut self, name: impl Into<String>, found: impl Into<String>) {
        self.push(name, None, found, Verdict::Told);
    }

    fn hidden(&mut self, name: &str, asked: Option<String>, why: &str) {
        self.push(name, asked, why, Verdict::Hidden);
    }

    fn compared(&mut self, name: impl Into<String>, asked: String, found: impl Into<String>, same: bool) {
        self.push(name, Some(asked), found, if same { Verdict::Ok } else { Verdict::Differs });
    }
}

fn vcpu(pid: u32, thread: &Thread) -> Option<u32> {
    match ThreadKind::of(pid, thread.tid, &thread.name) {
        ThreadKind::Vcpu(id) => Some(id),
        _ => None,
    }
}

/// A thread as the user knows it.
fn label(pid: u32, thread: &Thread) -> String {
    match ThreadKind::of(pid, thread.tid, &thread.name) {
        ThreadKind::Vcpu(id) => format!("vCPU {id}"),
        ThreadKind::Main => "main thread".to_owned(),
        ThreadKind::Console => "console thread".to_owned(),
        ThreadKind::Kvm | ThreadKind::Other => thread.name.clone(),
    }
}

fn running_on(thread: &Thread) -> String {
    let priority = match thread.realtime_priority {
        0 => String::new(),
        n => format!(" {n}"),
    };
    format!(
        "thread {} on CPU {} of {}, {}{priority}, {}.{:03} s CPU",
        thread.tid,
        thread.last_cpu,
        thread.affinity,
        thread.policy,
        thread.cpu_time_ms / 1000,
        thread.cpu_time_ms % 1000
    )
}

fn confined(thread: &Thread) -> String {
    let confinement = &thread.confinement;
    let known = |value: Option<String>| value.unwrap_or_else(|| "not told".to_owned());
    let seccomp = match confinement.seccomp_mode {
        Some(0) => "no seccomp".to_owned(),
        Some(1) => "seccomp strict".to_owned(),
        Some(2) => format!("{} seccomp filters", known(confinement.seccomp_filters.map(|n| n.to_string()))),
        _ => "seccomp not told".to_owned(),
    };
    let privileges = match confinement.no_new_privileges {
        Some(true) => "no new privileges",
        Some(false) => "new privileges allowed",
        None => "new privileges not told",
    };
    let capabilities = match confinement.capabilities {
        Some(0) => "no capabilities".to_owned(),
        Some(set) => format!("{} capabilities", set.count_ones()),
        None => "capabilities not told".to_owned(),
    };
    format!("{seccomp}, {privileges}, {capabilities}")
}

fn rounded(bytes: u64) -> String {
    ByteSize::bytes(bytes).rounded()
}

fn page_sizes(ram: &Memory) -> String {
    let mut parts: Vec<String> = ram
        .page_sizes
        .iter()
        .map(|(size, bytes)| format!("{} in pages of {}", rounded(*bytes), rounded(*size)))
        .collect();
    if ram.transparent_huge > 0 {
        parts.push(format!("{} of it in transparent huge pages", rounded(ram.transparent_huge)));
    }
    parts.join(", ")
}

fn nodes(ram: &Memory) -> String {
    let parts: Vec<String> =
        ram.nodes.iter().map(|(node, bytes)| format!("{} on node {node}", rounded(*bytes))).collect();
    if parts.is_empty() { "nothing is there yet, or not told".to_owned() } else { parts.join(", ") }
}

/// Each kind of descriptor once, with how many there are of it.
fn counted(all: &[String]) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for target in all {
        // A pipe's or socket's number tells a person nothing.
        let kind = match target.split_once(":[") {
            Some((kind @ ("pipe" | "socket"), _)) => kind,
            _ => target.as_str(),
        };
        match kinds.iter_mut().find(|(name, _)| name == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind.to_owned(), 1)),
        }
    }
    let shown = kinds.into_iter().map(|(name, count)| if count == 1 { name } else { format!("{count} {name}") });
    shown.collect::<Vec<_>>().join(", ")
}
