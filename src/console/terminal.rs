//! The user's terminal: raw while the guest has it, given back however the process ends.
//!
//! In raw mode every key reaches the guest, whose own terminal driver echoes, edits and makes signals of Ctrl-C and its
//! like. Output processing is off too: the guest ends its lines with CR LF itself, and a full-screen program that moves
//! down with a bare LF would go astray if the host added a CR.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::termios::{
    self, ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
};

use super::names;

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A terminal and the modes it had before we changed them.
pub(super) struct Terminal {
    fd: OwnedFd,
    saved: Option<Termios>,
}

/// Whether the shell's job control lets us use the terminal now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is ours: reads do not stop the process.
    Foreground,
    /// Another job has it: reading it or changing its modes would stop the process.
    Background,
}

/// The terminal that is raw now, for paths that can reach no object: signals, panics, exit.
struct Active {
    fd: RawFd,
    modes: Termios,
}

/// Null, or an [`Active`] that is never freed: a signal's handler may be reading it at any time.
static ACTIVE: AtomicPtr<Active> = AtomicPtr::new(ptr::null_mut());

impl Terminal {
    /// The terminal behind `fd`, if it is one.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        if !termios::isatty(fd) {
            return Ok(None);
        }
        Ok(Some(Self { fd: rustix::io::fcntl_dupfd_cloexec(fd, 3)?, saved: None }))
    }

    /// Whether the terminal may be read and set now. One that is not our controlling terminal always may.
    pub(super) fn standing(&self) -> Standing {
        match termios::tcgetpgrp(&self.fd) {
            Ok(group) if group != rustix::process::getpgrp() => Standing::Background,
            _ => Standing::Foreground,
        }
    }

    /// Makes the terminal raw, unless another job has it. Called again after a stop, it does so again; what is given back
    /// in the end stays what was found first.
    pub(super) fn enter(&mut self) -> io::Result<Standing> {
        if self.standing() == Standing::Background {
            return Ok(Standing::Background);
        }
        let saved = match &self.saved {
            Some(saved) => saved.clone(),
            None => termios::tcgetattr(&self.fd)?,
        };
        install_guards();
        self.saved = Some(saved.clone());
        let active = Box::into_raw(Box::new(Active { fd: self.fd.as_raw_fd(), modes: saved.clone() }));
        ACTIVE.store(active, Ordering::SeqCst);
        set_modes(self.fd.as_fd(), &raw(saved))?;
        Ok(Standing::Foreground)
    }

    /// Gives the terminal back as it was found. In the background the shell has done so already.
    pub(super) fn leave(&mut self) {
        let Some(saved) = &self.saved else { return };
        if self.standing() == Standing::Foreground {
            // An error means that the terminal is gone, and nobody is left to be told.
            let _ = set_modes(self.fd.as_fd(), saved);
        }
        let active = ACTIVE.load(Ordering::SeqCst);
        if active_fd(active) == Some(self.fd.as_raw_fd()) {
            ACTIVE.store(ptr::null_mut(), Ordering::SeqCst);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The modes for a terminal whose every byte belongs to the guest.
fn raw(mut modes: Termios) -> Termios {
    modes.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::INPCK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON
        | InputModes::IXOFF;
    modes.output_modes -= OutputModes::OPOST;
    modes.local_modes -=
        LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    modes.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    modes.control_modes |= ControlModes::CS8;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    modes
}

/// Makes a pseudoterminal's slave raw, so that neither side's bytes are changed or echoed.
pub(super) fn make_raw(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(termios::tcsetattr(fd, OptionalActions::Now, &raw(termios::tcgetattr(fd)?))?)
}

/// Sets modes with SIGTTOU blocked: should another job take the terminal just now, we are not stopped.
#[allow(unsafe_code)]
fn set_modes(fd: BorrowedFd<'_>, modes: &Termios) -> io::Result<()> {
    // SAFETY: both sets are valid for the call that fills them; pthread_sigmask changes this thread's mask alone and may be
    // called in a signal handler.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    unsafe {
        let mut stop: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut stop);
        libc::sigaddset(&mut stop, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &stop, &mut before);
    }
    let result = termios::tcsetattr(fd, OptionalActions::Now, modes);
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    Ok(result?)
}

#[allow(unsafe_code)]
fn active_fd(active: *mut Active) -> Option<RawFd> {
    // SAFETY: null or a leaked box, see ACTIVE.
    unsafe { active.as_ref() }.map(|active| active.fd)
}

/// Gives the terminal back, from any place: a signal's handler, a panic, the process's exit. Does nothing when no terminal
/// is raw. Makes only system calls that are safe in a signal handler.
#[allow(unsafe_code)]
pub fn restore() {
    let active = ACTIVE.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: null or a leaked box, see ACTIVE.
    let Some(active) = (unsafe { active.as_ref() }) else { return };
    // SAFETY: the terminal that owns the descriptor clears ACTIVE before it closes it.
    let fd = unsafe { BorrowedFd::borrow_raw(active.fd) };
    let ours = !matches!(termios::tcgetpgrp(fd), Ok(group) if group != rustix::process::getpgrp());
    if ours {
        let _ = set_modes(fd, &active.modes);
    }
}

/// Whether a terminal is raw now, so that text for the user needs CR LF.
pub fn is_raw() -> bool {
    !ACTIVE.load(Ordering::SeqCst).is_null()
}

/// Writes text for the user on standard error, with the line ends a raw terminal needs. Drops the text rather than wait
/// when nobody takes it.
pub fn say(text: &str) {
    let fd = rustix::stdio::stderr();
    let mut entry = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if !matches!(rustix::event::poll(&mut entry, Some(&now)), Ok(1)) {
        return;
    }
    let text = if is_raw() && termios::isatty(fd) { with_cr_lf(text) } else { text.to_owned() };
    let _ = io::stderr().write_all(text.as_bytes());
}

fn with_cr_lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

/// The size of the terminal behind `fd`; `None` when it is no terminal or does not know.
pub(super) fn window_size(fd: BorrowedFd<'_>) -> Option<WindowSize> {
    let size = termios::tcgetwinsize(fd).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(WindowSize { columns: size.ws_col, rows: size.ws_row })
}

/// Sees to it, once, that the terminal and names come back on the paths that run no destructor.
pub(super) fn install_guards() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            if cfg!(panic = "abort") {
                names::remove_all();
            }
            before(info);
        }));
        guards::on_exit();
        guards::on_fatal_signals();
    });
}

/// Hooks into the C library that end in [`restore`].
#[allow(unsafe_code)]
mod guards {
    use std::ptr;

    use libc::{c_int, c_void, sigaction, siginfo_t};

    /// Signals that end the process from within: a crash, abort(), a page that cannot be had.
    const FATAL: [c_int; 6] = [libc::SIGABRT, libc::SIGBUS, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGQUIT];

    extern "C" fn at_exit() {
        super::restore();
        super::names::remove_all();
    }

    /// `std::process::exit` runs no destructors.
    pub(super) fn on_exit() {
        // SAFETY: the function has the type atexit wants and stays in place.
        unsafe { libc::atexit(at_exit) };
    }

    extern "C" fn at_fatal_signal(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
        super::restore();
        // SAFETY: async-signal-safe. The signal has its default action again: a fault happens once more on return and ends the
        // process, and one that was sent, as abort() does, comes once more. Setting the action here instead would be a call
        // that a confined thread may not make.
        unsafe {
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        }
    }

    pub(super) fn on_fatal_signals() {
        for signal in FATAL {
            // SAFETY: the handler makes only async-signal-safe calls, on the alternate stack where the thread has one (a stack
            // overflow).
            unsafe {
                let mut action: sigaction = std::mem::zeroed();
                action.sa_sigaction = at_fatal_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
                libc::sigemptyset(&mut action.sa_mask);
                sigaction(signal, &action, ptr::null_mut());
            }
        }
    }
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
