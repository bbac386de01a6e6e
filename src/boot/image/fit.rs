//! Whether a kernel's segments lie inside the guest's RAM.

use std::ops::Range;

use super::super::elf::Segment;
use crate::layout::{HIGH_RAM_64_START, HIGH_RAM_START, MMIO_HOLE_START};
use crate::units::ByteSize;

/// Why a segment cannot be placed in the guest's RAM. Addresses are guest-physical.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FitError {
    /// Where the boot tables and the BIOS area are.
    #[error(
        "the segment at file offset {offset:#x} loads to {address:#x}, below 1 MiB where boot tables go; \
         link the kernel at 1 MiB or above"
    )]
    Low {
        /// Where the segment is in the file.
        offset: u64,
        /// Its first address.
        address: u64,
    },
    /// In the 32-bit MMIO hole, where there never is RAM.
    #[error(
        "the segment at file offset {offset:#x} loads to {address:#x}..{end:#x}, inside the hole for devices below 4 GiB \
         where there is no RAM; link the kernel below 3 GiB"
    )]
    Hole {
        /// Where the segment is in the file.
        offset: u64,
        /// Its first address.
        address: u64,
        /// The address after it.
        end: u64,
    },
    /// Past the end of RAM.
    #[error(
        "the segment at file offset {offset:#x} loads to {address:#x}..{end:#x}, past the end of the guest's RAM \
         ({ram_end:#x}); give the guest at least {needed}, such as with --memory {mib}M",
        mib = needed.as_u64() >> 20
    )]
    PastRam {
        /// Where the segment is in the file.
        offset: u64,
        /// Its first address.
        address: u64,
        /// The address after it.
        end: u64,
        /// The address after the last byte of RAM.
        ram_end: u64,
        /// RAM that would hold the segments, in whole MiB.
        needed: ByteSize,
    },
    /// No address suits an image that unpacks itself.
    #[error(
        "unpacking itself it needs {room:#x} bytes of RAM in one piece from {address:#x}, but RAM ends at {ram_end:#x}; \
         give the guest at least {needed}, such as with --memory {mib}M",
        mib = needed.as_u64() >> 20
    )]
    NoRoom {
        /// Bytes it needs.
        room: u64,
        /// Where it asks to be.
        address: u64,
        /// The address after the last byte of RAM.
        ram_end: u64,
        /// RAM that would do, in whole MiB.
        needed: ByteSize,
    },
}

/// RAM with which `end` is the address after its last byte, in whole MiB: what lies above 4 GiB skips the hole.
fn ram_to_reach(end: u64) -> ByteSize {
    let bytes = if end > MMIO_HOLE_START { end.saturating_sub(HIGH_RAM_64_START - MMIO_HOLE_START) } else { end };
    ByteSize::bytes(bytes.checked_next_multiple_of(1 << 20).unwrap_or(u64::MAX))
}

fn ram_end(ram: &[Range<u64>]) -> u64 {
    ram.iter().map(|r| r.end).max().unwrap_or(0)
}

/// Whether [`start`, `end`) is RAM that a kernel may be loaded to.
fn is_free(start: u64, end: u64, ram: &[Range<u64>]) -> bool {
    start >= HIGH_RAM_START && ram.iter().any(|r| r.start <= start && end <= r.end)
}

/// Checks segments, in ascending order of address, against usable RAM.
///
/// # Errors
/// [`FitError`] for the first segment below 1 MiB or in the hole, otherwise for the highest past the end of RAM.
pub fn check(segments: &[Segment], ram: &[Range<u64>]) -> Result<(), FitError> {
    for s in segments {
        let (offset, address, end) = (s.file_offset, s.address, s.end());
        if address < HIGH_RAM_START {
            return Err(FitError::Low { offset, address });
        }
        if address < HIGH_RAM_64_START && end > MMIO_HOLE_START {
            return Err(FitError::Hole { offset, address, end });
        }
    }
    // The highest that does not fit tells how much RAM all of them need.
    match segments.iter().rev().find(|s| !is_free(s.address, s.end(), ram)) {
        None => Ok(()),
        Some(s) => Err(FitError::PastRam {
            offset: s.file_offset,
            address: s.address,
            end: s.end(),
            ram_end: ram_end(ram),
            needed: ram_to_reach(s.end()),
        }),
    }
}

/// An address with `room` bytes of RAM for an image that unpacks itself: the preferred one, otherwise the lowest
/// aligned one when it can be moved.
///
/// # Errors
/// [`FitError::NoRoom`] when there is none.
pub fn place(preferred: u64, room: u64, alignment: Option<u64>, ram: &[Range<u64>]) -> Result<u64, FitError> {
    let fits = |address: u64| address.checked_add(room).is_some_and(|end| is_free(address, end, ram));
    if fits(preferred) {
        return Ok(preferred);
    }
    let aligned = |r: &Range<u64>| r.start.max(HIGH_RAM_START).checked_next_multiple_of(alignment?);
    ram.iter().filter_map(aligned).filter(|&address| fits(address)).min().ok_or_else(|| FitError::NoRoom {
        room,
        address: preferred,
        ram_end: ram_end(ram),
        needed: ram_to_reach(preferred.saturating_add(room)),
    })
}
