//! The kernel's scheduler: system calls on one thread, or on the calling one when the thread is [`SELF`].

use std::io;
use std::ptr;

use crate::units::CpuList;

/// The calling thread.
pub(super) const SELF: i32 = 0;

/// CPUs that Linux can have at most on x86 (CONFIG_NR_CPUS, MAXSMP).
const MOST_CPUS: usize = 8192;
/// 64-bit words of a mask of so many.
const WORDS: usize = MOST_CPUS / 64;

// linux/sched.h and linux/prctl.h; not all in the libc crate.
const PR_SCHED_CORE: libc::c_int = 62;
const PR_SCHED_CORE_GET: libc::c_ulong = 0;
const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
const PR_SCHED_CORE_SHARE_FROM: libc::c_ulong = 3;
/// `PIDTYPE_PID`: one thread.
const ONE_THREAD: libc::c_ulong = 0;

/// This thread's number.
pub(super) fn thread_id() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// The CPUs, of those that are online, that a thread may run on (sched_getaffinity(2)).
pub(super) fn affinity(thread: i32) -> io::Result<CpuList> {
    let mut mask = [0u64; WORDS];
    // SAFETY: the kernel writes at most the size of the mask that it is told.
    let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, thread, size_of_val(&mask), mask.as_mut_ptr()) };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..MOST_CPUS as u32).filter(|cpu| mask[*cpu as usize / 64] & (1 << (cpu % 64)) != 0).collect())
}

/// Lets a thread run on these CPUs only (sched_setaffinity(2)). It is there when this returns, if it is the calling one.
pub(super) fn set_affinity(thread: i32, cpus: &CpuList) -> io::Result<()> {
    let mut mask = [0u64; WORDS];
    cpus.iter().filter(|cpu| (*cpu as usize) < MOST_CPUS).for_each(|cpu| mask[cpu as usize / 64] |= 1 << (cpu % 64));
    // SAFETY: the kernel reads at most the size of the mask that it is told.
    let done = unsafe { libc::syscall(libc::SYS_sched_setaffinity, thread, size_of_val(&mask), mask.as_ptr()) };
    result(done)
}

/// How a thread is scheduled: a `SCHED_*` number and its real-time priority (0: none).
pub(super) fn policy(thread: i32) -> io::Result<(i32, u8)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the second call writes a parameter that lives on this stack.
    let (policy, done) =
        unsafe { (libc::sched_getscheduler(thread), libc::syscall(libc::SYS_sched_getparam, thread, &raw mut param)) };
    if policy < 0 || done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((policy, param.sched_priority as u8))
}

/// Schedules a thread by `policy` (`SCHED_*`) with a real-time priority (0 for the ordinary policies).
pub(super) fn set_policy(thread: i32, policy: i32, priority: u8) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: the parameter lives on this stack and is only read.
    result(unsafe { libc::syscall(libc::SYS_sched_setscheduler, thread, policy, &raw const param) })
}

/// Gives the calling thread a core scheduling cookie of its own, so that only threads with the same one run beside it on a
/// core (Linux, Documentation/admin-guide/hw-vuln/core-scheduling.rst).
///
/// # Errors
/// EINVAL: the kernel is built without it. ENODEV: the host has no SMT.
pub(super) fn create_core_cookie() -> io::Result<()> {
    core_scheduling(PR_SCHED_CORE_CREATE, SELF, ptr::null_mut())
}

/// Gives the calling thread another one's cookie.
pub(super) fn share_core_cookie(from: i32) -> io::Result<()> {
    core_scheduling(PR_SCHED_CORE_SHARE_FROM, from, ptr::null_mut())
}

/// A thread's cookie, 0 when it has none. The kernel shows it to who may trace the thread.
pub(super) fn core_cookie(thread: i32) -> io::Result<u64> {
    let mut cookie = 0u64;
    core_scheduling(PR_SCHED_CORE_GET, thread, &raw mut cookie)?;
    Ok(cookie)
}

fn core_scheduling(what: libc::c_ulong, thread: i32, cookie: *mut u64) -> io::Result<()> {
    // SAFETY: `cookie` is null, or for PR_SCHED_CORE_GET the one place that the kernel writes to.
    let done = unsafe { libc::prctl(PR_SCHED_CORE, what, libc::c_ulong::from(thread as u32), ONE_THREAD, cookie) };
    result(libc::c_long::from(done))
}

fn result(done: libc::c_long) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a thread that shares another's cookie has the same one, which no third has; where the kernel has no core
    /// scheduling or the host no SMT, that it says so.
    #[test]
    fn cookies_are_shared_by_those_who_ask() {
        std::thread::spawn(|| {
            match create_core_cookie() {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
                    return println!("no core scheduling here: {error}");
                }
                Err(error) => panic!("{error}"),
            }
            let (first, cookie) = (thread_id(), core_cookie(SELF).unwrap());
            let share = move || share_core_cookie(first).and_then(|()| core_cookie(SELF));
            assert_eq!(std::thread::spawn(share).join().unwrap().unwrap(), cookie);
            assert_ne!(cookie, 0);
            let other = || create_core_cookie().and_then(|()| core_cookie(SELF));
            assert_ne!(std::thread::spawn(other).join().unwrap().unwrap(), cookie);
            println!("core scheduling works here: cookie {cookie:#x}");
        })
        .join()
        .unwrap();
    }

    /// Proves that what is set is what is read back, for the calling thread, and that a CPU that is not there is refused.
    #[test]
    fn affinity_reads_back() {
        std::thread::spawn(|| {
            let all = affinity(SELF).unwrap();
            let last: CpuList = all.iter().last().into_iter().collect();
            set_affinity(SELF, &last).unwrap();
            assert_eq!(affinity(SELF).unwrap(), last);
            assert_eq!(affinity(thread_id()).unwrap(), last);
            let nowhere: CpuList = [8191].into_iter().collect();
            assert_eq!(set_affinity(SELF, &nowhere).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(policy(SELF).unwrap(), (libc::SCHED_OTHER, 0));
        })
        .join()
        .unwrap();
    }
}
