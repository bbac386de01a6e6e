//! The newc archive format, as the kernel's initramfs reads it.
//!
//! Format: "Buffer format" of Linux' `Documentation/driver-api/early-userspace/buffer-format.rst`, and cpio(5),
//! "New ASCII Format". Archives may follow each other in one initrd when each is padded to 4 bytes, which
//! [`Archive::finish`] does.

use std::collections::HashSet;

use thiserror::Error;

/// Longest path the kernel's unpacker takes, with its NUL, in bytes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

const MAGIC: &[u8; 6] = b"070701";
/// Magic and 13 fields of 8 digits, in bytes.
const HEADER_SIZE: usize = 6 + 13 * 8;
/// Size of a page of the guest, in bytes.
const PAGE_SIZE: usize = 4096;
const TRAILER: &str = "TRAILER!!!";

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const MODE_BITS: u32 = 0o7777;

/// Why an entry cannot be put into an archive.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpioError {
    /// The path is not one the kernel would unpack where it says.
    #[error("archive path {path:?} {problem}; use a relative path such as \"etc/hosts\"")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel does not make directories by itself.
    #[error("archive path {path:?} lies in a directory that the archive has not made; add the directory first")]
    NoParent {
        /// The path.
        path: String,
    },
    /// The same path was added twice.
    #[error("archive path {path:?} is there already; leave one of the two out")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// The size field has 32 bits.
    #[error("archive entry {path:?} has {size} bytes, but the format holds at most {}; shorten it", u32::MAX)]
    TooLarge {
        /// The path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
}

/// A newc archive in the making. Every entry belongs to root and has the time stamp 0, so that equal contents give
/// equal bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: HashSet<String>,
    directories: HashSet<String>,
    last_inode: u32,
    /// What the next entry's name is padded to, in bytes.
    name_size: Option<usize>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError`] for a path that is not valid, not new, or has no parent in the archive.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.entry(path, TYPE_DIRECTORY | (mode & MODE_BITS), (0, 0), b"")?;
        self.directories.insert(path.to_owned());
        Ok(())
    }

    /// Adds a regular file; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError`], also for contents of 4 GiB and more.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<(), CpioError> {
        self.entry(path, TYPE_FILE | (mode & MODE_BITS), (0, 0), contents)
    }

    /// Adds a regular file as [`Self::file`] does, with its contents at a multiple of 4096 bytes from the archive's
    /// beginning: a kernel that can makes the initrd's pages the file's, in place of a copy. The name is padded with NULs
    /// for it; where it would become longer than [`PATH_MAX`] the contents lie anywhere, which only costs the copy.
    ///
    /// # Errors
    /// [`CpioError`], also for contents of 4 GiB and more.
    pub fn file_at_page(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<(), CpioError> {
        let name = self.bytes.len() + HEADER_SIZE;
        let padded = (name + path.len() + 1).next_multiple_of(PAGE_SIZE) - name;
        self.name_size = Some(padded).filter(|&size| size <= PATH_MAX);
        let added = self.file(path, mode, contents);
        self.name_size = None;
        added
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// [`CpioError`], also for a target that the kernel would not take.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        if target.is_empty() || target.len() >= PATH_MAX || target.contains('\0') {
            return Err(bad_path(target, "is no target of a symbolic link"));
        }
        self.entry(path, TYPE_SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device with the given major and minor numbers; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError`] as for the other kinds.
    pub fn character_device(&mut self, path: &str, mode: u32, device: (u32, u32)) -> Result<(), CpioError> {
        self.entry(path, TYPE_CHARACTER_DEVICE | (mode & MODE_BITS), device, b"")
    }

    /// Ends the archive: its bytes, a multiple of 4 of them.
    pub fn finish(mut self) -> Vec<u8> {
        self.append(TRAILER, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> Result<(), CpioError> {
        check_path(path)?;
        if self.paths.contains(path) {
            return Err(CpioError::Duplicate { path: path.to_owned() });
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.directories.contains(parent)
        {
            return Err(CpioError::NoParent { path: path.to_owned() });
        }
        let Ok(size) = u32::try_from(contents.len()) else {
            return Err(CpioError::TooLarge { path: path.to_owned(), size: contents.len() as u64 });
        };
        self.paths.insert(path.to_owned());
        self.last_inode += 1;
        let links = if mode & TYPE_DIRECTORY == TYPE_DIRECTORY { 2 } else { 1 };
        let (uid, gid, mtime) = (0, 0, 0);
        let fields = [self.last_inode, mode, uid, gid, links, mtime, size, 0, 0, device.0, device.1];
        self.append(path, fields, contents);
        Ok(())
    }

    /// Writes the header (magic, 13 fields of 8 hexadecimal digits), the name and the contents, each padded to 4.
    fn append(&mut self, path: &str, fields: [u32; 11], contents: &[u8]) {
        let name_size = self.name_size.unwrap_or(path.len() + 1);
        let name_end = self.bytes.len() + HEADER_SIZE + name_size;
        let name_size = u32::try_from(name_size).expect("names are no longer than PATH_MAX");
        self.bytes.extend_from_slice(MAGIC);
        let checksum = 0;
        for field in fields.into_iter().chain([name_size, checksum]) {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.resize(name_end, 0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn bad_path(path: &str, problem: &'static str) -> CpioError {
    CpioError::Path { path: path.to_owned(), problem }
}

fn check_path(path: &str) -> Result<(), CpioError> {
    if path.len() >= PATH_MAX {
        return Err(bad_path(path, "is longer than the kernel's PATH_MAX of 4096"));
    }
    if path.contains('\0') {
        return Err(bad_path(path, "holds a NUL"));
    }
    if path == TRAILER {
        return Err(bad_path(path, "is the name that ends an archive"));
    }
    if path.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return Err(bad_path(path, "is empty or has an empty, \".\" or \"..\" component"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "cpio_tests.rs"]
pub(crate) mod tests;
