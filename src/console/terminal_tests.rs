//! Tests of the raw mode with real pseudoterminals, and with processes that end in every way.

use super::*;
use crate::console::testing::{one_at_a_time, open_slave, terminal};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// All a terminal's modes, to compare.
fn modes(fd: impl AsFd) -> String {
    format!("{:?}", termios::tcgetattr(fd).unwrap())
}

/// Raw passes every byte; leaving gives back exactly what was found, also when the modes changed in between.
#[test]
fn raw_and_back() {
    let _one = one_at_a_time();
    let (_master, path) = terminal();
    let slave = open_slave(&path);
    let before = modes(&slave);
    let mut user = Terminal::of(slave.as_fd()).unwrap().unwrap();
    assert!(!is_raw());
    assert_eq!(user.enter().unwrap(), Standing::Foreground);
    assert!(is_raw());
    let now = termios::tcgetattr(&slave).unwrap();
    assert!(!now.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    assert!(!now.input_modes.intersects(InputModes::ICRNL | InputModes::IXON));
    assert!(!now.output_modes.contains(OutputModes::OPOST));
    // A shell that had the terminal while we were stopped leaves its own modes; entering again is raw again.
    termios::tcsetattr(&slave, OptionalActions::Now, &{
        let mut shells = now.clone();
        shells.local_modes |= LocalModes::ECHO | LocalModes::ICANON;
        shells
    })
    .unwrap();
    assert_eq!(user.enter().unwrap(), Standing::Foreground);
    assert!(!termios::tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO));
    drop(user);
    assert_eq!(modes(&slave), before);
    assert!(!is_raw());
}

/// A file is no terminal.
#[test]
fn a_file_is_no_terminal() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Terminal::of(file.as_fd()).unwrap().is_none());
    assert_eq!(window_size(file.as_fd()), None);
}

/// A terminal's size is told, and none when it does not know (0 by 0, as a serial line's).
#[test]
fn size() {
    let (master, path) = terminal();
    let slave = open_slave(&path);
    assert_eq!(window_size(slave.as_fd()), None);
    let size = termios::Winsize { ws_row: 40, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(&master, size).unwrap();
    assert_eq!(window_size(slave.as_fd()), Some(WindowSize { columns: 132, rows: 40 }));
}

/// Line ends for a raw terminal: each gets its CR once.
#[test]
fn line_ends() {
    assert_eq!(with_cr_lf("a\nb\r\nc"), "a\r\nb\r\nc");
}

/// The process of [`every_end_gives_the_terminal_back`]: makes its terminal raw and ends as told.
#[test]
#[ignore = "run by another test, in a process of its own"]
#[allow(unsafe_code)]
fn child() {
    let Ok(end) = std::env::var("RINGFENCE_TEST_END") else { return };
    let mut user = Terminal::of(rustix::stdio::stdin()).unwrap().unwrap();
    assert_eq!(user.enter().unwrap(), Standing::Foreground);
    assert!(!termios::tcgetattr(rustix::stdio::stdin()).unwrap().local_modes.contains(LocalModes::ECHO));
    println!("raw as it should be");
    match end.as_str() {
        "exit" => std::process::exit(7),
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        // SAFETY: ends the process, which is the point.
        "segv sent" => drop(unsafe { libc::raise(libc::SIGSEGV) }),
        // SAFETY: none: the fault is the point. The address is in the first page, which is never mapped.
        "fault" => unsafe { ptr::write_volatile(ptr::without_provenance_mut::<u8>(16), 1) },
        "return" => {}
        other => unreachable!("{other}"),
    }
    std::hint::black_box(&mut user);
}

/// However the process ends, its terminal has the modes it had before, and the end is the one it should be.
#[test]
fn every_end_gives_the_terminal_back() {
    let ends = [
        ("return", Some(0), None),
        ("exit", Some(7), None),
        ("panic", Some(101), None),
        ("abort", None, Some(libc::SIGABRT)),
        ("segv sent", None, Some(libc::SIGSEGV)),
        ("fault", None, Some(libc::SIGSEGV)),
    ];
    for (end, code, signal) in ends {
        let (master, path) = terminal();
        let slave = open_slave(&path);
        let before = modes(&master);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "console::terminal::tests::child"])
            .env("RINGFENCE_TEST_END", end)
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert!(text.contains("raw as it should be"), "{end}: {text}");
        assert_eq!((status.code(), status.signal()), (code, signal), "{end}");
        assert_eq!(modes(&master), before, "after {end}");
    }
}
