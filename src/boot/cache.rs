//! Unpacked kernels on disk, by content hash.
//!
//! The folder holds `HASH.elf` (an unpacked kernel and the [record](Record) that proves it whole), `by-file/KEY` (a link
//! to one of them, named by the [identity](Identity) of the compressed file, so that a start reads neither the compressed
//! file nor its hash), `lock`, and `new-PID` while a kernel is being written.
//!
//! A file appears under its name by a rename when it is complete, and is never written again, so that readers need no
//! lock and a guest's mapping of an evicted file stays good. Writers take the lock and look again before they write.

mod identity;
mod seal;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, FileTimes, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

pub use identity::Identity;
pub use seal::{ContentHash, Record, check, hash};

use super::source::{FileSource, Stretch};

/// Why a kernel could not be kept. It is unpacked into memory then.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Making, locking, writing or renaming failed.
    #[error("{} {what}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder may not hold that much.
    #[error("{size:#x} bytes are more than the {limit:#x} that {} may hold", path.display())]
    TooSmall {
        /// What the kernel takes.
        size: u64,
        /// What the folder may hold.
        limit: u64,
        /// The folder.
        path: PathBuf,
    },
    /// Another run holds the lock.
    #[error("{} was held by another run for {waited:?}", path.display())]
    Locked {
        /// How long it was waited for.
        waited: Duration,
        /// The lock.
        path: PathBuf,
    },
}

/// Why [`Cache::store`] gave nothing.
#[derive(Debug)]
pub enum StoreError<E> {
    /// The cache's fault: go on without.
    Cache(CacheError),
    /// The kernel could not be unpacked.
    Make(E),
}

/// A kept kernel, checked and open for reading.
#[derive(Debug)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// The ELF file and its record.
    pub file: File,
    /// Bytes of the ELF file.
    pub length: u64,
}

/// A folder of unpacked kernels. Making one does nothing yet.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// How long to wait for another run that is writing.
    patience: Duration,
    /// Damaged files found and removed, for the user to read.
    pub warnings: Vec<String>,
}

/// Unpacking takes a second or two; whoever holds the lock longer is stopped or stuck.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// A file's last use is written down no more often than this.
const USE_GRAIN: Duration = Duration::from_secs(3600);
/// Links kept; each host's kernel upgrade adds one.
const MAX_LINKS: usize = 256;

impl Cache {
    /// The cache in `folder`, which may hold `limit` bytes.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self { folder: folder.to_owned(), limit, patience: LOCK_PATIENCE, warnings: Vec::new() }
    }

    /// The kernel unpacked before from the file with this identity key.
    pub fn find_by_file(&mut self, key: &str) -> Option<Kept> {
        self.find(&self.link(key), None)
    }

    /// The kernel unpacked before from this compressed data.
    pub fn find_by_content(&mut self, content: &ContentHash) -> Option<Kept> {
        self.find(&self.kernel(content), Some(content))
    }

    /// Remembers that the file with this identity key holds this compressed data.
    pub fn remember(&self, key: &str, content: &ContentHash) -> Result<(), CacheError> {
        let folder = self.folder.join("by-file");
        let link = self.link(key);
        make_folder(&folder)?;
        // Two runs that use this name want the same link.
        let new = self.folder.join(format!("new-link-{}-{key}", std::process::id()));
        let _ = fs::remove_file(&new);
        let target = Path::new("..").join(format!("{}.elf", content.to_hex()));
        symlink(target, &new).map_err(cache_error("cannot be made", &new))?;
        fs::rename(&new, &link).map_err(cache_error("cannot be made", &link))
    }

    /// Keeps what `make` writes as the kernel unpacked from `content`, unless another run just did.
    ///
    /// # Errors
    /// [`StoreError::Make`] for the error of `make`, [`StoreError::Cache`] for all else; no partial file stays.
    pub fn store<E>(
        &mut self,
        content: &ContentHash,
        make: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<Kept, StoreError<E>> {
        make_folder(&self.folder).map_err(StoreError::Cache)?;
        let _lock = self.lock().map_err(StoreError::Cache)?;
        if let Some(kept) = self.find_by_content(content) {
            return Ok(kept);
        }
        self.sweep();
        let new = New { path: self.folder.join(format!("new-{}", std::process::id())) };
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new.path)
            .map_err(|e| StoreError::Cache(cache_error("cannot be made", &new.path)(e)))?;
        make(&mut file).map_err(StoreError::Make)?;
        self.finish(content, &new, file).map_err(StoreError::Cache)
    }

    /// Adds the record, seals the file and gives it its name.
    fn finish(&self, content: &ContentHash, new: &New, mut file: File) -> Result<Kept, CacheError> {
        let written = cache_error("cannot be written", &new.path);
        let read_only = File::open(&new.path).map_err(cache_error("cannot be opened", &new.path))?;
        let mut record = || {
            let length = file.metadata()?.len();
            let source = FileSource::new(&read_only, length);
            let record = Record { content: *content, length, body: hash(Stretch::new(&source, 0, length))? };
            file.seek(SeekFrom::End(0))?;
            file.write_all(&record.to_bytes())?;
            // A seal that cannot be set costs a check at each start, no more.
            let _ = record.seal(&file);
            Ok(length)
        };
        let length = record().map_err(written)?;
        if length > self.limit {
            return Err(CacheError::TooSmall { size: length, limit: self.limit, path: self.folder.clone() });
        }
        self.make_room(length);
        let path = self.kernel(content);
        fs::rename(&new.path, &path).map_err(cache_error("cannot be renamed to", &path))?;
        Ok(Kept { path, file: read_only, length })
    }

    fn link(&self, key: &str) -> PathBuf {
        self.folder.join("by-file").join(key)
    }

    fn kernel(&self, content: &ContentHash) -> PathBuf {
        self.folder.join(format!("{}.elf", content.to_hex()))
    }

    /// Opens and checks a kept kernel; a damaged one is removed.
    fn find(&mut self, path: &Path, content: Option<&ContentHash>) -> Option<Kept> {
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return None;
        }
        let record = check(&file, &metadata).and_then(|record| match content {
            Some(content) if record.content != *content => Err("it belongs to another kernel".to_owned()),
            _ => Ok(record),
        });
        match record {
            Ok(record) => {
                note_use(&file, &metadata);
                Some(Kept { path: self.kernel(&record.content), file, length: record.length })
            }
            Err(why) => {
                self.discard(path, &why);
                None
            }
        }
    }

    /// Removes a kept kernel that cannot be used, and says so.
    pub fn discard(&mut self, path: &Path, why: &str) {
        let target = match fs::read_link(path) {
            // Only a name inside the folder: a link could have been made to point elsewhere.
            Ok(link) => {
                let _ = fs::remove_file(path);
                self.folder.join(link.file_name().unwrap_or_default())
            }
            Err(_) => path.to_owned(),
        };
        self.warnings
            .push(format!("the unpacked kernel kept in {} was damaged ({why}); it is made again", target.display()));
        let _ = fs::remove_file(&target);
    }

    /// Waits for the lock that writers hold; it goes when the file is closed, also by a kill.
    fn lock(&self) -> Result<File, CacheError> {
        let path = self.folder.join("lock");
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(cache_error("cannot be opened", &path))?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if start.elapsed() < self.patience => {
                    sleep(LOCK_POLL);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(CacheError::Locked { waited: self.patience, path }),
                Err(e) => return Err(cache_error("cannot be locked", &path)(e.into())),
            }
        }
    }

    /// Removes what killed runs left half written, and links to nothing. Called with the lock held: nobody is writing.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"new-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        self.prune_links();
    }

    /// Removes the least recently used kernels until `size` more bytes fit. What cannot be removed stays.
    fn make_room(&self, size: u64) {
        let mut kernels = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().ends_with(b".elf")
                && let Ok(metadata) = entry.metadata()
            {
                kernels.push((metadata.atime(), metadata.atime_nsec(), metadata.len(), entry.path()));
            }
        }
        kernels.sort();
        let mut total: u64 = kernels.iter().map(|(_, _, length, _)| length).sum();
        for (_, _, length, path) in kernels {
            if total.saturating_add(size) <= self.limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= length;
            }
        }
    }

    fn prune_links(&self) {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.folder.join("by-file")).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) if path.exists() => links.push((metadata.ctime(), path)),
                _ => drop(fs::remove_file(path)),
            }
        }
        links.sort();
        for (_, path) in links.iter().take(links.len().saturating_sub(MAX_LINKS)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether only this user, or root, can have written the file.
fn is_ours(metadata: &Metadata) -> bool {
    let owner = metadata.uid();
    (owner == 0 || owner == rustix::process::geteuid().as_raw()) && metadata.mode() & 0o022 == 0
}

/// Writes down that a file was used, for eviction; mtime, the seal, stays.
fn note_use(file: &File, metadata: &Metadata) {
    let now = SystemTime::now();
    if metadata.accessed().is_ok_and(|last| now.duration_since(last).is_ok_and(|age| age > USE_GRAIN)) {
        let _ = file.set_times(FileTimes::new().set_accessed(now));
    }
}

fn make_folder(path: &Path) -> Result<(), CacheError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(cache_error("cannot be made", path))
}

fn cache_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { what, path: path.clone(), source }
}

/// A file being written; removed when it has not been renamed.
struct New {
    path: PathBuf,
}

impl Drop for New {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
