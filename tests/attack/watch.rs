//! What the host sees of a machine that attacks it.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use ringfence::host::Root;
use ringfence::host::process::Process;
use ringfence::registry;
use tempfile::TempDir;

use crate::guests::{Guest, Ran};

/// How often the host looks.
const PERIOD: Duration = Duration::from_millis(50);
/// Longest that a machine may run on after its own time limit, on a busy host.
const GRACE: Duration = Duration::from_secs(20);
/// Most that the process may have written beside guest RAM: heap, stacks, data; where the binary lies in an initramfs, its own
/// pages count as well.
const OWN_MEMORY: u64 = 4 << 20;
/// Most that it may grow from the first look to the last.
const GROWTH: u64 = 256 << 10;

/// One look at the process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    /// Names of its threads, KVM's own left out.
    threads: Vec<String>,
    /// What its descriptors are.
    descriptors: Vec<String>,
    /// Pages written beside guest RAM, in bytes.
    own: u64,
    /// Guest RAM that is there.
    guest: u64,
}

/// What became of an attack, and how the host fared.
pub struct Attack {
    pub ran: Ran,
    pub elapsed: Duration,
    pub cpu_time: Duration,
    looks: Vec<Look>,
    ram: u64,
}

/// Runs a guest with `options`, looking at its process all the while; standard output is read as fast as it comes unless
/// `deaf`, and then not at all until the process has ended.
pub fn attack(guest: &Guest, options: &[&str], deaf: bool) -> Attack {
    let runtime = TempDir::new().expect("a folder");
    let mut child = guest.start_with(options, &[("RINGFENCE_RUNTIME", runtime.path().as_os_str())]);
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let stderr = reader(stderr);
    let (mut heard, mut unheard) = (None, None);
    if deaf {
        unheard = Some(stdout)
    } else {
        heard = Some(reader(stdout))
    }
    let start = Instant::now();
    let (mut looks, mut cpu_time, mut ram) = (Vec::new(), Duration::ZERO, 0);
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status.code();
        }
        if start.elapsed() > limit(options) + GRACE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the machine did not end by itself: {options:?} {:?}", stderr.join());
        }
        if let Some((look, time, size)) = look(&child, runtime.path().as_os_str()) {
            looks.push(look);
            (cpu_time, ram) = (time, size);
        }
        std::thread::sleep(PERIOD);
    };
    let elapsed = start.elapsed();
    let stdout = match unheard {
        Some(pipe) => reader(pipe),
        None => heard.take().expect("one of both"),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let ran = Ran {
        status,
        stdout: text(stdout.join().expect("it is read")),
        stderr: text(stderr.join().expect("it is read")),
    };
    Attack { ran, elapsed, cpu_time, looks, ram }
}

/// The time limit among the options.
fn limit(options: &[&str]) -> Duration {
    let at = options.iter().position(|o| *o == "--timeout").expect("an attack has a time limit");
    Duration::from_secs_f64(options[at + 1].parse().expect("a number of seconds"))
}

fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What a guest spams is not kept.
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..read.min((1usize << 20).saturating_sub(bytes.len()))]);
        }
        bytes
    })
}

/// Looks at the process, once it is on the list of machines and lets the guest run.
fn look(child: &Child, runtime: &OsStr) -> Option<(Look, Duration, u64)> {
    let listed = registry::list(&[Path::new(runtime).join("machines")]);
    let record = &listed.machines.first()?.record;
    let process = Process::new(&Root::default(), child.id());
    let ranges: Vec<_> = record.ram.iter().map(|p| p.host_address..p.host_address + p.bytes).collect();
    let every = 0..u64::MAX;
    let all = process.memory(std::slice::from_ref(&every))?;
    let guest = process.memory(&ranges)?;
    let threads = threads(&process);
    let descriptors = process.descriptors()?;
    // Every thread is confined before the guest runs; once a vCPU's is gone, the machine ends.
    let vcpus = threads.iter().filter(|name| name.starts_with("vcpu")).count() as u32;
    let confined =
        process.threads().iter().all(|t| t.name.starts_with("kvm-") || t.confinement.seccomp_mode == Some(2));
    let whole = vcpus >= record.asked.vcpus && threads.iter().any(|name| name == "console");
    (whole && confined && threads == self::threads(&process)).then_some(())?;
    let look = Look { threads, descriptors, own: all.anonymous.saturating_sub(guest.anonymous), guest: guest.resident };
    Some((look, process.stat()?.cpu_time, record.asked.memory_bytes))
}

/// Names of the process's threads, KVM's own left out.
fn threads(process: &Process) -> Vec<String> {
    let mut names: Vec<String> = process.threads().into_iter().map(|t| t.name).collect();
    names.retain(|name| !name.starts_with("kvm-"));
    names.sort();
    names
}

impl Attack {
    /// Fails unless the host fared well: bounded memory and CPU time, the same threads and descriptors from the first look to
    /// the last, no panic, an end in time, and one of the documented statuses.
    pub fn assert_harmless(&self, vcpus: u32, statuses: &[i32]) {
        assert!(self.ran.status.is_some_and(|status| statuses.contains(&status)), "{self}");
        for word in ["panicked", "this is a bug", "RUST_BACKTRACE", "overflow"] {
            assert!(!self.ran.stderr.contains(word), "{self}");
        }
        // vCPUs, event loop, console; the last two have little to do, but are not idle.
        let most = self.elapsed * (vcpus + 2) + Duration::from_millis(200);
        assert!(self.cpu_time <= most, "{:?} of CPU time in {:?}: {self}", self.cpu_time, self.elapsed);
        // At the first look the start may still be giving back what it needed, at the last one the end may have begun.
        let looks = self.looks.get(1..self.looks.len().saturating_sub(1)).unwrap_or_default();
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return };
        for look in looks {
            assert_eq!(look.threads, first.threads, "{self}");
            assert_eq!(look.descriptors, first.descriptors, "{self}");
            assert!(look.own <= OWN_MEMORY, "{self}");
            assert!(look.guest <= self.ram, "more guest RAM than there is: {self}");
        }
        assert!(last.own <= first.own + GROWTH, "{self}");
    }

    /// How many times the host looked.
    pub fn looks(&self) -> usize {
        self.looks.len()
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = |look: Option<&Look>| look.map_or(0, |l| l.own >> 10);
        writeln!(
            f,
            "\nstatus {:?} after {:?}, {:?} of CPU time, {} looks, {} KiB beside guest RAM at first, {} at last",
            self.ran.status,
            self.elapsed,
            self.cpu_time,
            self.looks.len(),
            own(self.looks.first()),
            own(self.looks.last()),
        )?;
        writeln!(f, "stdout: {:?}", self.ran.stdout.chars().take(200).collect::<String>())?;
        writeln!(f, "stderr: {}", self.ran.stderr)
    }
}
