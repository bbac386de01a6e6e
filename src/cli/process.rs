//! What the Rust runtime would do at a process's start, as far as it is wanted, and what the C library should not do.

use std::fs::OpenOptions;
use std::os::fd::IntoRawFd;

/// Prepares the process. To be called first, with one thread.
///
/// 1. A standard descriptor that is closed is opened on /dev/null, so that no file of ours gets its number.
/// 2. All threads share one heap: an arena each costs three system calls and a page of memory at every thread's start, and
///    no thread here allocates in a loop.
pub(super) fn prepare() {
    for fd in 0..3 {
        // SAFETY: F_GETFD only asks whether the descriptor is open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0
            && let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null")
        {
            // The lowest free number is `fd`, as all below it are open. It stays open for good.
            let _ = null.into_raw_fd();
        }
    }
    // SAFETY: sets a parameter of the allocator; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
