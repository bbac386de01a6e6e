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
    /// Whether the directory has to be made.
    make: bool,
    mode: usize,
    flags: usize,
    options: &'static CStr,
}

const DEV: Mount =
    Mount { kind: c"devtmpfs", target: c"/dev", make: false, mode: 0o755, flags: NOSUID, options: c"mode=0755" };

const KERNEL: [Mount; 3] = [
    Mount { kind: c"proc", target: c"/proc", make: false, mode: 0o555, flags: NOSUID | NODEV | NOEXEC, options: c"" },
    Mount { kind: c"sysfs", target: c"/sys", make: false, mode: 0o555, flags: NOSUID | NODEV | NOEXEC, options: c"" },
    Mount {
        kind: c"devpts",
        target: c"/dev/pts",
        make: true,
        mode: 0o755,
        flags: NOSUID | NOEXEC,
        options: c"mode=0620,gid=5,ptmxmode=0666",
    },
];

/// Scratch space.
const SCRATCH: [Mount; 3] = [
    scratch(c"/dev/shm", true, c"mode=1777"),
    scratch(c"/tmp", false, c"mode=1777"),
    scratch(c"/run", false, c"mode=0755"),
];

const fn scratch(target: &'static CStr, make: bool, options: &'static CStr) -> Mount {
    Mount { kind: c"tmpfs", target, make, mode: 0o1777, flags: NOSUID | NODEV, options }
}

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
        if !in_memory {
            let _ = attach(mount);
        } else if mount.make {
            let _ = sys::mkdir(mount.target, mount.mode);
        }
    }
    for (target, link) in LINKS {
        let _ = sys::symlink(target, link);
    }
    sys::umask(umask);
}

/// Mounts one. /proc, /sys and /dev are in any initramfs; what lies below them is made first, since a
/// mount that fails costs as much as one that does not.
fn attach(mount: &Mount) -> Result<usize, i32> {
    if mount.make {
        let _ = sys::mkdir(mount.target, mount.mode);
    }
    sys::mount(mount.kind, mount.target, mount.flags, mount.options)
}
