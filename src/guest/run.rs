//! Runs the programs of a build: their output goes to the log and to whoever counts lines, and they can be stopped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Longest line that is kept in one piece, in bytes.
const MAX_LINE: u64 = 1 << 16;

/// How often a wait looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long programs that were asked to end may take before they are killed.
const GRACE: Duration = Duration::from_secs(3);

/// Lines of the log that are shown when a program fails.
const TAIL: usize = 20;

/// How a program's run went wrong.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot start {0}")]
    Start(String, #[source] io::Error),
    /// It ended with another status than 0.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The log's last lines.
        tail: String,
    },
    /// The user or the system asked to stop.
    #[error("stopped")]
    Stopped,
    /// The log cannot be written.
    #[error("cannot write the log {}", .0.display())]
    Log(PathBuf, #[source] io::Error),
}

/// Where a build's programs write, and what stops them.
pub(super) struct Runner<'a> {
    log: File,
    log_path: PathBuf,
    stop: &'a AtomicBool,
}

impl<'a> Runner<'a> {
    /// Starts an empty log.
    pub(super) fn new(log_path: PathBuf, stop: &'a AtomicBool) -> Result<Self, RunError> {
        let log = File::create(&log_path).map_err(|e| RunError::Log(log_path.clone(), e))?;
        Ok(Self { log, log_path, stop })
    }

    pub(super) fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Whether the build should stop.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds a line of our own to the log.
    pub(super) fn note(&mut self, line: &str) -> Result<(), RunError> {
        self.write(format!("# {line}\n").as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RunError> {
        self.log.write_all(bytes).map_err(|e| RunError::Log(self.log_path.clone(), e))
    }

    /// Runs a program to its end in a process group of its own; each line of its output goes to the log and `on_line`.
    pub(super) fn run(&mut self, command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<(), RunError> {
        self.note(&shown(command))?;
        self.watch(command, true, on_line)
    }

    /// As [`Runner::run`], with the output going to `on_line` alone.
    pub(super) fn ask(&mut self, command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<(), RunError> {
        self.watch(command, false, on_line)
    }

    fn watch(&mut self, command: &mut Command, log: bool, on_line: &mut dyn FnMut(&str)) -> Result<(), RunError> {
        let shown = shown(command);
        let mut tail = Vec::new();
        let (mut child, lines) = start(command).map_err(|e| RunError::Start(shown.clone(), e))?;
        let result = loop {
            if self.stopped() {
                break Err(RunError::Stopped);
            }
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let text = String::from_utf8_lossy(&line);
                    let text = text.trim_end_matches('\n');
                    on_line(text);
                    if tail.len() == TAIL {
                        tail.remove(0);
                    }
                    tail.push(text.to_owned());
                    if let Err(e) = if log { self.write(&line) } else { Ok(()) } {
                        break Err(e);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
        };
        if let Err(error) = result {
            end(&mut child);
            return Err(error);
        }
        let status = child.wait().map_err(|e| RunError::Start(shown.clone(), e))?;
        if status.success() { Ok(()) } else { Err(RunError::Failed { command: shown, status, tail: tail.join("\n") }) }
    }
}

/// The command as it would be typed, without its environment.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn start(command: &mut Command) -> io::Result<(Child, Receiver<Vec<u8>>)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let child = command.spawn()?;
    // The command holds our ends of the pipe for writing; with them open there would be no end of file.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::sync_channel(1024);
    std::thread::spawn(move || read_lines(reader, &sender));
    Ok((child, lines))
}

fn read_lines(reader: PipeReader, sender: &mpsc::SyncSender<Vec<u8>>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if sender.send(line).is_err() => return,
            Ok(_) => {}
        }
    }
}

/// Ends a process group: asks, waits, kills.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    signal(Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(LOOK / 4);
    }
    // Also when the leader has ended: others of the group may not have.
    signal(Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Proves that both outputs reach the log and the listener, and that a failure shows its last lines and status.
    #[test]
    fn output_is_logged_and_failures_show_it() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let mut runner = Runner::new(folder.path().join("log"), &stop).unwrap();
        let mut seen = Vec::new();
        let result = runner.run(&mut shell("echo one; echo two >&2; exit 3"), &mut |line| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two"]);
        let Err(RunError::Failed { status, tail, .. }) = result else { panic!("{result:?}") };
        assert_eq!((status.code(), tail.as_str()), (Some(3), "one\ntwo"));
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log, "# sh -c echo one; echo two >&2; exit 3\none\ntwo\n");
        runner.run(&mut shell("exit 0"), &mut |_| ()).unwrap();
        let missing = runner.run(&mut Command::new("/nonexistent/tool"), &mut |_| ());
        assert!(matches!(missing, Err(RunError::Start(..))));
    }

    /// Proves that stopping ends the whole process group at once, not just its leader.
    #[test]
    fn stopping_ends_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut runner = Runner::new(folder.path().join("log"), &stop).unwrap();
        let started = Instant::now();
        let mut pid = 0;
        let result = runner.run(&mut shell("sleep 60 & echo $!; wait"), &mut |line| {
            pid = line.parse().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        assert!(matches!(result, Err(RunError::Stopped)));
        assert!(started.elapsed() < Duration::from_secs(20));
        let grandchild = Pid::from_raw(pid).unwrap();
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", grandchild.as_raw_nonzero()));
            state.map_or(true, |stat| stat.contains(") Z"))
        };
        while !gone() {
            assert!(started.elapsed() < Duration::from_secs(30), "the grandchild lives on");
            std::thread::sleep(LOOK);
        }
    }

    /// Proves that a line without an end is cut, not collected without bound.
    #[test]
    fn long_lines_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let mut runner = Runner::new(folder.path().join("log"), &stop).unwrap();
        let mut lengths = Vec::new();
        runner.run(&mut shell("head -c 200000 /dev/zero | tr '\\0' x"), &mut |l| lengths.push(l.len())).unwrap();
        assert!(lengths.iter().all(|l| *l as u64 <= MAX_LINE));
        assert_eq!(lengths.iter().sum::<usize>(), 200_000);
    }
}
