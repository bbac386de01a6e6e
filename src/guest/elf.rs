//! The program headers of a kernel that was just built, to see that it can be mapped from its file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Size of an ELF-64 header and of a program header, in bytes (ELF-64 Object File Format, version 1.5, tables 2 and 6).
const EHDR: usize = 64;
const PHDR: usize = 56;

/// Type of a segment that is loaded (ELF-64, table 7).
const PT_LOAD: u32 = 1;

/// Pages of the host, in bytes.
const PAGE: u64 = 4096;

/// A segment that is loaded into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    offset: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
}

impl Segment {
    /// Whether whole pages of the file can be mapped where the segment belongs.
    pub(super) fn can_be_mapped(&self) -> bool {
        self.offset % PAGE == self.physical % PAGE
    }

    /// Whether both put as much in the same place.
    pub(super) fn same_in_memory(&self, other: &Self) -> bool {
        let place = |s: &Self| (s.physical, s.file_size, s.memory_size);
        place(self) == place(other)
    }
}

/// The loadable segments of a little-endian ELF-64 file.
pub(super) fn segments(path: &Path) -> io::Result<Vec<Segment>> {
    let mut file = File::open(path)?;
    let mut header = [0; EHDR];
    file.read_exact(&mut header)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(invalid("not a little-endian ELF-64 file"));
    }
    let count = usize::from(u16::from_le_bytes([header[56], header[57]]));
    if usize::from(u16::from_le_bytes([header[54], header[55]])) != PHDR {
        return Err(invalid("program headers of an unknown size"));
    }
    file.seek(SeekFrom::Start(number(&header, 32)))?;
    let mut table = vec![0; count * PHDR];
    file.read_exact(&mut table)?;
    let loadable = table.chunks_exact(PHDR).filter(|p| p[..4] == PT_LOAD.to_le_bytes());
    Ok(loadable
        .map(|p| Segment {
            offset: number(p, 8),
            physical: number(p, 24),
            file_size: number(p, 32),
            memory_size: number(p, 40),
        })
        .collect())
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A file with these segments and nothing in them, for tests.
#[cfg(test)]
pub(super) fn example(loads: &[(u64, u64)]) -> Vec<u8> {
    let mut file = vec![0; EHDR + loads.len() * PHDR];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[32] = EHDR as u8;
    file[54] = PHDR as u8;
    file[56] = loads.len() as u8;
    for (n, (offset, physical)) in loads.iter().enumerate() {
        let at = EHDR + n * PHDR;
        file[at] = PT_LOAD as u8;
        file[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
        file[at + 24..at + 32].copy_from_slice(&physical.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that segments are read from where the header says and that only congruent ones count as mappable.
    #[test]
    fn reads_segments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        std::fs::write(&path, example(&[(0x20_0000, 0x20_0000), (0x1234, 0x100_0000)])).unwrap();
        let found = segments(&path).unwrap();
        assert_eq!(found.iter().map(Segment::can_be_mapped).collect::<Vec<_>>(), [true, false]);
    }

    /// Proves that short and foreign files are errors and no panics.
    #[test]
    fn refuses_what_is_no_elf() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        let whole = example(&[(0x1000, 0x1000)]);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(segments(&path).is_err(), "{length} bytes");
        }
        std::fs::write(&path, [b'M'; 200]).unwrap();
        assert!(segments(&path).is_err());
    }
}
