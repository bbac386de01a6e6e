//! System calls of x86_64 Linux, as far as this program needs them: the raw instruction, and thin
//! wrappers named like the manual's. Errors are the kernel's positive `errno`.

use core::arch::{asm, global_asm};
use core::ffi::CStr;

pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const EAGAIN: i32 = 11;

pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_RDWR: usize = 2;
pub const O_NOCTTY: usize = 0o400;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_CLOEXEC: usize = 0o2_000_000;

pub const POLLIN: i16 = 0x001;
pub const POLLOUT: i16 = 0x004;

pub const SIGHUP: i32 = 1;
pub const SIGKILL: i32 = 9;
pub const SIGUSR1: i32 = 10;
pub const SIGUSR2: i32 = 12;
pub const SIGTERM: i32 = 15;
pub const SIGCHLD: i32 = 17;
pub const SIGCONT: i32 = 18;

pub const CLONE_VM: usize = 0x100;
pub const CLONE_FS: usize = 0x200;
pub const CLONE_FILES: usize = 0x400;
pub const CLONE_SIGHAND: usize = 0x800;
pub const CLONE_VFORK: usize = 0x4000;
pub const CLONE_THREAD: usize = 0x10000;
pub const CLONE_SYSVSEM: usize = 0x40000;

/// What reboot(2) is asked to do.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Reboot {
    Restart = 0x0123_4567,
    PowerOff = 0x4321_fedc,
}

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

/// `struct timespec`.
#[repr(C)]
pub struct TimeSpec {
    pub seconds: i64,
    pub nanoseconds: i64,
}

/// `struct winsize`.
#[repr(C)]
pub struct WinSize {
    pub rows: u16,
    pub cols: u16,
    pub x_pixels: u16,
    pub y_pixels: u16,
}

/// `struct termios` as TCGETS and TCSETS take it.
#[repr(C)]
#[derive(Default)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; 19],
}

/// `struct sigaction` as rt_sigaction(2) takes it.
#[repr(C)]
struct SigAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// # Safety
/// The arguments must be what the kernel expects of system call `number`; the pointers among them
/// valid for as long as the call uses them.
#[inline(always)]
unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: by this function's contract; the kernel changes rax, rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
             in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

fn checked(result: isize) -> Result<usize, i32> {
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

/// Calls the kernel with the given number and up to six integer or pointer arguments.
///
/// Every use below passes either plain integers or pointers to live objects of the right type.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {{
        let given = [$($arg as usize),*];
        let mut args = [0usize; 6];
        args[..given.len()].copy_from_slice(&given);
        // SAFETY: see the macro's note; each wrapper's types make it so.
        checked(unsafe { syscall($number, args) })
    }};
}

pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize, i32> {
    call!(0, fd, buffer.as_mut_ptr(), buffer.len())
}

pub fn write(fd: i32, bytes: &[u8]) -> Result<usize, i32> {
    call!(1, fd, bytes.as_ptr(), bytes.len())
}

pub fn open(path: &CStr, flags: usize) -> Result<i32, i32> {
    call!(2, path.as_ptr(), flags, 0usize).map(|fd| fd as i32)
}

pub fn close(fd: i32) {
    let _ = call!(3, fd);
}

/// The number of the last byte of a file, plus one.
pub fn file_size(fd: i32) -> Result<usize, i32> {
    const SEEK_END: usize = 2;
    call!(8, fd, 0usize, SEEK_END)
}

/// Anonymous, private, zeroed memory for good.
pub fn map_memory(bytes: usize) -> Result<&'static mut [u8], i32> {
    const PROT_READ_WRITE: usize = 3;
    const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
    let at = call!(9, 0usize, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1isize, 0usize)?;
    // SAFETY: a fresh mapping of `bytes` bytes that is never unmapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(at as *mut u8, bytes) })
}

pub fn pread(fd: i32, buffer: &mut [u8], offset: u64) -> Result<usize, i32> {
    call!(17, fd, buffer.as_mut_ptr(), buffer.len(), offset)
}

pub fn pwrite(fd: i32, bytes: &[u8], offset: u64) -> Result<usize, i32> {
    call!(18, fd, bytes.as_ptr(), bytes.len(), offset)
}

/// Whether the file can be reached at all (access(2) with F_OK).
pub fn exists(path: &CStr) -> bool {
    call!(21, path.as_ptr(), 0usize).is_ok()
}

/// Whether the path names a directory.
pub fn is_directory(path: &CStr) -> bool {
    const O_PATH_DIRECTORY: usize = 0o10_200_000;
    let opened = open(path, O_PATH_DIRECTORY | O_CLOEXEC);
    opened.map(close).is_ok()
}

pub fn dup2(from: i32, to: i32) -> Result<usize, i32> {
    call!(33, from, to)
}

/// This process's number.
pub fn getpid() -> i32 {
    call!(39).unwrap_or(0) as i32
}

/// Replaces the program. Returns only the error.
///
/// # Safety
/// `argv` and `envp` must be null-terminated arrays of pointers to NUL-terminated strings.
pub unsafe fn execve(path: &CStr, argv: *const *const u8, envp: *const *const u8) -> i32 {
    call!(59, path.as_ptr(), argv, envp).err().unwrap_or(0)
}

pub fn exit_thread(status: i32) -> ! {
    loop {
        let _ = call!(60, status);
    }
}

/// Reaps one child that has ended, without waiting: its number and its wait status.
pub fn wait_any() -> Option<(i32, i32)> {
    const WNOHANG: usize = 1;
    let mut status = 0i32;
    match call!(61, -1isize, &raw mut status, WNOHANG, 0usize) {
        Ok(pid) if pid > 0 => Some((pid as i32, status)),
        _ => None,
    }
}

pub fn kill(pid: i32, signal: i32) -> Result<usize, i32> {
    call!(62, pid, signal)
}

pub fn chdir(path: &CStr) -> Result<usize, i32> {
    call!(80, path.as_ptr())
}

pub fn mkdir(path: &CStr, mode: usize) -> Result<usize, i32> {
    call!(83, path.as_ptr(), mode)
}

pub fn link(existing: &CStr, path: &CStr) -> Result<usize, i32> {
    call!(86, existing.as_ptr(), path.as_ptr())
}

pub fn symlink(target: &CStr, path: &CStr) -> Result<usize, i32> {
    call!(88, target.as_ptr(), path.as_ptr())
}

/// Sets how much of the kernel's log reaches the console.
pub fn set_console_loglevel(level: u8) {
    const SYSLOG_ACTION_CONSOLE_LEVEL: usize = 8;
    let _ = call!(103, SYSLOG_ACTION_CONSOLE_LEVEL, 0usize, level);
}

pub fn chmod(path: &CStr, mode: usize) -> Result<usize, i32> {
    call!(90, path.as_ptr(), mode)
}

/// Sets the mode bits that new files do not get; those that were set before.
pub fn umask(mask: usize) -> usize {
    call!(95, mask).unwrap_or(0)
}

pub fn setsid() {
    let _ = call!(112);
}

/// setpgid(0, 0): makes the calling process the leader of a new process group.
pub fn lead_process_group() {
    let _ = call!(109, 0usize, 0usize);
}

/// `f_type` of the file system that holds `path`.
pub fn file_system_type(path: &CStr) -> Result<u64, i32> {
    let mut statfs = [0u64; 15];
    call!(137, path.as_ptr(), statfs.as_mut_ptr())?;
    Ok(statfs[0])
}

/// Gives the calling thread the lowest share of the processor.
pub fn yield_to_others() {
    const PRIO_PROCESS: usize = 0;
    let _ = call!(141, PRIO_PROCESS, 0usize, 19usize);
}

pub fn sync() {
    let _ = call!(162);
}

pub fn mount(kind: &CStr, target: &CStr, flags: usize, options: &CStr) -> Result<usize, i32> {
    call!(165, kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr())
}

/// Asks the kernel to end the machine. Returns only when it does not.
pub fn reboot(how: Reboot) {
    const MAGIC1: u32 = 0xfee1_dead;
    const MAGIC2: u32 = 0x2812_1969;
    let _ = call!(169, MAGIC1, MAGIC2, how as u32, 0usize);
}

pub fn sethostname(name: &[u8]) -> Result<usize, i32> {
    call!(170, name.as_ptr(), name.len())
}

/// Lets this thread use the I/O ports `first..first + count` by itself.
pub fn ioperm(first: u16, count: u16) -> Result<usize, i32> {
    call!(173, first, count, 1usize)
}

/// Waits for one of `fds`, for a signal (then EINTR) or for the time to pass. Signals are
/// delivered only in here: they are blocked everywhere else.
pub fn ppoll(fds: &mut [PollFd], timeout: Option<&mut TimeSpec>) -> Result<usize, i32> {
    let none_blocked = 0u64;
    let timeout = timeout.map_or(core::ptr::null_mut(), |time| &raw mut *time);
    call!(271, fds.as_mut_ptr(), fds.len(), timeout, &raw const none_blocked, 8usize)
}

/// Makes reads and writes at this end of a pipe return instead of waiting.
pub fn set_nonblocking(fd: i32) -> Result<usize, i32> {
    const F_SETFL: usize = 4;
    call!(72, fd, F_SETFL, O_NONBLOCK)
}

/// The reading and the writing end of a new pipe.
pub fn pipe(flags: usize) -> Result<(i32, i32), i32> {
    let mut ends = [0i32; 2];
    call!(293, ends.as_mut_ptr(), flags)?;
    Ok((ends[0], ends[1]))
}

/// # Safety
/// `argument` must be what this request takes: an integer, or a pointer to the right structure.
pub unsafe fn ioctl(fd: i32, request: u32, argument: usize) -> Result<usize, i32> {
    call!(16, fd, request, argument)
}

/// Blocks the signals whose bits are set in `mask` (bit n - 1 for signal n), and no others.
pub fn block_signals(mask: u64) {
    const SIG_SETMASK: usize = 2;
    let _ = call!(14, SIG_SETMASK, &raw const mask, 0usize, 8usize);
}

global_asm!(
    ".pushsection .text.signal_return, \"ax\"",
    ".globl ringfence_signal_return",
    "ringfence_signal_return:",
    "mov eax, 15", // rt_sigreturn
    "syscall",
    ".popsection",
);

unsafe extern "C" {
    fn ringfence_signal_return();
}

/// Has `handler` called for `signal`.
pub fn on_signal(signal: i32, handler: extern "C" fn(i32)) {
    const SA_RESTORER: u64 = 0x0400_0000;
    let action = SigAction {
        handler: handler as usize,
        flags: SA_RESTORER,
        restorer: ringfence_signal_return as *const () as usize,
        mask: u64::MAX,
    };
    let _ = call!(13, signal, &raw const action, 0usize, 8usize);
}

/// Starts a task that runs `entry(argument)` on the stack that ends at `stack_top`; the number of
/// the new task.
///
/// # Safety
/// The stack must be the new task's alone and big enough, `stack_top` a multiple of 16, and what
/// `flags` makes the two tasks share must be safe to share.
pub unsafe fn clone_on(
    flags: usize,
    stack_top: usize,
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> Result<i32, i32> {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call. The child starts after it on its own stack
    // and never comes back out of `entry`.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") 56usize => result,
            in("rdi") flags, in("rsi") stack_top, in("rdx") 0usize, in("r10") 0usize,
            in("r8") 0usize, in("r12") argument, in("r13") entry as usize,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    checked(result).map(|pid| pid as i32)
}
