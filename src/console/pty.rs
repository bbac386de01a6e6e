//! `pty[:LINK]`: a new pseudoterminal.
//!
//! Nobody holds the slave side open but who uses it, so the master's hang-up tells whether anybody does; inotify tells when
//! somebody comes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{OFlags, inotify};
use rustix::pty::OpenptFlags;

use super::ConsoleError;
use super::input::{Backlog, Interest, Source, read_once, ready_now};
use super::line::Line;
use super::names::Name;
use super::output::Output;
use super::terminal::{self, WindowSize};

/// Read at once.
const CHUNK: usize = 8 * 1024;
/// How often to look for a user where inotify is not to be had.
const LOOK: Duration = Duration::from_millis(100);

/// The master side and who is at the other.
pub(super) struct Pty {
    master: Arc<OwnedFd>,
    opened: Option<OwnedFd>,
    attached: bool,
    line: Arc<Line>,
    output: Arc<Output>,
    _link: Option<Name>,
}

/// Makes a pseudoterminal, raw, and returns its master side and the slave's path.
pub(super) fn open() -> Result<(OwnedFd, PathBuf), ConsoleError> {
    let make = || -> io::Result<_> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let path = rustix::pty::ptsname(&master, Vec::new())?;
        // Opened and closed once: only then does the master report a hang-up while nobody is there.
        let slave =
            rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
        terminal::make_raw(slave.as_fd())?;
        // The master's open file is ours alone.
        rustix::fs::fcntl_setfl(&master, rustix::fs::fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        Ok((master, PathBuf::from(OsStr::from_bytes(path.as_bytes()))))
    };
    make().map_err(ConsoleError::Pty)
}

/// Makes the symbolic link `link` to `slave`. A link that a run before left behind is replaced, any other file is left alone.
pub(super) fn link(link: &Path, slave: &Path) -> Result<Name, ConsoleError> {
    let failed = |source| ConsoleError::Link { path: link.into(), source };
    if let Ok(target) = fs::read_link(link) {
        let stale = target == slave || (target.starts_with("/dev/pts") && !target.exists());
        if !stale {
            return Err(ConsoleError::Occupied(link.into()));
        }
        fs::remove_file(link).map_err(failed)?;
    }
    match std::os::unix::fs::symlink(slave, link) {
        Ok(()) => Name::adopt(link).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(ConsoleError::Occupied(link.into())),
        Err(error) => Err(failed(error)),
    }
}

fn watch_opens(slave: &Path) -> io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, slave, inotify::WatchFlags::OPEN)?;
    Ok(fd)
}

impl Pty {
    pub(super) fn new(master: OwnedFd, slave: &Path, link: Option<Name>, line: Arc<Line>, output: Arc<Output>) -> Self {
        let opened = watch_opens(slave).ok();
        let mut pty = Self { master: Arc::new(master), opened, attached: false, line, output, _link: link };
        // Somebody may have followed the link before the watch began.
        pty.attach_if_used();
        pty
    }

    /// The watch says only that somebody came; whether somebody is there, the master says.
    fn forget_opens(&self) {
        let mut events = [0; 1024];
        if let Some(fd) = &self.opened {
            while matches!(read_once(fd.as_fd(), &mut events, usize::MAX), Ok(Some(count)) if count > 0) {}
        }
    }

    fn is_used(&self) -> bool {
        !ready_now(self.master.as_fd(), PollFlags::IN).contains(PollFlags::HUP)
    }

    fn attach_if_used(&mut self) {
        if !self.attached && self.is_used() {
            self.attached = true;
            self.line.attach(Arc::clone(&self.master));
            self.output.kick();
        }
    }
}

impl Source for Pty {
    fn interests<'a>(&'a self, room: bool, add: &mut dyn FnMut(Interest<'a>)) {
        if !self.attached {
            if let Some(fd) = &self.opened {
                add(Interest { fd: fd.as_fd(), events: libc::POLLIN });
            }
        } else if room {
            add(Interest { fd: self.master.as_fd(), events: libc::POLLIN });
        }
    }

    fn read_ready(&mut self, into: &mut Backlog) {
        self.forget_opens();
        self.attach_if_used();
        if !self.attached || into.room() == 0 {
            return;
        }
        let mut buffer = [0; CHUNK];
        match read_once(self.master.as_fd(), &mut buffer, into.room()) {
            Ok(None) => {}
            Ok(Some(count)) if count > 0 => into.add(&buffer[..count]),
            // EIO: the last user has left and all it typed is read.
            Ok(_) | Err(_) => {
                self.attached = false;
                self.line.detach(&self.master);
                self.attach_if_used();
            }
        }
    }

    fn ended(&self) -> bool {
        false
    }

    fn look_again(&self) -> Option<Duration> {
        (!self.attached && self.opened.is_none()).then_some(LOOK)
    }

    fn window_size(&self) -> Option<WindowSize> {
        terminal::window_size(self.master.as_fd())
    }
}

#[cfg(test)]
#[path = "pty_tests.rs"]
mod tests;
