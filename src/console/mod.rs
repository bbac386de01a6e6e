//! Where the serial port's bytes go to and come from.
//!
//! A console is bytes, not text: nothing here changes, adds or drops one, but for the escape key of a terminal. The
//! [`Output`] is what the UART pushes into; the [`Input`] is what the event loop reads and offers to the UART.
//!
//! | `--console` | output | input |
//! | --- | --- | --- |
//! | `stdio` | standard output | standard input, a terminal in raw mode |
//! | `file:PATH` | the file | none |
//! | `pty[:LINK]` | whoever has the pseudoterminal open | the same |
//! | `unix:PATH` | the one connected client | the same |
//! | `none` | discarded | none |

mod drain;
pub mod escape;
mod input;
mod line;
mod names;
mod output;
mod pty;
mod ring;
mod stdin;
#[allow(unsafe_code)]
pub mod terminal;
mod unix;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

pub use self::input::{Input, Interest, Request};
pub use self::output::{CAPACITY, Output, OutputStatistics};
pub use self::terminal::WindowSize;

use self::drain::Descriptor;
use self::input::{BACKLOG, Source, TERMINAL_BACKLOG};
use self::line::{Line, LineDrain};
use self::pty::Pty;
use self::stdin::{Keyboard, Stdin, Stream};
use self::terminal::{Standing, Terminal};
use self::unix::Server;
use crate::config::console::ConsoleSpec;

/// Why a console could not be opened or started.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file for the output cannot be opened.
    #[error("cannot write the console to \"{}\": {}", path.display(), remedy(source))]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A named pipe that nobody reads.
    #[error("cannot write the console to the named pipe \"{}\": nobody reads it; start its reader first", .0.display())]
    NoReader(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at \"{}\": {}", path.display(), remedy(source))]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// More bytes than the address of a socket holds.
    #[error(
        "the socket's path \"{}\" has {length} bytes, and an address holds 107: choose a shorter one, such as under /tmp",
        path.display()
    )]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Somebody listens at the socket.
    #[error("\"{}\" is in use: another program listens there; end it or choose another path", .0.display())]
    InUse(PathBuf),
    /// A file that is not ours has the name.
    #[error("\"{}\" exists and is not left over from a console: remove it or choose another path", .0.display())]
    Occupied(PathBuf),
    /// No pseudoterminal.
    #[error(
        "cannot make a pseudoterminal: {0}; /dev/ptmx and /dev/pts must be there (mount -t devpts devpts /dev/pts)"
    )]
    Pty(#[source] io::Error),
    /// The link to the pseudoterminal cannot be made.
    #[error("cannot make the link \"{}\" to the pseudoterminal: {}", path.display(), remedy(source))]
    Link {
        /// The link.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The terminal does not take the raw mode.
    #[error("cannot put the terminal into raw mode: {0}; use --console none or redirect the standard input")]
    Terminal(#[source] io::Error),
    /// The host refuses the thread that writes the output.
    #[error("cannot start the console's thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// What to do about an error at a path.
fn remedy(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "; its folder must exist",
        io::ErrorKind::PermissionDenied => "; choose a place you may write to",
        io::ErrorKind::IsADirectory => "; name a file in it",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written",
        _ => "",
    };
    format!("{error}{advice}")
}

/// The guest's console, opened. Dropping it gives the terminal back and removes what was made.
pub struct Console {
    output: Arc<Output>,
    input: Option<Input>,
    notices: Vec<String>,
    /// Whether the size of the terminal on standard output counts.
    on_standard_output: bool,
}

impl Console {
    /// Opens what `spec` names. The terminal is not touched and no thread runs before [`Self::start`].
    ///
    /// # Errors
    /// See [`ConsoleError`].
    pub fn open(spec: &ConsoleSpec) -> Result<Self, ConsoleError> {
        Ok(match spec {
            ConsoleSpec::Stdio => Self::stdio()?,
            ConsoleSpec::File(path) => Self::output_only(Output::new(Box::new(Descriptor::Owned(create(path)?)))),
            ConsoleSpec::None => Self::output_only(Output::nowhere()),
            ConsoleSpec::Pty(link) => Self::pty(link.as_deref())?,
            ConsoleSpec::Unix(path) => Self::unix(path)?,
        })
    }

    fn stdio() -> Result<Self, ConsoleError> {
        let input = match Terminal::of(rustix::stdio::stdin()).map_err(ConsoleError::Terminal)? {
            Some(terminal) => Input::new(Box::new(Keyboard::new(terminal)), TERMINAL_BACKLOG),
            None => Input::new(Box::new(Stream::new(Stdin::Standard)), BACKLOG),
        };
        Ok(Self {
            output: Output::new(Box::new(Descriptor::StandardOutput)),
            input: Some(input),
            notices: Vec::new(),
            on_standard_output: true,
        })
    }

    fn pty(link: Option<&Path>) -> Result<Self, ConsoleError> {
        let (master, slave) = pty::open()?;
        let name = link.map(|link| pty::link(link, &slave)).transpose()?;
        let notice = match link {
            Some(link) => format!("console: {} ({})", slave.display(), link.display()),
            None => format!("console: {}", slave.display()),
        };
        let line = Arc::new(Line::default());
        let output = Output::new(Box::new(LineDrain::new(Arc::clone(&line))));
        let source = Pty::new(master, &slave, name, line, Arc::clone(&output));
        Ok(Self::two_way(output, Box::new(source), notice))
    }

    fn unix(path: &Path) -> Result<Self, ConsoleError> {
        let (listener, name) = unix::listen(path)?;
        let line = Arc::new(Line::default());
        let output = Output::new(Box::new(LineDrain::new(Arc::clone(&line))));
        let source = Server::new(listener, name, line, Arc::clone(&output));
        Ok(Self::two_way(output, Box::new(source), format!("console: unix:{}", path.display())))
    }

    fn two_way(output: Arc<Output>, source: Box<dyn Source>, notice: String) -> Self {
        let input = Some(Input::new(source, BACKLOG));
        Self { output, input, notices: vec![notice], on_standard_output: false }
    }

    fn output_only(output: Arc<Output>) -> Self {
        Self { output, input: None, notices: Vec::new(), on_standard_output: false }
    }

    /// Does what [`Self::start`] needs that a confined thread may not: sees to it that the terminal comes back on every path,
    /// and starts the thread that writes the output. That calls `first` before all else and ends when it returns `false`. Returns
    /// whether there is such a thread: where nothing is written there is none.
    ///
    /// # Errors
    /// [`ConsoleError::Thread`].
    pub fn start_writer(&self, first: impl FnOnce() -> bool + Send + 'static) -> Result<bool, ConsoleError> {
        terminal::install_guards();
        self.output.start_with(first).map_err(ConsoleError::Thread)
    }

    /// The folders of the names that were made in the file system and go when the console is dropped.
    pub fn folders(&self) -> Vec<PathBuf> {
        names::folders()
    }

    /// Makes the terminal raw, and starts the thread that writes the output unless it runs already. A job in the background
    /// leaves the terminal alone and takes it when it comes to the foreground; a notice says so.
    ///
    /// # Errors
    /// [`ConsoleError::Thread`] and [`ConsoleError::Terminal`].
    pub fn start(&mut self) -> Result<(), ConsoleError> {
        self.output.start().map_err(ConsoleError::Thread)?;
        terminal::install_guards();
        if self.resume()? == Standing::Background {
            self.notices.push("in the background: bring the job to the foreground to type to the guest".into());
        }
        Ok(())
    }

    /// Where the UART pushes the guest's bytes.
    pub fn output(&self) -> Arc<Output> {
        Arc::clone(&self.output)
    }

    /// Where the guest's input comes from; `None` when there is none by choice.
    pub fn input(&mut self) -> Option<&mut Input> {
        self.input.as_mut()
    }

    /// Takes what the user should be told, a line each: the pseudoterminal's name, for one. Ask after each call here.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Size of the user's terminal, when there is one that knows it.
    pub fn window_size(&self) -> Option<WindowSize> {
        self.input
            .as_ref()
            .and_then(|input| input.source().window_size())
            .or_else(|| self.on_standard_output.then(|| terminal::window_size(rustix::stdio::stdout())).flatten())
    }

    /// Gives the terminal back for a while: the process is about to be stopped (SIGTSTP).
    pub fn suspend(&mut self) {
        if let Some(input) = &mut self.input {
            input.source_mut().suspend();
        }
    }

    /// Takes the terminal again after the process was continued (SIGCONT).
    ///
    /// # Errors
    /// [`ConsoleError::Terminal`].
    pub fn continued(&mut self) -> Result<(), ConsoleError> {
        self.resume().map(drop)
    }

    fn resume(&mut self) -> Result<Standing, ConsoleError> {
        match &mut self.input {
            Some(input) => input.source_mut().resume().map_err(ConsoleError::Terminal),
            None => Ok(Standing::Foreground),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.output.stop();
    }
}

/// Gives the terminal back, and removes names in the file system if this thread made them. For a process that ends without
/// running destructors: fit for a signal's handler, also on a thread that is confined.
pub fn give_back() {
    terminal::restore();
    names::remove_all();
}

/// Opens a file for the output as a shell's `>` does, but readable by its owner alone: it holds a guest's console.
fn create(path: &Path) -> Result<std::os::fd::OwnedFd, ConsoleError> {
    let failed = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::NXIO => ConsoleError::NoReader(path.into()),
        errno => ConsoleError::File { path: path.into(), source: errno.into() },
    };
    // A named pipe without a reader would hold up the open; the flag is taken off again.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let status = rustix::fs::fcntl_getfl(&fd).map_err(failed)?;
    rustix::fs::fcntl_setfl(&fd, status - OFlags::NONBLOCK).map_err(failed)?;
    Ok(fd)
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
