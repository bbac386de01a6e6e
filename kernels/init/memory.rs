//! Memory for good: what is taken here is never given back.
//!
//! Small pieces share the pages of one static area, because a first touch of a page costs
//! milliseconds on a host that emulates the kernel; a large piece is mapped by itself.

use crate::sys;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 24 << 10;
const ALIGN: usize = 8;

#[repr(C, align(8))]
struct Area(UnsafeCell<[u8; SIZE]>);

// SAFETY: `take` hands out each byte once.
unsafe impl Sync for Area {}

static AREA: Area = Area(UnsafeCell::new([0; SIZE]));
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory, aligned for pointers.
pub fn take(bytes: usize) -> Result<&'static mut [u8], i32> {
    let rounded = bytes.next_multiple_of(ALIGN);
    if rounded <= SIZE {
        let start = TAKEN.fetch_add(rounded, Ordering::Relaxed);
        if start + rounded <= SIZE {
            // SAFETY: inside the area, and the counter gives this range to nobody else.
            return Ok(unsafe { core::slice::from_raw_parts_mut(AREA.0.get().cast::<u8>().add(start), bytes) });
        }
    }
    sys::map_memory(bytes)
}
