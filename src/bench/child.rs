//! Programs started as children: their output kept, their end noticed at once, and surely ended when they are let go.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use thiserror::Error;

use super::clock::Instant;

/// How often a wait looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a program that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// Output kept of one child and one stream, in bytes; the rest is read and dropped.
const KEPT: usize = 64 << 20;
/// How much of a failed program's last words an error quotes, in bytes.
const QUOTED: usize = 400;

/// Why a child gave no result.
#[derive(Debug, Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// What was typed.
        command: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("cannot wait for `{command}`")]
    Wait {
        /// What was typed.
        command: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It ended with another status than it should.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// What was typed.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        said: String,
    },
    /// It took too long, and was ended.
    #[error("`{command}` did not come so far within {} s: {said}", patience.as_secs())]
    Late {
        /// What was typed.
        command: String,
        /// How long was waited.
        patience: Duration,
        /// The last of what it said.
        said: String,
    },
    /// The user asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Whether the user wants to stop: set by a signal, looked at wherever something is waited for.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// When the system takes no handlers.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Asks to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`ChildError::Stopped`] when the user wants to stop.
    pub fn check(&self) -> Result<(), ChildError> {
        if self.requested() { Err(ChildError::Stopped) } else { Ok(()) }
    }

    /// Sleeps, unless the user wants to stop.
    ///
    /// # Errors
    /// [`ChildError::Stopped`].
    pub fn sleep(&self, time: Duration) -> Result<(), ChildError> {
        let start = Instant::now();
        loop {
            self.check()?;
            match time.checked_sub(start.elapsed()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(LOOK)),
                _ => return Ok(()),
            }
        }
    }
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output, 64 MiB at most.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, 64 MiB at most.
    pub stderr: Vec<u8>,
    /// From just before it was made until its end was noticed.
    pub took: Duration,
    command: String,
}

impl Finished {
    /// The same, if its status is 0.
    ///
    /// # Errors
    /// [`ChildError::Failed`], with its last words.
    pub fn success(self) -> Result<Self, ChildError> {
        if self.status.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        Err(ChildError::Failed { said: last_words(said), command: self.command, status: self.status })
    }
}

/// A child in a process group of its own, so that the terminal's Ctrl-C reaches it through us alone. Letting it go ends the
/// whole group.
#[derive(Debug)]
pub struct Child {
    process: Process,
    handle: OwnedFd,
    command: String,
    started: Instant,
    stdout: Collector,
    stderr: Collector,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`; its output is kept, its input is empty.
    ///
    /// # Errors
    /// [`ChildError::Start`].
    pub fn spawn(command: &mut Command) -> Result<Self, ChildError> {
        let words = words(command);
        let failed = |source| ChildError::Start { command: words.clone(), source };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let started = Instant::now();
        let mut process = command.spawn().map_err(failed)?;
        let handle = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).map_err(|error| {
            let _ = process.kill();
            let _ = process.wait();
            failed(error.into())
        })?;
        let (stdout, stderr) = (Collector::of(process.stdout.take()), Collector::of(process.stderr.take()));
        Ok(Self { process, handle, command: words, started, stdout, stderr, ended: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// When it was made.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for its end, `patience` at most.
    ///
    /// # Errors
    /// [`ChildError::Late`], [`ChildError::Stopped`] or [`ChildError::Wait`]; then it is ended.
    pub fn wait(mut self, patience: Duration, stop: &Stop) -> Result<Finished, ChildError> {
        let deadline = Instant::now();
        while self.ended.is_none() {
            stop.check()?;
            if deadline.elapsed() > patience {
                return Err(self.late(patience));
            }
            self.look(LOOK.min(patience))?;
        }
        let took = self.started.elapsed();
        let (stdout, stderr) = (self.stdout.whole(), self.stderr.whole());
        let status = self.ended.unwrap_or_default();
        Ok(Finished { status, stdout, stderr, took, command: std::mem::take(&mut self.command) })
    }

    /// Waits until it has written `text` to standard output, `patience` at most.
    ///
    /// # Errors
    /// As [`Child::wait`], and [`ChildError::Failed`] when it ends without.
    pub fn wait_for(&mut self, text: &[u8], patience: Duration, stop: &Stop) -> Result<(), ChildError> {
        let start = Instant::now();
        loop {
            if self.stdout.waits_for(text, LOOK) {
                return Ok(());
            }
            stop.check()?;
            self.look(Duration::ZERO)?;
            if let Some(status) = self.ended {
                // Its last words may still be on their way.
                if self.stdout.waits_for(text, GRACE) {
                    return Ok(());
                }
                self.stderr.waits_for_end(GRACE);
                let said = self.last_words();
                return Err(ChildError::Failed { command: self.command.clone(), status, said });
            }
            if start.elapsed() > patience {
                return Err(self.late(patience));
            }
        }
    }

    /// Whether it has written `text` to standard output, or does within `time`; returns early when its output ends.
    pub fn writes(&self, text: &[u8], time: Duration) -> bool {
        self.stdout.waits_for(text, time)
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && self.look(Duration::ZERO).is_ok() && self.ended.is_none()
    }

    /// Looks for its end for the given time; its end wakes this at once.
    fn look(&mut self, time: Duration) -> Result<(), ChildError> {
        let failed = |source| ChildError::Wait { command: self.command.clone(), source };
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&time)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => self.process.wait().map(|status| self.ended = Some(status)).map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn late(&self, patience: Duration) -> ChildError {
        ChildError::Late { command: self.command.clone(), patience, said: self.last_words() }
    }

    fn last_words(&self) -> String {
        let error = last_words(&self.stderr.so_far());
        if error.is_empty() { last_words(&self.stdout.so_far()) } else { error }
    }

    /// Asks it to end, and kills it when it does not.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while self.ended.is_none() && asked.elapsed() < GRACE {
            if self.look(LOOK).is_err() {
                break;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(Pid::from_child(&self.process), signal);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.signal(Signal::KILL);
            let _ = self.process.wait();
        }
    }
}

/// Starts `command` and waits for its end, `patience` at most.
///
/// # Errors
/// As [`Child::spawn`] and [`Child::wait`]; its status is not judged, see [`Finished::success`].
pub fn run(command: &mut Command, patience: Duration, stop: &Stop) -> Result<Finished, ChildError> {
    Child::spawn(command)?.wait(patience, stop)
}

/// A command as a user would type it.
pub fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[said.len().saturating_sub(QUOTED)..]).into_owned();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// What a stream has brought so far.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    ended: bool,
}

/// Reads a stream to its end on a thread of its own.
#[derive(Debug, Clone)]
struct Collector(Arc<(Mutex<Stream>, Condvar)>);

impl Collector {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new((Mutex::new(Stream::default()), Condvar::new()));
        let collector = Self(Arc::clone(&shared));
        thread::spawn(move || {
            let mut buffer = [0; 1 << 14];
            let mut stream = stream;
            loop {
                let read = stream.as_mut().map_or(Ok(0), |s| s.read(&mut buffer));
                let mut state = lock(&shared.0);
                match read {
                    Ok(count @ 1..) => {
                        let room = KEPT - state.bytes.len();
                        state.bytes.extend_from_slice(&buffer[..count.min(room)]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => state.ended = true,
                }
                shared.1.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        collector
    }

    fn so_far(&self) -> Vec<u8> {
        lock(&self.0.0).bytes.clone()
    }

    /// All of it once the child has ended. A grandchild that keeps the stream open is not waited for long.
    fn whole(&self) -> Vec<u8> {
        let state = lock(&self.0.0);
        let waited = self.0.1.wait_timeout_while(state, GRACE, |state| !state.ended);
        std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).0.bytes)
    }

    /// Waits for the stream's end, `time` at most.
    fn waits_for_end(&self, time: Duration) {
        let state = lock(&self.0.0);
        drop(self.0.1.wait_timeout_while(state, time, |state| !state.ended));
    }

    /// Whether `text` is there, or comes within `time`.
    fn waits_for(&self, text: &[u8], time: Duration) -> bool {
        let has = |state: &Stream| state.bytes.windows(text.len()).any(|window| window == text);
        let state = lock(&self.0.0);
        let waited = self.0.1.wait_timeout_while(state, time, |state| !has(state) && !state.ended);
        has(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Proves that output and status come back, that a failure quotes what was said, and that the time is the child's.
    #[test]
    fn runs_and_reports() {
        let stop = Stop::default();
        let done = run(&mut shell("sleep 0.1; echo out; echo err >&2"), PATIENCE, &stop).unwrap();
        assert_eq!((&done.stdout[..], &done.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(done.took >= Duration::from_millis(100) && done.success().is_ok());
        let failed = run(&mut shell("echo no good >&2; exit 3"), PATIENCE, &stop).unwrap().success().unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c 'echo no good >&2; exit 3'` failed (exit status: 3): no good");
        assert!(matches!(run(&mut Command::new("/nonexistent"), PATIENCE, &stop), Err(ChildError::Start { .. })));
    }

    /// Proves that a child that takes too long, and one that the user stops, are ended with their own children.
    #[test]
    fn late_and_stopped_children_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; echo started; wait", file.display());
        let late = run(&mut shell(&script), Duration::from_millis(300), &Stop::default());
        assert!(matches!(late, Err(ChildError::Late { .. })), "{late:?}");
        let grandchild = std::fs::read_to_string(&file).unwrap();
        assert!(gone(grandchild.trim()), "the child's own child is left");
        let stop = Stop::default();
        let mut child = Child::spawn(&mut shell("echo started; sleep 60")).unwrap();
        child.wait_for(b"started", PATIENCE, &stop).unwrap();
        let pid = child.pid().to_string();
        stop.request();
        assert!(matches!(child.wait(PATIENCE, &stop), Err(ChildError::Stopped)));
        assert!(gone(&pid));
    }

    /// Whether the process is away, or dead and only not yet waited for by whoever inherited it.
    fn gone(pid: &str) -> bool {
        (0..100).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')))
        })
    }

    /// Proves that waiting for a text ends with it, and with an error when the child ends without.
    #[test]
    fn waits_for_a_text() {
        let stop = Stop::default();
        let mut child = Child::spawn(&mut shell("sleep 0.05; echo ready; sleep 60")).unwrap();
        child.wait_for(b"ready", PATIENCE, &stop).unwrap();
        assert!(child.is_running());
        child.end();
        let mut child = Child::spawn(&mut shell("echo other")).unwrap();
        assert!(matches!(child.wait_for(b"ready", PATIENCE, &stop), Err(ChildError::Failed { .. })));
        for _ in 0..50 {
            let mut child = Child::spawn(&mut shell("echo ready")).unwrap();
            child.wait_for(b"ready", PATIENCE, &stop).expect("a word just before the end counts");
        }
        let mut child = Child::spawn(&mut shell("echo why >&2; exit 7")).unwrap();
        let failed = child.wait_for(b"ready", PATIENCE, &stop).unwrap_err();
        assert!(failed.to_string().ends_with("(exit status: 7): why"), "{failed}");
    }

    /// Proves that a command line can be pasted into a shell.
    #[test]
    fn words_are_quoted() {
        let mut command = Command::new("a");
        command.args(["b c", "--d=e", "", "it's"]);
        assert_eq!(words(&command), r"a 'b c' --d=e '' 'it'\''s'");
    }
}
