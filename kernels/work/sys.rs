//! System calls of x86_64 Linux, as far as this program needs them.

use core::arch::asm;

const CLOCK_MONOTONIC: usize = 1;
const PR_SET_PDEATHSIG: usize = 1;
const SIGKILL: usize = 9;
const EINTR: isize = -4;

/// # Safety
/// The arguments must be what the kernel expects of system call `number`.
unsafe fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    // SAFETY: by this function's contract.
    unsafe { call6(number, [a, b, c, 0, 0, 0]) }
}

/// # Safety
/// The arguments must be what the kernel expects of system call `number`.
unsafe fn call6(number: usize, args: [usize; 6]) -> isize {
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

/// Writes all of `bytes`; whether that worked.
pub fn write_all(fd: usize, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        // SAFETY: write(2) reads the given range.
        match unsafe { call(1, fd, bytes.as_ptr() as usize, bytes.len()) } {
            EINTR => {}
            count @ 1.. => bytes = &bytes[(count as usize).min(bytes.len())..],
            _ => return false,
        }
    }
    true
}

/// Zeroed memory for good.
pub fn map(bytes: usize) -> Option<&'static mut [u8]> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: mmap(2) of new memory.
    let at = unsafe { call6(9, [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0]) };
    // SAFETY: the mapping is new, of that size, zeroed and never unmapped.
    (at > 0).then(|| unsafe { core::slice::from_raw_parts_mut(at as *mut u8, bytes) })
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut time = [0i64; 2];
    // SAFETY: clock_gettime(2) writes a timespec of two numbers.
    unsafe { call(228, CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0) };
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// How many CPUs this process may run on; 1 when the kernel does not tell.
pub fn allowed_cpus() -> usize {
    let mut mask = [0u64; 128];
    // SAFETY: sched_getaffinity(2) writes at most the given size.
    let size = unsafe { call(204, 0, size_of_val(&mask), mask.as_mut_ptr() as usize) };
    let words = (size.max(0) as usize / 8).min(mask.len());
    mask[..words].iter().map(|word| word.count_ones() as usize).sum::<usize>().max(1)
}

/// fork(2): 0 in the child.
pub fn fork() -> Option<usize> {
    // SAFETY: this process has one thread.
    let pid = unsafe { call(57, 0, 0, 0) };
    (pid >= 0).then_some(pid as usize)
}

/// Dies when the parent does.
pub fn end_with_parent() {
    // SAFETY: prctl(2) with numbers.
    unsafe { call(157, PR_SET_PDEATHSIG, SIGKILL, 0) };
}

/// Sleeps for so many seconds.
pub fn sleep(seconds: u64) {
    let mut time = [seconds, 0];
    let time = time.as_mut_ptr() as usize;
    // SAFETY: nanosleep(2) reads a timespec of two numbers and writes what is left of it.
    while unsafe { call(35, time, time, 0) } == EINTR {}
}

/// Lets this thread use an I/O port by itself; whether the kernel does.
pub fn open_port(port: u16) -> bool {
    // SAFETY: ioperm(2) with numbers.
    unsafe { call(173, usize::from(port), 1, 1) == 0 }
}

/// A file for reading and writing.
pub fn open(path: &core::ffi::CStr) -> Option<usize> {
    const READ_WRITE_CLOEXEC: usize = 0x8_0002;
    // SAFETY: open(2) of a string that ends with 0.
    let fd = unsafe { call(2, path.as_ptr() as usize, READ_WRITE_CLOEXEC, 0) };
    (fd >= 0).then_some(fd as usize)
}

/// Writes one byte at an offset of a file.
pub fn write_at(fd: usize, byte: u8, offset: usize) {
    // SAFETY: pwrite64(2) reads the one byte.
    unsafe { call6(18, [fd, &raw const byte as usize, 1, offset, 0, 0]) };
}

/// Sleeps until a signal comes.
pub fn pause() {
    // SAFETY: pause(2) takes nothing.
    unsafe { call(34, 0, 0, 0) };
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) does not return.
        unsafe { call(231, status as usize, 0, 0) };
    }
}
