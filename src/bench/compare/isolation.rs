//! What stands between a workload and the host: its kernel, the system calls it can reach, what it sees, its privileges, and what
//! a kernel panic takes down.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::facts::{self, View};
use super::guest::Guests;
use super::{CompareError, neighbour};
use crate::bench::child::{self, Child, Stop};
use crate::bench::container::{Limits, Runtime};
use crate::bench::seccomp::{self, Reach};
use crate::host::Root;

const PATIENCE: Duration = Duration::from_secs(240);
/// Makes any Linux panic: it finds no first program. A guest's kernel may lack the system request key.
const PANIC: [&str; 2] = ["--cmdline", "rdinit=/ringfence-compare-panics"];
/// What a kernel says when it panics.
const PANIC_WORDS: &str = "Kernel panic";
/// What the subjects' measurements are expected to take, in seconds.
pub const EXPECTED: f64 = 8.0;

/// A host's thread and what it can call there.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadReach {
    /// The thread's name.
    pub thread: String,
    /// Its calls.
    pub reach: Reach,
}

/// A process's privileges on the host, from its `status` file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Capabilities in effect, as a number of bits.
    pub capabilities: u32,
    /// Capabilities it could still get.
    pub bounding: u32,
    /// Whether it can gain any by executing a program.
    pub no_new_privileges: bool,
    /// Its user on the host.
    pub uid: u32,
}

/// One subject's isolation.
#[derive(Clone, Debug, Serialize)]
pub struct Isolation {
    /// The subject.
    pub name: String,
    /// Whether it has a kernel of its own.
    pub own_kernel: bool,
    /// What is seen from inside.
    pub view: View,
    /// What each kind of thread can call on the host: the container's payload, or the monitor's threads.
    pub threads: Vec<ThreadReach>,
    /// Why `threads` is empty, when it is.
    pub unread: Option<String>,
    /// Its privileges on the host.
    pub privileges: Privileges,
}

impl Isolation {
    /// What any of its threads can call.
    pub fn reach(&self) -> Option<Reach> {
        self.threads.iter().map(|thread| thread.reach.clone()).reduce(|a, b| a.or(&b))
    }
}

/// What a panic inside did, for a guest.
#[derive(Clone, Debug, Serialize)]
pub struct Panic {
    /// The command.
    pub command: String,
    /// What the guest's kernel said.
    pub said: String,
    /// The status ringfence ended with.
    pub status: Option<i32>,
    /// From the start until its end, in seconds.
    pub seconds: f64,
}

/// Looks into a container.
///
/// # Errors
/// [`CompareError`] when it does not run.
pub fn of_container(runtime: &Runtime, stop: &Stop) -> Result<Isolation, CompareError> {
    let script = facts::script();
    let mut container =
        runtime.container(&neighbour::id("view"), &["/bin/busybox", "sh", "-c", &script], &Limits::default())?;
    let mut child = Child::spawn(container.command())?;
    child.wait_for(facts::DONE.as_bytes(), PATIENCE, stop)?;
    let pid = container.pid(stop)?;
    let view = facts::judge(&String::from_utf8_lossy(&child.stdout()), &Root::default());
    let (threads, unread) = match seccomp::reach(pid) {
        Ok(reach) => (vec![ThreadReach { thread: "payload".to_owned(), reach }], None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let privileges = privileges(&status(pid));
    drop(container);
    Ok(Isolation { name: runtime.name.to_owned(), own_kernel: false, view, threads, unread, privileges })
}

/// Looks into a guest, and at the monitor around it.
///
/// # Errors
/// [`CompareError`] when it does not run.
pub fn of_guest(guests: &Guests, stop: &Stop) -> Result<Isolation, CompareError> {
    let script = facts::script();
    let mut child = Child::spawn(&mut guests.command(&["/bin/busybox", "sh", "-c", &script], &[])?)?;
    child.wait_for(facts::DONE.as_bytes(), PATIENCE, stop)?;
    let view = facts::judge(&String::from_utf8_lossy(&child.stdout()), &Root::default());
    let privileges = privileges(&status(child.pid()));
    let read = seccomp::threads(child.pid()).into_iter().map(|(tid, thread)| {
        let reach = seccomp::reach(tid)?;
        Ok(ThreadReach { thread, reach })
    });
    let (threads, unread) = match read.collect::<Result<Vec<_>, seccomp::SeccompError>>() {
        Ok(threads) => (threads, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    child.end();
    Ok(Isolation { name: "guest".to_owned(), own_kernel: true, view, threads, unread, privileges })
}

/// Lets a guest's kernel panic.
///
/// # Errors
/// [`CompareError`] when it does not.
pub fn panic(guests: &Guests, stop: &Stop) -> Result<Panic, CompareError> {
    let mut command = guests.plain();
    command.args(PANIC);
    let words = child::words(&command);
    let done = child::run(&mut command, PATIENCE, stop)?;
    let output = String::from_utf8_lossy(&done.stdout);
    let said = output.lines().find_map(|line| Some(line[line.find(PANIC_WORDS)?..].trim().to_owned()));
    let said = said.ok_or_else(|| CompareError::NoPanic(words.clone()))?;
    Ok(Panic { command: words, said, status: done.status.code(), seconds: done.took.as_secs_f64() })
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn privileges(status: &str) -> Privileges {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let bits = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0).count_ones();
    Privileges {
        capabilities: bits("CapEff:"),
        bounding: bits("CapBnd:"),
        no_new_privileges: field("NoNewPrivs:") == "1",
        uid: field("Uid:").split('\t').next().and_then(|uid| uid.parse().ok()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that privileges are read as the kernel writes them.
    #[test]
    fn privileges_are_read() {
        let text =
            "Name:\tx\nUid:\t1000\t0\t0\t0\nCapEff:\t00000000a80425fb\nCapBnd:\t0000000000000003\nNoNewPrivs:\t1\n";
        let expected = Privileges { capabilities: 14, bounding: 2, no_new_privileges: true, uid: 1000 };
        assert_eq!(privileges(text), expected);
        assert_eq!(privileges(""), Privileges::default());
    }
}
