//! The default guest, run as a user runs it.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::guests::kvm_works;

/// No boot takes longer, even where ring 0 is emulated on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Boots at the same time, over all tests and their processes: more would only wait for each other.
const AT_A_TIME: u32 = 2;

/// The kernel that guests are run with; nothing, and a word about it, where there is none. With CI=true that is a failure.
pub fn kernel() -> Option<Kernel> {
    if !kvm_works() {
        return None;
    }
    if let Some(path) = std::env::var_os("RINGFENCE_TEST_KERNEL") {
        return Some(Kernel::Given(path.into()));
    }
    let found = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output();
    if found.expect("ringfence can be run").status.success() {
        return Some(Kernel::Default);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have the default kernel: run ringfence kernel build");
    println!("skipped: no default kernel: run ringfence kernel build");
    None
}

/// Which kernel.
pub enum Kernel {
    /// The one that comes with ringfence and was built.
    Default,
    /// One that RINGFENCE_TEST_KERNEL names.
    Given(PathBuf),
}

/// The binary that users get, where it has been built; `make test` does so first.
pub fn release_binary() -> Option<PathBuf> {
    let profiles = Path::new(env!("CARGO_BIN_EXE_ringfence")).ancestors().nth(2)?;
    Some(profiles.join("release/ringfence")).filter(|path| path.exists())
}

/// A run to be.
pub struct Linux {
    command: Command,
    cmdline: Vec<String>,
    input: Option<Vec<u8>>,
    payload: Vec<String>,
}

impl Linux {
    /// A run of the binary that is tested.
    pub fn new(kernel: &Kernel) -> Self {
        Self::of(kernel, None)
    }

    /// A run of another binary.
    pub fn of(kernel: &Kernel, binary: Option<&Path>) -> Self {
        let mut command = Command::new(binary.unwrap_or(Path::new(env!("CARGO_BIN_EXE_ringfence"))));
        command.args(["run", "--timeout", &PATIENCE.as_secs().to_string()]);
        let mut cmdline = Vec::new();
        if let Kernel::Given(path) = kernel {
            command.arg("--kernel").arg(path);
            // As the default guest has it.
            cmdline.push("quiet".into());
        }
        Self { command, cmdline, input: None, payload: Vec::new() }
    }

    /// Further options of `run`.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.command.args(options);
        self
    }

    /// Text added to the kernel's command line.
    pub fn cmdline(mut self, text: &str) -> Self {
        self.cmdline.push(text.into());
        self
    }

    /// What standard input holds; nothing by default.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = Some(bytes.to_owned());
        self
    }

    /// The command to run in the guest.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.payload = words.iter().map(|word| (*word).into()).collect();
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Done {
        let input = self.input.take().unwrap_or_default();
        let mut running = self.start();
        let mut stdin = running.stdin.take().expect("standard input is a pipe");
        // Beside the guest: it takes this only once it is up, and a pipe need not hold it all.
        let feeding = std::thread::spawn(move || stdin.write_all(&input));
        let done = running.finish();
        // A guest that takes no input closes the pipe, which is no failure.
        drop(feeding.join().expect("the feeding thread does not panic"));
        done
    }

    /// Starts it, standard input a pipe that stays open.
    pub fn start(mut self) -> Running {
        let place = Place::take();
        if !self.cmdline.is_empty() {
            self.command.args(["--cmdline", &self.cmdline.join(" ")]);
        }
        if !self.payload.is_empty() {
            self.command.arg("--").args(&self.payload);
        }
        let streams = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("ringfence can be run");
        let stdout = read(child.stdout.take().expect("it is a pipe"));
        let stderr = read(child.stderr.take().expect("it is a pipe"));
        let stdin = child.stdin.take();
        Running { child, stdin, stdout, stderr, seen: Vec::new(), start: Instant::now(), _place: place }
    }
}

/// Reads a stream to its end on a thread of its own.
fn read(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A run under way; one that is dropped is killed.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    start: Instant,
    _place: Place,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to the guest's input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).expect("the guest takes input");
    }

    /// Waits until the output holds `text`.
    pub fn expect(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            assert!(self.more_output(), "it ended before it said {text:?}: {}", self.story());
        }
    }

    /// Waits for more output; false at its end.
    fn more_output(&mut self) -> bool {
        match self.stdout.recv_timeout((PATIENCE + Duration::from_secs(30)).saturating_sub(self.start.elapsed())) {
            Ok(bytes) => self.seen.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("it did not end in time: {}", self.story()),
        }
        true
    }

    /// What there is to tell of a run that went wrong.
    fn story(&mut self) -> String {
        let _ = self.child.kill();
        let stderr: Vec<u8> = self.stderr.iter().flatten().collect();
        format!("stdout {:?} stderr {:?}", String::from_utf8_lossy(&self.seen), String::from_utf8_lossy(&stderr))
    }

    /// Waits for the end. `run` has a time limit of its own, so that there is one; should that fail, the output's has.
    pub fn finish(mut self) -> Done {
        while self.more_output() {}
        let status = self.child.wait().expect("the child can be waited for").code();
        let stderr: Vec<u8> = self.stderr.iter().flatten().collect();
        println!("a guest, from start to end: {:?}", self.start.elapsed());
        Done { status, stdout: std::mem::take(&mut self.seen), stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a run.
pub struct Done {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Done {
    /// The output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stderr, .. } = self;
        write!(f, "\nstatus {status:?}\n--- output\n{}\n--- ringfence's own words\n{stderr}", self.text())
    }
}

/// One of the places for boots, held until it is dropped. Locked files, since the test runner may use a process a test.
struct Place(#[allow(dead_code, reason = "holds the lock while it is open")] File);

impl Place {
    fn take() -> Self {
        let open = |number: u32| {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bed1-place-{number}"));
            File::create(path).expect("cargo's folder for tests can be written")
        };
        let free = (0..AT_A_TIME).map(open).find(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok());
        Self(free.unwrap_or_else(|| {
            let file = open(std::process::id() % AT_A_TIME);
            flock(&file, FlockOperation::LockExclusive).expect("a lock can be waited for");
            file
        }))
    }
}
