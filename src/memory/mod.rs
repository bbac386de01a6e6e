//! Guest RAM: where it is, and how bytes get into it before the guest runs.

#[allow(unsafe_code)]
mod backing;
#[allow(unsafe_code)]
mod mapping;
#[allow(unsafe_code)]
mod prefault;
#[allow(unsafe_code)]
mod ram;

pub use backing::{Advice, Backing, BackingError};
pub use prefault::PrefaultError;
pub use ram::{GuestRam, MemoryError, Region};

use crate::layout;
use crate::units::ByteSize;
use std::ops::Range;

/// Guest-physical ranges that `size` bytes of RAM occupy: up to 3 GiB below the 32-bit hole, the rest from 4 GiB.
pub fn ranges(size: ByteSize) -> Vec<Range<u64>> {
    let size = size.as_u64();
    if size <= layout::MMIO_HOLE_START {
        return std::iter::once(0..size).collect();
    }
    let high = layout::HIGH_RAM_64_START;
    vec![0..layout::MMIO_HOLE_START, high..high.saturating_add(size - layout::MMIO_HOLE_START)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the split keeps every byte and never reaches into the 32-bit hole.
    #[test]
    fn splits_around_the_hole() {
        let hole = layout::MMIO_HOLE_START;
        for size in [2 << 20, hole - 4096, hole, hole + 4096, 5 << 30, 64 << 30] {
            let ranges = ranges(ByteSize::bytes(size));
            assert_eq!(ranges.iter().map(|r| r.end - r.start).sum::<u64>(), size);
            assert!(ranges.iter().all(|r| r.end <= hole || r.start >= layout::HIGH_RAM_64_START));
            assert_eq!(ranges.len(), if size > hole { 2 } else { 1 });
        }
    }
}
