//! A machine's record.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RegistryError;
use crate::config::Granted;
use crate::memory::{Advice, Backing};

/// Version of the record; fields may be added under the same number, none is taken away or changed.
pub const SCHEMA: u32 = 1;

/// No record is longer, in bytes: a command of 2 MiB is cut short in it.
const LONGEST: u64 = 64 << 10;
/// Longest part of a command that is kept, in bytes.
const LONGEST_COMMAND: usize = 4096;

/// What a running machine says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The machine's name; its file's too.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// When that process was started, in ticks since the host was: tells it from a later one with the same number.
    pub start_ticks: u64,
    /// Version of the ringfence that runs it.
    pub ringfence: String,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Where its console goes.
    pub console: String,
    /// The command that runs in it; empty for its shell.
    pub command: Vec<String>,
    /// Guest RAM in the process's addresses, ascending by guest address.
    pub ram: Vec<RamPiece>,
    /// The allocation asked for.
    pub asked: Asked,
}

/// A piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamPiece {
    /// First guest-physical address.
    pub guest_address: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Address of its first byte in the process.
    pub host_address: u64,
}

/// The allocation asked for, as far as it was decided before the guest ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// The host's CPUs; none: wherever the host likes.
    #[serde(default)]
    pub placement: Option<Granted>,
    /// How guest RAM is backed.
    #[serde(default)]
    pub ram: RamAsked,
    /// Whether each thread confines itself: seccomp filters, no new privileges, no capabilities.
    #[serde(default)]
    pub confined: bool,
    /// Whether landlock keeps it from every path; none when that was not asked for.
    #[serde(default)]
    pub landlock: Option<bool>,
}

/// How guest RAM is backed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RamAsked {
    /// Size of the pages of a huge page pool; none: ordinary pages.
    pub pool_page_bytes: Option<u64>,
    /// No transparent huge pages.
    pub no_huge_pages: bool,
    /// The NUMA node that all of it comes from.
    pub node: Option<u32>,
    /// Pages that are there stay there.
    pub lock: bool,
    /// Every page is there from the start.
    pub prefault: bool,
    /// Never shared with equal pages of other processes.
    pub never_merge: bool,
}

impl From<&Backing> for RamAsked {
    fn from(backing: &Backing) -> Self {
        Self {
            pool_page_bytes: backing.pool_page,
            no_huge_pages: backing.transparent == Advice::Avoid,
            node: backing.node,
            lock: backing.lock,
            prefault: backing.prefault,
            never_merge: backing.never_merge,
        }
    }
}

impl Record {
    /// The record as a file's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain structures of numbers and text: the only failure is a path that is not text.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the record of the machine `name` from its file.
    pub(super) fn read(mut file: &File, path: &Path, name: &str) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::NotARecord { path: path.to_owned(), reason };
        let mut bytes = Vec::new();
        let failed = |source| RegistryError::Record { attempted: "read", path: path.to_owned(), source };
        file.by_ref().take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LONGEST {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")));
        }
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if record.schema != SCHEMA {
            return Err(wrong(format!("its schema is {}, this ringfence reads {SCHEMA}", record.schema)));
        }
        if record.name != name {
            return Err(wrong(format!("it calls its machine \"{}\"", record.name.escape_debug())));
        }
        Ok(record)
    }
}

/// A command, cut where it becomes too long for a record.
pub(super) fn shortened(command: &[String]) -> Vec<String> {
    let mut room = LONGEST_COMMAND;
    let mut words = Vec::new();
    for word in command {
        let kept: String = word.chars().take(room).collect();
        room = room.saturating_sub(kept.len() + 1);
        let whole = kept.len() == word.len();
        words.push(kept);
        if room == 0 || !whole {
            words.push("...".to_owned());
            break;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that no command makes a record too long to be read.
    #[test]
    fn commands_are_cut() {
        assert_eq!(shortened(&["a".into(), "b c".into()]), ["a", "b c"]);
        for command in [vec!["x".repeat(1 << 21)], vec!["y".to_owned(); 1 << 16], vec!["\u{1}".repeat(9000)]] {
            let cut = shortened(&command);
            assert_eq!(cut.last().map(String::as_str), Some("..."));
            assert!(serde_json::to_vec(&cut).unwrap().len() < LONGEST as usize / 2);
        }
    }
}
