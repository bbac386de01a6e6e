//! What the Rust runtime would do at a process's start, as far as it is wanted, and what the C library should not do.

use std::fs::OpenOptions;
use std::os::fd::IntoRawFd;

/// Bytes from which on a buffer is mapped where the heap would have to grow for it.
const LARGE_BUFFER: libc::c_int = 32 * 1024;

/// Prepares the process. To be called first, with one thread.
///
/// 1. A standard descriptor that is closed is opened on /dev/null, so that no file of ours gets its number.
/// 2. All threads share one heap: an arena each costs three system calls and a page of memory at every thread's start, and
///    no thread here allocates in a loop. Large buffers get a mapping of their own, whose pages are zero without being written.
/// 3. A write to a closed pipe is an error to be handled, not the end by SIGPIPE.
/// 4. A panic on any thread ends the process with the status of a monitor that failed.
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
    // SAFETY: sets parameters of the allocator and the disposition of a signal; no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BUFFER);
    }
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("ringfence: this is a bug, please report it with the output of `ringfence check`: {panic}");
        // SAFETY: ends the process at once; the console's own hook, which runs first, has given the terminal back.
        unsafe { libc::_exit(super::EXIT_FAILED) };
    }));
}
