//! Memory that processes take on the host: their proportional set size.
//!
//! PSS is a process's own pages plus its share of those it has in common with others (Linux,
//! Documentation/filesystems/proc.rst, "smaps_rollup"), so that the sum over processes counts each page once.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// One process's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Its id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
    /// Proportional set size in bytes.
    pub pss_bytes: u64,
    /// Its page tables in bytes (VmPTE), which PSS does not count.
    pub page_table_bytes: u64,
}

/// What a set of processes takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Each of them, by id.
    pub processes: Vec<ProcessMemory>,
}

impl Footprint {
    /// Of the given processes and all their descendants, as far as they are still there and may be read.
    pub fn of(roots: &[u32]) -> Self {
        Self { processes: family(roots).into_iter().filter_map(memory_of).collect() }
    }

    /// All of it, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.processes.iter().map(|process| process.pss_bytes).sum()
    }

    /// The processes' names, each with its size, for people.
    pub fn names(&self) -> String {
        let names =
            self.processes.iter().map(|p| format!("{} {:.1} MiB", p.name, p.pss_bytes as f64 / (1 << 20) as f64));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// The processes and their descendants, by id.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found: Vec<u32> = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let more = children.remove(&pid).unwrap_or_default();
        found.extend(more.into_iter().filter(|child| !roots.contains(child)));
        next += 1;
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The parent's id: the fourth field of `/proc/PID/stat`, after a name in parentheses that may hold anything.
pub fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn memory_of(pid: u32) -> Option<ProcessMemory> {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    Some(ProcessMemory {
        pid,
        name: file("comm")?.trim().to_owned(),
        pss_bytes: kib(&file("smaps_rollup")?, "Pss:")?,
        page_table_bytes: kib(&file("status")?, "VmPTE:").unwrap_or(0),
    })
}

/// The value of a line `key   123 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Proves that a process's memory is found and grows by what it touches.
    #[test]
    fn memory_shows_in_the_footprint() {
        let before = Footprint::of(&[std::process::id()]).total_bytes();
        let touched = vec![1u8; 32 << 20];
        let after = Footprint::of(&[std::process::id()]);
        assert_eq!(touched[5], 1);
        assert!(after.total_bytes() >= before + (31 << 20), "{before} {}", after.total_bytes());
        assert!(after.names().contains("MiB"));
    }

    /// Proves that grandchildren are counted in.
    #[test]
    fn a_family_has_its_grandchildren() {
        let mut child =
            Command::new("sh").args(["-c", "sh -c 'echo; sleep 30; :' & wait"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let pids = family(&[child.id()]);
        for pid in &pids {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = child.wait();
        assert!(pids.len() >= 3, "{pids:?}");
    }
}
