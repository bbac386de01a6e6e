//! Tests of the file and the empty console.

use super::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

fn open(path: &Path) -> Result<Console, ConsoleError> {
    Console::open(&ConsoleSpec::File(path.into()))
}

/// The file is emptied, private when new, and gets every byte.
#[test]
fn a_file_gets_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut console = open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    console.start().unwrap();
    assert!(console.input().is_none() && console.window_size().is_none());
    let output = console.output();
    let bytes: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    assert!(bytes.iter().all(|&byte| output.push(byte)));
    assert!(output.flush(None));
    assert!(fs::read(&path).unwrap() == bytes);
    drop(open(&path).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"");
}

/// A file that cannot be written is refused with the remedy, at once.
#[test]
fn files_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| open(path).err().unwrap().to_string();
    assert!(message(&dir.path().join("no/log")).ends_with("its folder must exist"));
    assert!(message(dir.path()).ends_with("name a file in it"), "{}", message(dir.path()));
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(message(&fifo).ends_with("nobody reads it; start its reader first"));
}

/// A full disk ends the output, not the guest, and the reason is kept.
#[test]
fn a_full_disk_discards() {
    let mut console = open(Path::new("/dev/full")).unwrap();
    console.start().unwrap();
    let output = console.output();
    assert!(b"lost".iter().all(|&byte| output.push(byte)));
    assert!(output.flush(None));
    assert_eq!(output.fault().unwrap().raw_os_error(), Some(libc::ENOSPC));
}

/// No console: all output is taken, no input comes.
#[test]
fn none() {
    let mut console = Console::open(&ConsoleSpec::None).unwrap();
    console.start().unwrap();
    assert!(console.input().is_none() && console.take_notices().is_empty());
    assert!((0..200_000).all(|_| console.output().push(0)));
}
