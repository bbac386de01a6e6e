//! What kind of kernel a file is, and what to load where.
//!
//! [`Kernel::open`] recognises a file by its content and makes a plan that knows nothing of how guest memory is held:
//! [`Segment`]s of a [`File`], each with its guest-physical address, and where to enter. A compressed kernel is unpacked
//! here, on the host, because a guest takes longer to do it (and on an emulated ring 0 a thousand times longer).

mod error;
mod fit;
mod payload;
mod recognise;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use error::ImageError;
pub use fit::FitError;
use linux_loader::loader::bootparam::setup_header;
pub use recognise::{Other, Recognised, recognise};

use super::bzimage::{self, BzImage, SelfUnpacking};
pub use super::elf::Segment;
use super::elf::{self, Elf};
use super::source::{FileSource, Source};
use super::unpack::Compression;
use crate::units::ByteSize;
use payload::Payload;

/// Where the first vCPU starts, as guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// 32-bit protected mode, paging off, EBX = start info (Xen's "x86/HVM direct boot ABI").
    Pvh {
        /// Where to start.
        address: u64,
    },
    /// 64-bit mode with identity-mapped pages, RSI = zero page (Linux x86 boot protocol, "64-bit Boot Protocol").
    Linux64 {
        /// Where to start.
        address: u64,
    },
}

/// Which entry to take when a kernel has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPreference {
    /// By the PVH note when there is one, otherwise the 64-bit entry.
    #[default]
    Auto,
    /// By the PVH note or not at all.
    Pvh,
    /// The 64-bit entry.
    Linux64,
}

/// How to open a kernel.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The cache folder; unpacked kernels are kept in `unpacked` inside, made when missing. `None` unpacks into memory
    /// each time.
    pub cache: Option<PathBuf>,
    /// Most bytes of unpacked kernels to keep; the least recently used kernels make room.
    pub cache_limit: ByteSize,
    /// RAM that the guest may use, as ranges of guest-physical addresses. Segments must lie inside.
    pub ram: Vec<Range<u64>>,
    /// Which entry to take.
    pub entry: EntryPreference,
}

impl OpenOptions {
    /// Default bound of the cache: a distribution's kernel unpacks to about 50 MiB.
    pub const DEFAULT_CACHE_LIMIT: ByteSize = ByteSize::mib(512);

    /// No cache, the default entry, and this RAM.
    pub fn new(ram: Vec<Range<u64>>) -> Self {
        Self { cache: None, cache_limit: Self::DEFAULT_CACHE_LIMIT, ram, entry: EntryPreference::Auto }
    }
}

/// What the file was recognised as and how it is booted. Displayed for `-v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The kind of file.
    pub container: Container,
    /// Kernel version text, where the file names one.
    pub version: Option<String>,
    /// The entry taken.
    pub entry: EntryPoint,
}

/// The kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// An ELF file, loaded as it is.
    Elf,
    /// An ELF file, compressed as a whole.
    CompressedElf(Compression),
    /// A bzImage whose payload was unpacked on the host.
    BzImage {
        /// Boot protocol version, such as 0x20f for 2.15.
        protocol: u16,
        /// The payload's compression.
        payload: Compression,
    },
    /// A bzImage that unpacks itself in the guest.
    SelfUnpackingBzImage {
        /// Boot protocol version.
        protocol: u16,
    },
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.container {
            Container::Elf => write!(f, "ELF")?,
            Container::CompressedElf(c) => write!(f, "ELF, {c}-compressed, unpacked on the host")?,
            Container::BzImage { protocol, payload } => {
                let (major, minor) = (protocol >> 8, protocol & 0xff);
                write!(f, "bzImage (boot protocol {major}.{minor:02}), {payload} payload unpacked on the host")?;
            }
            Container::SelfUnpackingBzImage { protocol } => {
                let (major, minor) = (protocol >> 8, protocol & 0xff);
                write!(f, "bzImage (boot protocol {major}.{minor:02}) that unpacks itself in the guest")?;
            }
        }
        match self.entry {
            EntryPoint::Pvh { address } => write!(f, ", entered by its PVH note at {address:#x}")?,
            EntryPoint::Linux64 { address } => write!(f, ", entered at its 64-bit entry {address:#x}")?,
        }
        self.version.as_ref().map_or(Ok(()), |version| write!(f, ", Linux {version}"))
    }
}

/// A kernel: a file whose segments go to guest memory, and where to enter it.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    file: File,
    segments: Vec<Segment>,
    entry: EntryPoint,
    header: Option<setup_header>,
    format: Format,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// First bytes read of every file: an ELF's program headers and a bzImage's setup header lie in them.
const HEAD_SIZE: usize = 4096;
/// First bytes read of a file that is no kernel, to say what it is.
const FOREIGN_HEAD_SIZE: usize = 0x9000;
impl Kernel {
    /// Recognises the file at `path` and plans how to load it; a compressed kernel is unpacked.
    ///
    /// An ELF file costs four system calls: open, fstat and reads of its headers and notes.
    ///
    /// # Errors
    /// [`ImageError`] when it is no kernel that can be booted in this RAM. Work and memory are bounded whatever the file.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, ImageError> {
        let (file, metadata) = open_regular(path)?;
        let size = metadata.len();
        let source = FileSource::new(&file, size);
        let mut head = vec![0; HEAD_SIZE];
        let read = |source: io::Error| ImageError::Read { path: path.to_owned(), offset: 0, source };
        let n = source.read_full_at(&mut head, 0).map_err(read)?;
        head.truncate(n);
        let opening = Opening { path, options, metadata: &metadata, size, head: &head };
        match recognise(&head) {
            Recognised::Elf => {
                let elf =
                    elf::parse(&source, &head).map_err(|source| ImageError::Elf { path: path.to_owned(), source })?;
                opening.elf(file, elf, Container::Elf)
            }
            Recognised::BzImage => opening.bzimage(file),
            Recognised::Compressed(compression) => opening.compressed(&file, compression),
            Recognised::Other(_) => Err(opening.foreign(&source)),
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that the segments are stretches of: the one given, or what was unpacked from it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What to load, in ascending order of address. All lie inside the RAM that was named, and apart.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where to enter.
    pub fn entry(&self) -> EntryPoint {
        self.entry
    }

    /// The setup header of a bzImage, to copy into the zero page; fields its version lacks are zero.
    pub fn setup_header(&self) -> Option<&setup_header> {
        self.header.as_ref()
    }

    /// What the file was recognised as.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// What the user should know although the kernel can be booted.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What `-v` shows: where the unpacked kernel is kept, why it could not be.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Opens `path` when it is a regular file with bytes in it; never waits, not even on a named pipe.
fn open_regular(path: &Path) -> Result<(File, Metadata), ImageError> {
    let open_error = |source| ImageError::Open { path: path.to_owned(), source };
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    let what = match metadata.file_type() {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a folder"),
        _ => Some("a device, pipe or socket"),
    };
    match what {
        Some(what) => Err(ImageError::NotAFile { path: path.to_owned(), what }),
        None if metadata.len() == 0 => Err(ImageError::Empty { path: path.to_owned() }),
        None => Ok((file, metadata)),
    }
}

/// A file on its way to becoming a [`Kernel`].
struct Opening<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    metadata: &'a Metadata,
    size: u64,
    head: &'a [u8],
}

impl Opening<'_> {
    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn kernel(&self, file: File, segments: Vec<Segment>, entry: EntryPoint, container: Container) -> Kernel {
        Kernel {
            path: self.path(),
            file,
            segments,
            entry,
            header: None,
            format: Format { container, version: None, entry },
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn elf(&self, file: File, elf: Elf, container: Container) -> Result<Kernel, ImageError> {
        let entry = match (self.options.entry, elf.pvh) {
            (EntryPreference::Auto | EntryPreference::Pvh, Some(address)) => EntryPoint::Pvh { address },
            (EntryPreference::Pvh, None) => return Err(ImageError::NoPvh { path: self.path() }),
            (EntryPreference::Auto | EntryPreference::Linux64, _) => EntryPoint::Linux64 { address: elf.entry },
        };
        fit::check(&elf.segments, &self.options.ram).map_err(|source| ImageError::Fit { path: self.path(), source })?;
        let mut kernel = self.kernel(file, elf.segments, entry, container);
        kernel.warnings = elf.warnings;
        Ok(kernel)
    }

    fn bzimage(&self, file: File) -> Result<Kernel, ImageError> {
        let source = FileSource::new(&file, self.size);
        let bz_error = |source| ImageError::BzImage { path: self.path(), source };
        let image = bzimage::parse(self.head, self.size).map_err(bz_error)?;
        let version = self.kernel_version(&source, &image)?;
        let (offset, length) = (image.payload_offset, image.payload_length);
        let mut magic = [0; 16];
        self.read(&source, &mut magic, offset)?;
        let mut kernel = match Compression::detect(&magic).filter(|c| c.is_known()) {
            Some(compression) => {
                let mut tail = [0; 4];
                self.read(&source, &mut tail, offset + length - 4)?;
                let declared = Some(BzImage::declared_size(tail));
                // The size is part of a gzip stream and follows every other.
                let length = if compression == Compression::Gzip { length } else { length - 4 };
                let container = Container::BzImage { protocol: image.protocol, payload: compression };
                self.payload_kernel(&file, &Payload { compression, offset, length, declared }, container)?
            }
            None => self.self_unpacking(file, &image, &magic)?,
        };
        kernel.header = Some(image.header);
        kernel.format.version = version;
        Ok(kernel)
    }

    /// A bzImage whose payload is left to its own code.
    fn self_unpacking(&self, file: File, image: &BzImage, magic: &[u8]) -> Result<Kernel, ImageError> {
        if self.options.entry == EntryPreference::Pvh {
            return Err(ImageError::NoPvh { path: self.path() });
        }
        let plan = image.self_unpacking().map_err(|source| ImageError::BzImage { path: self.path(), source })?;
        let address = fit::place(plan.preferred_address, plan.room, plan.alignment, &self.options.ram)
            .map_err(|source| ImageError::Fit { path: self.path(), source })?;
        let segment = Segment {
            file_offset: image.protected_offset,
            address,
            file_size: image.protected_size,
            mem_size: plan.room,
        };
        let entry = EntryPoint::Linux64 { address: SelfUnpacking::entry(address) };
        let container = Container::SelfUnpackingBzImage { protocol: image.protocol };
        let mut kernel = self.kernel(file, vec![segment], entry, container);
        let what = match Compression::detect(magic) {
            Some(compression) => format!("is compressed with {compression}, which is not unpacked on the host"),
            None => format!("has no known compression (it starts with {:02x?})", &magic[..4]),
        };
        kernel.warnings.push(format!(
            "the payload of {} (file offset {:#x}) {what}: it unpacks itself in the guest, which takes longer; \
             a kernel compressed with gzip, xz, lz4 or zstd, or a vmlinux, starts at once",
            self.path.display(),
            image.payload_offset
        ));
        Ok(kernel)
    }

    fn kernel_version(&self, source: &FileSource, image: &BzImage) -> Result<Option<String>, ImageError> {
        let Some(offset) = image.kernel_version_offset() else { return Ok(None) };
        let mut text = [0; bzimage::MAX_KERNEL_VERSION];
        let n = source.read_full_at(&mut text, offset).map_err(|source| ImageError::Read {
            path: self.path(),
            offset,
            source,
        })?;
        Ok(bzimage::kernel_version(&text[..n]))
    }

    fn read(&self, source: &FileSource, buffer: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let error = |source| ImageError::Read { path: self.path(), offset, source };
        match source.read_full_at(buffer, offset).map_err(error)? {
            n if n == buffer.len() => Ok(()),
            _ => Err(error(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"))),
        }
    }

    fn foreign(&self, source: &FileSource) -> ImageError {
        let mut head = vec![0; FOREIGN_HEAD_SIZE];
        let n = source.read_full_at(&mut head, 0).unwrap_or(0);
        let other = match recognise(&head[..n]) {
            Recognised::Other(other) => other,
            _ => Other { what: "changing while it is read", offset: 0, remedy: "try again when it is complete" },
        };
        ImageError::NotAKernel {
            path: self.path(),
            what: other.what.to_owned(),
            offset: other.offset,
            remedy: other.remedy,
        }
    }
}
