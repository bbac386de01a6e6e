//! The allocation asked for beside the allocation found, line by line.

mod cores;
mod isolation;
mod memory;

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
        vec![cores::compare(self, pid, asked), memory::compare(self, asked), isolation::compare(self, pid, asked)]
    }
}

impl Section {
    fn new(title: &'static str) -> Self {
        Self { title, lines: Vec::new() }
    }

    fn push(&mut self, name: impl Into<String>, asked: Option<String>, found: impl Into<String>, verdict: Verdict) {
        self.lines.push(Line { name: name.into(), asked, found: found.into(), verdict });
    }

    fn told(&mut self, name: impl Into<String>, found: impl Into<String>) {
        self.push(name, None, found, Verdict::Told);
    }

    fn hidden(&mut self, name: &str, asked: Option<String>, why: &str) {
        self.push(name, asked, why, Verdict::Hidden);
    }

    fn compared(&mut self, name: impl Into<String>, asked: impl Into<String>, found: impl Into<String>, same: bool) {
        self.push(name, Some(asked.into()), found, if same { Verdict::Ok } else { Verdict::Differs });
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

fn rounded(bytes: u64) -> String {
    ByteSize::bytes(bytes).rounded()
}

#[cfg(test)]
mod tests;
