//! One run of one subject, timed from outside: just before it is made, when its payload's line arrives, when its end is known.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child as Process, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use thiserror::Error;

use crate::bench::child::{self, Stop};
use crate::bench::clock::Instant;
use crate::bench::container::Container;

/// How often a wait looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Output kept of a run, in bytes, for messages.
const KEPT: usize = 1 << 16;
/// How much of it a message quotes, in bytes.
const QUOTED: usize = 300;

/// Why a run gave no result.
#[derive(Debug, Error)]
pub enum AttemptError {
    /// It could not be prepared or started.
    #[error("cannot start it: {0}")]
    Start(String),
    /// It cannot be waited for.
    #[error("cannot wait for it")]
    Wait(#[source] io::Error),
    /// It ended, but not as it should, or without its payload's line.
    #[error("{what} ({status}): {said}")]
    Failed {
        /// What was missed.
        what: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        said: String,
    },
    /// It took too long, and was ended.
    #[error("{what} within {} s: {said}", patience.as_secs())]
    Late {
        /// What was missed.
        what: &'static str,
        /// How long was waited.
        patience: Duration,
        /// The last of what it said.
        said: String,
    },
    /// The user asked to stop.
    #[error("stopped")]
    Stopped,
}

/// How a subject ends after its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// By itself, with one of these statuses.
    With(&'static [i32]),
    /// Not at all: it is killed when its line has come, and its end is not measured.
    Killed,
}

/// What is started.
#[derive(Debug)]
pub enum Program<'a> {
    /// A command.
    Plain(Command),
    /// A container, deleted when this is let go.
    Container(Container<'a>),
}

impl Program<'_> {
    /// The command that starts it.
    pub fn command(&mut self) -> &mut Command {
        match self {
            Self::Plain(command) => command,
            Self::Container(container) => container.command(),
        }
    }
}

/// A run about to be made.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// What is started.
    pub program: Program<'a>,
    /// How it ends.
    pub ends: Ends,
    /// Where ringfence writes its phases.
    pub report: Option<PathBuf>,
}

impl<'a> Attempt<'a> {
    /// A command that ends with the status 0.
    pub fn new(command: Command) -> Self {
        Self { program: Program::Plain(command), ends: Ends::With(&[0]), report: None }
    }

    /// The same, ending otherwise.
    pub fn ending(self, ends: Ends) -> Self {
        Self { ends, ..self }
    }

    /// A container that ends with the status 0.
    pub fn container(container: Container<'a>) -> Self {
        Self { program: Program::Container(container), ends: Ends::With(&[0]), report: None }
    }
}

/// When a run came to its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// Just before the child was made.
    pub start: Instant,
    /// The payload's line had arrived.
    pub line: Instant,
    /// Its end was known and it was waited for; `None` for one that was killed.
    pub end: Option<Instant>,
}

/// A run that goes on: a process group of its own, killed when let go.
pub struct Running {
    process: Process,
    handle: std::os::fd::OwnedFd,
    stdout: Option<ChildStdout>,
    stderr: File,
    heard: Vec<u8>,
    /// Just before it was made.
    pub start: Instant,
    ended: Option<(Instant, ExitStatus)>,
}

impl Running {
    /// Starts the command. Only what lies between the two calls of the clock counts as the subject's.
    ///
    /// # Errors
    /// [`AttemptError::Start`].
    pub fn start(command: &mut Command) -> Result<Self, AttemptError> {
        let failed = |what: &str, error: io::Error| AttemptError::Start(format!("{what}: {error}"));
        let stderr = tempfile::tempfile().map_err(|e| failed("a file for what it says", e))?;
        let words = stderr.try_clone().map_err(|e| failed("a file for what it says", e))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(words).process_group(0);
        let start = Instant::now();
        let mut process = command.spawn().map_err(|e| failed(&child::words(command), e))?;
        let handle = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).map_err(|error| {
            let _ = process.kill();
            let _ = process.wait();
            AttemptError::Wait(error.into())
        })?;
        // The command keeps its own copy of the file otherwise.
        command.stderr(Stdio::null());
        let stdout = process.stdout.take();
        Ok(Self { process, handle, stdout, stderr, heard: Vec::new(), start, ended: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until `marker` has arrived; when that was.
    ///
    /// # Errors
    /// [`AttemptError`]; it is ended then.
    pub fn line(&mut self, marker: &[u8], patience: Duration, stop: &Stop) -> Result<Instant, AttemptError> {
        const WHAT: &str = "its payload's line did not come";
        loop {
            let now = self.wait(patience, WHAT, stop)?;
            if self.heard.windows(marker.len()).any(|window| window == marker) {
                return Ok(now);
            }
            if let (Some((_, status)), None) = (self.ended, &self.stdout) {
                return Err(AttemptError::Failed { what: WHAT, status, said: self.said() });
            }
        }
    }

    /// Waits until it has ended; when that was, and how.
    ///
    /// # Errors
    /// [`AttemptError`].
    pub fn end(&mut self, patience: Duration, stop: &Stop) -> Result<(Instant, ExitStatus), AttemptError> {
        loop {
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
            self.wait(patience, "it did not end", stop)?;
        }
    }

    /// Sleeps until something is to be read or it has ended, and takes note of it; when it woke.
    fn wait(&mut self, patience: Duration, what: &'static str, stop: &Stop) -> Result<Instant, AttemptError> {
        loop {
            if stop.requested() {
                return Err(AttemptError::Stopped);
            }
            if self.start.elapsed() > patience {
                return Err(AttemptError::Late { what, patience, said: self.said() });
            }
            let (mut output, mut end) = (PollFlags::empty(), PollFlags::empty());
            let mut fds = Vec::with_capacity(2);
            if self.ended.is_none() {
                fds.push(PollFd::new(&self.handle, PollFlags::IN));
            }
            if let Some(stdout) = &self.stdout {
                fds.push(PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN));
            }
            let time = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            match poll(&mut fds, Some(&time)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(AttemptError::Wait(error.into())),
            }
            let now = Instant::now();
            let mut ready = fds.iter().map(PollFd::revents);
            if self.ended.is_none() {
                end = ready.next().unwrap_or(PollFlags::empty());
            }
            if self.stdout.is_some() {
                output = ready.next().unwrap_or(PollFlags::empty());
            }
            if !output.is_empty() {
                self.hear();
            }
            if !end.is_empty() {
                let status = self.process.wait().map_err(AttemptError::Wait)?;
                self.ended = Some((Instant::now(), status));
                // Whoever holds the pipe still is no part of it any more; what is in there was written before.
                while self.stdout.is_some() && self.heard_more() {}
                self.stdout = None;
            }
            return Ok(now);
        }
    }

    /// Whether something can be read at once, which is then read.
    fn heard_more(&mut self) -> bool {
        let Some(stdout) = &self.stdout else { return false };
        let ready = poll(&mut [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)], Some(&Timespec::default()));
        let more = ready.is_ok_and(|count| count > 0);
        if more {
            self.hear();
        }
        more
    }

    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        match self.stdout.as_mut().map(|stdout| stdout.read(&mut buffer)) {
            Some(Ok(count @ 1..)) => {
                self.heard.extend_from_slice(&buffer[..count]);
                let excess = self.heard.len().saturating_sub(KEPT);
                self.heard.drain(..excess);
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.stdout = None,
        }
    }

    /// The last of what it said: on standard error, else on standard output.
    fn said(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.stderr.seek(SeekFrom::Start(0));
        let _ = (&self.stderr).take(1 << 20).read_to_end(&mut bytes);
        if bytes.trim_ascii().is_empty() {
            bytes.clone_from(&self.heard);
        }
        let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(QUOTED)..]).into_owned();
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("; ") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its group may hold more than the process itself, which may have ended.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        if self.ended.is_none() {
            let _ = self.process.wait();
        }
    }
}

/// Makes a run from beginning to end.
///
/// # Errors
/// [`AttemptError`]; nothing of it is left then.
pub fn run(attempt: &mut Attempt<'_>, marker: &[u8], patience: Duration, stop: &Stop) -> Result<Stamps, AttemptError> {
    let mut running = Running::start(attempt.program.command())?;
    let line = running.line(marker, patience, stop)?;
    let end = match attempt.ends {
        Ends::Killed => None,
        Ends::With(statuses) => {
            let (at, status) = running.end(patience, stop)?;
            if !status.code().is_some_and(|code| statuses.contains(&code)) {
                return Err(AttemptError::Failed { what: "it did not end well", status, said: running.said() });
            }
            Some(at)
        }
    };
    Ok(Stamps { start: running.start, line, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Attempt<'static> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Attempt::new(command)
    }

    fn run_shell(script: &str, patience: Duration) -> Result<Stamps, AttemptError> {
        run(&mut shell(script), b"payload", patience, &Stop::default())
    }

    /// Proves that the line and the end are told apart and timed each by itself.
    #[test]
    fn points_are_timed() {
        let stamps = run_shell("sleep 0.1; echo pay\\\nload; sleep 0.1", PATIENCE).unwrap();
        let (line, end) = (stamps.line.since(stamps.start), stamps.end.unwrap().since(stamps.line));
        assert!(line >= Duration::from_millis(100) && end >= Duration::from_millis(100), "{line:?} {end:?}");
        assert!(line + end < Duration::from_secs(5));
    }

    /// Proves that a line is found that comes in pieces, and one that is there when the child has ended.
    #[test]
    fn lines_come_in_pieces_or_late() {
        run_shell("printf pay; sleep 0.05; printf load", PATIENCE).unwrap();
        run_shell("printf payload", PATIENCE).unwrap();
    }

    /// Proves that each way of failing says what was missed and what was said.
    #[test]
    fn failures_are_told() {
        let said = |script: &str, patience| run_shell(script, patience).unwrap_err().to_string();
        assert_eq!(
            said("echo bad option >&2; exit 2", PATIENCE),
            "its payload's line did not come (exit status: 2): bad option"
        );
        assert_eq!(said("echo payload; exit 3", PATIENCE), "it did not end well (exit status: 3): payload");
        let late = said("echo other; sleep 60", Duration::from_millis(200));
        assert!(late.starts_with("its payload's line did not come within 0 s: other"), "{late}");
        let missing = run(&mut Attempt::new(Command::new("/nonexistent")), b"x", PATIENCE, &Stop::default());
        assert!(missing.unwrap_err().to_string().contains("/nonexistent"));
    }

    /// Proves that one that does not end by itself is not waited for and not left.
    #[test]
    fn what_does_not_end_is_killed() {
        let mut attempt = shell("echo payload $$; exec sleep 60").ending(Ends::Killed);
        let mut running = Running::start(attempt.program.command()).unwrap();
        running.line(b"payload", PATIENCE, &Stop::default()).unwrap();
        let pid = running.pid();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let stamps = run(&mut attempt, b"payload", PATIENCE, &Stop::default()).unwrap();
        assert_eq!(stamps.end, None);
    }
}
