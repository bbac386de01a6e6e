//! A line whose other end comes and goes: a socket's client, a pseudoterminal's user.
//!
//! While nobody is there the guest is not held up: the latest output is kept and given to the next who comes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::drain::{Drain, write_blocking};

/// Bytes kept for the next who comes; of more, the oldest are dropped.
pub(super) const HELD: usize = 64 * 1024;

/// Who is at the other end. The event loop changes it, the writer's thread reads it.
#[derive(Default)]
pub(super) struct Line {
    peer: Mutex<Option<Arc<OwnedFd>>>,
}

impl Line {
    fn peer(&self) -> Option<Arc<OwnedFd>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody has come. The caller kicks the output afterwards.
    pub(super) fn attach(&self, peer: Arc<OwnedFd>) {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
    }

    /// This one has left; another who has come meanwhile stays.
    pub(super) fn detach(&self, left: &Arc<OwnedFd>) {
        let mut peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        if peer.as_ref().is_some_and(|peer| Arc::ptr_eq(peer, left)) {
            *peer = None;
        }
    }
}

/// The writer's side of a [`Line`].
pub(super) struct LineDrain {
    line: Arc<Line>,
    held: VecDeque<u8>,
}

impl LineDrain {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Self { line, held: VecDeque::new() }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(HELD)..];
        let excess = (self.held.len() + bytes.len()).saturating_sub(HELD);
        self.held.drain(..excess);
        self.held.extend(bytes);
    }

    /// Writes what was held to who is there now; whether somebody still is.
    fn replay(&mut self) -> Option<Arc<OwnedFd>> {
        loop {
            let peer = self.line.peer()?;
            let (front, _) = self.held.as_slices();
            if front.is_empty() {
                return Some(peer);
            }
            match write_blocking(peer.as_fd(), front) {
                Ok(count) => drop(self.held.drain(..count)),
                Err(_) => self.line.detach(&peer),
            }
        }
    }
}

impl Drain for LineDrain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while let Some(peer) = self.replay() {
            match write_blocking(peer.as_fd(), bytes) {
                Ok(count) => return Ok(count),
                Err(_) => self.line.detach(&peer),
            }
        }
        self.hold(bytes);
        Ok(bytes.len())
    }

    fn catch_up(&mut self) -> io::Result<()> {
        self.replay();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// With nobody there the latest bytes are kept, exactly the last [`HELD`], and the next who comes gets them first.
    #[test]
    fn keeps_the_latest_for_the_next() {
        let line = Arc::new(Line::default());
        let mut drain = LineDrain::new(Arc::clone(&line));
        let bytes: Vec<u8> = (0..HELD + 1000).map(|i| (i % 251) as u8).collect();
        for part in bytes.chunks(999) {
            assert_eq!(drain.write(part).unwrap(), part.len());
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        line.attach(Arc::new(ours.into()));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        drain.catch_up().unwrap();
        assert_eq!(drain.write(b"live").unwrap(), 4);
        drop((drain, line));
        let all = reader.join().unwrap();
        assert_eq!(all.len(), HELD + 4);
        assert!(all[..HELD] == bytes[1000..] && &all[HELD..] == b"live");
    }

    /// One who left is noticed by the failed write, and those bytes are kept, not lost.
    #[test]
    fn bytes_for_one_who_left_are_kept() {
        let line = Arc::new(Line::default());
        let mut drain = LineDrain::new(Arc::clone(&line));
        let (ours, theirs) = UnixStream::pair().unwrap();
        line.attach(Arc::new(ours.into()));
        drop(theirs);
        assert_eq!(drain.write(b"abc").unwrap(), 3);
        assert!(line.peer().is_none());
        assert_eq!(drain.held, b"abc");
    }
}
