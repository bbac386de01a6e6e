//! What `ringfence compare` runs in a guest, in containers and as their neighbour: a fixed piece of work, timed over and over;
//! a process that takes all the CPU and memory bandwidth it can get; one that holds memory.
//!
//! Bare (no libc, no allocator), so that the very same file runs everywhere, and does nothing but what it says: while it times,
//! it makes no system call and touches no new page.
//!
//!     work time COUNT TURNS   times COUNT pieces of TURNS steps each; then writes the times to standard output
//!     work burn MEGABYTES     keeps every CPU it may use busy, streaming through MEGABYTES on each, until it is killed
//!     work hold MEGABYTES     touches MEGABYTES, says RFREADY, and sleeps until it is killed

#![no_std]
#![no_main]

#[path = "../init/intrinsics.rs"]
mod intrinsics;
mod record;
mod sys;

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::hint::black_box;

const USAGE: &[u8] = b"usage: work time COUNT TURNS | burn MEGABYTES | hold MEGABYTES\n";
/// Status of a program that was misused.
const MISUSED: i32 = 2;
/// Most pieces that are timed in one go.
const COUNT_MAX: usize = 1_000_000;
/// Most steps of a piece: seconds of work.
const TURNS_MAX: usize = 1_000_000_000;
/// Most memory that is streamed through or held, in MiB.
const MEGABYTES_MAX: usize = 1 << 16;
/// Pieces done before the first that counts: caches and branch predictors are warm, the CPU's clock is up.
const WARM_UP: usize = 200;
/// Entries of the table the work looks things up in: 16 KiB, which any CPU's first-level cache holds.
const TABLE: usize = 2048;
const LINE: usize = 64;
/// Readings of the clocks, of which the best counts.
const READINGS: usize = 5;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

/// `stack` is where the kernel put the number of arguments and the pointers to them (System V ABI, "Process Initialization").
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel's layout: argc, then argc pointers to strings that live as long as the process.
    let argument = |index: usize| unsafe {
        (index < *stack).then(|| CStr::from_ptr(*stack.add(1 + index) as *const core::ffi::c_char).to_bytes())
    };
    let number = |index, most| argument(index).and_then(parse).filter(|n| (1..=most).contains(n));
    match (argument(1), number(2, COUNT_MAX), number(3, TURNS_MAX), number(2, MEGABYTES_MAX)) {
        (Some(b"time"), Some(count), Some(turns), _) => time(count, turns),
        (Some(b"burn"), _, None, Some(megabytes)) => burn(megabytes << 20),
        (Some(b"hold"), _, None, Some(megabytes)) => hold(megabytes << 20),
        _ => {
            sys::write_all(2, USAGE);
            sys::exit(MISUSED)
        }
    }
}

fn parse(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0usize, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(usize::from(digit))
    })
}

/// Times `count` pieces back to back: each ends when the next begins, so that no time goes unseen between them.
fn time(count: usize, turns: usize) -> ! {
    let Some(memory) = sys::map((count + 1) * 8) else { out_of_memory() };
    let (_, stamps, _) = {
        // SAFETY: any bytes are numbers.
        unsafe { memory.align_to_mut::<u64>() }
    };
    let Some(output) = sys::map(record::size_max(count)) else { out_of_memory() };
    // Every page is there before anything is timed.
    stamps.fill(1);
    output.fill(1);
    let table = table();
    for _ in 0..WARM_UP {
        black_box(piece(&table, turns));
    }
    let begun = both_clocks();
    stamps[0] = stamp();
    for slot in &mut stamps[1..=count] {
        black_box(piece(&table, turns));
        *slot = stamp();
    }
    let ended = both_clocks();
    let length = record::write(output, &stamps[..=count], turns, begun, ended);
    let written = sys::write_all(1, &output[..length]);
    sys::exit(i32::from(!written))
}

/// The time-stamp counter and CLOCK_MONOTONIC in nanoseconds at one moment: of a few readings the one that took the least time,
/// since a system call may be slow, or interrupted.
fn both_clocks() -> (u64, u64) {
    let readings = (0..READINGS).map(|_| {
        let before = stamp();
        let clock = sys::monotonic_ns();
        let took = stamp() - before;
        (took, (before + took / 2, clock))
    });
    readings.min().map_or((0, 0), |(_, both)| both)
}

/// Something to look up, the same every time (xorshift64, Marsaglia 2003).
fn table() -> [u64; TABLE] {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    core::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    })
}

/// The fixed work: each step needs the result of the one before, and a look into the table.
fn piece(table: &[u64; TABLE], turns: usize) -> u64 {
    let mut x = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..turns {
        x = (x ^ table[(x >> 53) as usize]).rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    x
}

/// The time-stamp counter, when all before is done and nothing after has begun (Intel SDM vol. 2B, RDTSC).
#[inline(always)]
fn stamp() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// One process for each CPU that this one may use; the others end with it.
fn burn(bytes: usize) -> ! {
    for _ in 1..sys::allowed_cpus() {
        if sys::fork() == Some(0) {
            sys::end_with_parent();
            break;
        }
    }
    let Some(memory) = sys::map(bytes) else { out_of_memory() };
    memory.fill(1);
    sys::write_all(1, b"RFREADY\n");
    loop {
        for line in memory.chunks_mut(LINE) {
            line[0] = black_box(line[0]).wrapping_add(1);
        }
    }
}

fn hold(bytes: usize) -> ! {
    let Some(memory) = sys::map(bytes) else { out_of_memory() };
    for (i, byte) in memory.iter_mut().enumerate() {
        // Different pages differ, so that nothing merges them.
        *byte = (i >> 12) as u8 ^ i as u8;
    }
    black_box(&memory);
    sys::write_all(1, b"RFREADY\n");
    loop {
        sys::pause();
    }
}

fn out_of_memory() -> ! {
    sys::write_all(2, b"work: out of memory\n");
    sys::exit(1)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::write_all(2, b"work: internal error\n");
    sys::exit(101)
}
