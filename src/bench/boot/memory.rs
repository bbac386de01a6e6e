//! What a subject takes of the host's memory at the moment its payload runs.

use std::fs;

use serde::Serialize;

use super::attempt::Program;
use super::subjects::Shape;
use crate::bench::child::Stop;
use crate::bench::footprint::{Footprint, ProcessMemory};

/// A subject's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Processes that are there for this one run: the monitor, the runtime, shims, the payload.
    pub own: Vec<ProcessMemory>,
    /// Their proportional set size, in bytes.
    pub pss_bytes: u64,
    /// Daemons that several containers share.
    pub daemons: Vec<ProcessMemory>,
    /// Their proportional set size, in bytes.
    pub daemons_pss_bytes: u64,
    /// Guest RAM that the host holds pages for, in bytes; `None` where there is no guest.
    pub guest_ram_bytes: Option<u64>,
}

/// Counts it. `pid` is the process that was started.
pub fn count(pid: u32, name: &str, program: &Program<'_>, shape: Option<Shape>, stop: &Stop) -> Memory {
    let mut roots = vec![pid];
    if let Program::Container(container) = program
        && let Ok(inside) = container.pid(stop)
    {
        roots.push(inside);
        roots.extend(container.shims(inside));
    }
    let own = Footprint::of(&roots);
    let daemons = match name {
        "docker" => pids_named(&["dockerd", "containerd"]),
        "nerdctl" => pids_named(&["containerd"]),
        _ => Vec::new(),
    };
    // Without their descendants: those are the shims, which are counted above, or other people's.
    let daemons: Vec<_> = daemons
        .iter()
        .flat_map(|pid| Footprint::of(&[*pid]).processes.into_iter().filter(|process| process.pid == *pid))
        .collect();
    Memory {
        pss_bytes: own.total_bytes(),
        own: own.processes,
        daemons_pss_bytes: daemons.iter().map(|process| process.pss_bytes).sum(),
        daemons,
        guest_ram_bytes: shape.and_then(|shape| {
            let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
            guest_ram(&maps, shape.memory.as_u64())
        }),
    }
}

/// Processes by their names.
fn pids_named(names: &[&str]) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| names.contains(&comm.trim()));
    pids.filter(named).collect()
}

/// Resident bytes of what looks like a guest's RAM in `/proc/PID/smaps`: stretches of writable mappings one after the other that
/// are at least a quarter as long as the RAM asked for, which may lie in two pieces around the hole below 4 GiB. `None` when
/// together they are shorter than it.
fn guest_ram(smaps: &str, asked: u64) -> Option<u64> {
    /// Mappings without a gap between them.
    #[derive(Clone, Copy, Default)]
    struct Stretch {
        end: u64,
        bytes: u64,
        resident: u64,
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut writable = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Some((from, to)) = first.split_once('-')
            && let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
        {
            writable = second.starts_with("rw");
            if writable {
                if stretches.last().is_none_or(|last| last.end != from) {
                    stretches.push(Stretch::default());
                }
                if let Some(last) = stretches.last_mut() {
                    *last = Stretch { end: to, bytes: last.bytes + to.saturating_sub(from), ..*last };
                }
            }
        } else if first == "Rss:"
            && writable
            && let (Some(last), Ok(kib)) = (stretches.last_mut(), second.parse::<u64>())
        {
            last.resident = last.resident.saturating_add(kib.saturating_mul(1024));
        }
    }
    let large: Vec<_> = stretches.iter().filter(|stretch| stretch.bytes >= asked / 4).collect();
    let found: u64 = large.iter().map(|stretch| stretch.bytes).sum();
    (found >= asked).then(|| large.iter().map(|stretch| stretch.resident).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that RAM is found though a kernel's file is mapped into its middle, and that other mappings don't count.
    #[test]
    fn guest_ram_is_found() {
        let smaps = "\
00400000-00500000 r-xp 00000000 fe:00 1 /bin/monitor
Rss:                 900 kB
7f0000000000-7f0000100000 rw-s 00000000 00:01 5 /memfd:ram (deleted)
Size:               1024 kB
Rss:                  12 kB
7f0000100000-7f0000200000 rw-p 00001000 fe:00 9 /vmlinux
Rss:                 100 kB
7f0000200000-7f0008000000 rw-s 00200000 00:01 5 /memfd:ram (deleted)
Rss:                4000 kB
7f0009000000-7f0009100000 rw-p 00000000 00:00 0
Rss:                 700 kB
";
        assert_eq!(guest_ram(smaps, 128 << 20), Some(4112 << 10));
        assert_eq!(guest_ram(smaps, 1 << 30), None);
        assert_eq!(guest_ram("garbage-\nRss: x\n", 1 << 20), None);
    }
}
