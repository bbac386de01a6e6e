//! The system calls that a running thread can reach on the host: its seccomp filters, read out of the kernel and evaluated.

use std::fs;
use std::io;

use serde::Serialize;
use syscalls::x86_64::Sysno;
use thiserror::Error;

use super::bpf::{self, Instruction, Verdict};

/// PTRACE_SECCOMP_GET_FILTER (Linux, include/uapi/linux/ptrace.h).
const GET_FILTER: libc::c_uint = 0x420c;
/// Filters a thread may have that are read; the kernel allows some 500 by their size.
const FILTERS_MAX: usize = 1024;

/// Why a thread's filters cannot be read.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// The thread's files.
    #[error("cannot read /proc/{0}/status: has the thread ended?")]
    Status(u32, #[source] io::Error),
    /// ptrace(2).
    #[error(
        "cannot {what} thread {tid} to read its seccomp filter; that takes root with CAP_SYS_PTRACE and CAP_SYS_ADMIN"
    )]
    Trace {
        /// What was tried.
        what: &'static str,
        /// The thread.
        tid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a thread can call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// How many filters it has; none means that it can call everything.
    pub filters: usize,
    /// Calls it can make whatever their arguments.
    pub allowed: Vec<&'static str>,
    /// Calls it can make with some arguments, or by a supervisor's leave.
    pub sometimes: Vec<&'static str>,
}

impl Reach {
    /// How many calls it can make at all.
    pub fn count(&self) -> usize {
        self.allowed.len() + self.sometimes.len()
    }

    /// What either of two threads can call.
    pub fn or(&self, other: &Self) -> Self {
        let has = |list: &[&str], name: &str| list.contains(&name);
        let allowed = |name: &&str| has(&self.allowed, name) || has(&other.allowed, name);
        let sometimes = |name: &&str| !allowed(name) && (has(&self.sometimes, name) || has(&other.sometimes, name));
        Self {
            filters: self.filters.min(other.filters),
            allowed: names().filter(allowed).collect(),
            sometimes: names().filter(sometimes).collect(),
        }
    }

    fn under(filters: &[Vec<Instruction>]) -> Self {
        let with = |verdict: Verdict| {
            let calls = Sysno::iter().filter(move |call| bpf::verdict(filters, call.id() as u32) == verdict);
            calls.map(|call| call.name()).collect()
        };
        Self { filters: filters.len(), allowed: with(Verdict::Allowed), sometimes: with(Verdict::Sometimes) }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    Sysno::iter().map(|call| call.name())
}

/// How many system calls x86_64 Linux has, by the table of the crate `syscalls`.
pub fn total() -> usize {
    Sysno::iter().count()
}

/// What the thread `tid` can call.
///
/// It is stopped for a moment when it has filters to read.
///
/// # Errors
/// [`SeccompError`], without root usually.
pub fn reach(tid: u32) -> Result<Reach, SeccompError> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|e| SeccompError::Status(tid, e))?;
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("2") => Ok(Reach::under(&filters(tid)?)),
        // Strict mode: seccomp(2).
        Some("1") => {
            Ok(Reach { filters: 1, allowed: vec!["read", "write", "exit", "rt_sigreturn"], sometimes: Vec::new() })
        }
        _ => Ok(Reach::under(&[])),
    }
}

/// A thread that the kernel runs for itself inside a process, such as KVM's for huge pages: it never executes the process's code
/// (PF_IO_WORKER and PF_USER_WORKER, Linux, include/linux/sched.h).
fn is_kernels(stat: &str) -> bool {
    const WORKERS: u64 = 0x10 | 0x4000;
    // The ninth field; the second is a name in parentheses that may hold anything.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & WORKERS != 0)
}

/// The threads of a process that execute its code, with their names.
pub fn threads(pid: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut threads: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let file = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
            let name = file("comm").filter(|_| !file("stat").is_some_and(|stat| is_kernels(&stat)))?;
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim().to_owned()))
        })
        .collect();
    threads.sort();
    threads
}

/// A thread held by ptrace(2); it goes on when this is let go.
struct Traced(libc::pid_t);

impl Traced {
    fn stop(tid: u32) -> Result<Self, SeccompError> {
        let failed = |what| SeccompError::Trace { what, tid, source: io::Error::last_os_error() };
        let pid = tid as libc::pid_t;
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no memory is passed.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) } != 0 {
            return Err(failed("trace"));
        }
        let traced = Self(pid);
        // SAFETY: no memory is passed.
        if unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none) } != 0 {
            return Err(failed("stop"));
        }
        let mut status = 0;
        loop {
            // SAFETY: the status is ours.
            match unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } {
                waited if waited == pid => return Ok(traced),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(failed("wait for")),
            }
        }
    }

    /// The filter `index`, the latest being 0; `None` beyond the last.
    fn filter(&self, index: usize) -> Result<Option<Vec<Instruction>>, SeccompError> {
        let at = index as *mut libc::c_void;
        // SAFETY: with no buffer the kernel only tells the filter's length.
        let length = unsafe { libc::ptrace(GET_FILTER, self.0, at, std::ptr::null_mut::<libc::c_void>()) };
        if length < 0 {
            let source = io::Error::last_os_error();
            if source.raw_os_error() == Some(libc::ENOENT) {
                return Ok(None);
            }
            return Err(SeccompError::Trace { what: "read filters of", tid: self.0 as u32, source });
        }
        let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; length as usize];
        // SAFETY: the buffer has room for the length that the kernel told; a stopped thread's filters do not change.
        unsafe { libc::ptrace(GET_FILTER, self.0, at, program.as_mut_ptr()) };
        Ok(Some(program.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no memory is passed.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

fn filters(tid: u32) -> Result<Vec<Vec<Instruction>>, SeccompError> {
    let traced = Traced::stop(tid)?;
    let mut filters = Vec::new();
    while filters.len() < FILTERS_MAX {
        match traced.filter(filters.len())? {
            Some(filter) => filters.push(filter),
            None => break,
        }
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Proves that the kernel's own workers are not taken for a process's threads, whatever a thread is called.
    #[test]
    fn the_kernels_workers_are_left_out() {
        let stat = |name: &str, flags: u64| format!("7 ({name}) S 1 1 1 0 -1 {flags} 0 0 0");
        assert!(is_kernels(&stat("kvm-nx-lpage-re", 0x40_4040)) && is_kernels(&stat("a) S 1 1 (", 0x50)));
        assert!(!is_kernels(&stat("vcpu0", 0x40_0040)) && !is_kernels("") && !is_kernels("7 (x) S"));
        let own = threads(std::process::id());
        assert!(own.iter().any(|(tid, _)| *tid == std::process::id()), "{own:?}");
    }

    /// Proves that a thread without filters reaches everything.
    #[test]
    fn a_thread_without_filters_reaches_everything() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let reach = reach(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((reach.filters, reach.count()), (0, total()));
        assert!(total() > 330 && reach.allowed.contains(&"ptrace"));
    }

    /// Proves, on a real process with a real filter, that what is counted is what the kernel enforces.
    #[test]
    fn a_real_filter_is_read_back() {
        // A filter of our own for a child: all but mount (165) and swapon (167).
        let program = "import ctypes, struct, sys, time\n\
            libc = ctypes.CDLL(None, use_errno=True)\n\
            ops = [(0x20,0,0,0),(0x15,2,0,165),(0x15,1,0,167),(0x06,0,0,0x7fff0000),(0x06,0,0,0x50001)]\n\
            code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI',*o) for o in ops))\n\
            prog = struct.pack('HxxxxxxP', len(ops), ctypes.addressof(code))\n\
            libc.prctl(38,1,0,0,0)\n\
            assert libc.prctl(22,2,ctypes.create_string_buffer(prog),0,0) == 0\n\
            print('ready', flush=True)\n\
            time.sleep(60)\n";
        let started = Command::new("python3").args(["-c", program]).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = started else { return skipped("python3 is not installed") };
        let mut line = [0; 6];
        let ready = io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).is_ok();
        let read = reach(child.id());
        let running = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ready && running.contains("Seccomp:\t2"), "{running}");
        match read {
            Ok(reach) => {
                assert_eq!((reach.filters, reach.count()), (1, total() - 2));
                assert!(!reach.allowed.contains(&"mount") && reach.sometimes.is_empty());
                assert!(!running.contains("TracerPid:\t1"), "it was let go");
            }
            Err(error) => skipped(&error.to_string()),
        }
    }

    fn skipped(reason: &str) {
        println!("skipped: {reason}");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has it: {reason}");
    }
}
