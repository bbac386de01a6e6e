//! Tests of the pseudoterminal console as its users see it.

use crate::config::console::ConsoleSpec;
use crate::console::testing::{open_slave, take_exactly, turn, turn_until};
use crate::console::{Console, Output, WindowSize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn open(link: Option<&Path>) -> (Console, PathBuf) {
    let mut console = Console::open(&ConsoleSpec::Pty(link.map(Into::into))).unwrap();
    console.start().unwrap();
    let notice = console.take_notices().remove(0);
    let path = notice.strip_prefix("console: ").unwrap().split(' ').next().unwrap().into();
    (console, path)
}

fn push(output: &Output, bytes: &[u8]) {
    assert!(bytes.iter().all(|&byte| output.push(byte)));
}

fn read(user: &mut File, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    user.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether anybody has it is noticed without a look at the clock; bytes pass unchanged both ways; what is said while
/// nobody is there waits for the next, three times over.
#[test]
fn users_come_and_go() {
    let (mut console, path) = open(None);
    let output = console.output();
    assert_eq!(console.input().unwrap().look_again(), None);
    assert!(!turn(console.input().unwrap(), Duration::from_millis(5)), "nobody is there");
    for _ in 0..3 {
        push(&output, b"before\r\n");
        assert!(output.flush(None));
        let mut user = File::from(open_slave(&path));
        assert!(turn(console.input().unwrap(), Duration::from_secs(5)), "a user's coming wakes the event loop");
        push(&output, b"\x00\x03\xff\n");
        assert_eq!(read(&mut user, 12), b"before\r\n\x00\x03\xff\n");
        let all: Vec<u8> = (0..=255).collect();
        user.write_all(&all).unwrap();
        assert_eq!(take_exactly(console.input().unwrap(), 256), all);
        drop(user);
        turn_until(console.input().unwrap(), |input| {
            let mut idle = true;
            input.interests(|i| idle &= i.events != 0);
            idle && input.look_again().is_none()
        });
        turn(console.input().unwrap(), Duration::from_millis(50));
        assert!(!turn(console.input().unwrap(), Duration::from_millis(5)), "the event loop rests when nobody is there");
    }
    assert!(!console.input().unwrap().ended() && output.fault().is_none());
}

/// One who comes before the watch for users begins is seen all the same, without another event.
#[test]
fn an_early_user() {
    let (master, path) = crate::console::pty::open().unwrap();
    let mut user = File::from(open_slave(&path));
    let line = std::sync::Arc::new(crate::console::line::Line::default());
    let drain = crate::console::line::LineDrain::new(std::sync::Arc::clone(&line));
    let output = Output::new(Box::new(drain));
    let _pty = super::Pty::new(master, &path, None, line, std::sync::Arc::clone(&output));
    push(&output, b"hello");
    assert!(output.flush(None));
    assert_eq!(read(&mut user, 5), b"hello");
}

/// What a user typed last is read although the user has left.
#[test]
fn last_words_are_read() {
    let (mut console, path) = open(None);
    let mut user = File::from(open_slave(&path));
    turn(console.input().unwrap(), Duration::from_secs(5));
    user.write_all(b"poweroff\r").unwrap();
    drop(user);
    assert_eq!(take_exactly(console.input().unwrap(), 9), b"poweroff\r");
}

/// The user's window size is the console's.
#[test]
fn size() {
    let (console, path) = open(None);
    assert_eq!(console.window_size(), None);
    let user = open_slave(&path);
    let size = rustix::termios::Winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&user, size).unwrap();
    assert_eq!(console.window_size(), Some(WindowSize { columns: 100, rows: 50 }));
}

/// The link leads to the terminal and goes with it; one that was left behind is replaced, another's file is not.
#[test]
fn the_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("guest");
    std::os::unix::fs::symlink("/dev/pts/999999", &link).unwrap();
    let (console, path) = open(Some(&link));
    assert_eq!(fs::read_link(&link).unwrap(), path);
    let taken = Console::open(&ConsoleSpec::Pty(Some(link.clone()))).err().unwrap().to_string();
    assert!(taken.ends_with("exists and is not left over from a console: remove it or choose another path"), "{taken}");
    drop(console);
    assert!(fs::symlink_metadata(&link).is_err());

    fs::write(&link, "precious").unwrap();
    assert!(Console::open(&ConsoleSpec::Pty(Some(link.clone()))).is_err());
    assert_eq!(fs::read(&link).unwrap(), b"precious");
}
