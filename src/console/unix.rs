//! `unix:PATH`: a listening stream socket, one client at a time.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::fs::Mode;

use super::ConsoleError;
use super::input::{Backlog, Interest, Source, read_once, ready_now};
use super::line::Line;
use super::names::Name;
use super::output::Output;

/// What a client reads that comes while another is there.
const BUSY: &[u8] = b"ringfence: another client has this console; try again when it has left\r\n";
/// Longest path of a socket: `sun_path` holds 108 bytes with the terminating NUL (unix(7)).
const PATH_MAX: usize = 107;
/// Read at once.
const CHUNK: usize = 8 * 1024;

/// The socket and the client of the moment.
pub(super) struct Server {
    listener: UnixListener,
    client: Option<Client>,
    line: Arc<Line>,
    output: Arc<Output>,
    _name: Name,
}

struct Client {
    socket: Arc<OwnedFd>,
    /// It sends no more but may still read.
    silent: bool,
}

/// Makes the socket, which only its owner may connect to.
///
/// A socket left behind at the same path is replaced when nobody listens at it; any other file is left alone.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, Name), ConsoleError> {
    let failed = |source| ConsoleError::Socket { path: path.into(), source };
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(ConsoleError::SocketPathTooLong { path: path.into(), length });
    }
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => return Err(ConsoleError::Occupied(path.into())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(error)),
            _ => return Err(ConsoleError::InUse(path.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = bind_private(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let name = Name::adopt(path).map_err(failed)?;
    Ok((listener, name))
}

/// Binds with permissions for the owner alone: who connects is at the guest's console.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // On Linux the socket's file takes over the mode of the socket it is bound to (less the umask), with no moment between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket.into())
}

impl Server {
    pub(super) fn new(listener: UnixListener, name: Name, line: Arc<Line>, output: Arc<Output>) -> Self {
        Self { listener, client: None, line, output, _name: name }
    }

    fn serve(&mut self, into: &mut Backlog) {
        let Some(client) = &mut self.client else { return };
        let events = ready_now(client.socket.as_fd(), PollFlags::IN);
        if client.silent {
            if events.intersects(PollFlags::HUP | PollFlags::ERR) {
                self.leave();
            }
            return;
        }
        if events.is_empty() || into.room() == 0 {
            return;
        }
        let mut buffer = [0; CHUNK];
        match read_once(client.socket.as_fd(), &mut buffer, into.room()) {
            Ok(None) => {}
            Ok(Some(0)) if !events.contains(PollFlags::HUP) => client.silent = true,
            Ok(Some(0)) | Err(_) => self.leave(),
            Ok(Some(count)) => into.add(&buffer[..count]),
        }
    }

    fn leave(&mut self) {
        if let Some(client) = self.client.take() {
            self.line.detach(&client.socket);
        }
    }

    /// Takes one who waits. An error is a client that left again or a lack of descriptors, which passes.
    fn accept(&mut self) -> bool {
        let Ok((stream, _)) = self.listener.accept() else { return false };
        // A socket in this mode never holds up the event loop.
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        if self.client.is_some() {
            let _ = rustix::io::write(&stream, BUSY);
            return true;
        }
        let socket = Arc::new(OwnedFd::from(stream));
        self.line.attach(Arc::clone(&socket));
        self.client = Some(Client { socket, silent: false });
        self.output.kick();
        true
    }
}

impl Source for Server {
    fn interests<'a>(&'a self, room: bool, add: &mut dyn FnMut(Interest<'a>)) {
        add(Interest { fd: self.listener.as_fd(), events: libc::POLLIN });
        if let Some(client) = &self.client {
            if client.silent {
                add(Interest { fd: client.socket.as_fd(), events: 0 });
            } else if room {
                add(Interest { fd: client.socket.as_fd(), events: libc::POLLIN });
            }
        }
    }

    fn read_ready(&mut self, into: &mut Backlog) {
        self.serve(into);
        // A bound on clients taken at once keeps a flood of them from holding up the event loop.
        for _ in 0..16 {
            if !self.accept() {
                break;
            }
        }
    }

    fn ended(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[path = "unix_tests.rs"]
mod tests;
