//! Why a file cannot be used as a kernel.

use std::io;
use std::path::PathBuf;

use super::super::bzimage::BzImageError;
use super::super::elf::ElfError;
use super::super::unpack::UnpackError;
use super::FitError;

/// Why a file cannot be used as a kernel. Each names the file; the cause says where in it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be opened.
    #[error("cannot open {} as a kernel; check the path and that it is readable", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A folder, a device, a pipe.
    #[error("cannot use {} as a kernel: it is {what} and not a regular file; give a vmlinux or a bzImage", path.display())]
    NotAFile {
        /// As given.
        path: PathBuf,
        /// In words.
        what: &'static str,
    },
    /// No bytes at all.
    #[error("cannot use {} as a kernel: it is empty; copy it again", path.display())]
    Empty {
        /// As given.
        path: PathBuf,
    },
    /// Recognised as something else.
    #[error("cannot use {} as a kernel: it is {what} (by the bytes at file offset {offset:#x}); {remedy}", path.display())]
    NotAKernel {
        /// As given.
        path: PathBuf,
        /// In words.
        what: String,
        /// Where the bytes are that say so.
        offset: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A read failed.
    #[error("cannot read {} at file offset {offset:#x}; check the disk", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// An ELF file that cannot be loaded.
    #[error("cannot use {} as a kernel", path.display())]
    Elf {
        /// As given.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// A bzImage that cannot be used.
    #[error("cannot use {} as a kernel", path.display())]
    BzImage {
        /// As given.
        path: PathBuf,
        /// Why.
        source: BzImageError,
    },
    /// The payload says it unpacks to more than there is room for.
    #[error(
        "cannot use {} as a kernel: its payload says it unpacks to {declared:#x} bytes (file offset {offset:#x}), {why}",
        path.display()
    )]
    DeclaredSize {
        /// As given.
        path: PathBuf,
        /// The size it says.
        declared: u64,
        /// Where it says so.
        offset: u64,
        /// The rest of the sentence: the bound and the remedy.
        why: String,
    },
    /// The payload unpacks to less than it says.
    #[error(
        "cannot use {} as a kernel: its payload (file offset {offset:#x}) unpacks to {unpacked:#x} bytes and not to the \
         {declared:#x} it says: the file is damaged; copy it again",
        path.display()
    )]
    ShortPayload {
        /// As given.
        path: PathBuf,
        /// Where the payload is.
        offset: u64,
        /// What came out.
        unpacked: u64,
        /// What should have.
        declared: u64,
    },
    /// The payload could not be unpacked.
    #[error("cannot unpack the kernel in {} (compressed data at file offset {offset:#x})", path.display())]
    Unpack {
        /// As given.
        path: PathBuf,
        /// Where the payload is.
        offset: u64,
        /// Why.
        source: UnpackError,
    },
    /// What was unpacked is no kernel ELF.
    #[error("cannot use the kernel unpacked from {} (offsets are in what was unpacked)", path.display())]
    Payload {
        /// As given.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// Room for the unpacked kernel could not be had.
    #[error("cannot make a file in memory for the kernel unpacked from {}; is memory short?", path.display())]
    Store {
        /// As given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Segments outside the guest's RAM.
    #[error("cannot load the kernel {}", path.display())]
    Fit {
        /// As given.
        path: PathBuf,
        /// Why.
        source: FitError,
    },
    /// The PVH entry was asked for, and there is none.
    #[error(
        "cannot enter {} by PVH: it has no PVH note (Linux needs CONFIG_PVH=y); enter it at its 64-bit entry",
        path.display()
    )]
    NoPvh {
        /// As given.
        path: PathBuf,
    },
}
