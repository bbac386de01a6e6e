//! Tests of the socket console as its clients see it.

use crate::config::console::ConsoleSpec;
use crate::console::testing::{take_exactly, turn, turn_until};
use crate::console::{Console, ConsoleError, Output};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

fn open(path: &Path) -> Console {
    let mut console = Console::open(&ConsoleSpec::Unix(path.into())).unwrap();
    console.start().unwrap();
    console
}

fn refused(path: &Path) -> String {
    match Console::open(&ConsoleSpec::Unix(path.into())) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(error) => error.to_string(),
    }
}

fn push(output: &Output, bytes: &[u8]) {
    assert!(bytes.iter().all(|&byte| output.push(byte)));
}

fn connect(console: &mut Console, path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    turn(console.input().unwrap(), Duration::from_secs(1));
    client
}

fn read(client: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// A client gets what was said before it came, then both ways work; a second is told and sent away; after the first has
/// left, the next gets what was said meanwhile.
#[test]
fn clients_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console.sock");
    let mut console = open(&path);
    let output = console.output();
    assert_eq!(console.take_notices(), [format!("console: unix:{}", path.display())]);
    push(&output, b"before ");
    assert!(output.flush(None));
    let mut first = connect(&mut console, &path);
    push(&output, b"live");
    assert_eq!(read(&mut first, 11), b"before live");
    first.write_all(b"typed").unwrap();
    assert_eq!(take_exactly(console.input().unwrap(), 5), b"typed");

    let mut second = connect(&mut console, &path);
    let mut told = String::new();
    second.read_to_string(&mut told).unwrap();
    assert_eq!(told, "ringfence: another client has this console; try again when it has left\r\n");

    drop(first);
    turn(console.input().unwrap(), Duration::from_secs(1));
    push(&output, b"alone ");
    assert!(output.flush(None));
    let mut third = connect(&mut console, &path);
    push(&output, b"again");
    assert_eq!(read(&mut third, 11), b"alone again");
    assert!(output.fault().is_none());
}

/// A client that has sent all and shut its sending side (echo | socat) still gets the answer, and its leaving is seen.
#[test]
fn a_half_closed_client_still_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut console = open(&path);
    let output = console.output();
    let mut client = connect(&mut console, &path);
    client.write_all(b"date\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(take_exactly(console.input().unwrap(), 5), b"date\n");
    for _ in 0..3 {
        turn(console.input().unwrap(), Duration::from_millis(10));
    }
    push(&output, b"today");
    assert_eq!(read(&mut client, 5), b"today");
    drop(client);
    // The event loop rests once it has gone: only the listener is waited for, and is not ready.
    turn_until(console.input().unwrap(), |input| {
        let mut wanted = 0;
        input.interests(|_| wanted += 1);
        wanted == 1
    });
    assert!(!turn(console.input().unwrap(), Duration::from_millis(5)));
    assert!(!console.input().unwrap().ended());
}

/// A client that never reads is waited for; when it leaves, the guest goes on.
#[test]
fn a_stuck_client_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut console = open(&path);
    let output = console.output();
    let client = connect(&mut console, &path);
    let end = Instant::now() + Duration::from_secs(20);
    let mut written = None;
    while written != Some(output.statistics().written) || output.has_room() {
        assert!(Instant::now() < end);
        written = Some(output.statistics().written);
        while output.push(b'x') {}
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!output.has_room());
    drop(client);
    turn(console.input().unwrap(), Duration::from_secs(1));
    assert!(output.flush(Some(Instant::now() + Duration::from_secs(20))));
    assert!(output.push(b'y') && output.fault().is_none());
}

/// The socket is its owner's alone and is gone at the end.
#[test]
fn the_socket_is_private_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let console = open(&path);
    let about = fs::symlink_metadata(&path).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o077, 0);
    drop(console);
    assert!(fs::symlink_metadata(&path).is_err());
}

/// A socket nobody listens at is replaced; one in use and any other file are left alone, and the message says what to do.
#[test]
fn names_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    drop(open(&path));
    assert!(!path.exists());

    let _other = UnixListener::bind(&path).unwrap();
    let message = refused(&path);
    assert_eq!(
        message,
        format!("\"{}\" is in use: another program listens there; end it or choose another path", path.display())
    );
    assert!(path.exists());

    let file = dir.path().join("f");
    fs::write(&file, "precious").unwrap();
    assert_eq!(
        refused(&file),
        format!("\"{}\" exists and is not left over from a console: remove it or choose another path", file.display())
    );
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let long = dir.path().join("x".repeat(120));
    assert!(refused(&long).contains("choose a shorter one"));
    let nowhere = dir.path().join("no/such/s");
    assert!(refused(&nowhere).ends_with("its folder must exist"), "{}", refused(&nowhere));
}

/// A file that has taken the socket's place meanwhile is not removed with it.
#[test]
fn anothers_file_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let console = open(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(console);
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}

/// An error of the constructor is of the kind callers can tell apart.
#[test]
fn kinds_of_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = Console::open(&ConsoleSpec::Unix(dir.path().into())).err().unwrap();
    assert!(matches!(error, ConsoleError::Occupied(_)));
}
