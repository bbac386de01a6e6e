//! Where the output's writer thread puts bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// The far end of the output. Only the writer thread calls it, so it may block.
pub(super) trait Drain: Send {
    /// Writes some of `bytes`, at least one, and returns how many. An error is final: nothing is written after it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Called after [`super::Output::kick`]: writes what was held back for a reader that has come.
    fn catch_up(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file descriptor: standard output, borrowed from the user's shell, or a file of our own.
pub(super) enum Descriptor {
    /// The process's standard output. Its flags are shared with other processes and left alone.
    StandardOutput,
    /// A file of our own.
    Owned(OwnedFd),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::StandardOutput => rustix::stdio::stdout(),
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

impl Drain for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_blocking(self.as_fd(), bytes)
    }
}

/// Writes to a descriptor that may be in blocking mode or not, until at least one byte is taken.
pub(super) fn write_blocking(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            // Another process may have set O_NONBLOCK on the open file description it shares with us.
            Err(Errno::AGAIN) => wait_for(fd, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits without limit until one of `events`, an error or a hang-up is there.
fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
