//! What happens when a confined thread makes a call that is not on its list: the process ends, and says which call it was.

use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use syscalls::Sysno;

/// The process's exit status: ringfence failed.
const EXIT_FAILED: c_int = 125;
/// `si_code` of a SIGSYS that seccomp sent (`SYS_SECCOMP`).
const FROM_SECCOMP: c_int = 1;
/// Longest name of a thread.
const NAME: usize = 16;

thread_local! {
    /// The confined thread's name, and its length.
    static THREAD: Cell<([u8; NAME], usize)> = const { Cell::new(([0; NAME], 0)) };
}

/// What gives terminal and names back: a `fn()`, null before there is one.
static CLEAN_UP: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// The part of `siginfo_t` that a SIGSYS fills (sigaction(2)).
#[repr(C)]
struct SigsysInfo {
    signal: c_int,
    error: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    call: c_int,
    architecture: u32,
}

/// A message put together without allocating: the heap may be what the call was for.
struct Message {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Names the calling thread for the message.
pub(super) fn name_thread(name: &str) {
    let mut bytes = [0; NAME];
    let len = name.len().min(NAME);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    THREAD.set((bytes, len));
}

/// Installs the handler. `clean_up` gives the terminal back, and what else can be; it runs on the thread that made the call,
/// in a signal's handler, and makes only calls that every kind of thread may make.
pub(super) fn install(clean_up: fn()) -> io::Result<()> {
    CLEAN_UP.store(clean_up as *mut (), Ordering::SeqCst);
    // SAFETY: the handler makes only async-signal-safe calls and does not return.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigsys as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(libc::SIGSYS, &action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_sigsys(_signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // Once: should the clean-up itself be stopped, the message still comes.
    let clean_up = CLEAN_UP.swap(ptr::null_mut(), Ordering::SeqCst);
    if !clean_up.is_null() {
        // SAFETY: `install` stored a `fn()`.
        let clean_up: fn() = unsafe { std::mem::transmute(clean_up) };
        clean_up();
    }
    // SAFETY: the kernel passes a whole siginfo_t and ucontext_t to a handler with SA_SIGINFO.
    let (info, context) = unsafe { (&*info.cast::<SigsysInfo>(), &*context.cast::<ucontext_t>()) };
    if info.code == FROM_SECCOMP {
        let message = describe(info.call, &context.uc_mcontext.gregs);
        // SAFETY: the bytes are initialised. Nobody is left to be told when it fails.
        unsafe { libc::write(libc::STDERR_FILENO, message.bytes.as_ptr().cast(), message.len) };
    }
    // SAFETY: ends the process without running anything else.
    unsafe { libc::_exit(if info.code == FROM_SECCOMP { EXIT_FAILED } else { 128 + libc::SIGSYS }) }
}

fn describe(call: c_int, registers: &[libc::greg_t; 23]) -> Message {
    let mut message = Message { bytes: [0; 512], len: 0 };
    let (name, len) = THREAD.get();
    let thread = std::str::from_utf8(&name[..len]).unwrap_or("?");
    let name = usize::try_from(call).ok().and_then(Sysno::new).map_or("an unknown call", |call| call.name());
    let argument = |register: c_int| registers[register as usize];
    let (a, b, c) = (argument(libc::REG_RDI), argument(libc::REG_RSI), argument(libc::REG_RDX));
    // Writing to a Message never fails; what does not fit is cut.
    let _ = writeln!(
        message,
        "ringfence: sandbox: the {thread} thread tried {name}({a:#x}, {b:#x}, {c:#x}) (system call {call}), which its filter \
         does not allow, so the machine was ended. If the guest can be trusted this is a bug: please report it with the output \
         of `ringfence check`; --sandbox off runs without the filters"
    );
    message
}
