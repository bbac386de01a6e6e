//! The sandbox, attacked: system calls put into the running monitor's own threads from outside, each layer alone, and a user who
//! is not root.

#[path = "../guests/mod.rs"]
#[allow(dead_code)]
mod guests;
mod injection;
mod layers;
mod unprivileged;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use guests::{Guest, finish, halt, kvm_works, say};
use injection::{Outcome, Thread};
use ringfence::sandbox::ThreadKind;

/// A machine with two vCPUs whose guest has said that it runs, and then halts for ever.
struct Running {
    child: Child,
}

impl Running {
    fn with(options: &[&str]) -> Self {
        let guest = Guest::new(|a| {
            say(a, "up\n")?;
            halt(a)
        });
        let mut child = guest.start(&[&["--cpus", "2"], options].concat());
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self { child }
    }

    /// The machine's threads by name, with what each is.
    fn threads(&self) -> Vec<(i32, String, ThreadKind)> {
        let mut threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let name = fs::read_to_string(path.join("comm")).unwrap().trim().to_owned();
                // KVM's own workers are listed here, too, and run no code of the process.
                if name.starts_with("kvm-") {
                    return None;
                }
                let kind = match name.as_str() {
                    "console" => ThreadKind::Console,
                    name if name.starts_with("vcpu") => ThreadKind::Vcpu,
                    _ => ThreadKind::Main,
                };
                Some((path.file_name().unwrap().to_str().unwrap().parse().unwrap(), name, kind))
            })
            .collect();
        threads.sort_by_key(|thread| thread.0);
        threads
    }

    fn thread(&self, kind: ThreadKind) -> i32 {
        self.threads().into_iter().find(|thread| thread.2 == kind).expect("a thread of each kind").0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of /proc/PID/task/TID/status.
fn status(process: u32, thread: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// Proves that by the kernel's own account every thread of a running machine is confined, and that there are just the four.
#[test]
fn every_thread_is_confined() {
    if !kvm_works() {
        return;
    }
    let running = Running::with(&[]);
    let process = running.child.id();
    let threads = running.threads();
    let names: Vec<_> = threads.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["ringfence", "vcpu0", "console", "vcpu1"], "in the order they start");
    let own_bounding = fs::read_to_string("/proc/self/status").unwrap().contains("CapBnd:\t0000000000000000");
    let root = rustix::process::geteuid().is_root();
    for (thread, name, _) in threads {
        let is = |field: &str, value: &str| assert_eq!(status(process, thread, field), value, "{name}: {field}");
        is("NoNewPrivs", "1");
        is("Seccomp", "2");
        is("Seccomp_filters", "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            is(set, "0000000000000000");
        }
        if root || own_bounding {
            is("CapBnd", "0000000000000000");
        }
    }
}

/// Proves that `--sandbox off` means off.
#[test]
fn off_is_off() {
    if !kvm_works() {
        return;
    }
    let running = Running::with(&["--sandbox", "off"]);
    for (thread, name, _) in running.threads() {
        assert_eq!(status(running.child.id(), thread, "Seccomp"), "0", "{name}");
        assert_eq!(status(running.child.id(), thread, "NoNewPrivs"), "0", "{name}");
    }
    // The way in works: what is stopped elsewhere is let through here.
    let mut main = Thread::seize(running.thread(ThreadKind::Main)).unwrap();
    let parent = i64::from(std::process::id());
    assert_eq!(main.call(libc::SYS_getppid, [0; 6]), Outcome::Returned(parent));
    let socket = [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
    assert!(matches!(main.call(libc::SYS_socket, socket), Outcome::Returned(0..)));
}

/// Proves that a neighbour inside each thread of the shipped monitor is stopped at every system call that is not on the thread's
/// list, whatever its number, and at those on the list with arguments that are not.
#[test]
fn a_hostile_neighbour_is_stopped() {
    if !kvm_works() {
        return;
    }
    let running = Running::with(&[]);
    let mut stopped = 0;
    for (id, name, kind) in running.threads() {
        let mut thread = Thread::seize(id).unwrap();
        let listed = |number: i64| kind.rules().iter().any(|rule| i64::from(rule.number) == number);
        for number in (0..=470).chain([0x4000_0000 | libc::SYS_getpid]).filter(|number| !listed(*number)) {
            // What only debug builds of the monitor may call is harmless.
            if cfg!(debug_assertions) && number == libc::SYS_fcntl {
                continue;
            }
            let outcome = thread.call(number, [0; 6]);
            // Linux lets uprobe and uretprobe past every filter, and refuses them to all but its own trampolines.
            const REFUSED: [Outcome; 2] =
                [Outcome::Other(libc::SIGILL << 8 | 0x7f), Outcome::Returned(-libc::ENXIO as i64)];
            let probes = (335..=336).contains(&number) && REFUSED.contains(&outcome);
            assert!(probes || outcome == Outcome::Blocked(number), "{name}: call {number}: {outcome:?}");
            stopped += 1;
        }
        for (number, arguments) in wrong_arguments() {
            // The main thread tells KVM of large RAM while the guest runs.
            if kind == ThreadKind::Main && arguments[1] == KVM_SET_USER_MEMORY_REGION {
                continue;
            }
            assert_eq!(thread.call(number, arguments), Outcome::Blocked(number), "{name}: {number} {arguments:x?}");
            stopped += 1;
        }
        thread.release();
    }
    println!("{stopped} attempts stopped");
    assert!(stopped > 1700);
    // None of it hurt the machine, which still ends as it should.
    let mut running = running;
    // SAFETY: the child has not been waited for, so its id is still its own.
    assert_eq!(unsafe { libc::kill(running.child.id() as i32, libc::SIGTERM) }, 0);
    let status = wait(&mut running.child);
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
}

/// `_IOW(0xae, 0x46, struct kvm_userspace_memory_region)`.
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;

/// Calls of which some arguments are allowed on some thread, and these are not on any.
fn wrong_arguments() -> Vec<(i64, [u64; 6])> {
    let minus_one = u64::MAX;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let mut calls = vec![
        (libc::SYS_mmap, [0, 4096, code, anonymous, minus_one, 0]),
        (libc::SYS_mmap, [0, 4096, 1, libc::MAP_SHARED as u64, 0, 0]),
        (libc::SYS_madvise, [0, 4096, libc::MADV_REMOVE as u64, 0, 0, 0]),
        (libc::SYS_madvise, [0, 4096, libc::MADV_MERGEABLE as u64, 0, 0, 0]),
        (libc::SYS_futex, [0, libc::FUTEX_CMP_REQUEUE as u64, 0, 0, 0, 0]),
        (libc::SYS_tgkill, [1, 1, libc::SIGKILL as u64, 0, 0, 0]),
        (libc::SYS_tgkill, [std::process::id().into(), std::process::id().into(), 0, 0, 0, 0]),
        (libc::SYS_unlinkat, [libc::AT_FDCWD as u64, 0, libc::AT_REMOVEDIR as u64, 0, 0, 0]),
        (libc::SYS_fcntl, [0, libc::F_SETFL as u64, 0, 0, 0, 0]),
    ];
    // KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, KVM_SET_REGS, KVM_SET_GUEST_DEBUG, TIOCSTI, TIOCLINUX, TIOCSCTTY, FIOASYNC.
    for request in
        [0xae01, KVM_SET_USER_MEMORY_REGION, 0x4090_ae82, 0x4048_ae9b, libc::TIOCSTI, 0x541c, libc::TIOCSCTTY, 0x5452]
    {
        calls.push((libc::SYS_ioctl, [3, request, 0, 0, 0, 0]));
    }
    calls
}

/// Proves that the first blocked call ends the machine with 125 and a message that names the thread and the call, whatever
/// thread makes it, and that a terminal has its modes back.
#[test]
fn a_blocked_call_ends_the_machine() {
    if !kvm_works() {
        return;
    }
    for (kind, name) in [(ThreadKind::Vcpu, "vcpu0"), (ThreadKind::Console, "console"), (ThreadKind::Main, "main")] {
        let mut running = Running::with(&[]);
        let mut thread = Thread::seize(running.thread(kind)).unwrap();
        thread.begin(libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]);
        thread.let_go();
        let status = wait(&mut running.child);
        let mut message = String::new();
        std::io::Read::read_to_string(running.child.stderr.as_mut().unwrap(), &mut message).unwrap();
        assert_eq!(status.code(), Some(125), "{message}");
        let words = format!("ringfence: sandbox: the {name} thread tried socket(0x2, 0x1, 0x0) (system call 41)");
        assert!(message.starts_with(&words) && message.ends_with("runs without the filters\n"), "{message}");
    }
}

/// Proves that a machine that is ended by a blocked call on its main thread leaves no socket behind.
#[test]
fn a_blocked_call_removes_the_socket() {
    if !kvm_works() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let console = format!("unix:{}", path.display());
    let mut child = Guest::new(halt).start(&["--console", &console]);
    appears(&path);
    // The main thread's filter is the last thing before the guest runs.
    let id = child.id();
    until(|| status(id, id as i32, "Seccomp") == "2");
    let mut thread = Thread::seize(id as i32).unwrap();
    thread.begin(libc::SYS_execve, [0; 6]);
    thread.let_go();
    assert_eq!(wait(&mut child).code(), Some(125));
    assert!(!path.exists());
    let ran = finish(child);
    assert!(ran.stderr.contains("the main thread tried execve"), "{}", ran.stderr);
}

/// Proves that a terminal that is the guest's gets its modes back when a vCPU's thread makes a blocked call, and when it crashes.
#[test]
fn the_terminal_is_given_back() {
    if !kvm_works() {
        return;
    }
    for (call, ended) in [(libc::SYS_ptrace, "exit status: 125"), (0, "signal: 11")] {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = fs::OpenOptions::new().read(true).write(true).open(Path::new(slave.to_str().unwrap())).unwrap();
        let modes = || format!("{:?}", rustix::termios::tcgetattr(&master).unwrap());
        let before = modes();
        let guest = Guest::new(halt);
        let kernel = tempfile::NamedTempFile::new().unwrap();
        fs::write(kernel.path(), guest.elf()).unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_ringfence"))
            .args(["run", "--initrd", "none", "--kernel"])
            .arg(kernel.path())
            .stdin(slave.try_clone().unwrap())
            .stdout(slave)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        until(|| modes() != before);
        let running = |name: &str| {
            fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().find_map(|entry| {
                let path = entry.unwrap().path();
                let is = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
                is.then(|| path.file_name().unwrap().to_str().unwrap().parse::<i32>().unwrap())
            })
        };
        let vcpu = running("vcpu0").unwrap();
        until(|| status(child.id(), vcpu, "Seccomp") == "2");
        let mut thread = Thread::seize(vcpu).unwrap();
        if call == 0 {
            thread.crash();
        } else {
            thread.begin(call, [0; 6]);
        }
        thread.let_go();
        let status = wait(&mut child);
        assert!(status.to_string().starts_with(ended), "{status}: {}", finish_stderr(&mut child));
        assert_eq!(modes(), before, "after {ended}");
    }
}

fn finish_stderr(child: &mut Child) -> String {
    let mut text = String::new();
    let _ = std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut text);
    text
}

fn appears(path: &Path) {
    until(|| path.symlink_metadata().is_ok());
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to that");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            panic!("the monitor did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Proves the figures: at most 20 calls for a vCPU's thread and 40 for any other.
#[test]
fn the_lists_are_short() {
    for kind in ThreadKind::ALL {
        let most = if kind == ThreadKind::Vcpu { 20 } else { 40 };
        assert!(kind.rules().len() <= most, "{kind}: {}", kind.rules().len());
    }
}

/// Proves that the lists in docs/isolation.md are those of the filters.
#[test]
fn the_document_is_up_to_date() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/isolation.md")).unwrap();
    let (_, rest) =
        document.split_once("<!-- from here on: ringfence docs isolation -->\n\n").expect("the mark is there");
    assert!(
        rest == ringfence::sandbox::markdown(),
        "docs/isolation.md is out of date: replace what follows its mark by the output of `ringfence docs isolation`"
    );
}
