//! Bytes that can be read at an offset: a file on disk, or a slice in tests and fuzz targets.
//!
//! Parsers read through this and not through a memory map, because another process may truncate a mapped file
//! and turn a read into SIGBUS.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Something with a size in bytes that can be read at an offset.
pub trait Source {
    /// Size in bytes when it was opened.
    fn size(&self) -> u64;

    /// Reads at `offset` into `buffer`; 0 means the end. Like [`FileExt::read_at`], it may read less than asked.
    ///
    /// # Errors
    /// What the operating system says about the read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads at `offset` until `buffer` is full or the end is reached; returns the bytes read.
    ///
    /// # Errors
    /// What the operating system says about a read.
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

impl Source for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let n = buffer.len().min(self.len() - start);
        buffer[..n].copy_from_slice(&self[start..start + n]);
        Ok(n)
    }
}

/// A file and its size when it was opened.
#[derive(Debug)]
pub struct FileSource<'a> {
    file: &'a File,
    size: u64,
}

impl<'a> FileSource<'a> {
    /// A file whose size is already known from `fstat`.
    pub fn new(file: &'a File, size: u64) -> Self {
        Self { file, size }
    }
}

impl Source for FileSource<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

/// A stretch of a source, read from front to back.
pub struct Stretch<'a, S: ?Sized> {
    source: &'a S,
    offset: u64,
    left: u64,
}

impl<'a, S: Source + ?Sized> Stretch<'a, S> {
    /// The `length` bytes at `offset`.
    pub fn new(source: &'a S, offset: u64, length: u64) -> Self {
        Self { source, offset, left: length }
    }
}

impl<S: Source + ?Sized> Read for Stretch<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.source.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Little-endian fields of a header that was read whole; the caller has checked that the field is inside.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// See [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// See [`u16_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
