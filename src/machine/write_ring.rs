//! The page in which KVM gathers writes that then need no exit (Linux `Documentation/virt/kvm/api.rst`,
//! "KVM_(UN)REGISTER_COALESCED_MMIO").
//!
//! One page for the whole machine, found behind each vCPU's kvm_run. KVM adds at `last`, one vCPU at a time under its own
//! lock; this side takes at `first`, one thread at a time under ours. One entry always stays free; when the page is full KVM
//! makes an exit of the write, as if nothing were gathered.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};

use crate::layout::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;

/// Entries of the page (KVM_COALESCED_MMIO_MAX); it holds one less.
pub(super) const ENTRIES: usize = (PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>();

/// The mapped page.
pub(super) struct WriteRing {
    page: NonNull<u8>,
    /// Held by the thread that takes, until what it took has been served.
    taking: Mutex<()>,
}

// SAFETY: the page is a shared mapping that lives as long as this value; its indices are only touched as atomics, and entries
// between them only read, by the one thread that holds `taking`.
unsafe impl Send for WriteRing {}
// SAFETY: as above.
unsafe impl Sync for WriteRing {}

impl WriteRing {
    /// Maps the page behind a vCPU's descriptor. KVM must have KVM_CAP_COALESCED_MMIO.
    pub(super) fn map(vcpu: RawFd) -> io::Result<Self> {
        Self::map_page(libc::MAP_SHARED, vcpu, PAGE as i64 * i64::from(KVM_COALESCED_MMIO_PAGE_OFFSET))
    }

    fn map_page(flags: i32, fd: RawFd, offset: i64) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { page, taking: Mutex::new(()) })
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: both indices lie in the page, aligned, and are only touched as atomics; the page lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.page.as_ptr().add(offset).cast()) }
    }

    fn first(&self) -> &AtomicU32 {
        self.index(std::mem::offset_of!(kvm_coalesced_mmio_ring, first))
    }

    fn last(&self) -> &AtomicU32 {
        self.index(std::mem::offset_of!(kvm_coalesced_mmio_ring, last))
    }

    fn entry(&self, index: usize) -> *mut kvm_coalesced_mmio {
        let offset = size_of::<kvm_coalesced_mmio_ring>() + index % ENTRIES * size_of::<kvm_coalesced_mmio>();
        // SAFETY: `index % ENTRIES` keeps the entry inside the page.
        unsafe { self.page.as_ptr().add(offset).cast() }
    }

    /// Whether every write that KVM gathered has been served. It is not yet so while another thread serves the last one.
    pub(super) fn is_empty(&self) -> bool {
        self.last().load(Ordering::Acquire) == self.first().load(Ordering::Acquire)
    }

    /// Serves what is there now, oldest first, with the address and the bytes of each write; returns their number, at most
    /// [`ENTRIES`]. When it returns, all that was gathered before the call has been served, by this or another thread.
    pub(super) fn take(&self, mut serve: impl FnMut(u64, &[u8])) -> usize {
        if self.is_empty() {
            return 0;
        }
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last().load(Ordering::Acquire) as usize % ENTRIES;
        let mut first = self.first().load(Ordering::Relaxed) as usize % ENTRIES;
        let mut taken = 0;
        while first != last {
            // SAFETY: between `first` and `last` KVM does not write, and its writes came before it moved `last`.
            let write = unsafe { self.entry(first).read() };
            serve(write.phys_addr, &write.data[..(write.len as usize).min(write.data.len())]);
            first = (first + 1) % ENTRIES;
            // Only now: who finds the page empty may rely on all having been served.
            self.first().store(first as u32, Ordering::Release);
            taken += 1;
        }
        taken
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_page` with this length, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

#[cfg(test)]
impl WriteRing {
    /// A page that no KVM is behind.
    pub(super) fn anonymous() -> Self {
        Self::map_page(libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0).unwrap()
    }

    /// KVM's side: gathers a write, or says that it must exit since the page is full. One thread at a time.
    pub(super) fn gather(&self, address: u64, data: &[u8]) -> bool {
        let last = self.last().load(Ordering::Relaxed);
        let next = (last + 1) % ENTRIES as u32;
        if next == self.first().load(Ordering::Acquire) {
            return false;
        }
        let mut write = kvm_coalesced_mmio { phys_addr: address, len: data.len() as u32, ..Default::default() };
        write.data[..data.len()].copy_from_slice(data);
        // SAFETY: the entry at `last` is free until `last` moves.
        unsafe { self.entry(last as usize).write(write) };
        self.last().store(next, Ordering::Release);
        true
    }
}
