//! The mapping behind guest RAM.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::layout::PAGE_SIZE;
use crate::units::ByteSize;

/// Guest RAM. Pages come from the host when they are first touched.
pub struct GuestRam {
    memory: GuestMemoryMmap,
    size: ByteSize,
    /// Holds the pages that `memory` names; unmapped last.
    mapping: Mapping,
}

/// Size of the host's huge page: where RAM starts on such a boundary, host and guest can map it by huge pages.
const HUGE_PAGE: usize = 2 << 20;

const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Private, so that no other process sees it, and without a promise of swap: what is asked for was compared with what is free.
const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Anonymous memory of this process.
struct Mapping {
    address: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is an address range; it is unmapped once, by its only owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is reached through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> std::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, PROTECTION, FLAGS, -1, 0) };
        if address == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self { address, len }) }
    }

    /// A mapping that starts on a huge page's boundary. Linux has placed large ones there by itself since 6.7; on older ones a
    /// larger mapping is cut to size.
    fn aligned(len: usize) -> std::io::Result<Self> {
        let first = Self::new(len)?;
        if (first.address as usize).is_multiple_of(HUGE_PAGE) {
            return Ok(first);
        }
        drop(first);
        let larger = len.checked_add(HUGE_PAGE).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let whole = std::mem::ManuallyDrop::new(Self::new(larger)?);
        let start = whole.address as usize;
        let aligned = start.next_multiple_of(HUGE_PAGE);
        for (from, to) in [(start, aligned), (aligned + len, start + larger)] {
            if from < to {
                drop(Self { address: from as *mut libc::c_void, len: to - from });
            }
        }
        Ok(Self { address: aligned as *mut libc::c_void, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, whole pages of it, and nothing names it any more: its owner drops it last.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// One contiguous piece of guest RAM.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// First guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Address of its first byte in this process.
    pub host_address: u64,
}

/// Why guest RAM could not be had or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("cannot map {size} of guest RAM: {reason}; ask for less with --memory")]
    Map {
        /// What was asked for.
        size: ByteSize,
        /// The host's words.
        reason: String,
    },
    /// An access outside RAM.
    #[error("guest addresses [{start:#x}, {start:#x} + {len:#x}) are not in the guest's RAM of {size}")]
    Outside {
        /// First guest-physical address.
        start: u64,
        /// Length in bytes.
        len: u64,
        /// The guest's RAM.
        size: ByteSize,
    },
    /// A file to be loaded could not be read.
    #[error("cannot load {len:#x} bytes from file offset {offset:#x} to guest address {start:#x}")]
    Load {
        /// First guest-physical address.
        start: u64,
        /// Length in bytes.
        len: u64,
        /// Offset in the file.
        offset: u64,
        /// The host's words.
        #[source]
        source: std::io::Error,
    },
}

/// How a file's bytes get into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Copy { start: u64, offset: u64, len: u64 },
    Map { start: u64, offset: u64, len: u64 },
}

/// Cuts a load into whole pages that can be mapped and the rest, which is copied.
fn pieces(start: u64, offset: u64, len: u64) -> Vec<Piece> {
    let first = start.next_multiple_of(PAGE_SIZE);
    let last = (start + len) / PAGE_SIZE * PAGE_SIZE;
    if start % PAGE_SIZE != offset % PAGE_SIZE || last <= first {
        return vec![Piece::Copy { start, offset, len }];
    }
    let at = |address: u64| offset + (address - start);
    let all = [
        Piece::Copy { start, offset, len: first - start },
        Piece::Map { start: first, offset: at(first), len: last - first },
        Piece::Copy { start: last, offset: at(last), len: start + len - last },
    ];
    all.into_iter().filter(|p| !matches!(p, Piece::Copy { len: 0, .. })).collect()
}

impl GuestRam {
    /// Maps `size` bytes of RAM at the addresses of [`super::ranges`]. Nothing is touched, so the cost does not grow with the size.
    pub fn new(size: ByteSize) -> Result<Self, MemoryError> {
        let failed = |reason: String| MemoryError::Map { size, reason };
        let too_large = || failed("more than this process can address".to_owned());
        let bytes = usize::try_from(size.as_u64()).map_err(|_| too_large())?;
        let mapping = Mapping::aligned(bytes).map_err(|e| failed(e.to_string()))?;
        let mut next = mapping.address as usize;
        let mut regions = Vec::new();
        for range in super::ranges(size) {
            let len = (range.end - range.start) as usize;
            // SAFETY: [next, next + len) lies in `mapping`, which is as long as all ranges together and lives as long as the
            // region.
            let region = unsafe { MmapRegion::build_raw(next as *mut u8, len, PROTECTION, FLAGS) };
            let region = region.map_err(|e| failed(e.to_string()))?;
            regions.push(GuestRegionMmap::new(region, GuestAddress(range.start)).ok_or_else(too_large)?);
            next += len;
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|e| failed(e.to_string()))?;
        Ok(Self { memory, size, mapping })
    }

    /// Asks the host to give the guest huge pages for what is not touched yet: fewer faults, and shorter page walks.
    ///
    /// Meant for when the monitor has written its tables: a page that only holds those stays small. Where the host has no
    /// huge pages, nothing changes.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: advice about a mapping of ours; it changes no contents.
        unsafe { libc::madvise(self.mapping.address, self.mapping.len, libc::MADV_HUGEPAGE) };
    }

    /// All of the guest's RAM.
    pub fn size(&self) -> ByteSize {
        self.size
    }

    /// The pieces, ascending.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.memory.iter().map(|r| Region { start: r.start_addr().0, len: r.len(), host_address: r.as_ptr() as u64 })
    }

    fn outside(&self, start: u64, len: usize) -> MemoryError {
        MemoryError::Outside { start, len: len as u64, size: self.size }
    }

    /// Copies `bytes` to guest address `start`.
    pub fn write(&self, start: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write_slice(bytes, GuestAddress(start)).map_err(|_| self.outside(start, bytes.len()))
    }

    /// Reads from guest address `start`.
    pub fn read(&self, start: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_slice(bytes, GuestAddress(start)).map_err(|_| self.outside(start, bytes.len()))
    }

    /// Reads `len` bytes of `file` at `offset` into guest address `start`.
    pub fn copy_file(&self, start: u64, file: &File, offset: u64, len: u64) -> Result<(), MemoryError> {
        let failed = |source| MemoryError::Load { start, len, offset, source };
        let host = self.host_range(start, len)?;
        // SAFETY: host_range checked that the bytes lie in one mapping of ours; the guest does not run yet, and the kernel
        // writes through the slice only, so no other reference sees it change.
        let bytes = unsafe { std::slice::from_raw_parts_mut(host, len as usize) };
        file.read_exact_at(bytes, offset).map_err(failed)
    }

    /// Makes `len` bytes of `file` at `offset` appear at guest address `start`: whole pages are mapped copy-on-write where the
    /// offset allows, so a page that the guest never touches is never read.
    ///
    /// The file must never shrink while the guest runs, so this is for files in our own cache, which are replaced and not changed.
    pub fn map_file(&self, start: u64, file: &File, offset: u64, len: u64) -> Result<(), MemoryError> {
        for piece in pieces(start, offset, len) {
            match piece {
                Piece::Copy { start, offset, len } => self.copy_file(start, file, offset, len)?,
                Piece::Map { start, offset, len } => self.map_pages(start, file, offset, len)?,
            }
        }
        Ok(())
    }

    fn map_pages(&self, start: u64, file: &File, offset: u64, len: u64) -> Result<(), MemoryError> {
        let host = self.host_range(start, len)?;
        // SAFETY: host_range checked that [host, host + len) lies in one mapping of ours, which stays mapped as long as self;
        // MAP_FIXED replaces just these pages, whose contents nobody refers to yet.
        let mapped = unsafe {
            libc::mmap(
                host.cast(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            let source = std::io::Error::last_os_error();
            return Err(MemoryError::Load { start, len, offset, source });
        }
        Ok(())
    }

    /// Host address of `len` bytes at guest address `start`, all in one region.
    fn host_range(&self, start: u64, len: u64) -> Result<*mut u8, MemoryError> {
        let outside = || MemoryError::Outside { start, len, size: self.size };
        let end = start.checked_add(len).ok_or_else(outside)?;
        let region = self.regions().find(|r| start >= r.start && end <= r.start + r.len).ok_or_else(outside)?;
        self.memory.get_host_address(GuestAddress(region.start)).map_err(|_| outside())?;
        Ok((region.host_address + (start - region.start)) as *mut u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn sample(len: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    /// Proves that what is written is read back, at the first and last byte of each region, and nothing beyond is reachable.
    #[test]
    fn reads_back_at_every_edge() {
        let ram = GuestRam::new(ByteSize::gib(4)).unwrap();
        for region in ram.regions().collect::<Vec<_>>() {
            for at in [region.start, region.start + region.len - 2] {
                ram.write(at, &[0xa5, 0x5a]).unwrap();
                let mut back = [0; 2];
                ram.read(at, &mut back).unwrap();
                assert_eq!(back, [0xa5, 0x5a]);
            }
            assert!(matches!(ram.write(region.start + region.len - 1, &[1, 2]), Err(MemoryError::Outside { .. })));
        }
        assert!(ram.write(u64::MAX, &[1, 2]).is_err());
    }

    proptest! {
        /// Proves that mapping and copying a file give the same bytes and leave the neighbours zero, whatever the alignment.
        #[test]
        fn mapping_equals_copying(start in 0x10_0000u64..0x10_3000, offset in 0u64..9000, len in 1u64..20000) {
            let (file, bytes) = sample(30000);
            let ram = GuestRam::new(ByteSize::mib(2)).unwrap();
            ram.map_file(start, &file, offset, len).unwrap();
            let mut back = vec![0; len as usize + 2];
            ram.read(start - 1, &mut back).unwrap();
            prop_assert_eq!(back[0], 0);
            prop_assert_eq!(back[len as usize + 1], 0);
            prop_assert_eq!(&back[1..=len as usize], &bytes[offset as usize..(offset + len) as usize]);
        }
    }

    /// Proves that RAM starts on a huge page's boundary, whatever its size, also where the kernel does not see to it, and that
    /// nothing is mapped beside it.
    #[test]
    fn starts_on_a_huge_page() {
        for len in [2 << 20, (2 << 20) + 4096, 300 << 20] {
            let mappings: Vec<_> = (0..5).map(|_| Mapping::aligned(len).unwrap()).collect();
            for mapping in &mappings {
                assert_eq!(mapping.address as usize % HUGE_PAGE, 0);
                assert_eq!(mapping.len, len);
            }
        }
    }

    /// Proves that aligned pages are really mapped, and that a file too short is an error rather than a short read.
    #[test]
    fn maps_whole_pages_and_refuses_short_files() {
        assert_eq!(
            pieces(0x10_0800, 0x800, 0x2000),
            [
                Piece::Copy { start: 0x10_0800, offset: 0x800, len: 0x800 },
                Piece::Map { start: 0x10_1000, offset: 0x1000, len: 0x1000 },
                Piece::Copy { start: 0x10_2000, offset: 0x2000, len: 0x800 },
            ]
        );
        assert_eq!(pieces(1, 2, 9000), [Piece::Copy { start: 1, offset: 2, len: 9000 }]);
        let (file, _) = sample(100);
        let ram = GuestRam::new(ByteSize::mib(2)).unwrap();
        assert!(matches!(ram.copy_file(0, &file, 50, 51), Err(MemoryError::Load { .. })));
        assert!(matches!(ram.copy_file((2 << 20) - 1, &file, 0, 2), Err(MemoryError::Outside { .. })));
    }
}
