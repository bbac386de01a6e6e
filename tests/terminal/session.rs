//! A terminal with a program in it, and a person at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// No answer here takes longer, even where ring 0 is emulated on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the program has written, and whether more can come.
#[derive(Default)]
struct Screen {
    bytes: Vec<u8>,
    closed: bool,
}

/// A terminal emulator's side of a pseudoterminal, and the program that has the other.
pub struct Session {
    master: File,
    slave: OwnedFd,
    child: Child,
    before: String,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    /// Bytes of the screen that were expected already.
    seen: usize,
}

/// All a terminal's modes, to compare.
fn modes(fd: &impl std::os::fd::AsFd) -> String {
    format!("{:?}", tcgetattr(fd).unwrap())
}

impl Session {
    /// Starts a program as the leader of a session of its own, whose controlling terminal is a new one of 80 by 24.
    pub fn start(command: &mut Command) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
        tcsetwinsize(&master, Winsize { ws_col: 80, ws_row: 24, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let terminal = slave.as_raw_fd();
        // SAFETY: between fork and exec, only system calls on a descriptor that is open there.
        unsafe {
            command.pre_exec(move || {
                if libc::setsid() < 0 || libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            })
        };
        let end = || Stdio::from(slave.try_clone().unwrap());
        let before = modes(&master);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let master = File::from(master);
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let (mut reader, shown) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            loop {
                let count = reader.read(&mut buffer).unwrap_or(0);
                let mut screen = shown.0.lock().unwrap();
                screen.bytes.extend_from_slice(&buffer[..count]);
                screen.closed |= count == 0;
                shown.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { master, slave, child, before, screen, seen: 0 }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types bytes.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Types bytes on a thread of its own, as a paste does that the program takes slowly.
    pub fn paste(&self, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
        let mut master = self.master.try_clone().unwrap();
        std::thread::spawn(move || master.write_all(&bytes).unwrap())
    }

    /// Waits for bytes that have not been expected before and returns all up to their end.
    pub fn expect(&mut self, wanted: &[u8]) -> Vec<u8> {
        let start = Instant::now();
        let mut screen = self.screen.0.lock().unwrap();
        loop {
            let news = &screen.bytes[self.seen..];
            if let Some(at) = news.windows(wanted.len()).position(|window| window == wanted) {
                let found = news[..at + wanted.len()].to_vec();
                self.seen += found.len();
                return found;
            }
            let wanted = String::from_utf8_lossy(wanted);
            assert!(!screen.closed, "ended before {wanted:?}: {:?}", String::from_utf8_lossy(news));
            assert!(start.elapsed() < PATIENCE, "no {wanted:?}: {:?}", String::from_utf8_lossy(&screen.bytes));
            screen = self.screen.1.wait_timeout(screen, Duration::from_millis(200)).unwrap().0;
        }
    }

    /// Waits for `count` bytes that have not been expected before.
    pub fn expect_bytes(&mut self, count: usize) -> Vec<u8> {
        let start = Instant::now();
        let mut screen = self.screen.0.lock().unwrap();
        while screen.bytes.len() - self.seen < count {
            let got = screen.bytes.len() - self.seen;
            assert!(!screen.closed && start.elapsed() < PATIENCE, "only {got} bytes of {count}");
            screen = self.screen.1.wait_timeout(screen, Duration::from_millis(200)).unwrap().0;
        }
        let found = screen.bytes[self.seen..self.seen + count].to_vec();
        self.seen += count;
        found
    }

    /// Whether the terminal is raw.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.master).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until `done`.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "never {what}: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// All that was shown.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.0.lock().unwrap().bytes).into_owned()
    }

    /// Sets the terminal's modes as a shell does that takes it over.
    pub fn set_modes(&self, change: impl FnOnce(&mut Termios)) {
        let mut modes = tcgetattr(&self.slave).unwrap();
        change(&mut modes);
        tcsetattr(&self.slave, OptionalActions::Now, &modes).unwrap();
    }

    /// Resizes the window, which sends SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }

    /// The process's state as in proc(5): R, S, T and so on.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap()
    }

    /// Waits for the end, and sees to it that the terminal was given back as it was.
    pub fn end(mut self) -> (Option<i32>, Option<i32>) {
        let start = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it did not end: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(modes(&self.master), self.before, "the terminal was not given back: {:?}", self.text());
        (status.code(), status.signal())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
