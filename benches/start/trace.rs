//! The kernel's own record of a child's system calls (tracefs, events raw_syscalls and their `pid` filter).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::subjects::Subject;

const TRACEFS: &str = "/sys/kernel/tracing";
/// System call numbers of x86_64.
const IOCTL: u64 = 16;
const EXECVE: u64 = 59;
/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;
/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
/// The type byte of KVM's ioctls.
const KVMIO: u64 = 0xae;

/// A trace buffer of our own, which follows this process's children.
pub struct Tracer {
    instance: PathBuf,
}

/// One start.
pub struct Start {
    /// From execve to the first KVM_RUN.
    pub first_run: Duration,
    /// The same, less the time in which any thread was inside one of KVM's ioctls.
    pub own_share: Duration,
    /// The time inside KVM_SET_USER_MEMORY_REGION before it.
    pub taking_ram: Duration,
}

/// A system call's start or end.
#[derive(Debug)]
struct Event {
    pid: u32,
    /// Seconds of CLOCK_MONOTONIC.
    at: f64,
    enters: bool,
    number: u64,
    /// Second argument: an ioctl's request.
    request: u64,
}

impl Tracer {
    /// Makes the buffer and turns its events on.
    pub fn new() -> Result<Self, String> {
        if !Path::new(TRACEFS).join("instances").exists() {
            return Err(format!("no tracing at {TRACEFS}: as root, mount -t tracefs none {TRACEFS}"));
        }
        let instance = Path::new(TRACEFS).join("instances").join(format!("ringfence-{}", std::process::id()));
        fs::create_dir(&instance).map_err(|e| format!("cannot make {}: {e}", instance.display()))?;
        let tracer = Self { instance };
        let settings = [
            ("trace_clock", "mono".to_owned()),
            ("options/event-fork", "1".to_owned()),
            ("set_event_pid", std::process::id().to_string()),
            ("events/raw_syscalls/sys_enter/filter", format!("id == {IOCTL} || id == {EXECVE}")),
            ("events/raw_syscalls/sys_exit/filter", format!("id == {IOCTL}")),
            ("events/raw_syscalls/enable", "1".to_owned()),
        ];
        for (file, value) in settings {
            tracer.write(file, &value)?;
        }
        Ok(tracer)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        fs::write(self.instance.join(file), value).map_err(|e| format!("cannot write {value} to {file}: {e}"))
    }

    /// Runs the subject once and reads how it started; `None` when it never came to KVM_RUN.
    pub fn start(&self, subject: &Subject) -> Option<Start> {
        self.write("trace", "").ok()?;
        self.write("tracing_on", "1").ok()?;
        subject.run();
        self.write("tracing_on", "0").ok()?;
        let text = fs::read_to_string(self.instance.join("trace")).ok()?;
        judge(&text.lines().filter_map(parse).collect::<Vec<_>>())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.write("events/raw_syscalls/enable", "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Reads a line such as `vcpu0-123 [002] ..... 45.678901: sys_enter: NR 16 (5, ae80, 0, ...)`.
fn parse(line: &str) -> Option<Event> {
    let (head, rest) = line.split_once(": sys_")?;
    let at: f64 = head.rsplit(' ').next()?.parse().ok()?;
    let pid = head.split('[').next()?.trim().rsplit('-').next()?.parse().ok()?;
    let enters = rest.starts_with("enter");
    let mut words = rest.split(['(', ')', ',', ' ', '=']).filter(|w| !w.is_empty()).skip_while(|w| *w != "NR").skip(1);
    let number = words.next()?.parse().ok()?;
    let request = words.nth(1).and_then(|w| u64::from_str_radix(w, 16).ok()).unwrap_or(0);
    Some(Event { pid, at, enters, number, request })
}

/// Finds the start in a child's events.
fn judge(events: &[Event]) -> Option<Start> {
    let exec = events.iter().find(|e| e.enters && e.number == EXECVE)?.at;
    let run = events.iter().find(|e| e.enters && e.number == IOCTL && e.request == KVM_RUN)?.at;
    let (mut inside, mut taking_ram) = (Vec::new(), Vec::new());
    for (i, event) in events.iter().enumerate() {
        if event.enters && event.number == IOCTL && event.request >> 8 & 0xff == KVMIO && event.at < run {
            let end = events[i..].iter().find(|e| !e.enters && e.pid == event.pid).map_or(run, |e| e.at);
            inside.push((event.at, end.min(run)));
            if event.request == KVM_SET_USER_MEMORY_REGION {
                taking_ram.push((event.at, end.min(run)));
            }
        }
    }
    let own = (run - exec) - covered(&mut inside);
    Some(Start {
        first_run: Duration::from_secs_f64(run - exec),
        own_share: Duration::from_secs_f64(own.max(0.0)),
        taking_ram: Duration::from_secs_f64(covered(&mut taking_ram)),
    })
}

/// Length of the union of intervals.
fn covered(intervals: &mut [(f64, f64)]) -> f64 {
    intervals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut end = f64::NEG_INFINITY;
    let mut total = 0.0;
    for (from, to) in intervals {
        total += (*to - from.max(end)).max(0.0);
        end = end.max(*to);
    }
    total
}
