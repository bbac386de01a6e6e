//! Giving back the memory that only the start needed.

use std::ffi::c_void;

use crate::layout::PAGE_SIZE;

unsafe extern "C" {
    /// First byte of the program, by the linker.
    static __executable_start: u8;
    /// First byte behind the program's code, by the linker.
    static etext: u8;
}

/// Drops the pages of the program's constants and code from this process. What is still needed is mapped again from the page
/// cache when it is touched: a running guest touches little, and reading the command line or a kernel image touched much.
pub(super) fn drop_start_pages() {
    let start = (&raw const __executable_start) as u64 / PAGE_SIZE * PAGE_SIZE;
    let end = (&raw const etext) as u64 / PAGE_SIZE * PAGE_SIZE;
    if let Some(len) = end.checked_sub(start).filter(|len| *len > 0) {
        // SAFETY: [start, end) holds only pages of the program file that are never written: constants and code lie in front
        // of `etext`, and everything that is relocated or written behind it. Dropping them loses nothing. A failure changes
        // nothing but the memory taken.
        unsafe { libc::madvise(start as *mut c_void, len as usize, libc::MADV_DONTNEED) };
    }
}
