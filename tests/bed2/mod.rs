//! Test bed 2 as a library for tests: jobs inside a software-emulated AMD-V host, by the script `tests/bed2/bed2`.

pub mod guest;
pub mod shadow;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// A machine to boot: its size, and what is put into its file system.
pub struct Bed {
    arguments: Vec<OsString>,
}

/// What a job left behind.
pub struct Done {
    /// The job's exit status, or the script's own: 120 the bed failed, 121 the emulated machine stopped each time, 124 the time
    /// limit passed.
    pub status: i32,
    /// What the job wrote on the console.
    pub console: String,
    /// What the script said on its standard error.
    pub complaints: String,
    /// How many machines it took.
    #[allow(dead_code, reason = "one test looks")]
    pub tries: u32,
    results: tempfile::TempDir,
}

impl Bed {
    /// A machine of this many processors and MiB of memory, ended after `seconds`.
    pub fn new(processors: u32, memory_mib: u32, seconds: u32) -> Self {
        Self::with(Path::new(env!("CARGO_BIN_EXE_ringfence")), processors, memory_mib, seconds)
    }

    /// The same with another ringfence in it.
    pub fn with(ringfence: &Path, processors: u32, memory_mib: u32, seconds: u32) -> Self {
        Self { arguments: Vec::new() }
            .option("--smp", processors.to_string())
            .option("--memory", memory_mib.to_string())
            .option("--timeout", seconds.to_string())
            .option("--ringfence", ringfence)
    }

    /// Its clock counts instructions, one a nanosecond.
    #[allow(dead_code, reason = "not every test counts")]
    pub fn counting(mut self) -> Self {
        self.arguments.push("--icount".into());
        self
    }

    fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    /// Taken to have stopped when it shows no sign of life for so many seconds.
    #[allow(dead_code, reason = "one test waits less")]
    pub fn patience(self, seconds: u32) -> Self {
        self.option("--patience", seconds.to_string())
    }

    /// QEMU loads this plugin.
    #[allow(dead_code, reason = "one test splits a start")]
    pub fn plugin(self, plugin: &str) -> Self {
        self.option("--plugin", plugin)
    }

    /// QEMU's monitor listens on this socket.
    #[allow(dead_code, reason = "one test stops the machine")]
    pub fn monitor(self, socket: &Path) -> Self {
        self.option("--monitor", socket)
    }

    /// Puts a copy of the host's file at `inside`.
    pub fn file(self, host: &Path, inside: &str) -> Self {
        let mut pair = host.as_os_str().to_owned();
        pair.push(":");
        pair.push(inside);
        self.option("--file", pair)
    }

    /// Puts Debian's cloud kernel at /guest/debian.
    pub fn debian(mut self) -> Self {
        self.arguments.push("--debian".into());
        self
    }

    /// Boots, runs this shell script inside and waits for its end.
    pub fn script(self, job: &str) -> Done {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), job).expect("the job is written");
        self.option("--script", file.path()).run(&[])
    }

    /// Boots, runs this command inside and waits for its end.
    pub fn command(mut self, command: &[&str]) -> Done {
        self.arguments.push("--".into());
        self.run(command)
    }

    /// Runs the job, and once more on a new machine when the emulated one stopped, its own kernel with it.
    fn run(self, command: &[&str]) -> Done {
        const STOPPED: i32 = 121;
        const TRIES: u32 = 3;
        let mut done = self.try_once(command);
        while done.status == STOPPED && done.tries < TRIES {
            println!("the emulated machine stopped: once more");
            done = Done { tries: done.tries + 1, ..self.try_once(command) };
        }
        done
    }

    fn try_once(&self, command: &[&str]) -> Done {
        let results = tempfile::tempdir().expect("a temporary folder");
        let _turn = wait_for_turn();
        let output = Command::new(script_path())
            .arg("--out")
            .arg(results.path())
            .args(&self.arguments)
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("tests/bed2/bed2 starts");
        Done {
            status: output.status.code().unwrap_or(-1),
            console: String::from_utf8_lossy(&output.stdout).into_owned(),
            complaints: String::from_utf8_lossy(&output.stderr).into_owned(),
            tries: 1,
            results,
        }
    }
}

impl Done {
    /// A file of the job's /out.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.results.path().join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("the job left no {name}: {error}\n{self}"))
    }

    /// A file of the job's /out, as text.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.bytes(name)).into_owned()
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}\n--- console\n{}\n--- the script\n{}", self.status, self.console, self.complaints)
    }
}

/// One emulated machine at a time, because each keeps as many of the host's CPUs busy as it has processors. A lock on a
/// file, because tests may run as threads or as processes; it goes with the file.
fn wait_for_turn() -> std::fs::File {
    let file = std::fs::File::open(script_path()).expect("the script can be read");
    flock(&file, FlockOperation::LockExclusive).expect("the script can be locked");
    file
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed2/bed2")
}

/// Whether the bed can be used here. Where it cannot, says why it is left out; under CI that is a failure.
pub fn usable() -> bool {
    try_fetch().map_err(skip).is_ok()
}

/// Says why a test is left out; under CI that is a failure.
pub fn skip(reason: String) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "nothing may be left out under CI: {reason}");
    println!("skipped: {reason}");
}

fn try_fetch() -> Result<(), String> {
    let found = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return Err("no qemu-system-x86_64: apt-get install qemu-system-x86".into());
    }
    let fetch = Command::new(script_path()).arg("fetch").output().map_err(|e| format!("tests/bed2/bed2: {e}"))?;
    if fetch.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&fetch.stderr).trim().to_owned()) }
}
