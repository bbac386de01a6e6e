//! RAM that KVM is told of while the guest already runs.
//!
//! A KVM that keeps page tables for the guest makes an entry for each page of RAM when it is told of it: about half a
//! millisecond a GiB (`cargo bench --bench start`, the 8 GiB rows), in which the guest would wait. There, the vCPUs start with
//! the first [`EARLY`] bytes, in which the whole kernel lies, and KVM is told of the rest beside them.
//!
//! The guest cannot tell. A load or store that is too early comes out of KVM as MMIO; it waits until KVM knows all RAM and is
//! then done here, in RAM. An instruction that KVM could not read or emulate is tried again. RAM outside the kernel's
//! segments is zero until the guest stores to it, so a page walk that is too early finds what it would have found: nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::config::RamPolicy;
use crate::host::Flavour;
use crate::memory::{GuestRam, Region};

/// RAM that the guest starts with.
const EARLY: u64 = 128 << 20;
/// Smallest RAM that is worth it.
const WORTH_IT: u64 = 1 << 30;

/// Cuts RAM into what KVM must know before the guest runs, and the rest. RAM that was asked for in a special way is not cut,
/// nor is RAM with a kernel that ends, at `kernel_end`, beyond what the guest would start with.
pub(super) fn slots(
    ram: &GuestRam,
    flavour: Flavour,
    policy: &RamPolicy,
    kernel_end: u64,
) -> (Vec<Region>, Vec<Region>) {
    let all: Vec<Region> = ram.regions().collect();
    let wanted = flavour == Flavour::PageTable
        && *policy == RamPolicy::default()
        && ram.size().as_u64() >= WORTH_IT
        && kernel_end <= EARLY;
    match all.split_first() {
        Some((first, others)) if wanted && first.len > EARLY => {
            let rest = Region { start: EARLY, len: first.len - EARLY, host_address: first.host_address + EARLY };
            let late = std::iter::once(rest).chain(others.iter().copied()).collect();
            (vec![Region { len: EARLY, ..*first }], late)
        }
        _ => (all, Vec::new()),
    }
}

/// What the vCPUs know of the rest.
pub(super) struct LateRam {
    ram: Arc<GuestRam>,
    /// Whether there is a rest at all; else nothing here costs anything.
    any: bool,
    known: Mutex<bool>,
    changed: Condvar,
}

impl LateRam {
    /// `any`: KVM does not know all of `ram` yet.
    pub(super) fn new(ram: Arc<GuestRam>, any: bool) -> Self {
        Self { ram, any, known: Mutex::new(!any), changed: Condvar::new() }
    }

    /// KVM knows all RAM now, or never will because the machine ends: nobody waits any longer.
    pub(super) fn is_known(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait(&self) {
        let known = self.lock();
        drop(self.changed.wait_while(known, |known| !*known));
    }

    fn is_ram(&self, address: u64) -> bool {
        self.any && self.ram.regions().any(|r| address >= r.start && address - r.start < r.len)
    }

    /// Does a load that KVM took for MMIO; `false` when it is MMIO.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        if !self.is_ram(address) {
            return false;
        }
        self.wait();
        self.ram.read(address, data).is_ok()
    }

    /// Does a store that KVM took for MMIO; `false` when it is MMIO.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> bool {
        if !self.is_ram(address) {
            return false;
        }
        self.wait();
        self.ram.write(address, data).is_ok()
    }

    /// Whether an instruction that KVM gave up on may succeed now. Once for each vCPU, whose `tried` this is.
    pub(super) fn try_again(&self, tried: &mut bool) -> bool {
        let again = self.any && !std::mem::replace(tried, true);
        if again {
            self.wait();
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;
    use crate::units::ByteSize;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn ram(size: ByteSize) -> Arc<GuestRam> {
        Arc::new(GuestRam::new(size, &Backing::default()).unwrap())
    }

    /// Proves that the pieces are RAM's own, each byte in one of them, and that RAM is only cut where it pays.
    #[test]
    fn cuts_ram_in_two() {
        let policy = RamPolicy::default();
        for (size, flavour, late) in [
            (ByteSize::gib(8), Flavour::PageTable, 2),
            (ByteSize::gib(2), Flavour::PageTable, 1),
            (ByteSize::mib(512), Flavour::PageTable, 0),
            (ByteSize::gib(8), Flavour::Svm, 0),
        ] {
            let ram = ram(size);
            let (early, rest) = slots(&ram, flavour, &policy, 2 << 20);
            assert_eq!(rest.len(), late, "{size}");
            let pieces: Vec<_> = early.iter().chain(&rest).collect();
            assert_eq!(pieces.iter().map(|r| r.len).sum::<u64>(), size.as_u64());
            for piece in pieces {
                let whole = ram.regions().find(|r| piece.start >= r.start && piece.start < r.start + r.len).unwrap();
                assert_eq!(piece.host_address - whole.host_address, piece.start - whole.start);
                assert!(piece.start + piece.len <= whole.start + whole.len);
            }
        }
        let (_, late) = slots(&ram(ByteSize::gib(8)), Flavour::PageTable, &policy, EARLY + 1);
        assert!(late.is_empty(), "a kernel must be there whole when it is entered");
    }

    /// Proves that an early access waits, and then reaches RAM; that MMIO never waits; and that an instruction is tried again
    /// once.
    #[test]
    fn early_accesses_wait_and_reach_ram() {
        let late = Arc::new(LateRam::new(ram(ByteSize::gib(8)), true));
        assert!(!late.read(0xd000_0000, &mut [0; 4]), "the 32-bit hole is no RAM");
        assert!(!late.write(9 << 30, &[0; 4]), "nor is what lies above it");
        let told = Arc::new(AtomicBool::new(false));
        let guest = std::thread::spawn({
            let (late, told) = (late.clone(), told.clone());
            move || {
                assert!(late.write(5 << 30, &[1, 2, 3, 4]));
                told.load(Ordering::SeqCst)
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        told.store(true, Ordering::SeqCst);
        late.is_known();
        assert!(guest.join().unwrap(), "the store did not wait");
        let mut back = [0; 4];
        assert!(late.read(5 << 30, &mut back));
        assert_eq!(back, [1, 2, 3, 4]);
        let mut tried = false;
        assert!(late.try_again(&mut tried) && !late.try_again(&mut tried));
        let whole = LateRam::new(ram(ByteSize::mib(2)), false);
        assert!(!whole.try_again(&mut false) && !whole.read(0, &mut [0]), "with nothing late, nothing is done here");
    }
}
