//! The serial line, as a terminal or as a raw channel, and what its modem lines tell: carrier
//! detect falls when the input on the host has ended, ring indicator when its window was resized.

use crate::spec::{Spec, Stdio};
use crate::{applets, ports, sys, task};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSBRK: u32 = 0x5409;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCMGET: u32 = 0x5415;
const FIONREAD: u32 = 0x541b;
const TIOCMIWAIT: u32 = 0x545c;

/// Carrier detect, as TIOCMGET and TIOCMIWAIT name it.
const TIOCM_CAR: usize = 0x040;
/// Ring indicator.
const TIOCM_RNG: usize = 0x080;

// Termios bits, asm-generic/termbits.h.
const IGNBRK: u32 = 0o1;
const ICRNL: u32 = 0o400;
const IXON: u32 = 0o2000;
const IUTF8: u32 = 0o40000;
const OPOST: u32 = 0o1;
const ONLCR: u32 = 0o4;
const CBAUD: u32 = 0o10017;
const B115200: u32 = 0o10002;
const CSIZE: u32 = 0o60;
const CS8: u32 = 0o60;
const CSTOPB: u32 = 0o100;
const CREAD: u32 = 0o200;
const PARENB: u32 = 0o400;
const HUPCL: u32 = 0o2000;
const CLOCAL: u32 = 0o4000;
const CRTSCTS: u32 = 0o20_000_000_000;
const ISIG: u32 = 0o1;
const ICANON: u32 = 0o2;
const ECHO: u32 = 0o10;
const ECHOE: u32 = 0o20;
const ECHOK: u32 = 0o40;
const ECHOCTL: u32 = 0o1000;
const ECHOKE: u32 = 0o4000;
const IEXTEN: u32 = 0o100_000;
const VTIME: usize = 5;
const VMIN: usize = 6;

/// A critical message, as /dev/kmsg takes its level.
pub const LEVEL: &[u8] = b"<2>";

/// The line's descriptor, for the watching thread.
static LINE: AtomicI32 = AtomicI32::new(-1);
/// Where that thread reports that a modem line moved, or -1.
static REPORT: AtomicI32 = AtomicI32::new(-1);
/// Whether that thread first gives the applets their names.
static LINK_APPLETS: AtomicBool = AtomicBool::new(false);

/// Opens the serial line (or, where there is none, whatever the kernel's console is) and sets it
/// up for what the host has at its other end.
///
/// A terminal becomes the controlling terminal of a session that this process leads: job control
/// and Ctrl-C. It is not the payload that leads it, because when the leader of a session ends, the
/// kernel hangs the line up and throws away what has not been sent.
pub fn open(spec: &Spec) -> Result<i32, i32> {
    let mode = match spec.stdio {
        Stdio::Tty => {
            sys::setsid();
            sys::O_RDWR | sys::O_CLOEXEC
        }
        Stdio::Pipe => sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC | sys::O_NONBLOCK,
    };
    let line = match sys::open(c"/dev/ttyS0", mode) {
        // Opening it has made it the controlling terminal of a leader without one.
        Ok(line) => line,
        Err(_) => {
            let line = sys::open(c"/dev/console", mode)?;
            if spec.stdio == Stdio::Tty {
                control(line);
            }
            line
        }
    };
    if modem_lines(line) == Err(sys::EIO) {
        // The driver opened the port but could not start it; what is written there would be lost.
        return Err(sys::EIO);
    }
    LINE.store(line, Ordering::Relaxed);
    set_mode(line, spec.stdio);
    if spec.stdio == Stdio::Tty && spec.rows != 0 && spec.cols != 0 {
        set_window(line, spec.rows, spec.cols);
    }
    Ok(line)
}

/// Hardware flow control in either mode: while this side has no room, RTS is down and the host
/// keeps what was typed or pasted.
fn set_mode(line: i32, stdio: Stdio) {
    let mut termios = sys::Termios::default();
    // SAFETY: TCGETS fills a termios.
    if unsafe { sys::ioctl(line, TCGETS, (&raw mut termios) as usize) }.is_err() {
        return;
    }
    termios.cflag &= !(CBAUD | CSIZE | CSTOPB | PARENB);
    termios.cflag |= B115200 | CS8 | CREAD | HUPCL | CLOCAL | CRTSCTS;
    match stdio {
        Stdio::Tty => {
            termios.iflag = ICRNL | IXON | IUTF8;
            termios.oflag = OPOST | ONLCR;
            termios.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
        }
        Stdio::Pipe => {
            termios.iflag = IGNBRK;
            termios.oflag = 0;
            termios.lflag = 0;
            termios.cc[VTIME] = 0;
            termios.cc[VMIN] = 1;
        }
    }
    // SAFETY: TCSETS reads a termios.
    let _ = unsafe { sys::ioctl(line, TCSETS, (&raw mut termios) as usize) };
}

fn set_window(line: i32, rows: u16, cols: u16) {
    let mut now = sys::WinSize { rows: 0, cols: 0, x_pixels: 0, y_pixels: 0 };
    // SAFETY: TIOCGWINSZ fills a winsize.
    let _ = unsafe { sys::ioctl(line, TIOCGWINSZ, (&raw mut now) as usize) };
    if (now.rows, now.cols) != (rows, cols) {
        let wanted = sys::WinSize { rows, cols, x_pixels: 0, y_pixels: 0 };
        // SAFETY: TIOCSWINSZ reads a winsize. The kernel sends SIGWINCH to the foreground group.
        let _ = unsafe { sys::ioctl(line, TIOCSWINSZ, (&raw const wanted) as usize) };
    }
}

/// Makes the line this session's controlling terminal; opening /dev/console does not.
fn control(line: i32) {
    const TIOCSCTTY: u32 = 0x540e;
    // SAFETY: TIOCSCTTY takes an integer.
    let _ = unsafe { sys::ioctl(line, TIOCSCTTY, 0) };
}

/// Makes the calling process a process group of its own, and the one in the foreground of its
/// session's terminal. SIGTTOU must be blocked: the request comes from the background.
pub fn come_forward(line: i32) {
    const TIOCSPGRP: u32 = 0x5410;
    let group = sys::getpid();
    sys::lead_process_group();
    // SAFETY: TIOCSPGRP reads an int.
    let _ = unsafe { sys::ioctl(line, TIOCSPGRP, (&raw const group) as usize) };
}

/// Whether the input on the host can still bring something. A line that cannot tell can.
pub fn carrier(line: i32) -> bool {
    modem_lines(line).map_or(true, |lines| lines & TIOCM_CAR != 0)
}

fn modem_lines(line: i32) -> Result<usize, i32> {
    let mut lines = 0i32;
    // SAFETY: TIOCMGET fills an int.
    unsafe { sys::ioctl(line, TIOCMGET, (&raw mut lines) as usize) }.map(|_| lines as usize)
}

/// How many bytes wait to be read.
pub fn waiting(fd: i32) -> usize {
    let mut bytes = 0i32;
    // SAFETY: FIONREAD fills an int.
    let told = unsafe { sys::ioctl(fd, FIONREAD, (&raw mut bytes) as usize) };
    if told.is_err() { 0 } else { usize::try_from(bytes).unwrap_or(0) }
}

/// Writes a line of text, which starts with [`LEVEL`], to the console, or, when that cannot be used,
/// to the kernel's log, whose messages reach the port without a driver.
pub fn print(text: &[u8]) {
    let (line, mut rest) = match LINE.load(Ordering::Relaxed) {
        -1 => (sys::open(c"/dev/kmsg", sys::O_WRONLY | sys::O_CLOEXEC).unwrap_or(2), text),
        line => (line, text.strip_prefix(LEVEL).unwrap_or(text)),
    };
    while !rest.is_empty() {
        match sys::write(line, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or(b""),
            Err(sys::EAGAIN) => {
                let full = sys::PollFd { fd: line, events: sys::POLLOUT, revents: 0 };
                let _ = sys::ppoll(&mut [full], None);
            }
            Err(_) => return,
        }
    }
}

/// Waits until all that was written has left the serial port.
pub fn drain() {
    // SAFETY: TCSBRK takes an integer; 1 asks for tcdrain(3).
    let _ = unsafe { sys::ioctl(LINE.load(Ordering::Relaxed), TCSBRK, 1) };
}

/// Starts following the modem lines in a thread of its own. With `report`, a byte is written there
/// when one has moved; without, the line is a terminal and its window's size is kept. With
/// `link_applets`, the thread gives the applets their names first, beside what has been started.
pub fn watch(report: Option<i32>, link_applets: bool) {
    LINK_APPLETS.store(link_applets, Ordering::Relaxed);
    REPORT.store(report.unwrap_or(-1), Ordering::Relaxed);
    task::watcher(follow_modem_lines);
}

extern "C" fn follow_modem_lines(_: usize) -> ! {
    let line = LINE.load(Ordering::Relaxed);
    let report = REPORT.load(Ordering::Relaxed);
    if LINK_APPLETS.load(Ordering::Relaxed) {
        sys::yield_to_others();
        applets::link_all();
    }
    loop {
        if report == -1 {
            if let Some((rows, cols)) = ports::window_size() {
                set_window(line, rows, cols);
            }
        } else {
            let _ = sys::write(report, b"!");
        }
        // SAFETY: TIOCMIWAIT takes an integer.
        match unsafe { sys::ioctl(line, TIOCMIWAIT, TIOCM_CAR | TIOCM_RNG) } {
            Ok(_) | Err(sys::EINTR) => {}
            Err(_) => sys::exit_thread(0),
        }
    }
}
