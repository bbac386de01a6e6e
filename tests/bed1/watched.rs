//! What a running process holds: memory, threads, file descriptors.

use std::fmt;
use std::fs;

/// A mapping of `/proc/PID/smaps`.
struct Mapping {
    start: u64,
    end: u64,
    resident: u64,
    /// The part of it that no file holds.
    private: u64,
    line: String,
}

/// What a process of ringfence holds.
pub struct Watched {
    /// Names of its threads, in alphabetical order.
    pub threads: Vec<String>,
    /// What its file descriptors are.
    pub descriptors: Vec<String>,
    /// Bytes of guest RAM that are resident.
    pub guest_resident: u64,
    own: Vec<Mapping>,
}

impl Watched {
    /// Looks at process `pid`, whose guest has `ram` bytes.
    pub fn of(pid: u32, ram: u64) -> Self {
        let process = format!("/proc/{pid}");
        let list = |what: &str| fs::read_dir(format!("{process}/{what}")).expect("the process is there").flatten();
        let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let mut threads: Vec<String> = list("task").map(name).map(|name| name.trim().to_owned()).collect();
        // KVM's own threads for a virtual machine are shown among the process's.
        threads.retain(|name| !name.starts_with("kvm-"));
        threads.sort();
        let target = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let descriptors = list("fd").map(target).collect();
        let smaps = fs::read_to_string(format!("{process}/smaps")).expect("the process is there");
        let (guest, own) = tell_apart(mappings(&smaps), ram);
        Self { threads, descriptors, guest_resident: guest.iter().map(|m| m.resident).sum(), own }
    }

    /// Bytes resident beside guest RAM.
    pub fn own_resident(&self) -> u64 {
        self.own.iter().map(|m| m.resident).sum()
    }

    /// Bytes resident that are this process's alone: heap, stacks, data that was written.
    pub fn private_resident(&self) -> u64 {
        self.own.iter().map(|m| m.private).sum()
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, guest) = (self.own_resident() >> 10, self.guest_resident >> 10);
        writeln!(f, "\n{own} KiB resident beside {guest} KiB of guest RAM:")?;
        for mapping in self.own.iter().filter(|m| m.resident > 0) {
            writeln!(f, "{:6} KiB  {}", mapping.resident >> 10, mapping.line)?;
        }
        writeln!(f, "threads: {}\nfile descriptors: {}", self.threads.join(", "), self.descriptors.join(", "))
    }
}

/// Reads smaps, proc(5): a line of a mapping's range, then its figures.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let range = range.and_then(|(start, end)| Some((hex(start)?, hex(end)?)));
        if let Some((start, end)) = range {
            found.push(Mapping { start, end, resident: 0, private: 0, line: line.to_owned() });
            continue;
        }
        let (name, figure) = line.split_once(':').unwrap_or_default();
        let bytes = || figure.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") << 10;
        let mapping = found.last_mut().expect("a mapping comes first");
        match name {
            "Rss" => mapping.resident = bytes(),
            "Anonymous" => mapping.private = bytes(),
            _ => {}
        }
    }
    found
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Guest RAM, and the rest. Guest RAM is the stretch of `ram` bytes without a gap, in several mappings where files (kernel,
/// initrd) are mapped into it.
fn tell_apart(all: Vec<Mapping>, ram: u64) -> (Vec<Mapping>, Vec<Mapping>) {
    let is_whole = |first: usize| {
        let end = all[first].start + ram;
        let joined = all[first..].windows(2).take_while(|pair| pair[0].end == pair[1].start && pair[0].end < end);
        all[first + joined.count()].end == end
    };
    let first = (0..all.len()).find(|first| is_whole(*first));
    let start = all[first.unwrap_or_else(|| panic!("no guest RAM of {ram} bytes: {:#?}", lines(&all)))].start;
    all.into_iter().partition(|mapping| (start..start + ram).contains(&mapping.start))
}

fn lines(all: &[Mapping]) -> Vec<&str> {
    all.iter().map(|mapping| mapping.line.as_str()).collect()
}
