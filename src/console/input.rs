//! What the user or another program types, kept until the guest takes it.
//!
//! The event loop waits for what [`Input::interests`] names, calls [`Input::read_ready`] when any of it is ready, and offers
//! bytes to the UART with [`Input::offer`]. A source is read only while the backlog has room, so that a fast one is paced by
//! the guest and nothing is lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::terminal::{Standing, WindowSize};

/// Bytes kept of a file, pipe or socket, which can wait.
pub(super) const BACKLOG: usize = 64 * 1024;
/// Bytes kept of a terminal. More than anybody pastes: while the backlog is full the escape key goes unseen.
pub(super) const TERMINAL_BACKLOG: usize = 4 * 1024 * 1024;

/// A descriptor to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// The descriptor. It may be a regular file: `poll` takes those, `epoll` does not.
    pub fd: BorrowedFd<'a>,
    /// Events as in `poll(2)`: `POLLIN`, or 0 when only a hang-up is of interest.
    pub events: libc::c_short,
}

/// What the user asked of the machine with the escape key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End the machine now.
    Quit,
    /// A break condition on the serial line. It overtakes bytes the guest has not taken.
    Break,
}

/// Where bytes come from.
pub(super) trait Source: Send {
    /// Names what to wait for. `room`: whether bytes would be taken now.
    fn interests<'a>(&'a self, room: bool, add: &mut dyn FnMut(Interest<'a>));
    /// Takes what is there without waiting.
    fn read_ready(&mut self, into: &mut Backlog);
    /// No byte will come any more.
    fn ended(&self) -> bool;
    /// Look again after this time even when nothing is ready.
    fn look_again(&self) -> Option<Duration> {
        None
    }
    /// Takes possession of a terminal, at the start and after a stop.
    fn resume(&mut self) -> io::Result<Standing> {
        Ok(Standing::Foreground)
    }
    /// Gives a terminal back for a while.
    fn suspend(&mut self) {}
    /// The size of the terminal behind the source.
    fn window_size(&self) -> Option<WindowSize> {
        None
    }
}

/// Bytes and requests that wait for the machine.
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    requests: VecDeque<Request>,
    limit: usize,
}

impl Backlog {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), requests: VecDeque::new(), limit }
    }

    /// Bytes it takes now.
    pub(super) fn room(&self) -> usize {
        self.limit - self.bytes.len().min(self.limit)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.extend(bytes);
    }

    /// A request. A handful at most are kept: nobody means a hundred breaks.
    pub(super) fn request(&mut self, request: Request) {
        if self.requests.len() < 16 || request == Request::Quit {
            self.requests.push_back(request);
        }
    }
}

/// The guest's input.
pub struct Input {
    source: Box<dyn Source>,
    backlog: Backlog,
}

impl Input {
    pub(super) fn new(source: Box<dyn Source>, limit: usize) -> Self {
        Self { source, backlog: Backlog::new(limit) }
    }

    /// Names each descriptor to wait for now: none while the backlog is full or the source has ended. Ask anew before each
    /// wait.
    pub fn interests<'a>(&'a self, mut add: impl FnMut(Interest<'a>)) {
        if !self.source.ended() {
            self.source.interests(self.backlog.room() > 0, &mut add);
        }
    }

    /// The longest wait before [`Self::read_ready`] is due although nothing was ready; `None` means no limit.
    pub fn look_again(&self) -> Option<Duration> {
        if self.source.ended() { None } else { self.source.look_again() }
    }

    /// Takes what the source has into the backlog. Never waits; harmless when nothing is ready.
    pub fn read_ready(&mut self) {
        if !self.source.ended() {
            self.source.read_ready(&mut self.backlog);
        }
    }

    /// The next thing the user asked of the machine.
    pub fn take_request(&mut self) -> Option<Request> {
        self.backlog.requests.pop_front()
    }

    /// Offers the oldest bytes; `take` returns how many of them it took. Returns the number taken in all.
    pub fn offer(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> usize {
        let mut total = 0;
        loop {
            let (front, _) = self.backlog.bytes.as_slices();
            if front.is_empty() {
                break;
            }
            let (offered, taken) = (front.len(), take(front).min(front.len()));
            self.backlog.bytes.drain(..taken);
            total += taken;
            if taken < offered {
                break;
            }
        }
        if self.backlog.bytes.is_empty() && self.backlog.bytes.capacity() > BACKLOG {
            self.backlog.bytes = VecDeque::new();
        }
        total
    }

    pub(super) fn source(&self) -> &dyn Source {
        self.source.as_ref()
    }

    pub(super) fn source_mut(&mut self) -> &mut dyn Source {
        self.source.as_mut()
    }

    /// Whether bytes wait for the guest.
    pub fn has_bytes(&self) -> bool {
        !self.backlog.bytes.is_empty()
    }

    /// Whether the source has ended and the guest has taken all it gave.
    pub fn ended(&self) -> bool {
        self.backlog.bytes.is_empty() && self.source.ended()
    }
}

/// Reads once from a ready descriptor, at most `room` bytes. `Ok(None)`: nothing there now; `Ok(Some(0))`: its end.
pub(super) fn read_once(fd: BorrowedFd<'_>, buffer: &mut [u8], room: usize) -> io::Result<Option<usize>> {
    let count = room.min(buffer.len());
    loop {
        match rustix::io::read(fd, &mut buffer[..count]) {
            Ok(n) => return Ok(Some(n)),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Which of `events`, and of error and hang-up, hold for a descriptor now.
pub(super) fn ready_now(fd: BorrowedFd<'_>, events: rustix::event::PollFlags) -> rustix::event::PollFlags {
    let mut entry = [rustix::event::PollFd::from_borrowed_fd(fd, events)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut entry, Some(&now)) {
        Ok(_) => entry[0].revents(),
        Err(_) => rustix::event::PollFlags::empty(),
    }
}
