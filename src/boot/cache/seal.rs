//! How a kept kernel is known to be whole.
//!
//! Behind the unpacked ELF file stands a record: its length, its hash, and the hash of the compressed data it came from.
//! Reading 50 MB at each start to check the hash would cost more than all else, so a file that has been checked is
//! *sealed*: its mtime is set to a time whose nanoseconds are derived from the hash and the seconds. Whatever writes to
//! the file afterwards sets mtime to another time, and a file that was written before the last boot is checked again, so
//! that a power cut or a decaying disk is noticed too. No fsync is needed for that.

use std::fs::{File, FileTimes, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use super::super::source::{FileSource, Source, Stretch, u64_at};

/// Hash of a kernel's compressed data.
pub type ContentHash = blake3::Hash;

const MAGIC: &[u8; 24] = b"ringfence unpacked ELF 1";
/// Magic, content hash, body length, body hash, half a hash of these.
const RECORD_SIZE: usize = 24 + 32 + 8 + 32 + 16;
/// An honest clock's steps around boot are smaller.
const BOOT_SLACK: Duration = Duration::from_secs(10);

/// The record behind an unpacked kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Hash of the compressed data.
    pub content: ContentHash,
    /// Bytes of the ELF file in front of the record.
    pub length: u64,
    /// Hash of these bytes.
    pub body: blake3::Hash,
}

impl Record {
    /// The record's bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(self.content.as_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(self.body.as_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..16]);
        bytes
    }

    /// Reads the record behind a file; `Err` says in words what is wrong with it.
    fn read(file: &File, size: u64) -> Result<Self, String> {
        let Some(length) = size.checked_sub(RECORD_SIZE as u64) else {
            return Err(format!("it has only {size:#x} bytes"));
        };
        let mut bytes = [0; RECORD_SIZE];
        match FileSource::new(file, size).read_full_at(&mut bytes, length) {
            Ok(RECORD_SIZE) => {}
            Ok(_) => return Err("it became shorter".to_owned()),
            Err(e) => return Err(format!("its record at file offset {length:#x} cannot be read: {e}")),
        }
        let array = |at: usize| <[u8; 32]>::try_from(&bytes[at..at + 32]).unwrap_or([0; 32]);
        let record = Self { content: array(24).into(), length: u64_at(&bytes, 56), body: array(64).into() };
        if record.length != length || record.to_bytes() != bytes {
            return Err(format!("there is no valid record at file offset {length:#x}: it is truncated or overwritten"));
        }
        Ok(record)
    }

    /// Nanoseconds of the mtime that seals a file at `seconds`.
    fn seal_nanoseconds(&self, seconds: i64) -> i64 {
        let mut hasher = blake3::Hasher::new_derive_key("ringfence 2026 seal of an unpacked kernel");
        hasher.update(self.body.as_bytes()).update(&seconds.to_le_bytes());
        (u64_at(hasher.finalize().as_bytes(), 0) % 1_000_000_000) as i64
    }

    /// Marks a file whose body has just been checked or written.
    ///
    /// # Errors
    /// What the operating system says about setting mtime.
    pub fn seal(&self, file: &File) -> io::Result<()> {
        self.seal_at(file, SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    /// Marks a file as checked at `seconds` after 1970.
    pub(super) fn seal_at(&self, file: &File, seconds: u64) -> io::Result<()> {
        let nanoseconds = self.seal_nanoseconds(seconds as i64) as u64;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        file.set_times(FileTimes::new().set_modified(time))
    }

    fn is_sealed(&self, metadata: &Metadata) -> bool {
        metadata.mtime_nsec() == self.seal_nanoseconds(metadata.mtime()) && metadata.mtime() >= boot_time()
    }
}

/// When this host was booted, in seconds since 1970, rounded up.
fn boot_time() -> i64 {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let up = Duration::from_secs(u64::try_from(up.tv_sec).unwrap_or(0));
    (now.saturating_sub(up) + BOOT_SLACK).as_secs() as i64
}

/// Checks a kept kernel: by its seal, and by its hash when the seal is broken or from before the last boot.
///
/// # Errors
/// In words, what is wrong with the file.
pub fn check(file: &File, metadata: &Metadata) -> Result<Record, String> {
    let record = Record::read(file, metadata.len())?;
    if !record.is_sealed(metadata) {
        let source = FileSource::new(file, metadata.len());
        match hash(Stretch::new(&source, 0, record.length)) {
            Ok(body) if body == record.body => {}
            Ok(_) => return Err("its content does not have the hash in its record".to_owned()),
            Err(e) => return Err(format!("it cannot be read: {e}")),
        }
        // Without a seal (another user's file, a read-only disk) the next start checks again: slower, not wrong.
        let _ = record.seal(file);
    }
    Ok(record)
}

/// Hash of all that `input` gives.
///
/// # Errors
/// What the operating system says about a read.
pub fn hash(mut input: impl Read) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
    }
}
