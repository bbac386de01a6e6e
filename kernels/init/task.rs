//! Tasks that share this program's memory: starting one costs no copy of page tables, and each
//! fault on a copied page would be dear on a host that emulates the kernel.

use crate::sys;
use core::mem::MaybeUninit;

/// Enough for a path (4 KiB) and a few frames.
const STACK_SIZE: usize = 12 << 10;

#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; STACK_SIZE]);

/// The address a stack grows down from.
fn top(stack: *mut Stack) -> usize {
    stack as usize + STACK_SIZE
}

/// Runs `entry(argument)` as a child process in this process's memory, and returns its number
/// when it has ended or executed another program. The caller sleeps meanwhile, so the child may
/// use whatever the caller could.
pub fn borrowing(entry: extern "C" fn(usize) -> !, argument: usize) -> Result<i32, i32> {
    let mut stack = Stack([MaybeUninit::uninit(); STACK_SIZE]);
    let flags = sys::CLONE_VM | sys::CLONE_VFORK | sys::SIGCHLD as usize;
    // SAFETY: the stack is new, lives until this function returns, and with CLONE_VFORK that is
    // not before the child is done with it.
    unsafe { sys::clone_on(flags, top(&raw mut stack), entry, argument) }
}

/// Starts the one thread that runs `entry(0)` beside the rest for good.
pub fn watcher(entry: extern "C" fn(usize) -> !) {
    static mut STACK: Stack = Stack([MaybeUninit::uninit(); STACK_SIZE]);
    let flags =
        sys::CLONE_VM | sys::CLONE_FS | sys::CLONE_FILES | sys::CLONE_SIGHAND | sys::CLONE_THREAD | sys::CLONE_SYSVSEM;
    // SAFETY: called once, so the static stack belongs to this thread alone; `entry` shares only
    // atomics with the others.
    let _ = unsafe { sys::clone_on(flags, top(&raw mut STACK), entry, 0) };
}
