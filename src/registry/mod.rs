//! The machines that run now.
//!
//! Each machine has a record: a file in its user's folder, named as the machine is, and locked (flock(2)) by the process for
//! as long as that lives. The kernel takes the lock back however the process ends, so a record without a lock is stale; the
//! next machine or the next reader removes it. What the file says is only what was asked for; what there is, is read from the
//! kernel's own files ([`crate::host::process`]).

mod allocation;
mod folder;
mod list;
mod record;
mod register;
#[cfg(test)]
mod tests;

pub use allocation::{Allocation, Line, Section, ThreadKind, Verdict};
pub use folder::{folders, own_folder};
pub use list::{Listed, Running, list};
pub use record::{Asked, RamAsked, RamPiece, Record, SCHEMA};
pub use register::{Registering, Registration};

use std::io;
use std::path::PathBuf;

/// Why the list of running machines could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is another's.
    #[error("a machine named \"{name}\" runs already{}; give this one another --name, or end that one", process(.pid))]
    NameTaken {
        /// The name.
        name: String,
        /// Its process, when its record tells.
        pid: Option<u32>,
    },
    /// The folder could not be made or looked into.
    #[error("cannot {attempted} the folder of running machines, {}: {source}; set RINGFENCE_RUNTIME to another", .folder.display())]
    Folder {
        /// What was attempted.
        attempted: &'static str,
        /// The folder.
        folder: PathBuf,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// Somebody else could write to the folder.
    #[error(
        "{} cannot hold the list of running machines: {problem}; remove it or set RINGFENCE_RUNTIME to another folder",
        .folder.display()
    )]
    Unsafe {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A record could not be written, read or removed.
    #[error("cannot {attempted} the record {}: {source}", .path.display())]
    Record {
        /// What was attempted.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// A locked file that is no record.
    #[error("{} is not a machine's record: {reason}; remove it when no ringfence holds it (fuser {})", .path.display(), .path.display())]
    NotARecord {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

fn process(pid: &Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(", as process {pid}"))
}
