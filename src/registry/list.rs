//! Reading the records.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::RegistryError;
use super::folder::Folder;
use super::record::Record;
use crate::config::MachineName;
use crate::host::Root;
use crate::host::process::Process;

/// Most files that one reader looks at in one folder.
const MOST: usize = 65_536;
/// Most files that a starting machine looks at to remove stale ones.
const MOST_SWEPT: usize = 256;

/// A machine that runs now.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it says of itself.
    pub record: Record,
    /// User id of its owner.
    pub user: u32,
    /// Its record's file.
    pub path: PathBuf,
}

/// The machines that run now, by name, and the records that could not be read.
#[derive(Debug, Default)]
pub struct Listed {
    /// Machines.
    pub machines: Vec<Running>,
    /// What was wrong with others.
    pub problems: Vec<RegistryError>,
}

/// What a record's file turned out to be.
pub(super) enum Found {
    Running(Box<Running>),
    /// Nobody holds its lock but this descriptor.
    Stale(File),
    /// Locked, but not a live machine's record, or not yet.
    Unreadable(RegistryError),
}

/// Reads the records in `folders`; missing folders hold none. Stale ones in this user's own folders are removed.
pub fn list(folders: &[PathBuf]) -> Listed {
    let mut listed = Listed::default();
    for path in folders {
        match Folder::open(path) {
            Ok(folder) => read_folder(&folder, &mut listed),
            Err(RegistryError::Folder { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => listed.problems.push(error),
        }
    }
    listed.machines.sort_by(|a, b| (&a.record.name, a.record.pid).cmp(&(&b.record.name, b.record.pid)));
    listed
}

fn read_folder(folder: &Folder, listed: &mut Listed) {
    let names = match names(folder) {
        Ok(names) => names,
        Err(error) => return listed.problems.push(error),
    };
    for name in names.take(MOST) {
        match open(folder, &name) {
            Ok(Some(Found::Running(running))) => listed.machines.push(*running),
            Ok(Some(Found::Stale(_lock))) => remove(folder, &name),
            // Locked and without a process: it ends just now, or this is another PID namespace.
            Ok(None) => {}
            Ok(Some(Found::Unreadable(error))) | Err(error) => listed.problems.push(error),
        }
    }
}

/// Removes stale records, as far as that is quick; what cannot be removed stays for the next.
pub(super) fn sweep(folder: &Folder) {
    let Ok(names) = names(folder) else { return };
    for name in names.take(MOST_SWEPT) {
        if let Ok(Some(_lock)) = lock(folder, &name).map(Attempt::taken) {
            remove(folder, &name);
        }
    }
}

/// Removes a record whose lock the caller holds. Another's folder is left alone.
fn remove(folder: &Folder, name: &str) {
    if folder.owner == geteuid().as_raw() {
        // Whoever was quicker has done the same.
        let _ = unlinkat(&folder.fd, name, AtFlags::empty());
    }
}

/// Names of files that can be records.
fn names(folder: &Folder) -> Result<impl Iterator<Item = String>, RegistryError> {
    let failed = |errno: Errno| RegistryError::Folder {
        attempted: "look into",
        folder: folder.path.clone(),
        source: errno.into(),
    };
    let entries = Dir::read_from(&folder.fd).map_err(failed)?;
    Ok(entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().to_str().ok()?.to_owned();
        name.parse::<MachineName>().is_ok().then_some(name)
    }))
}

/// An attempt to take a record's lock.
enum Attempt {
    Gone,
    Taken(File),
    HeldByAnother(File),
}

impl Attempt {
    fn taken(self) -> Option<File> {
        match self {
            Self::Taken(file) => Some(file),
            _ => None,
        }
    }
}

fn lock(folder: &Folder, name: &str) -> Result<Attempt, RegistryError> {
    let path = folder.path.join(name);
    let failed = |errno: Errno| RegistryError::Record { attempted: "open", path: path.clone(), source: errno.into() };
    // NONBLOCK: opening a FIFO does not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(&folder.fd, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(Attempt::Gone),
        Err(Errno::LOOP) => {
            let reason = "it is a symbolic link".to_owned();
            return Err(RegistryError::NotARecord { path, reason });
        }
        Err(errno) => return Err(failed(errno)),
    };
    let stat = fstat(&fd).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_uid != folder.owner {
        let reason = "it is not a regular file of the folder's owner".to_owned();
        return Err(RegistryError::NotARecord { path, reason });
    }
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        // One that has just been removed is a name of nothing.
        Ok(()) if fstat(&fd).map_err(failed)?.st_nlink == 0 => Ok(Attempt::Gone),
        Ok(()) => Ok(Attempt::Taken(File::from(fd))),
        Err(Errno::WOULDBLOCK) => Ok(Attempt::HeldByAnother(File::from(fd))),
        Err(errno) => Err(failed(errno)),
    }
}

/// Looks at one record. `None`: there is none, or its process is gone or out of sight.
pub(super) fn open(folder: &Folder, name: &str) -> Result<Option<Found>, RegistryError> {
    let file = match lock(folder, name)? {
        Attempt::Gone => return Ok(None),
        Attempt::Taken(file) => return Ok(Some(Found::Stale(file))),
        Attempt::HeldByAnother(file) => file,
    };
    let path = folder.path.join(name);
    match Record::read(&file, &path, name) {
        Ok(record) if is_its_process(&record, folder.owner) => {
            Ok(Some(Found::Running(Box::new(Running { record, user: folder.owner, path }))))
        }
        Ok(_) => Ok(None),
        Err(_) if is_empty(&path) => Ok(None),
        Err(error) => Ok(Some(Found::Unreadable(error))),
    }
}

/// A machine makes its record, locks it and then writes it.
fn is_empty(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.len() == 0)
}

/// Whether the record's process is there, is the one that wrote it, and is its owner's: a record may claim anything.
fn is_its_process(record: &Record, owner: u32) -> bool {
    let process = Process::new(&Root::default(), record.pid);
    process.user() == Some(owner) && process.stat().is_some_and(|stat| stat.start_ticks == record.start_ticks)
}
