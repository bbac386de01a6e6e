//! The console as a person has it: the real binary in a real terminal, with a guest that echoes.

#[path = "../guests/mod.rs"]
#[allow(dead_code)]
mod guests;
mod linux;
mod session;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use guests::{Guest, exit, kvm_works};
use iced_x86::code_asm::{al, dx, eax, ebx, ecx, rdi, rsi};
use rustix::termios::{InputModes, LocalModes, OutputModes};
use session::Session;

/// The guest's statuses.
const ON_BREAK: i32 = 77;
const ON_LOST_CARRIER: i32 = 55;

/// A guest that says "ready", then echoes every byte; on a resize it sends the 4 bytes of the window size port; a break or a
/// lost carrier ends it. It takes eight bytes at a time where there are as many, to spare itself exits.
fn echo() -> Guest {
    const DATA: u32 = 0x3f8;
    const IIR: u32 = 0x3fa;
    const LSR: u32 = 0x3fd;
    const MSR: u32 = 0x3fe;
    const BUFFER: u64 = 0x30_0000;
    Guest::new(|a| {
        let (mut next, mut single, mut several, mut quiet, mut send, mut sent, mut broken, mut lost) = (
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
        );
        // FIFOs on, data available from 8 bytes on; its interrupt enabled, for IIR to tell; DTR, RTS.
        for (port, byte) in [(IIR, 0x87), (0x3f9, 1), (0x3fc, 3)] {
            a.mov(dx, port as i32)?;
            a.mov(al, byte)?;
            a.out(dx, al)?;
        }
        guests::say(a, "ready")?;
        a.mov(dx, MSR as i32)?;
        a.in_(al, dx)?;
        a.set_label(&mut next)?;
        a.mov(dx, LSR as i32)?;
        a.in_(al, dx)?;
        a.test(al, 0x10)?;
        a.jnz(broken)?;
        a.test(al, 1)?;
        a.jz(quiet)?;
        a.mov(dx, IIR as i32)?;
        a.in_(al, dx)?;
        a.and(al, 0xf)?;
        a.cmp(al, 4)?;
        a.jne(single)?;
        a.mov(dx, DATA as i32)?;
        a.mov(ecx, 8)?;
        a.mov(rdi, BUFFER)?;
        a.rep().insb()?;
        a.mov(dx, LSR as i32)?;
        a.set_label(&mut several)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.jz(several)?;
        a.mov(dx, DATA as i32)?;
        a.mov(ecx, 8)?;
        a.mov(rsi, BUFFER)?;
        a.rep().outsb()?;
        a.jmp(next)?;
        a.set_label(&mut single)?;
        a.mov(dx, DATA as i32)?;
        a.in_(al, dx)?;
        a.movzx(ebx, al)?;
        a.call(send)?;
        a.jmp(next)?;
        // Nothing to read: TERI is bit 2, DDCD bit 3, DCD bit 7.
        a.set_label(&mut quiet)?;
        a.mov(dx, MSR as i32)?;
        a.in_(al, dx)?;
        a.test(al, 0x80)?;
        a.jz(lost)?;
        a.test(al, 4)?;
        a.jz(next)?;
        a.mov(dx, 0x618)?;
        a.in_(eax, dx)?;
        a.mov(ebx, eax)?;
        for _ in 0..4 {
            a.call(send)?;
            a.shr(ebx, 8)?;
        }
        a.jmp(next)?;
        // Sends the low byte of EBX once THRE, bit 5, is set.
        a.set_label(&mut send)?;
        a.mov(dx, LSR as i32)?;
        a.set_label(&mut sent)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.jz(sent)?;
        a.mov(dx, DATA as i32)?;
        a.mov(eax, ebx)?;
        a.out(dx, al)?;
        a.ret()?;
        a.set_label(&mut broken)?;
        exit(a, ON_BREAK as u32)?;
        a.set_label(&mut lost)?;
        exit(a, ON_LOST_CARRIER as u32)
    })
}

/// `ringfence run` with the echoing guest, whose file is kept open as long as the result is.
fn run(options: &[&str]) -> (Command, File) {
    let file = rustix::fs::memfd_create("echo", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut file = File::from(file);
    file.write_all(&echo().elf()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--initrd", "none", "--memory", "32M", "--kernel"]);
    command.arg(format!("/proc/self/fd/{}", file.as_raw_fd())).args(options);
    (command, file)
}

/// A session with the guest ready and the terminal raw.
fn at_the_guest() -> Session {
    let (mut command, _file) = run(&[]);
    let mut session = Session::start(&mut command);
    session.expect(b"ready");
    session.wait_until("raw", Session::is_raw);
    session
}

/// Bytes that look random, the same each time.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// What to type so that `bytes` arrive: the escape key twice for each of its own.
fn typed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&b| std::iter::repeat_n(b, 1 + usize::from(b == 0x1d))).collect()
}

/// Proves that every byte passes the terminal both ways unchanged (Ctrl-C, Ctrl-Z and Ctrl-S too, Ctrl-] when typed twice),
/// that the menu shows with whole lines, that a resize reaches the guest, and that a break does.
#[test]
fn a_person_at_the_keys() {
    if !kvm_works() {
        return;
    }
    let mut session = at_the_guest();
    let all: Vec<u8> = (0..=255).collect();
    session.type_in(&typed(&all));
    assert_eq!(session.expect_bytes(256), all);

    session.type_in(b"\x1dh");
    let menu = String::from_utf8(session.expect(b"itself to the guest\r\n")).unwrap();
    assert!(menu.contains("\r\n  q       quit"), "{menu:?}");
    assert!(!menu.replace("\r\n", "").contains('\n'), "a line without CR goes astray on a raw terminal: {menu:?}");

    session.resize(132, 43);
    assert_eq!(session.expect_bytes(4), (132u32 << 16 | 43).to_le_bytes());

    session.type_in(b"still here");
    assert_eq!(session.expect_bytes(10), b"still here");
    session.type_in(b"\x1db");
    assert_eq!(session.end(), (Some(ON_BREAK), None));
}

/// Proves that Ctrl-] q ends the machine and the terminal is as before, split over two reads as well.
#[test]
fn quit() {
    if !kvm_works() {
        return;
    }
    for apart in [Duration::ZERO, Duration::from_millis(50)] {
        let mut session = at_the_guest();
        session.type_in(b"\x1d");
        std::thread::sleep(apart);
        session.type_in(b"q");
        assert_eq!(session.end(), (Some(0), None));
    }
}

/// Proves that the terminal is as before after each signal that ends a process: those the machine ends in order by, with the
/// shell's status for it, and those that are a crash.
#[test]
fn signals() {
    if !kvm_works() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let session = at_the_guest();
        session.signal(signal);
        assert_eq!(session.end(), (Some(128 + signal), None), "signal {signal}");
    }
    for signal in [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS] {
        let session = at_the_guest();
        session.signal(signal);
        assert_eq!(session.end(), (None, Some(signal)), "signal {signal}");
    }
}

/// Proves that a stop and a continue (kill -STOP, then fg) put the terminal into raw mode again although the shell had it
/// meanwhile, and that it is given back at the end as it was at the start.
#[test]
fn stop_and_continue() {
    if !kvm_works() {
        return;
    }
    let mut session = at_the_guest();
    session.signal(libc::SIGSTOP);
    session.wait_until("stopped", |s| s.state() == 'T');
    session.set_modes(|modes| {
        modes.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        modes.input_modes |= InputModes::ICRNL;
        modes.output_modes |= OutputModes::OPOST;
    });
    assert!(!session.is_raw());
    session.signal(libc::SIGCONT);
    session.wait_until("raw again", Session::is_raw);
    session.type_in(b"\x03\r");
    assert_eq!(session.expect_bytes(2), b"\x03\r");
    session.type_in(b"\x1dq");
    assert_eq!(session.end(), (Some(0), None));
}

/// Proves that a job started in the background runs, shows its output, leaves the terminal alone and is not stopped; and
/// that it takes the terminal when the shell brings it to the foreground, without being told.
#[test]
fn in_the_background() {
    if !kvm_works() {
        return;
    }
    let (ringfence, _file) = run(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-mc", r#""$0" "$@" & read go; fg >/dev/null; stty -a >/dev/null"#]);
    shell.arg(ringfence.get_program()).args(ringfence.get_args());
    let mut session = Session::start(&mut shell);
    let notice = "ringfence: in the background: bring the job to the foreground to type to the guest\r\n";
    // The notice may come between two of the guest's letters.
    session.wait_until("running", |s| s.text().contains(notice) && s.text().replace(notice, "").contains("ready"));
    assert!(!session.is_raw());
    session.type_in(b"go\n");
    session.wait_until("raw", Session::is_raw);
    session.type_in(b"typed");
    session.expect(b"typed");
    session.type_in(b"\x1dq");
    assert_eq!(session.end(), (Some(0), None));
}

/// Proves that a paste of 1 MB arrives whole and in order, and comes back whole, through a guest slower than the terminal.
#[test]
fn a_paste_of_a_megabyte() {
    if !kvm_works() {
        return;
    }
    let mut session = at_the_guest();
    let bytes = pattern(1_000_000);
    let start = Instant::now();
    let pasting = session.paste(typed(&bytes));
    let echoed = session.expect_bytes(bytes.len());
    println!("{} bytes in and out in {:?}", bytes.len(), start.elapsed());
    assert!(echoed == bytes);
    pasting.join().unwrap();
    session.type_in(b"\x1dq");
    assert_eq!(session.end(), (Some(0), None));
}

/// Kills a process that has not ended in time, so that whoever reads from it gets an end and fails. Ends when dropped.
fn watchdog(child: &Child) -> mpsc::Sender<()> {
    let (done, wait) = mpsc::channel();
    let pid = child.id() as i32;
    std::thread::spawn(move || {
        if wait.recv_timeout(session::PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("killed: it took longer than {:?}", session::PATIENCE);
            // SAFETY: the child is waited for only after the sender is dropped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    });
    done
}

fn output_of(mut child: Child) -> (Option<i32>, Vec<u8>, String) {
    let watchdog = watchdog(&child);
    let (mut out, mut err) = (Vec::new(), String::new());
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    drop(watchdog);
    (child.wait().unwrap().code(), out, err)
}

/// Proves that input may be a pipe, a file, /dev/null or closed: all of it reaches the guest, then the line's carrier falls.
#[test]
fn input_that_ends() {
    if !kvm_works() {
        return;
    }
    let bytes = pattern(20_000);
    let whole = [b"ready".to_vec(), bytes.clone()].concat();
    let piped = |mut command: Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    let (mut command, _file) = run(&[]);
    command.stdin(Stdio::piped());
    let mut child = piped(command);
    let mut feed = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let feeding = std::thread::spawn(move || feed.write_all(&sent).unwrap());
    let (status, out, err) = output_of(child);
    feeding.join().unwrap();
    assert_eq!((status, err.as_str()), (Some(ON_LOST_CARRIER), ""));
    assert!(out == whole, "a pipe");

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let (mut command, _file) = run(&[]);
    command.stdin(file);
    let (status, out, err) = output_of(piped(command));
    assert_eq!((status, err.as_str()), (Some(ON_LOST_CARRIER), ""));
    assert!(out == whole, "a file");

    for redirection in ["</dev/null", "<&-", "</"] {
        let (ringfence, _file) = run(&[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!(r#"exec "$0" "$@" {redirection}"#));
        shell.arg(ringfence.get_program()).args(ringfence.get_args());
        let (status, out, err) = output_of(piped(shell));
        assert_eq!((status, out.as_slice(), err.as_str()), (Some(ON_LOST_CARRIER), &b"ready"[..], ""), "{redirection}");
    }
}

/// Proves that a reader that goes away (`| head`) does not hold up the guest, which goes on to its end.
#[test]
fn a_reader_that_leaves() {
    if !kvm_works() {
        return;
    }
    let (mut command, _file) = run(&[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let watchdog = watchdog(&child);
    let mut ready = [0; 5];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut ready).unwrap();
    drop(out);
    // More than the ring and the UART hold: a guest that waited for a reader would not take it.
    let mut feed = child.stdin.take().unwrap();
    feed.write_all(&pattern(100_000)).unwrap();
    drop(feed);
    let mut err = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut err).unwrap();
    drop(watchdog);
    assert_eq!(child.wait().unwrap().code(), Some(ON_LOST_CARRIER));
}

/// Waits until a file is there.
fn appears(path: &Path) {
    let start = Instant::now();
    while fs::symlink_metadata(path).is_err() {
        assert!(start.elapsed() < session::PATIENCE, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn talk(mut line: impl Read + Write, greeting: &[u8]) {
    let mut got = vec![0; greeting.len()];
    line.read_exact(&mut got).unwrap();
    assert_eq!(got, greeting);
    let bytes = pattern(5000);
    line.write_all(&bytes).unwrap();
    let mut echoed = vec![0; bytes.len()];
    line.read_exact(&mut echoed).unwrap();
    assert!(echoed == bytes);
}

/// Starts a machine with a console that has a name, runs `talking`, ends the machine by SIGTERM and sees the name gone.
fn with_name(console: &str, name: &Path, talking: impl FnOnce()) {
    let (mut command, _file) = run(&["--console", console]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let watchdog = watchdog(&child);
    appears(name);
    talking();
    drop(watchdog);
    // SAFETY: the child has not been waited for, so its id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let (status, out, err) = output_of(child);
    assert_eq!((status, out.len()), (Some(128 + libc::SIGTERM), 0));
    assert!(err.starts_with("ringfence: console: "), "{err}");
    assert!(fs::symlink_metadata(name).is_err(), "{} was left behind", name.display());
}

/// Proves that clients of a socket come and go, the first getting what the guest said before it came, and that the socket
/// is removed when a signal ends the machine.
#[test]
fn a_socket() {
    if !kvm_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    with_name(&format!("unix:{}", path.display()), &path, || {
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        talk(UnixStream::connect(&path).unwrap(), b"ready");
        // The first has left; until the machine has seen it, a second would be sent away.
        std::thread::sleep(Duration::from_millis(200));
        talk(UnixStream::connect(&path).unwrap(), b"");
    });
}

/// Proves the same of a pseudoterminal and its link.
#[test]
fn a_pseudoterminal() {
    if !kvm_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    with_name(&format!("pty:{}", path.display()), &path, || {
        talk(open(), b"ready");
        std::thread::sleep(Duration::from_millis(200));
        talk(open(), b"");
    });
}

/// Proves that output goes to a file, all of it, and that the guest gets no input and no hang-up from it.
#[test]
fn a_file() {
    if !kvm_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let (mut command, _file) = run(&["--console", &format!("file:{}", path.display()), "--timeout", "1"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (status, out, _) = output_of(child);
    assert_eq!((status, out.len()), (Some(124), 0));
    assert_eq!(fs::read(&path).unwrap(), b"ready");
}
