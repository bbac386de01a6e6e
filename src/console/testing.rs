//! What several tests of this room need: a pseudoterminal, an event loop's wait.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;

use super::input::Input;

/// A pseudoterminal as a terminal emulator makes it: the master for the test, the slave's path for the code under test.
pub(super) fn terminal() -> (File, PathBuf) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    (File::from(master), PathBuf::from(std::ffi::OsStr::from_bytes(name.as_bytes())))
}

/// Opens the slave side without making it the controlling terminal.
pub(super) fn open_slave(path: &Path) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

/// Only one terminal of a process is raw at a time.
pub(super) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One turn of an event loop: waits for what the input names, at most `limit`, then lets it read. Returns whether anything
/// was ready.
pub(super) fn turn(input: &mut Input, limit: Duration) -> bool {
    let mut fds = Vec::new();
    input.interests(|i| fds.push(PollFd::from_borrowed_fd(i.fd, PollFlags::from_bits_retain(i.events as u16))));
    let limit = input.look_again().map_or(limit, |again| again.min(limit));
    let time = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let ready = poll(&mut fds, Some(&time)).unwrap() > 0;
    drop(fds);
    input.read_ready();
    ready
}

/// Turns the loop until `done`, which also takes from the input, says so.
pub(super) fn turn_until(input: &mut Input, mut done: impl FnMut(&mut Input) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done(input) {
        assert!(Instant::now() < end, "nothing came in 20 s");
        turn(input, if input.has_bytes() { Duration::ZERO } else { Duration::from_millis(50) });
    }
}

/// Takes all bytes that wait.
pub(super) fn take(input: &mut Input) -> Vec<u8> {
    let mut all = Vec::new();
    input.offer(|bytes| {
        all.extend_from_slice(bytes);
        bytes.len()
    });
    all
}

/// Takes bytes until there are `count`.
pub(super) fn take_exactly(input: &mut Input, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    turn_until(input, |input| {
        all.extend(take(input));
        all.len() >= count
    });
    assert_eq!(all.len(), count);
    all
}
