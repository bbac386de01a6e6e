//! A lock for each CPU, on a file in a folder that all users share. It goes with the process that has it, however that ends.
//!
//! The lock is flock(2)'s, so that it excludes within one process too, and so that the kernel's own list (/proc/locks) tells
//! whoever comes too late which process has the CPU. What the file says is only believed of the process that the kernel names.
//!
//! The locks keep ringfence's guests from each other's CPUs; they keep no other program away, and a user who wants to do
//! harm needs no lock to run something on a CPU. So the folder is safe against users who don't mean well (links, pipes,
//! endless files), but does not keep them from taking locks.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::host::Root;
use crate::units::CpuList;

/// Names the folder, for tests and for hosts where neither of [`FOLDERS`] can be.
const VARIABLE: &str = "RINGFENCE_RUNTIME";
/// Places that all users can share, first the better one: /run/lock is open to all on Debian, to root only elsewhere.
const FOLDERS: [&str; 2] = ["/run/lock", "/dev/shm"];
/// The folder's name in one of them.
const NAME: &str = "ringfence";
/// How often a file that comes and goes is tried.
const ATTEMPTS: usize = 8;
/// Bytes that a lock's file is read to at most.
const MOST_BYTES: usize = 256;

/// Why a CPU could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// No folder for the locks.
    #[error(
        "cannot {attempted} {} for the locks that keep a CPU to one guest: {source}; set {VARIABLE} to a folder that you \
         may write to, the same one for all guests", path.display()
    )]
    Folder {
        /// What was attempted.
        attempted: &'static str,
        /// The folder.
        path: PathBuf,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// A folder that somebody else may rearrange.
    #[error(
        "{} belongs to user {owner} and is not a folder for all (mode 1777): remove it, or set {VARIABLE} to another",
        .path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A file that is no lock.
    #[error("{} is not a lock of ringfence: {what}; remove it", .path.display())]
    NotALock {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file cannot be opened or locked.
    #[error("cannot {attempted} {}, the lock of CPU {cpu}: {source}", path.display())]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// Its CPU.
        cpu: u32,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// Another guest has it.
    #[error("CPU {cpu} is given to {0}: choose others (`ringfence check` shows which are free), or end that guest", cpu = .0.cpu)]
    Taken(Box<Holder>),
}

/// Who has a CPU.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// The CPU.
    pub cpu: u32,
    /// The process, where this process's namespace shows it.
    pub pid: Option<u32>,
    /// The guest's name, as it says itself.
    pub name: Option<String>,
    /// Whether for a vCPU alone; otherwise for threads that share it.
    pub exclusive: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => write!(f, "guest \"{name}\" (pid {pid})"),
            (None, Some(pid)) => write!(f, "the process {pid}"),
            _ => f.write_str("a process that is not seen from here (in another container, perhaps)"),
        }
    }
}

/// How a CPU is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// For one vCPU.
    Alone,
    /// For threads that share it with others of the kind.
    Shared,
}

/// A CPU's lock, until it is dropped.
#[derive(Debug)]
pub(super) struct CpuLock {
    _file: File,
}

/// The folder with the locks.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The folder; made when it is not there.
    pub(super) fn open() -> Result<Self, LockError> {
        if let Some(set) = chosen() {
            make_private(&set)?;
            return Self::make(&set.join("cpus"));
        }
        let candidates = FOLDERS.map(|folder| Path::new(folder).join(NAME));
        // One that is there is the one that others use.
        for path in &candidates {
            if let Some(folder) = Self::there(path)? {
                return Ok(folder);
            }
        }
        let [first, second] = candidates;
        Self::make(&first).or_else(|error| Self::make(&second).map_err(|_| error))
    }

    /// The folder, when there is one.
    fn find() -> Option<Self> {
        match chosen() {
            Some(set) => Self::there(&set.join("cpus")).ok().flatten(),
            None => FOLDERS.iter().find_map(|folder| Self::there(&Path::new(folder).join(NAME)).ok().flatten()),
        }
    }

    fn there(path: &Path) -> Result<Option<Self>, LockError> {
        let failed =
            |source: Errno| LockError::Folder { attempted: "open", path: path.to_owned(), source: source.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let found = fs::fstat(&fd).map_err(failed)?;
        let ours = found.st_uid == 0 || found.st_uid == rustix::process::geteuid().as_raw();
        if !ours && !Mode::from_raw_mode(found.st_mode).contains(Mode::SVTX) {
            return Err(LockError::Foreign { path: path.to_owned(), owner: found.st_uid });
        }
        Ok(Some(Self { fd, path: path.to_owned() }))
    }

    fn make(path: &Path) -> Result<Self, LockError> {
        let failed = |attempted| {
            let path = path.to_owned();
            move |source: Errno| LockError::Folder { attempted, path, source: source.into() }
        };
        let for_all = Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX;
        match fs::mkdir(path, for_all) {
            Err(Errno::EXIST) => return Self::there(path)?.ok_or_else(|| failed("open")(Errno::NOENT)),
            made => made.map_err(failed("make"))?,
        }
        let folder = Self::there(path)?.ok_or_else(|| failed("open")(Errno::NOENT))?;
        // The mode above has lost what the umask takes away.
        fs::fchmod(&folder.fd, for_all).map_err(failed("open to all users"))?;
        Ok(folder)
    }

    /// Locks a CPU.
    pub(super) fn lock(&self, cpu: u32, hold: Hold, name: &str) -> Result<CpuLock, LockError> {
        let operation = match hold {
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
            Hold::Shared => FlockOperation::NonBlockingLockShared,
        };
        for _ in 0..ATTEMPTS {
            let file = self.open_file(cpu)?;
            match fs::flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let unseen = || Holder { cpu, pid: None, name: None, exclusive: true };
                    let holder = holder_of(&file, cpu, &FileLocks::of(&Root::default())).unwrap_or_else(unseen);
                    return Err(LockError::Taken(Box::new(holder)));
                }
                Err(error) => return Err(self.failed("lock", cpu, error)),
            }
            let found = fs::fstat(&file).map_err(|e| self.failed("look at", cpu, e))?;
            if found.st_nlink == 0 {
                // Removed between its opening and its locking.
                continue;
            }
            let text = format!("pid {}\nname {}\n", std::process::id(), printable(name));
            // A file that cannot be written still locks; its holder is then told by its number alone.
            let _ = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
            return Ok(CpuLock { _file: file });
        }
        Err(self.failed("keep", cpu, Errno::NOENT))
    }

    /// Who has which CPU now, ascending.
    fn holders(&self) -> Vec<Holder> {
        let Ok(entries) = Dir::read_from(&self.fd) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let cpus: CpuList = names.filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
        // Asking takes no lock, so that a guest that starts meanwhile is not refused for it.
        let locks = FileLocks::of(&Root::default());
        cpus.sorted().iter().filter_map(|cpu| holder_of(&self.existing(cpu).ok()?, cpu, &locks)).collect()
    }

    fn existing(&self, cpu: u32) -> Result<File, Errno> {
        // Not blocking: a pipe in the file's place would wait for its other end.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::openat(&self.fd, file_name(cpu), flags, Mode::empty()).map(File::from)
    }

    fn open_file(&self, cpu: u32) -> Result<File, LockError> {
        let for_all = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = Errno::NOENT;
        // Made anew only where there is none: the kernel may forbid O_CREAT on another user's file here
        // (fs.protected_regular).
        for _ in 0..ATTEMPTS {
            match self.existing(cpu) {
                Ok(file) => return self.checked(file, cpu),
                Err(Errno::NOENT) => {}
                Err(Errno::LOOP) => return Err(self.not_a_lock(cpu, "it is a symbolic link")),
                Err(error) => return Err(self.failed("open", cpu, error)),
            }
            match fs::openat(&self.fd, file_name(cpu), flags, for_all) {
                Ok(fd) => {
                    fs::fchmod(&fd, for_all).map_err(|e| self.failed("open to all users", cpu, e))?;
                    return Ok(File::from(fd));
                }
                Err(error @ Errno::EXIST) => last = error,
                Err(error) => return Err(self.failed("make", cpu, error)),
            }
        }
        Err(self.failed("make", cpu, last))
    }

    /// A file that somebody could have put there to have another one written to is refused.
    fn checked(&self, file: File, cpu: u32) -> Result<File, LockError> {
        let found = fs::fstat(&file).map_err(|e| self.failed("look at", cpu, e))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(self.not_a_lock(cpu, "it is not a file"));
        }
        if found.st_nlink > 1 {
            return Err(self.not_a_lock(cpu, "it has other names"));
        }
        Ok(file)
    }

    fn not_a_lock(&self, cpu: u32, what: &'static str) -> LockError {
        LockError::NotALock { path: self.path.join(file_name(cpu)), what }
    }

    fn failed(&self, attempted: &'static str, cpu: u32, source: Errno) -> LockError {
        LockError::File { attempted, path: self.path.join(file_name(cpu)), cpu, source: source.into() }
    }
}

/// Who has which CPU now, ascending by CPU. Empty where no guest ever had one.
pub fn holders() -> Vec<Holder> {
    Folder::find().map(|folder| folder.holders()).unwrap_or_default()
}

fn chosen() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder that [`VARIABLE`] names, which holds more than locks and may be this user's alone.
fn make_private(path: &Path) -> Result<(), LockError> {
    match fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(LockError::Folder { attempted: "make", path: path.to_owned(), source: error.into() }),
    }
}

fn file_name(cpu: u32) -> String {
    format!("cpu{cpu}")
}

/// The kernel's list of flock(2) locks: the file's number, the process, whether exclusive.
struct FileLocks(Vec<(u64, u32, bool)>);

impl FileLocks {
    /// Reads /proc/locks below `root` (proc_locks(5)). Locks of processes that this one's namespace does not show are not in
    /// it, and waiting ones are left out.
    fn of(root: &Root) -> Self {
        let text = root.read("/proc/locks").unwrap_or_default();
        Self(text.lines().filter_map(Self::line).collect())
    }

    fn line(line: &str) -> Option<(u64, u32, bool)> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, _, access, pid, file) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let number = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK").then_some(())?;
        Some((number, pid.parse().ok()?, access == "WRITE"))
    }
}

/// Who has the lock of a file, by the kernel's word; none that is seen from here, perhaps.
///
/// The device in the kernel's list is not always the one that stat(2) gives (overlay file systems), so of several files with
/// the number the one is meant whose process the file names.
fn holder_of(file: &File, cpu: u32, locks: &FileLocks) -> Option<Holder> {
    let number = fs::fstat(file).ok()?.st_ino;
    let mut bytes = [0; MOST_BYTES];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let said = field("pid ").and_then(|said| said.parse::<u32>().ok());
    let of_file = || locks.0.iter().filter(|(file, _, _)| *file == number);
    let (_, pid, exclusive) = of_file().find(|(_, pid, _)| said == Some(*pid)).or_else(|| of_file().next())?;
    let name = if said == Some(*pid) { field("name ").filter(|name| !name.is_empty()).map(printable) } else { None };
    Some(Holder { cpu, pid: Some(*pid), name, exclusive: *exclusive })
}

/// Text from elsewhere, with nothing that moves a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;
