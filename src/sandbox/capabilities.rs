//! Giving up privileges: the right to gain any by running a program, and the capabilities (capabilities(7)): a thread's permitted,
//! effective, inheritable and ambient ones, and the bounding set, which limits what running a program could bring back.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const VERSION_3: u32 = 0x2008_0522;
/// Words have room for so many; the kernel has fewer and says so.
const MAX_CAPABILITIES: libc::c_ulong = 64;

#[repr(C)]
struct Header {
    version: u32,
    thread: i32,
}

#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Running a program gives no privileges any more (prctl(2), PR_SET_NO_NEW_PRIVS): a condition for filters and landlock.
pub(super) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Empties the calling thread's bounding set, which the threads it starts inherit. A process that may not do that
/// (CAP_SETPCAP) has no privileges to bound.
pub(super) fn empty_bounding_set() {
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_CAPBSET_READ, 0, 0, 0, 0) } == 0 {
        // Emptied before: the sets are emptied as a whole, from the first capability up.
        return;
    }
    for capability in 0..MAX_CAPABILITIES {
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            // EINVAL: there is none of this number; EPERM: see above.
            break;
        }
    }
}

/// Empties the calling thread's permitted, effective and inheritable set. With them go the ambient ones.
pub(super) fn drop_all() -> io::Result<()> {
    let header = Header { version: VERSION_3, thread: 0 };
    let sets = [const { Sets { effective: 0, permitted: 0, inheritable: 0 } }; 2];
    // SAFETY: both structures are as capset(2) has them for version 3, and are only read.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
