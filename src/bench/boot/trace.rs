//! The kernel's own record of a child's system calls (tracefs, events raw_syscalls and their `pid` filter): when a monitor
//! first entered its guest, seen without its help.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::clock::Instant;
use crate::machine::covered;

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

/// A trace buffer of our own, which follows the children of the thread that made it.
#[derive(Debug)]
pub struct Tracer {
    instance: PathBuf,
}

/// One start of a monitor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// When it was about to enter its guest for the first time.
    pub first_run_at: Instant,
    /// From execve to then, in microseconds.
    pub first_run_us: f64,
    /// The same, less the time in which any of its threads was inside one of KVM's ioctls.
    pub own_share_us: f64,
    /// The time inside KVM_SET_USER_MEMORY_REGION before it, in microseconds.
    pub taking_ram_us: f64,
}

/// A system call's start or end.
#[derive(Debug)]
struct Event {
    pid: u32,
    /// Nanoseconds of CLOCK_MONOTONIC.
    at: u64,
    enters: bool,
    number: u64,
    /// Second argument: an ioctl's request.
    request: u64,
}

impl Tracer {
    /// Makes the buffer. Its events are on from [`Self::begin`] to [`Self::finish`] only: they slow every process's system calls.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new() -> Result<Self, String> {
        if !Path::new(TRACEFS).join("instances").exists() {
            return Err(format!("no tracing at {TRACEFS}: as root, mount -t tracefs none {TRACEFS}"));
        }
        let instance = Path::new(TRACEFS).join("instances").join(format!("ringfence-{}", std::process::id()));
        fs::create_dir(&instance).map_err(|e| format!("cannot make {}: {e}; run as root", instance.display()))?;
        let tracer = Self { instance };
        // A child is followed from the thread that makes it: PID/task/TID.
        let thread = fs::read_link("/proc/thread-self").map_err(|e| format!("cannot read /proc/thread-self: {e}"))?;
        let thread = thread.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let settings = [
            ("trace_clock", "mono".to_owned()),
            ("options/event-fork", "1".to_owned()),
            ("set_event_pid", thread),
            ("events/raw_syscalls/sys_enter/filter", format!("id == {IOCTL} || id == {EXECVE}")),
            ("events/raw_syscalls/sys_exit/filter", format!("id == {IOCTL}")),
            ("tracing_on", "0".to_owned()),
        ];
        for (file, value) in settings {
            tracer.write(file, &value)?;
        }
        Ok(tracer)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        fs::write(self.instance.join(file), value).map_err(|e| format!("cannot write {value} to {file}: {e}"))
    }

    /// Records from now on.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub fn begin(&self) -> Result<(), String> {
        self.write("trace", "")?;
        self.write("events/raw_syscalls/enable", "1")?;
        self.write("tracing_on", "1")
    }

    /// Reads how the child that ran meanwhile started; `None` when it never came to KVM_RUN.
    pub fn finish(&self) -> Option<Start> {
        self.write("tracing_on", "0").ok()?;
        self.write("events/raw_syscalls/enable", "0").ok()?;
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
    let seconds: f64 = head.rsplit(' ').next()?.parse().ok()?;
    let at = (seconds * 1e9).round() as u64;
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
    let whole = run.saturating_sub(exec);
    let us = |ns: u64| ns as f64 / 1e3;
    Some(Start {
        first_run_at: Instant::from_nanos(run),
        first_run_us: us(whole),
        own_share_us: us(whole.saturating_sub(covered(&mut inside))),
        taking_ram_us: us(covered(&mut taking_ram)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a start is found in the kernel's words, that time inside KVM on two threads at once counts once, and that the
    /// ioctls of others don't count.
    #[test]
    fn a_start_is_read_from_the_trace() {
        let text = "\
# tracer: nop
   ringfence-10  [000] ..... 100.000000: sys_enter: NR 59 (7ffd, 7ffe, 7fff, 0, 0, 0)
   ringfence-10  [000] ..... 100.001000: sys_enter: NR 16 (3, ae01, 0, 0, 0, 0)
       vcpu0-11  [001] ..... 100.001500: sys_enter: NR 16 (4, 4020ae46, 7f00, 0, 0, 0)
   ringfence-10  [000] ..... 100.002000: sys_exit: NR 16 = 4
       vcpu0-11  [001] ..... 100.003000: sys_exit: NR 16 = 0
   ringfence-10  [000] ..... 100.003500: sys_enter: NR 16 (1, 5401, 0, 0, 0, 0)
   ringfence-10  [000] ..... 100.003900: sys_exit: NR 16 = 0
       vcpu0-11  [001] ..... 100.004000: sys_enter: NR 16 (5, ae80, 0, 0, 0, 0)
";
        let start = judge(&text.lines().filter_map(parse).collect::<Vec<_>>()).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 0.5;
        assert!(near(start.first_run_us, 4000.0) && near(start.own_share_us, 2000.0), "{start:?}");
        assert!(near(start.taking_ram_us, 1500.0), "{start:?}");
        assert!(near(start.first_run_at.as_nanos() as f64 / 1e3, 100_004_000.0));
        assert_eq!(judge(&[]), None);
    }
}
