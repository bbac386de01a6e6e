//! Compressed kernel payloads.
//!
//! Each format is recognised by its magic and unpacked as a stream, with a bound on what comes out and on the memory
//! it takes, so that a bomb costs no more than an honest kernel.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};

/// A compression the Linux build system can choose for a bzImage, and the frame `lz4` writes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// .xz with LZMA2, and the x86 BCJ filter Linux puts in front.
    Xz,
    /// The older .lzma ("LZMA alone").
    Lzma,
    /// LZ4 legacy frame (magic 0x184c2102), blocks of 8 MiB.
    Lz4Legacy,
    /// LZ4 frame (magic 0x184d2204).
    Lz4,
    /// RFC 8878.
    Zstd,
    /// lzop. Recognised, not unpacked.
    Lzo,
}

impl Compression {
    /// The compression whose magic `head` starts with.
    pub fn detect(head: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x89LZO\0\r\n\x1a\n", Compression::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, compression)| compression)
    }

    /// Whether [`unpack`] knows it.
    pub fn is_known(self) -> bool {
        self != Self::Lzo
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4Legacy | Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Lzo => "lzo",
        })
    }
}

/// Why a payload could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The compressed data is wrong.
    #[error(
        "its {compression} data is damaged near byte {consumed:#x} of the compressed data, after {produced:#x} unpacked \
         bytes: copy the file again"
    )]
    Damaged {
        /// Which compression.
        compression: Compression,
        /// Compressed bytes read so far; the decoder reads ahead by up to 64 KiB.
        consumed: u64,
        /// Bytes that came out before.
        produced: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// More comes out than may.
    #[error("its {compression} data unpacks to more than {limit:#x} bytes: {why}")]
    TooLarge {
        /// Which compression.
        compression: Compression,
        /// The bound.
        limit: u64,
        /// Where the bound comes from and what to do.
        why: String,
    },
    /// What is unpacked could not be stored.
    #[error("{produced:#x} unpacked bytes could be stored, then no more; is the disk full?")]
    Store {
        /// Bytes stored.
        produced: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A compression that is recognised only.
    #[error(
        "{compression} data cannot be unpacked; give the kernel's vmlinux, or one compressed with gzip, xz, lz4 or zstd"
    )]
    NotKnown {
        /// Which compression.
        compression: Compression,
    },
}

/// How much may come out, and where that number is from.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// The rest of the error's sentence when more comes out.
    pub why: String,
}

/// Most memory a decoder may take for its window: the largest Linux's build uses is 128 MiB (`zstd -22 --ultra`).
const WINDOW_LOG_MAX: u32 = 27;
const WINDOW_MAX_KIB: u32 = (1 << (WINDOW_LOG_MAX - 10)) + 1024;
const INPUT_BUFFER: usize = 64 * 1024;
const OUTPUT_BUFFER: usize = 256 * 1024;
/// Block size of the LZ4 legacy frame.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// Largest block a compressor makes of 8 MiB that do not compress (`LZ4_compressBound`).
const LZ4_LEGACY_BLOCK_MAX: usize = LZ4_LEGACY_BLOCK + LZ4_LEGACY_BLOCK / 255 + 16;

/// Counts the bytes read through it.
struct Counting<'a, R> {
    inner: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Unpacks `input` into `output`, at most `limit` bytes, and returns how many. Bytes after the compressed data are ignored.
///
/// # Errors
/// [`UnpackError`]; what was written before it stays written.
pub fn unpack(
    compression: Compression,
    input: impl Read,
    output: &mut impl Write,
    limit: &Limit,
) -> Result<u64, UnpackError> {
    let consumed = Cell::new(0);
    let input = BufReader::with_capacity(INPUT_BUFFER, Counting { inner: input, count: &consumed });
    let mut sink = Sink { compression, output, produced: 0, limit, consumed: &consumed };
    match compression {
        Compression::Gzip => sink.fill_from(flate2::bufread::GzDecoder::new(input))?,
        Compression::Bzip2 => sink.fill_from(bzip2::bufread::BzDecoder::new(input))?,
        Compression::Xz => sink.fill_from(lzma_rust2::XzReader::new_mem_limit(input, false, WINDOW_MAX_KIB))?,
        Compression::Lzma => {
            let decoder = lzma_rust2::LzmaReader::new_mem_limit(input, WINDOW_MAX_KIB, None);
            sink.fill_from(decoder.map_err(|e| sink.damaged(e))?)?;
        }
        Compression::Lz4 => sink.fill_from(lz4_flex::frame::FrameDecoder::new(input))?,
        Compression::Lz4Legacy => sink.fill_from_lz4_legacy(input)?,
        Compression::Zstd => {
            let decoder = zstd::Decoder::with_buffer(input).and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(decoder.single_frame())
            });
            sink.fill_from(decoder.map_err(|e| sink.damaged(e))?)?;
        }
        Compression::Lzo => return Err(UnpackError::NotKnown { compression }),
    }
    Ok(sink.produced)
}

/// Where unpacked bytes go, with their bound.
struct Sink<'a, W> {
    compression: Compression,
    output: &'a mut W,
    produced: u64,
    limit: &'a Limit,
    consumed: &'a Cell<u64>,
}

impl<W: Write> Sink<'_, W> {
    fn damaged(&self, source: io::Error) -> UnpackError {
        let (compression, consumed, produced) = (self.compression, self.consumed.get(), self.produced);
        UnpackError::Damaged { compression, consumed, produced, source }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let produced = self.produced;
        if produced + bytes.len() as u64 > self.limit.bytes {
            let (compression, limit) = (self.compression, self.limit.bytes);
            return Err(UnpackError::TooLarge { compression, limit, why: self.limit.why.clone() });
        }
        self.output.write_all(bytes).map_err(|source| UnpackError::Store { produced, source })?;
        self.produced += bytes.len() as u64;
        Ok(())
    }

    fn fill_from(&mut self, mut decoder: impl Read) -> Result<(), UnpackError> {
        let mut buffer = vec![0; OUTPUT_BUFFER];
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.put(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.damaged(e)),
            }
        }
    }

    /// LZ4 legacy frame (lz4_Frame_format.md, "Legacy frame"): blocks of 8 MiB, the last shorter, each with its size in front.
    fn fill_from_lz4_legacy(&mut self, mut input: impl BufRead) -> Result<(), UnpackError> {
        let mut word = [0; 4];
        input.read_exact(&mut word).map_err(|e| self.damaged(e))?;
        let (mut packed, mut unpacked) = (Vec::new(), vec![0; LZ4_LEGACY_BLOCK]);
        loop {
            if input.fill_buf().map_err(|e| self.damaged(e))?.is_empty() {
                return Ok(());
            }
            input.read_exact(&mut word).map_err(|e| self.damaged(e))?;
            let size = u32::from_le_bytes(word) as usize;
            if size > LZ4_LEGACY_BLOCK_MAX {
                let text = format!("a block of {size:#x} bytes; at most {LZ4_LEGACY_BLOCK_MAX:#x} are possible");
                return Err(self.damaged(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            packed.resize(size, 0);
            input.read_exact(&mut packed).map_err(|e| self.damaged(e))?;
            let n = lz4_flex::block::decompress_into(&packed, &mut unpacked)
                .map_err(|e| self.damaged(io::Error::new(io::ErrorKind::InvalidData, e)))?;
            self.put(&unpacked[..n])?;
            if n < LZ4_LEGACY_BLOCK {
                return Ok(());
            }
        }
    }
}
