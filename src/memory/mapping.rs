//! Anonymous memory of this process, on a huge page's boundary.

use std::io;

/// Size of the host's huge page: where RAM starts on such a boundary, host and guest can map it by huge pages.
const HUGE_PAGE: usize = 2 << 20;

pub(super) const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Private, so that no other process sees it, and without a promise of swap: what is asked for was compared with what is free.
pub(super) const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Anonymous memory of this process.
pub(super) struct Mapping {
    address: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is an address range; it is unmapped once, by its only owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is reached through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize, flags: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, PROTECTION, flags, -1, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { address, len }) }
    }

    /// A mapping that starts on a huge page's boundary. Linux has placed large ones there by itself since 6.7; on older ones a
    /// larger mapping is cut to size.
    pub(super) fn aligned(len: usize) -> io::Result<Self> {
        let first = Self::new(len, FLAGS)?;
        if (first.address as usize).is_multiple_of(HUGE_PAGE) {
            return Ok(first);
        }
        drop(first);
        let larger = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let whole = std::mem::ManuallyDrop::new(Self::new(larger, FLAGS)?);
        let start = whole.address as usize;
        let aligned = start.next_multiple_of(HUGE_PAGE);
        for (from, to) in [(start, aligned), (aligned + len, start + larger)] {
            if from < to {
                drop(Self { address: from as *mut libc::c_void, len: to - from });
            }
        }
        Ok(Self { address: aligned as *mut libc::c_void, len })
    }

    /// A mapping of pages from a pool, on such a page's boundary. The pool sets them apart at once: without that promise, a page
    /// that is gone when it is touched would be a SIGBUS.
    pub(super) fn from_pool(len: usize, page: u64) -> io::Result<Self> {
        let size_bits = page.trailing_zeros() as i32;
        Self::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size_bits << libc::MAP_HUGE_SHIFT)
    }

    pub(super) fn address(&self) -> *mut libc::c_void {
        self.address
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, whole pages of it, and nothing names it any more: its owner drops it last.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
