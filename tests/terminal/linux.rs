//! A person at the shell of the guest that comes with ringfence. One boot, for it takes a while where ring 0 is emulated.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::session::{PATIENCE, Session};
use super::{guests, pattern, typed};

/// What is pasted and sent back here. An emulated ring 0 needs about a millisecond a byte; the megabyte has a guest of its
/// own.
const AMOUNT: usize = 4096;

/// The kernel that comes with ringfence; RINGFENCE_TEST_KERNEL names another in its place.
fn kernel() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("RINGFENCE_TEST_KERNEL") {
        return Some(path.into());
    }
    let found = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output().unwrap();
    if found.status.success() {
        return Some(PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have the default kernel: ringfence kernel build");
    println!("skipped: no default kernel (ringfence kernel build)");
    None
}

/// Runs a line at the shell and returns what it printed. The marks are cut in two where they are typed, so that the echo of
/// what is typed does not look like them.
fn at_the_shell(session: &mut Session, line: &str) -> String {
    session.type_in(format!("last=$?; echo be''gin; {line}; echo e''nd\r").as_bytes());
    session.expect(b"begin\r\n");
    let shown = session.expect(b"end\r\n");
    String::from_utf8_lossy(&shown[..shown.len() - 5]).into_owned()
}

/// Waits until the guest's terminal has a size; init may still be busy when the shell is there already.
fn size_becomes(session: &mut Session, size: &str) {
    let start = Instant::now();
    while at_the_shell(session, "stty size") != size {
        assert!(start.elapsed() < PATIENCE, "the size never became {size}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Proves, at the guest's shell: the terminal has the size of the window and follows it; Ctrl-Z stops a command and `fg`
/// takes it up again; Ctrl-C interrupts it and not the machine; Ctrl-] typed twice arrives as itself; any bytes pasted
/// arrive and come back whole; and Ctrl-] q leaves the terminal as it was.
#[test]
fn a_person_at_the_shell() {
    if !guests::kvm_works() {
        return;
    }
    let Some(kernel) = kernel() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--cmdline", "quiet", "--kernel"]).arg(kernel).env("TERM", "vt100");
    let mut session = Session::start(&mut command);
    session.resize(100, 30);
    session.expect(b"# ");
    assert!(session.is_raw());
    assert_eq!(at_the_shell(&mut session, "tty"), "/dev/ttyS0\r\n");
    size_becomes(&mut session, "30 100\r\n");

    // The command says itself when it has the terminal: keys typed before are the shell's, which reads them raw.
    session.type_in(b"sh -c \"echo re''ady; read word; echo g''ot; exec sleep 1000\"\r");
    session.expect(b"ready\r\n");
    session.type_in(b"\x1a");
    session.expect(b"Stopped");
    assert!(at_the_shell(&mut session, "jobs").contains("exec sleep 1000"));
    session.type_in(b"fg\r");
    session.expect(b"exec sleep 1000");
    session.type_in(b"word\r");
    session.expect(b"got\r\n");
    session.type_in(b"\x03");
    session.expect(b"^C");
    assert_eq!(at_the_shell(&mut session, "echo status $last; jobs"), "status 130\r\n");

    let bytes = pattern(AMOUNT);
    session.type_in(format!("stty raw -echo; echo g''o; head -c {AMOUNT} >/tmp/paste; echo go''t\r").as_bytes());
    session.expect(b"go\n");
    let start = Instant::now();
    let pasting = session.paste(typed(&bytes));
    session.expect(b"got\n");
    pasting.join().unwrap();
    println!("{AMOUNT} bytes pasted in {:?}", start.elapsed());
    let start = Instant::now();
    session.type_in(b"echo o''n; cat /tmp/paste; stty sane\n");
    session.expect(b"on\n");
    assert!(session.expect_bytes(AMOUNT) == bytes);
    println!("{AMOUNT} bytes sent in {:?}", start.elapsed());

    session.resize(132, 43);
    size_becomes(&mut session, "43 132\r\n");
    session.type_in(b"\x1dq");
    assert_eq!(session.end(), (Some(0), None));
}

/// Proves that all a command has written to its terminal comes out before the machine ends with its status, although
/// Ctrl-S held it back when the command ended, and that a process left behind, which writes for ever, holds up neither.
#[test]
fn the_last_words_of_a_command() {
    if !guests::kvm_works() {
        return;
    }
    let Some(kernel) = kernel() else { return };
    let script = "echo ready; read word; sleep 1; echo the end; yes >/dev/tty & exit 7";
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--cpus", "2", "--cmdline", "quiet", "--kernel"]).arg(kernel);
    command.args(["--", "sh", "-c", script]).env("TERM", "vt100");
    let mut session = Session::start(&mut command);
    session.expect(b"ready\r\n");
    session.type_in(b"word\r\x13");
    std::thread::sleep(Duration::from_secs(3));
    session.type_in(b"\x11");
    session.expect(b"the end\r\n");
    assert_eq!(session.end(), (Some(7), None));
}
