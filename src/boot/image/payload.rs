//! Unpacking a kernel's payload, or finding it unpacked.

use std::fs::File;
use std::io::{self, Seek, Write};

use super::super::cache::{self, Cache, ContentHash, Identity, Kept, StoreError};
use super::super::elf::{self, Elf, relayout};
use super::super::source::{FileSource, Stretch};
use super::super::unpack::{self, Compression, Limit, UnpackError};
use super::{
    Container, FOREIGN_HEAD_SIZE, HEAD_SIZE, ImageError, Kernel, Opening, Other, Recognised, Segment, recognise,
};
use crate::units::ByteSize;

/// Compressed data inside the file.
pub(super) struct Payload {
    pub compression: Compression,
    pub offset: u64,
    pub length: u64,
    /// What it says it unpacks to, when it says so.
    pub declared: Option<u64>,
}

/// What was unpacked: a file, its ELF headers, and what to say about it.
pub(super) struct Unpacked {
    pub file: File,
    pub elf: Elf,
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

/// Folder for unpacked kernels inside the cache folder, where other rooms keep theirs.
const UNPACKED_FOLDER: &str = "unpacked";
/// Most bytes a kernel may unpack to.
const UNPACKED_MAX: ByteSize = ByteSize::gib(1);
/// An unpacked ELF may be larger than the RAM its segments need: headers, alignment between segments, relocations.
const UNPACKED_SLACK: ByteSize = ByteSize::mib(64);

impl Opening<'_> {
    /// A file that is compressed as a whole.
    pub(super) fn compressed(&self, file: &File, compression: Compression) -> Result<Kernel, ImageError> {
        let payload = Payload { compression, offset: 0, length: self.size, declared: None };
        self.payload_kernel(file, &payload, Container::CompressedElf(compression))
    }

    /// The kernel inside a payload.
    pub(super) fn payload_kernel(
        &self,
        file: &File,
        payload: &Payload,
        container: Container,
    ) -> Result<Kernel, ImageError> {
        let unpacked = self.unpacked(file, payload)?;
        let mut kernel = self.elf(unpacked.file, unpacked.elf, container)?;
        kernel.notes = unpacked.notes;
        kernel.warnings.extend(unpacked.warnings);
        Ok(kernel)
    }

    /// Unpacks a payload, or takes it from the cache.
    fn unpacked(&self, file: &File, payload: &Payload) -> Result<Unpacked, ImageError> {
        let limit = self.limit(payload)?;
        let (mut notes, mut warnings) = (Vec::new(), Vec::new());
        if let Some(folder) = &self.options.cache {
            let folder = folder.join(UNPACKED_FOLDER);
            let mut cache = Cache::new(&folder, self.options.cache_limit.as_u64());
            let kept = self.kept(&mut cache, file, payload, &limit);
            warnings.append(&mut cache.warnings);
            let why = match kept {
                Ok((kept, elf)) => {
                    notes.push(format!("the unpacked kernel is {}", kept.path.display()));
                    return Ok(Unpacked { file: kept.file, elf, notes, warnings });
                }
                Err(StoreError::Cache(error)) => error.to_string(),
                Err(StoreError::Make(ImageError::Unpack { source: UnpackError::Store { source, .. }, .. })) => {
                    source.to_string()
                }
                Err(StoreError::Make(error)) => return Err(error),
            };
            notes
                .push(format!("the unpacked kernel is not kept in {}, each start unpacks it: {why}", folder.display()));
        }
        let store_error = |source| ImageError::Store { path: self.path(), source };
        let mut memory = memory_file().map_err(store_error)?;
        self.fill(file, payload, &limit, &mut memory)?;
        let size = memory.metadata().map_err(store_error)?.len();
        let elf = self.payload_elf(&memory, size)?;
        Ok(Unpacked { file: memory, elf, notes, warnings })
    }

    /// The unpacked kernel by the file's identity, by its content, or made and kept now.
    fn kept(
        &self,
        cache: &mut Cache,
        file: &File,
        payload: &Payload,
        limit: &Limit,
    ) -> Result<(Kept, Elf), StoreError<ImageError>> {
        let identity = Identity::of(self.metadata);
        let key = identity.key(self.head);
        if let Some(kept) = cache.find_by_file(&key)
            && let Some(elf) = self.kept_elf(cache, &kept)
        {
            return Ok((kept, elf));
        }
        let content = self.content_hash(file, payload).map_err(StoreError::Make)?;
        let found = cache.find_by_content(&content);
        let (kept, elf) = match found.and_then(|kept| self.kept_elf(cache, &kept).map(|elf| (kept, elf))) {
            Some(found) => found,
            None => {
                let kept = cache.store(&content, |out| self.fill(file, payload, limit, out))?;
                let elf = self.payload_elf(&kept.file, kept.length).map_err(StoreError::Make)?;
                (kept, elf)
            }
        };
        if identity.is_trustworthy(file) {
            // Without the link the next start hashes the compressed file again, which is only slower.
            let _ = cache.remember(&key, &content);
        }
        Ok((kept, elf))
    }

    /// The ELF headers of a kept kernel; one that an earlier version kept and this one refuses is made again.
    fn kept_elf(&self, cache: &mut Cache, kept: &Kept) -> Option<Elf> {
        match self.payload_elf(&kept.file, kept.length) {
            Ok(elf) if elf.segments.iter().all(Segment::is_mappable) => Some(elf),
            Ok(_) => {
                cache.discard(&kept.path, "its segments cannot be mapped");
                None
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                cache.discard(&kept.path, &cause.unwrap_or_default());
                None
            }
        }
    }

    fn content_hash(&self, file: &File, payload: &Payload) -> Result<ContentHash, ImageError> {
        let source = FileSource::new(file, self.size);
        cache::hash(Stretch::new(&source, payload.offset, payload.length)).map_err(|source| ImageError::Read {
            path: self.path(),
            offset: payload.offset,
            source,
        })
    }

    fn payload_elf(&self, file: &File, size: u64) -> Result<Elf, ImageError> {
        let source = FileSource::new(file, size);
        let mut head = vec![0; HEAD_SIZE.min(usize::try_from(size).unwrap_or(HEAD_SIZE))];
        self.read(&source, &mut head, 0)?;
        elf::parse(&source, &head).map_err(|source| ImageError::Payload { path: self.path(), source })
    }

    /// What may come out of a payload: what it says, at most what an ELF file for this RAM can be.
    fn limit(&self, payload: &Payload) -> Result<Limit, ImageError> {
        let ram: u64 = self.options.ram.iter().map(|r| r.end.saturating_sub(r.start)).sum();
        let bytes = UNPACKED_MAX.as_u64().min(ram.saturating_add(UNPACKED_SLACK.as_u64()));
        let why = format!(
            "more than the {bytes:#x} that fit the guest's RAM and the {UNPACKED_MAX} any kernel may have: \
             give the guest more --memory, or copy the file again if it is damaged"
        );
        match payload.declared {
            Some(declared) if declared > bytes => Err(ImageError::DeclaredSize {
                path: self.path(),
                declared,
                offset: payload.offset + payload.length,
                why,
            }),
            Some(declared) => {
                let why = "more than it says itself: the file is damaged; copy it again".to_owned();
                Ok(Limit { bytes: declared, why })
            }
            None => Ok(Limit { bytes, why }),
        }
    }

    /// Unpacks into `output`, an empty file, so that its segments can be mapped.
    fn fill(&self, file: &File, payload: &Payload, limit: &Limit, output: &mut File) -> Result<(), ImageError> {
        if payload.declared.is_none() {
            self.check_compressed(file, payload)?;
        }
        let size = self.unpack_to(file, payload, limit, output)?;
        let elf = self.payload_elf(output, size)?;
        if elf.segments.iter().all(Segment::is_mappable) {
            return Ok(());
        }
        let relayout = |output: &mut File| {
            let mut anew = memory_file()?;
            relayout::write(&FileSource::new(output, size), &elf, &mut anew)?;
            anew.rewind()?;
            output.set_len(0)?;
            output.rewind()?;
            io::copy(&mut anew, output)
        };
        let offset = payload.offset;
        let error = |source| UnpackError::Store { produced: size, source };
        relayout(output).map(drop).map_err(|e| ImageError::Unpack { path: self.path(), offset, source: error(e) })
    }

    fn unpack_to(
        &self,
        file: &File,
        payload: &Payload,
        limit: &Limit,
        output: &mut impl Write,
    ) -> Result<u64, ImageError> {
        let source = FileSource::new(file, self.size);
        let (offset, length) = (payload.offset, payload.length);
        let unpacked = unpack::unpack(payload.compression, Stretch::new(&source, offset, length), output, limit)
            .map_err(|source| ImageError::Unpack { path: self.path(), offset, source })?;
        match payload.declared {
            Some(declared) if declared != unpacked => {
                Err(ImageError::ShortPayload { path: self.path(), offset, unpacked, declared })
            }
            _ => Ok(unpacked),
        }
    }

    /// Unpacks the first bytes of a file that is compressed as a whole, and says what it is when that is no ELF file.
    fn check_compressed(&self, file: &File, payload: &Payload) -> Result<(), ImageError> {
        let mut head = Head(Vec::new());
        let source = FileSource::new(file, self.size);
        let limit = Limit { bytes: u64::MAX, why: String::new() };
        let input = Stretch::new(&source, payload.offset, payload.length);
        let result = unpack::unpack(payload.compression, input, &mut head, &limit);
        let inner = match (recognise(&head.0), result) {
            (Recognised::Elf, _) => return Ok(()),
            // The sink refuses more than it needs; any other error is the file's.
            (_, Err(source)) if !matches!(source, unpack::UnpackError::Store { .. }) => {
                return Err(ImageError::Unpack { path: self.path(), offset: payload.offset, source });
            }
            (Recognised::BzImage, _) => Other { what: "a bzImage", offset: 0, remedy: "unpack it once and give that" },
            (Recognised::Compressed(_), _) => {
                Other { what: "a compressed file", offset: 0, remedy: "give a vmlinux or a bzImage" }
            }
            (Recognised::Other(other), _) => other,
        };
        let what = format!("{}-compressed and holds {}", payload.compression, inner.what);
        Err(ImageError::NotAKernel { path: self.path(), what, offset: 0, remedy: inner.remedy })
    }
}

/// A file in memory, gone with its last descriptor and mapping.
fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("ringfence-kernel", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// Takes the first bytes and refuses the rest.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() >= FOREIGN_HEAD_SIZE {
            return Err(io::Error::other("enough"));
        }
        let n = bytes.len().min(FOREIGN_HEAD_SIZE - self.0.len());
        self.0.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
