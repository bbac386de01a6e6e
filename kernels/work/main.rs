//! What `ringfence compare` runs in a guest, in containers and as their neighbour: a fixed piece of work, timed over and over;
//! a process that takes all the CPU and memory bandwidth it can get; one that holds memory.
//!
//! Bare (no libc, no allocator), so that the very same file runs everywhere, and does nothing but what it says: while it times,
//! it makes no system call and touches no new page.
//!
//!     work time COUNT TURNS [PORT]   says RFBEGIN, times COUNT pieces of TURNS steps each, then writes the times to standard
//!                                    output; before and after, a byte goes to the I/O port PORT, the monitor's boot timer
//!     work burn MEGABYTES            keeps every CPU it may use busy, streaming through MEGABYTES on each, until it is killed
//!     work hold LITTLE MUCH          touches LITTLE MiB, says RFREADY, and three seconds later MUCH in all, says RFHELD, and
//!                                    sleeps until it is killed

#![no_std]
#![no_main]

mod bell;
#[path = "../init/intrinsics.rs"]
mod intrinsics;
mod record;
mod sys;

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::hint::black_box;

use bell::Bell;
use record::{Anchor, Moment};

const USAGE: &[u8] = b"usage: work time COUNT TURNS [PORT] | burn MEGABYTES | hold LITTLE MUCH\n";
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
const READINGS: u8 = 5;
/// The last I/O port.
const PORT_MAX: usize = 0xffff;
/// How long little is held before much is, in seconds.
const LITTLE_WHILE: u64 = 3;

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
    let megabytes = |index| number(index, MEGABYTES_MAX).map(|megabytes| megabytes << 20);
    match argument(1) {
        Some(b"time") => {
            let port = number(4, PORT_MAX).map(|port| port as u16);
            if let (Some(count), Some(turns)) = (number(2, COUNT_MAX), number(3, TURNS_MAX))
                && port.is_some() == argument(4).is_some()
            {
                time(count, turns, port);
            }
        }
        Some(b"burn") => {
            if let (Some(bytes), None) = (megabytes(2), argument(3)) {
                burn(bytes);
            }
        }
        Some(b"hold") => {
            if let (Some(little), Some(much)) = (megabytes(2), megabytes(3)) {
                hold(little, much);
            }
        }
        _ => {}
    }
    sys::write_all(2, USAGE);
    sys::exit(MISUSED)
}

fn parse(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0usize, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(usize::from(digit))
    })
}

/// Times `count` pieces back to back: each ends when the next begins, so that no time goes unseen between them.
fn time(count: usize, turns: usize, port: Option<u16>) -> ! {
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
    let bell = port.and_then(Bell::at);
    sys::write_all(1, b"RFBEGIN\n");
    for _ in 0..WARM_UP {
        black_box(piece(&table, turns));
    }
    let begun = moment(bell.as_ref(), 0);
    stamps[0] = stamp();
    for slot in &mut stamps[1..=count] {
        black_box(piece(&table, turns));
        *slot = stamp();
    }
    let ended = moment(bell.as_ref(), READINGS);
    let length = record::write(output, &stamps[..=count], turns, &begun, &ended);
    let written = sys::write_all(1, &output[..length]);
    sys::exit(i32::from(!written))
}

/// This kernel's clock and, with a bell, the host's, each against the counter. The rings' bytes count from `first` and 128.
fn moment(bell: Option<&Bell>, first: u8) -> Moment {
    let ring = bell.map(|bell| {
        best(|reading| {
            let byte = 0x80 | (first + reading);
            bell.ring(byte);
            u64::from(byte)
        })
    });
    Moment { clock: best(|_| sys::monotonic_ns()), ring: ring.unwrap_or_default() }
}

/// What `read` tells, between two readings of the counter: of a few tries the one that took the least time, since a system call
/// may be slow, or interrupted.
fn best(read: impl Fn(u8) -> u64) -> Anchor {
    let tries = (0..READINGS).map(|reading| {
        let before = stamp();
        let told = read(reading);
        Anchor { before, took: stamp() - before, told }
    });
    tries.min_by_key(|anchor| anchor.took).unwrap_or_default()
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

fn hold(little: usize, much: usize) -> ! {
    let (Some(first), Some(rest)) = (sys::map(little), sys::map(much.saturating_sub(little).max(1))) else {
        out_of_memory()
    };
    fill(first);
    sys::write_all(1, b"RFREADY\n");
    sys::sleep(LITTLE_WHILE);
    fill(rest);
    sys::write_all(1, b"RFHELD\n");
    loop {
        sys::pause();
    }
}

/// Writes to every page, so that it is there; different pages differ, so that nothing merges them.
fn fill(memory: &mut [u8]) {
    for (i, byte) in memory.iter_mut().enumerate() {
        *byte = (i >> 12) as u8 ^ i as u8;
    }
    black_box(memory);
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
