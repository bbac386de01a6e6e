//! The initial RAM disk: a file and what ringfence appends to it, placed at the top of low RAM.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::layout::{self, PAGE_SIZE};

/// An initrd to be loaded: a file, followed by an archive of our own.
///
/// Linux unpacks archives one after the other when each starts on a 4-byte boundary.
#[derive(Debug)]
pub struct Initrd {
    file: Option<(File, u64)>,
    overlay: Vec<u8>,
}

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file cannot be opened.
    #[error("cannot open the initrd {path}")]
    Open {
        /// As given.
        path: PathBuf,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// Not a file with a length.
    #[error("the initrd {path} is {what}; give the path of a cpio archive or a compressed one")]
    NotAFile {
        /// As given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No room below the kernel's limits.
    #[error(
        "the initrd has {len:#x} bytes and the guest has {room:#x} free for it above the kernel at {above:#x}; give it more RAM with --memory"
    )]
    NoRoom {
        /// Bytes to be placed.
        len: u64,
        /// Bytes that are free.
        room: u64,
        /// End of the kernel.
        above: u64,
    },
}

impl Initrd {
    /// Opens `path`, to be followed in the guest by `overlay`. Nothing is read yet.
    pub fn open(path: Option<&Path>, overlay: Vec<u8>) -> Result<Self, InitrdError> {
        let Some(path) = path else { return Ok(Self { file: None, overlay }) };
        let at = || path.to_owned();
        let file = File::open(path).map_err(|source| InitrdError::Open { path: at(), source })?;
        let metadata = file.metadata().map_err(|source| InitrdError::Open { path: at(), source })?;
        let what = match metadata.len() {
            _ if metadata.is_dir() => "a directory",
            _ if !metadata.is_file() => "not a regular file",
            0 => "empty",
            len => return Ok(Self { file: Some((file, len)), overlay }),
        };
        Err(InitrdError::NotAFile { path: at(), what })
    }

    /// The file and its length in bytes.
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|(file, len)| (file, *len))
    }

    /// The archive that follows the file, and its offset from the initrd's start.
    pub fn overlay(&self) -> (u64, &[u8]) {
        (self.file.as_ref().map_or(0, |(_, len)| len.next_multiple_of(4)), &self.overlay)
    }

    /// Length of the whole, in bytes. Zero: there is none.
    pub fn len(&self) -> u64 {
        let (offset, overlay) = self.overlay();
        if overlay.is_empty() { self.file.as_ref().map_or(0, |(_, len)| *len) } else { offset + overlay.len() as u64 }
    }

    /// Whether there is nothing to load.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to put it: page-aligned, as high as possible in RAM below the hole and at or below `limit`, above `kernel_end`.
    ///
    /// `limit` is the kernel's `initrd_addr_max`, the highest address the last byte may have.
    pub fn place(&self, low_ram: &Range<u64>, kernel_end: u64, limit: u64) -> Result<u64, InitrdError> {
        let len = self.len();
        let above = kernel_end.max(layout::HIGH_RAM_START).checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let top = low_ram.end.min(limit.saturating_add(1));
        let room = top.saturating_sub(above);
        let no_room = InitrdError::NoRoom { len, room, above };
        let start = top.checked_sub(len).ok_or(no_room)? / PAGE_SIZE * PAGE_SIZE;
        if start < above {
            return Err(InitrdError::NoRoom { len, room, above });
        }
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn initrd(len: usize, overlay: usize) -> Initrd {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1; len]).unwrap();
        Initrd::open(Some(file.path()), vec![2; overlay]).unwrap()
    }

    /// Proves that directories, empty and missing files are refused by name.
    #[test]
    fn refuses_what_is_no_file() {
        assert!(matches!(
            Initrd::open(Some(Path::new("/")), vec![]),
            Err(InitrdError::NotAFile { what: "a directory", .. })
        ));
        assert!(matches!(Initrd::open(Some(Path::new("/dev/null")), vec![]), Err(InitrdError::NotAFile { .. })));
        assert!(matches!(Initrd::open(Some(Path::new("/nowhere")), vec![]), Err(InitrdError::Open { .. })));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Initrd::open(Some(empty.path()), vec![]), Err(InitrdError::NotAFile { what: "empty", .. })));
        assert!(Initrd::open(None, vec![]).unwrap().is_empty());
    }

    /// Proves that the overlay starts on a 4-byte boundary behind the file.
    #[test]
    fn overlay_is_aligned() {
        let initrd = initrd(5, 8);
        assert_eq!(initrd.overlay().0, 8);
        assert_eq!(initrd.len(), 16);
    }

    /// Proves that a kernel which ends at the end of the address space leaves no room, rather than overflowing.
    #[test]
    fn a_kernel_may_end_anywhere() {
        for end in [u64::MAX, u64::MAX - 4094] {
            assert!(matches!(initrd(5, 0).place(&(0..u64::MAX), end, u64::MAX), Err(InitrdError::NoRoom { .. })));
        }
    }

    proptest! {
        /// Proves that a place found lies between kernel and limit, on a page, and that refusal means there was no room.
        #[test]
        fn places_inside_the_bounds(len in 1usize..300_000, ram in 1u64..8, end in 0u64..9_000_000, limit in 0u64..9_000_000) {
            let initrd = initrd(len, 0);
            let ram = 0..ram << 20;
            match initrd.place(&ram, end, limit) {
                Ok(start) => {
                    prop_assert_eq!(start % PAGE_SIZE, 0);
                    prop_assert!(start >= end && start >= layout::HIGH_RAM_START);
                    prop_assert!(start + initrd.len() <= ram.end && start + initrd.len() - 1 <= limit);
                }
                Err(InitrdError::NoRoom { room, .. }) => prop_assert!(room < initrd.len() + PAGE_SIZE),
                Err(e) => prop_assert!(false, "{e}"),
            }
        }
    }
}
