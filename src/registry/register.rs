//! Writing a machine's record.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat};
use rustix::io::Errno;

use super::folder::Folder;
use super::list::sweep;
use super::record::{Asked, RamPiece, Record, SCHEMA, shortened};
use super::{RegistryError, list};
use crate::config::Listing;
use crate::host::process::Process;

/// How often, and how long apart, a record that is locked but tells of no live machine is tried again: its machine is about to
/// write it, or a reader is about to remove it.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);
/// Names made up before giving up.
const MADE_UP: u32 = 100;

/// What a machine's record tells of it, beside its name.
#[derive(Clone, Debug)]
pub struct Registering<'a> {
    /// Its kernel.
    pub kernel: &'a Path,
    /// Its initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Guest RAM in this process's addresses.
    pub ram: Vec<RamPiece>,
    /// The allocation asked for.
    pub asked: Asked,
}

/// A machine in the list, for as long as this lives.
#[derive(Debug)]
pub struct Registration {
    /// Holds the lock. The file is not removed at the end, when the process may no longer remove any: without its lock it is
    /// stale, and the next machine or reader removes it.
    _locked: File,
    name: String,
    path: PathBuf,
}

impl Registration {
    /// Puts a machine on the list as `listing` says, and removes the records of machines that are gone.
    ///
    /// # Errors
    /// [`RegistryError::NameTaken`] for a name that another live machine of the same folder has, and whatever is wrong with the
    /// folder.
    pub fn new(listing: &Listing, machine: Registering<'_>) -> Result<Self, RegistryError> {
        let folder = Folder::make(&listing.folder)?;
        sweep(&folder);
        let pid = std::process::id();
        let (file, name) = match &listing.name {
            Some(name) => (take(&folder, name.as_str())?, name.as_str().to_owned()),
            None => take_made_up(&folder, pid)?,
        };
        let path = folder.path.join(&name);
        let record = Record {
            schema: SCHEMA,
            name: name.clone(),
            pid,
            start_ticks: Process::this().stat().map_or(0, |stat| stat.start_ticks),
            ringfence: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: absolute(machine.kernel),
            initrd: machine.initrd.map(absolute),
            console: listing.console.clone(),
            command: shortened(&listing.command),
            ram: machine.ram,
            asked: machine.asked,
        };
        let failed = |source| RegistryError::Record { attempted: "write", path: path.clone(), source };
        file.write_all_at(&record.encode(), 0).map_err(failed)?;
        Ok(Self { _locked: file, name, path })
    }

    /// The machine's name, made up if none was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its record.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A path as another process can use it. One that is not text is shown as nearly as text can.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.to_str().is_some() { path } else { path.to_string_lossy().into_owned().into() }
}

/// Takes a name that nobody has: `vm-PID`, which is free unless a user chose it or a process of another PID namespace has it.
fn take_made_up(folder: &Folder, pid: u32) -> Result<(File, String), RegistryError> {
    let mut taken = None;
    for attempt in 1..=MADE_UP {
        let name = if attempt == 1 { format!("vm-{pid}") } else { format!("vm-{pid}-{attempt}") };
        match take(folder, &name) {
            Ok(file) => return Ok((file, name)),
            Err(error @ RegistryError::NameTaken { .. }) => taken = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(taken.unwrap_or(RegistryError::NameTaken { name: format!("vm-{pid}"), pid: None }))
}

/// Makes the record's file, locked and empty.
fn take(folder: &Folder, name: &str) -> Result<File, RegistryError> {
    let path = folder.path.join(name);
    let failed = |attempted| {
        let path = path.clone();
        move |errno: Errno| RegistryError::Record { attempted, path, source: errno.into() }
    };
    let mut holder = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(BETWEEN_TRIES);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&folder.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                // A reader may come between and remove what looks stale: then the file has no name any more.
                let locked = flock(&fd, FlockOperation::NonBlockingLockExclusive);
                if locked.is_ok() && fstat(&fd).map_err(failed("look at"))?.st_nlink > 0 {
                    return Ok(File::from(fd));
                }
                locked.or_else(|e| if e == Errno::WOULDBLOCK { Ok(()) } else { Err(e) }).map_err(failed("lock"))?;
            }
            Err(Errno::EXIST) => match list::open(folder, name)? {
                Some(list::Found::Running(running)) => {
                    holder = Some(running.record.pid);
                    break;
                }
                Some(list::Found::Stale(_lock)) => {
                    unlinkat(&folder.fd, name, AtFlags::empty())
                        .or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(e) })
                        .map_err(failed("remove"))?;
                }
                Some(list::Found::Unreadable(_)) | None => {}
            },
            Err(errno) => return Err(failed("make")(errno)),
        }
    }
    match holder {
        None if !path.exists() => {
            let source = io::Error::other("it comes and goes");
            Err(RegistryError::Record { attempted: "make", path, source })
        }
        pid => Err(RegistryError::NameTaken { name: name.to_owned(), pid }),
    }
}
