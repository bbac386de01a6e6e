//! Tasks that share this program's memory: starting one costs no copy of page tables, and each
//! fault on a copied page would be dear on a host that emulates the kernel.

use crate::sys;
use core::mem::MaybeUninit;

/// Enough for a path (4 KiB) and a few frames.
const BORROWED_STACK: usize = 12 << 10;
/// Enough for a few frames and for lending a stack of the above size. Pages never reached cost nothing.
const WATCHER_STACK: usize = 32 << 10;

#[repr(C, align(16))]
struct Stack<const SIZE: usize>([MaybeUninit<u8>; SIZE]);

/// The address a stack grows down from.
fn top<const SIZE: usize>(stack: *mut Stack<SIZE>) -> usize {
    stack as usize + SIZE
}

/// Runs `entry(argument)` as a child process in this process's memory, and returns its number
/// when it has ended or executed another program. The caller sleeps meanwhile, so the child may
/// use whatever the caller could.
///
/// Never inlined: the stack must not become part of a frame that only might call this.
#[inline(never)]
pub fn borrowing(entry: extern "C" fn(usize) -> !, argument: usize) -> Result<i32, i32> {
    let mut stack = Stack([MaybeUninit::uninit(); BORROWED_STACK]);
    let flags = sys::CLONE_VM | sys::CLONE_VFORK | sys::SIGCHLD as usize;
    // SAFETY: the stack is new, lives until this function returns, and with CLONE_VFORK that is
    // not before the child is done with it.
    unsafe { sys::clone_on(flags, top(&raw mut stack), entry, argument) }
}

/// Starts the one thread that runs `entry(0)` beside the rest for good.
pub fn watcher(entry: extern "C" fn(usize) -> !) {
    static mut STACK: Stack<WATCHER_STACK> = Stack([MaybeUninit::uninit(); WATCHER_STACK]);
    let flags =
        sys::CLONE_VM | sys::CLONE_FS | sys::CLONE_FILES | sys::CLONE_SIGHAND | sys::CLONE_THREAD | sys::CLONE_SYSVSEM;
    // SAFETY: called once, so the static stack belongs to this thread alone; `entry` shares only
    // atomics with the others.
    let _ = unsafe { sys::clone_on(flags, top(&raw mut STACK), entry, 0) };
}
