//! The names of busybox's applets in /bin.
//!
//! They are linked here, at run time, and not by the initramfs: there a name costs the kernel
//! eight times as much. Nothing waits for them that can do without: busybox's shell runs applets
//! by itself, and a command that starts no other program needs none.

use crate::{memory, sys};
use core::ffi::CStr;

/// The names, each with its NUL, as the monitor listed them when it made the initramfs.
const LIST: &CStr = c"/ringfence/applets";
/// What they are links to.
pub const BUSYBOX: &CStr = c"/bin/busybox";
const DIRECTORY: &[u8] = b"/bin/";
const LIST_MAX: usize = 16 << 10;

/// Applets that execute no other program whatever their arguments are: busybox is executed for
/// them at once, with no search and no links.
const ALONE: [&[u8]; 47] = [
    b"arch",
    b"base64",
    b"basename",
    b"cal",
    b"cat",
    b"cksum",
    b"cmp",
    b"cp",
    b"cut",
    b"date",
    b"dd",
    b"df",
    b"dirname",
    b"dmesg",
    b"du",
    b"echo",
    b"expr",
    b"false",
    b"free",
    b"grep",
    b"head",
    b"hexdump",
    b"hostname",
    b"id",
    b"kill",
    b"ls",
    b"md5sum",
    b"mkdir",
    b"mv",
    b"nproc",
    b"od",
    b"printf",
    b"ps",
    b"pwd",
    b"readlink",
    b"rm",
    b"seq",
    b"sha256sum",
    b"sleep",
    b"stat",
    b"tail",
    b"test",
    b"true",
    b"uname",
    b"uptime",
    b"wc",
    b"yes",
];

/// Whether the command is an applet that needs nothing but busybox itself.
pub fn runs_alone(command: &[u8]) -> bool {
    ALONE.contains(&command)
}

/// Makes the links. Without a list (an initramfs of someone else's) there is nothing to do.
pub fn link_all() {
    let Ok(fd) = sys::open(LIST, sys::O_RDONLY | sys::O_CLOEXEC) else { return };
    let size = sys::file_size(fd).unwrap_or(0).min(LIST_MAX);
    let Ok(list) = memory::take(size) else { return };
    let length = sys::pread(fd, list, 0).unwrap_or(0);
    sys::close(fd);
    let mut path = [0; 128];
    path[..DIRECTORY.len()].copy_from_slice(DIRECTORY);
    for name in list[..length].split_inclusive(|&byte| byte == 0) {
        let Some(target) = path.get_mut(DIRECTORY.len()..DIRECTORY.len() + name.len()) else { continue };
        target.copy_from_slice(name);
        if let Ok(link) = CStr::from_bytes_until_nul(&path) {
            let _ = sys::link(BUSYBOX, link);
        }
    }
}
