//! Standard input as a source: a terminal, a file, a pipe, or nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;

use super::escape::{EscapeKey, MENU, Typed};
use super::input::{Backlog, Interest, Request, Source, read_once, ready_now};
use super::terminal::{self, Standing, Terminal, WindowSize};

/// Read at once.
const CHUNK: usize = 8 * 1024;
/// How often to look whether a job in the background has become the foreground one: a shell need not tell it.
const STANDING_INTERVAL: Duration = Duration::from_millis(250);

/// Standard input, or a descriptor of our own in its place.
pub(super) enum Stdin {
    /// Descriptor 0. Where it was closed, Rust's runtime has put /dev/null, so no other file can have become it.
    Standard,
    /// A descriptor of our own.
    #[allow(dead_code, reason = "tests put a pseudoterminal, a pipe or a file here")]
    Owned(OwnedFd),
}

impl AsFd for Stdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Standard => rustix::stdio::stdin(),
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

/// A file, a pipe, /dev/null.
pub(super) struct Stream {
    fd: Stdin,
    ended: bool,
}

impl Stream {
    pub(super) fn new(fd: Stdin) -> Self {
        Self { fd, ended: false }
    }
}

impl Source for Stream {
    fn interests<'a>(&'a self, room: bool, add: &mut dyn FnMut(Interest<'a>)) {
        if room {
            add(Interest { fd: self.fd.as_fd(), events: libc::POLLIN });
        }
    }

    fn read_ready(&mut self, into: &mut Backlog) {
        let mut buffer = [0; CHUNK];
        // The descriptor may be in blocking mode and is left so: it is shared with other processes.
        if into.room() == 0 || ready_now(self.fd.as_fd(), PollFlags::IN).is_empty() {
            return;
        }
        match read_once(self.fd.as_fd(), &mut buffer, into.room()) {
            Ok(None) => {}
            // An error (a directory, a descriptor only open for writing) gives no byte more than an end does.
            Ok(Some(0)) | Err(_) => self.ended = true,
            Ok(Some(count)) => into.add(&buffer[..count]),
        }
    }

    fn ended(&self) -> bool {
        self.ended
    }
}

/// A terminal with its escape key.
pub(super) struct Keyboard {
    terminal: Terminal,
    escape: EscapeKey,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not raw: [`Source::resume`] has not been called, or another job has the terminal.
    Waiting,
    Raw,
    Ended,
}

impl Keyboard {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, escape: EscapeKey::default(), state: State::Waiting }
    }

    fn take(&mut self, mut typed: &[u8], into: &mut Backlog) {
        while let Some(piece) = self.escape.next(&mut typed) {
            match piece {
                Typed::Bytes(bytes) => into.add(bytes),
                Typed::Quit => into.request(Request::Quit),
                Typed::Break => into.request(Request::Break),
                Typed::Help => terminal::say(&format!("\n{MENU}")),
            }
        }
    }
}

impl Source for Keyboard {
    fn interests<'a>(&'a self, room: bool, add: &mut dyn FnMut(Interest<'a>)) {
        // Reading a terminal that another job has would stop the process.
        if room && self.state == State::Raw {
            add(Interest { fd: self.terminal.as_fd(), events: libc::POLLIN });
        }
    }

    fn read_ready(&mut self, into: &mut Backlog) {
        if self.state == State::Waiting && self.resume().is_err() {
            self.state = State::Ended;
        }
        if self.state == State::Raw && self.terminal.standing() == Standing::Background {
            self.state = State::Waiting;
        }
        let ready = || !ready_now(self.terminal.as_fd(), PollFlags::IN).is_empty();
        if self.state != State::Raw || into.room() == 0 || !ready() {
            return;
        }
        let mut buffer = [0; CHUNK];
        match read_once(self.terminal.as_fd(), &mut buffer, into.room()) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => self.state = State::Ended,
            Ok(Some(count)) => self.take(&buffer[..count], into),
        }
    }

    fn ended(&self) -> bool {
        self.state == State::Ended
    }

    fn look_again(&self) -> Option<Duration> {
        (self.state == State::Waiting).then_some(STANDING_INTERVAL)
    }

    fn resume(&mut self) -> io::Result<Standing> {
        let standing = self.terminal.enter()?;
        if self.state != State::Ended {
            self.state = if standing == Standing::Foreground { State::Raw } else { State::Waiting };
        }
        Ok(standing)
    }

    fn suspend(&mut self) {
        self.terminal.leave();
        if self.state == State::Raw {
            self.state = State::Waiting;
        }
    }

    fn window_size(&self) -> Option<WindowSize> {
        terminal::window_size(self.terminal.as_fd())
    }
}

#[cfg(test)]
#[path = "stdin_tests.rs"]
mod tests;
