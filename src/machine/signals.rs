//! Signals: those that end the machine become events, and one kicks a vCPU out of KVM_RUN.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, create_sigset, register_signal_handler};

/// Signals the event loop reads.
const EVENTS: [i32; 6] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH, libc::SIGCONT, libc::SIGQUIT];

thread_local! {
    /// The shared page of the vCPU that this thread runs, null on other threads.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// Signals that arrive as readable data. They stay blocked in every thread that is started later.
pub(super) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals in this thread and opens the descriptor.
    pub(super) fn new() -> io::Result<Self> {
        let set = create_sigset(&EVENTS)?;
        // SAFETY: the set is initialised, and the descriptor is checked before it is owned.
        unsafe {
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The next signal that has arrived.
    pub(super) fn next(&self) -> Option<i32> {
        // SAFETY: signalfd_siginfo is plain old data, and read writes at most its size.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let read = libc::read(self.fd.as_raw_fd(), ptr::from_mut(&mut info).cast(), size);
            (read == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

impl Signals {
    /// The next signal that has arrived and ends a machine.
    pub(super) fn next_end(&self) -> Option<i32> {
        std::iter::from_fn(|| self.next()).find(|signal| ![libc::SIGWINCH, libc::SIGCONT].contains(signal))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The signal that kicks a vCPU thread.
fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Sets immediate_exit, so that the next KVM_RUN returns at once even if the signal came just before it.
extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: non-null only while this thread's Kickable lives, and then it points to the vCPU's mapped page.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
    }
}

/// Installs the kick's handler for the process. It only touches a thread-local cell and a mapped page, both fit for a handler.
pub(super) fn install_kick() -> io::Result<()> {
    Ok(register_signal_handler(kick_signal(), on_kick)?)
}

/// While it lives, kicks of this thread reach the vCPU.
pub(super) struct Kickable;

impl Kickable {
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        RUN.set(vcpu.get_kvm_run());
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        RUN.set(ptr::null_mut());
    }
}

/// Kicks a thread out of KVM_RUN.
pub(super) fn kick<T>(thread: &std::thread::JoinHandle<T>) {
    // It fails for a thread that has ended, which is out of KVM_RUN.
    let _ = thread.kill(kick_signal());
}
