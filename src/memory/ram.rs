//! The mapping behind guest RAM.

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::backing::{Backing, BackingError, advise};
use super::mapping::{FLAGS, Mapping, PROTECTION};
use super::prefault::{self, PrefaultError};
use crate::layout::PAGE_SIZE;
use crate::units::ByteSize;

/// Guest RAM. Pages come from the host when they are first touched, or all at once by [`GuestRam::prefault`].
pub struct GuestRam {
    memory: GuestMemoryMmap,
    size: ByteSize,
    backing: Backing,
    /// Holds the pages that `memory` names; unmapped last.
    mapping: Mapping,
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
    /// The pool of huge pages refused the mapping.
    #[error("cannot map {size} of guest RAM from the pool of {page} pages: {reason}")]
    Pool {
        /// What was asked for.
        size: ByteSize,
        /// The pool's pages.
        page: ByteSize,
        /// The host's words.
        reason: String,
    },
    /// The pages are not to be had as asked for.
    #[error(transparent)]
    Backing(#[from] BackingError),
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
    /// Maps `size` bytes of RAM at the addresses of [`super::ranges`], from pages as `backing` says. Nothing is touched, so the
    /// cost does not grow with the size.
    pub fn new(size: ByteSize, backing: &Backing) -> Result<Self, MemoryError> {
        let failed = |reason: String| MemoryError::Map { size, reason };
        let too_large = || failed("more than this process can address".to_owned());
        let bytes = usize::try_from(size.as_u64()).map_err(|_| too_large())?;
        let mapping = match backing.pool_page {
            None => Mapping::aligned(bytes).map_err(|e| failed(e.to_string()))?,
            Some(page) => Mapping::from_pool(bytes, page).map_err(|e| {
                let page = ByteSize::bytes(page);
                MemoryError::Pool { size, page, reason: e.to_string() }
            })?,
        };
        backing.apply(&mapping)?;
        let mut next = mapping.address() as usize;
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
        Ok(Self { memory, size, backing: *backing, mapping })
    }

    /// Takes every page from the host, on at most `threads` threads, which are gone afterwards. Where the backing does not say
    /// that pages are to be there from the start, nothing is done.
    ///
    /// To be done before anything is written: on a host kernel before 5.14 the first byte of each page becomes zero. `progress`
    /// is told how much is there, every few milliseconds, and may end it.
    pub fn prefault(
        &self,
        threads: usize,
        progress: &mut dyn FnMut(ByteSize) -> ControlFlow<()>,
    ) -> Result<(), PrefaultError> {
        if !self.backing.prefault {
            return Ok(());
        }
        prefault::prefault(&self.mapping, self.backing.page(), threads, progress)
    }

    /// How its pages are to be had.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Where it lies in this process: all regions, one after the other, without a gap.
    pub fn host_addresses(&self) -> Range<u64> {
        let start = self.mapping.address() as u64;
        start..start + self.mapping.len() as u64
    }

    /// Asks the host to give the guest huge pages for what is not touched yet: fewer faults, and shorter page walks.
    ///
    /// Where the host has no huge pages, or others were asked for, nothing changes.
    pub fn prefer_huge_pages(&self) {
        if self.backing.waits_for_huge_pages() {
            advise(&self.mapping, libc::MADV_HUGEPAGE);
        }
    }

    /// Leaves the guest's memory out of core dumps of this process, whoever writes them.
    pub fn keep_out_of_dumps(&self) {
        advise(&self.mapping, libc::MADV_DONTDUMP);
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
    /// offset allows, so a page that the guest never touches is never read. Where the backing wants pages of RAM's own, all is
    /// copied.
    ///
    /// The file must never shrink while the guest runs, so this is for files in our own cache, which are replaced and not changed.
    pub fn map_file(&self, start: u64, file: &File, offset: u64, len: u64) -> Result<(), MemoryError> {
        if !self.backing.maps_files() {
            return self.copy_file(start, file, offset, len);
        }
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
    use super::super::backing::Advice;
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
        let ram = GuestRam::new(ByteSize::gib(4), &Backing::default()).unwrap();
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
            let ram = GuestRam::new(ByteSize::mib(2), &Backing::default()).unwrap();
            ram.map_file(start, &file, offset, len).unwrap();
            let mut back = vec![0; len as usize + 2];
            ram.read(start - 1, &mut back).unwrap();
            prop_assert_eq!(back[0], 0);
            prop_assert_eq!(back[len as usize + 1], 0);
            prop_assert_eq!(&back[1..=len as usize], &bytes[offset as usize..(offset + len) as usize]);
        }
    }

    /// What the kernel says of the mapping that holds an address: `hg` (huge pages wanted), `nh` (not wanted), or neither.
    fn advice_at(address: u64) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bounds =
                bounds.and_then(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)));
            if let Some((start, end)) = bounds {
                inside = (start..end).contains(&address);
            } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags: ")) {
                return flags.split(' ').filter(|flag| ["hg", "nh"].contains(flag)).collect();
            }
        }
        panic!("no mapping at {address:#x}")
    }

    /// Proves that pages stay small until it is said what RAM is for, also where the host gives huge ones unasked, and that huge ones
    /// are wanted for all of it then, but not where they are to be avoided.
    #[test]
    fn huge_pages_come_after_the_tables() {
        let (file, _) = sample(5 << 20);
        let ram = GuestRam::new(ByteSize::mib(16), &Backing::default()).unwrap();
        let start = ram.host_addresses().start;
        if advice_at(start).is_empty() {
            eprintln!("skipped: this kernel has no transparent huge pages");
            return;
        }
        let at = |mib: u64| advice_at(start + (mib << 20));
        ram.copy_file(3 << 20, &file, 0, 4096).unwrap();
        assert_eq!([at(0), at(3), at(15)], ["nh"; 3]);
        ram.prefer_huge_pages();
        assert_eq!([at(0), at(3), at(15)], ["hg"; 3]);
        let avoided =
            GuestRam::new(ByteSize::mib(4), &Backing { transparent: Advice::Avoid, ..Backing::default() }).unwrap();
        avoided.copy_file(0, &file, 0, 4 << 20).unwrap();
        avoided.prefer_huge_pages();
        assert_eq!(advice_at(avoided.host_addresses().start), "nh");
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
        let ram = GuestRam::new(ByteSize::mib(2), &Backing::default()).unwrap();
        assert!(matches!(ram.copy_file(0, &file, 50, 51), Err(MemoryError::Load { .. })));
        assert!(matches!(ram.copy_file((2 << 20) - 1, &file, 0, 2), Err(MemoryError::Outside { .. })));
    }
}
