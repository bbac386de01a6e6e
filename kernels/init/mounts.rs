//! The file systems a shell expects.

use crate::sys;
use core::ffi::CStr;

const NOSUID: usize = 2;
const NODEV: usize = 4;
const NOEXEC: usize = 8;

/// `f_type` of an initramfs, linux/magic.h: one or the other by the kernel's configuration.
const RAMFS: u64 = 0x8584_58f6;
const TMPFS: u64 = 0x0102_1994;

struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    mode: usize,
    flags: usize,
    options: &'static CStr,
}

const fn entry(kind: &'static CStr, target: &'static CStr, mode: usize, flags: usize, options: &'static CStr) -> Mount {
    Mount { kind, target, mode, flags, options }
}

/// Needed before anything else: device nodes.
const DEV: Mount = entry(c"devtmpfs", c"/dev", 0o755, NOSUID, c"mode=0755");

const KERNEL: [Mount; 3] = [
    entry(c"proc", c"/proc", 0o555, NOSUID | NODEV | NOEXEC, c""),
    entry(c"sysfs", c"/sys", 0o555, NOSUID | NODEV | NOEXEC, c""),
    entry(c"devpts", c"/dev/pts", 0o755, NOSUID | NOEXEC, c"mode=0620,gid=5,ptmxmode=0666"),
];

/// Scratch space.
const SCRATCH: [Mount; 3] = [
    entry(c"tmpfs", c"/dev/shm", 0o1777, NOSUID | NODEV, c"mode=1777"),
    entry(c"tmpfs", c"/tmp", 0o1777, NOSUID | NODEV, c"mode=1777"),
    entry(c"tmpfs", c"/run", 0o755, NOSUID | NODEV, c"mode=0755"),
];

/// The usual links into /proc; devtmpfs does not make them.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// Mounts /dev. A kernel without devtmpfs keeps the nodes that the initramfs brought.
pub fn devices() {
    let _ = attach(&DEV);
}

/// Mounts the rest and makes the links. What this kernel does not have is left out.
pub fn rest() {
    let umask = sys::umask(0);
    for mount in &KERNEL {
        let _ = attach(mount);
    }
    // A root in memory is scratch space already, and a tmpfs is the dearest of all mounts.
    let in_memory = matches!(sys::file_system_type(c"/"), Ok(RAMFS | TMPFS));
    if in_memory {
        // A tmpfs root starts out as everyone's to write.
        let _ = sys::chmod(c"/", 0o755);
    }
    for mount in &SCRATCH {
        let _ = if in_memory { sys::mkdir(mount.target, mount.mode) } else { attach(mount) };
    }
    for (target, link) in LINKS {
        let _ = sys::symlink(target, link);
    }
    sys::umask(umask);
}

/// Mounts one, making the directory when that is what is missing.
fn attach(mount: &Mount) -> Result<usize, i32> {
    let try_once = || sys::mount(mount.kind, mount.target, mount.flags, mount.options);
    try_once().or_else(|_| {
        sys::mkdir(mount.target, mount.mode)?;
        try_once()
    })
}
