//! The initial RAM disk: a file and what ringfence appends to it, placed at the top of low RAM.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::layout::{self, PAGE_SIZE};
use crate::units::ByteSize;

/// An initrd to be loaded: a file, followed by an archive of our own.
///
/// Linux unpacks archives one after the other when each starts on a 4-byte boundary.
#[derive(Debug)]
pub struct Initrd {
    path: Option<PathBuf>,
    file: Option<(File, u64)>,
    overlay: Vec<u8>,
}

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file cannot be opened.
    #[error("cannot open the initrd {path}; check the path and that it is readable")]
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
    /// No room below the kernel's limits, which more RAM would give.
    #[error(
        "{} and the guest has {} free for it above its kernel, which ends at {above:#x}; give it at least {} with --memory",
        named(path, *len), ByteSize::bytes(*room).rounded(), ByteSize::bytes(*enough)
    )]
    NoRoom {
        /// The file; none: it is our own archive alone.
        path: Option<PathBuf>,
        /// Bytes to be placed.
        len: u64,
        /// Bytes that are free.
        room: u64,
        /// End of the kernel.
        above: u64,
        /// RAM that is enough, in bytes.
        enough: u64,
    },
    /// More than lies between the kernel and the last address it takes an initrd at, however much RAM there is.
    #[error(
        "{} and the kernel takes at most {} of it, between its own end at {above:#x} and {below:#x}; make the initrd smaller",
        named(path, *len), ByteSize::bytes(*room).rounded()
    )]
    TooLarge {
        /// The file; none: it is our own archive alone.
        path: Option<PathBuf>,
        /// Bytes to be placed.
        len: u64,
        /// Bytes that any guest could have for it.
        room: u64,
        /// End of the kernel.
        above: u64,
        /// First address past what an initrd may take.
        below: u64,
    },
}

/// The initrd and its size, as a sentence begins.
fn named(path: &Option<PathBuf>, len: u64) -> String {
    let size = ByteSize::bytes(len).rounded();
    match path {
        Some(path) => format!("the initrd {} has {size}", path.display()),
        None => format!("the initrd has {size}"),
    }
}

impl Initrd {
    /// Opens `path`, to be followed in the guest by `overlay`. Nothing is read yet, and nothing waited for, not even on a
    /// named pipe.
    pub fn open(path: Option<&Path>, overlay: Vec<u8>) -> Result<Self, InitrdError> {
        let Some(path) = path else { return Ok(Self { path: None, file: None, overlay }) };
        let at = || path.to_owned();
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|source| InitrdError::Open { path: at(), source })?;
        let metadata = file.metadata().map_err(|source| InitrdError::Open { path: at(), source })?;
        let what = match metadata.len() {
            _ if metadata.is_dir() => "a directory",
            _ if !metadata.is_file() => "a device, pipe or socket and not a regular file",
            0 => "empty",
            len => return Ok(Self { path: Some(at()), file: Some((file, len)), overlay }),
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
        match top.checked_sub(len).map(|start| start / PAGE_SIZE * PAGE_SIZE) {
            Some(start) if start >= above => Ok(start),
            _ => Err(self.refusal(top, above, limit.saturating_add(1).min(layout::MMIO_HOLE_START))),
        }
    }

    /// Why there is no place for it from `above` to `top`, where the largest guest has room up to `below`.
    fn refusal(&self, top: u64, above: u64, below: u64) -> InitrdError {
        let (path, len) = (self.path.clone(), self.len());
        match len.checked_next_multiple_of(PAGE_SIZE).and_then(|len| len.checked_add(above)) {
            Some(end) if end <= below => {
                let enough = ByteSize::mib(1).as_u64();
                InitrdError::NoRoom {
                    path,
                    len,
                    room: top.saturating_sub(above),
                    above,
                    enough: end.next_multiple_of(enough),
                }
            }
            _ => InitrdError::TooLarge { path, len, room: below.saturating_sub(above), above, below },
        }
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
            assert!(matches!(initrd(5, 0).place(&(0..u64::MAX), end, u64::MAX), Err(InitrdError::TooLarge { .. })));
        }
    }

    /// Proves that a named pipe nobody writes to is refused, and not waited for.
    #[test]
    fn a_named_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(Initrd::open(Some(&path), vec![]).unwrap_err().to_string()));
        let message = told.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits");
        assert!(message.contains("pipe"), "{message}");
    }

    /// Proves that who has too little RAM reads which file, how large it is, and a size that is indeed enough.
    #[test]
    fn too_little_ram_comes_with_what_is_enough() {
        let initrd = initrd(3 << 20, 0);
        let end = 0x123_4567;
        let refusal = initrd.place(&(0..20 << 20), end, u64::MAX).unwrap_err();
        let text = refusal.to_string();
        let path = initrd.path.as_ref().unwrap().display().to_string();
        assert!(text.contains(&path) && text.contains("3 MiB") && text.contains("--memory"), "{text}");
        let InitrdError::NoRoom { enough, .. } = refusal else { panic!("{text}") };
        assert!(initrd.place(&(0..enough), end, u64::MAX).is_ok(), "{text}");
        assert!(initrd.place(&(0..enough - (1 << 20)), end, u64::MAX).is_err(), "{text}");
    }

    /// Proves that nobody is sent for more RAM where the kernel's limit is what is too low.
    #[test]
    fn a_limit_of_the_kernel_is_told_as_such() {
        let text = initrd(3 << 20, 0).place(&(0..1 << 30), 0x100_0000, 0x11f_ffff).unwrap_err().to_string();
        assert!(text.contains("smaller") && !text.contains("--memory"), "{text}");
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
                Err(InitrdError::NoRoom { room, .. } | InitrdError::TooLarge { room, .. }) => prop_assert!(room < initrd.len() + PAGE_SIZE),
                Err(e) => prop_assert!(false, "{e}"),
            }
        }
    }
}
