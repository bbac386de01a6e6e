//! The monitor's own I/O ports, reached through /dev/port, or by the instructions themselves on a
//! kernel that was built without it. Under another monitor nothing answers, and that is all right.

use crate::{sys, task};
use core::arch::asm;
use core::sync::atomic::{AtomicI32, Ordering};

/// The boot timer: a byte written rings it (the monitor's `layout::BOOT_TIMER_PORT`).
const BOOT_TIMER: u16 = 0x610;
/// The exit status, four bytes little-endian; the last one ends the machine.
const EXIT_STATUS: u16 = 0x614;
/// The window's size: rows in the low half, columns in the high one, 0 when unknown.
const WINDOW_SIZE: u16 = 0x618;
/// How many ports the three of them span.
const SPAN: u16 = WINDOW_SIZE + 4 - BOOT_TIMER;

/// What the boot timer is told.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Phase {
    /// Userspace runs.
    Userspace = 1,
    /// The payload is about to be executed; the console is ready for input.
    Payload = 2,
}

/// /dev/port, or -1.
static DEV_PORT: AtomicI32 = AtomicI32::new(-1);

/// Opens /dev/port; whether the kernel and /dev have it.
pub fn open() -> bool {
    let opened = sys::open(c"/dev/port", sys::O_RDWR | sys::O_CLOEXEC);
    DEV_PORT.store(opened.unwrap_or(-1), Ordering::Relaxed);
    opened.is_ok()
}

/// Rings the boot timer.
pub fn ring(phase: Phase) {
    write(BOOT_TIMER, &[phase as u8]);
}

/// Hands the machine's exit status over. Returns only when no monitor took it.
pub fn exit(status: u8) {
    write(EXIT_STATUS, &u32::from(status).to_le_bytes());
}

/// The window's rows and columns; `None` when the monitor does not know them. Ports are read a
/// byte at a time, so a value counts once two readings agree.
pub fn window_size() -> Option<(u16, u16)> {
    let mut last = read_window()?;
    for _ in 0..8 {
        let now = read_window()?;
        if now == last {
            break;
        }
        last = now;
    }
    // All ones is what a bus with no device there answers.
    let (rows, cols) = (last as u16, (last >> 16) as u16);
    (last != u32::MAX && rows != 0 && cols != 0).then_some((rows, cols))
}

fn read_window() -> Option<u32> {
    let mut bytes = [0; 4];
    match DEV_PORT.load(Ordering::Relaxed) {
        -1 => bare(PortAccess { port: WINDOW_SIZE, bytes: &mut bytes, write: false })?,
        fd => drop(sys::pread(fd, &mut bytes, u64::from(WINDOW_SIZE)).ok()?),
    }
    Some(u32::from_le_bytes(bytes))
}

fn write(port: u16, bytes: &[u8]) {
    match DEV_PORT.load(Ordering::Relaxed) {
        -1 => {
            let mut copy = [0; 4];
            let copy = &mut copy[..bytes.len()];
            copy.copy_from_slice(bytes);
            let _ = bare(PortAccess { port, bytes: copy, write: true });
        }
        fd => {
            let _ = sys::pwrite(fd, bytes, u64::from(port));
        }
    }
}

struct PortAccess<'b> {
    port: u16,
    bytes: &'b mut [u8],
    write: bool,
}

/// Does the access by `in` and `out`, in a child of its own: where ring 3 may not use them, it is
/// the child that dies of it and not this process, whose end would be the kernel's.
fn bare(mut access: PortAccess) -> Option<()> {
    task::borrowing(run_access, (&raw mut access) as usize).ok().map(|_| ())
}

extern "C" fn run_access(access: usize) -> ! {
    // SAFETY: `bare` passes its own PortAccess and sleeps until this task is gone.
    let access = unsafe { &mut *(access as *mut PortAccess) };
    if sys::ioperm(BOOT_TIMER, SPAN).is_ok() {
        for (port, byte) in (access.port..).zip(access.bytes.iter_mut()) {
            // SAFETY: the ports are the monitor's own, and ioperm(2) has just opened them; the
            // accesses touch no memory.
            unsafe {
                if access.write {
                    asm!("out dx, al", in("dx") port, in("al") *byte, options(nomem, nostack));
                } else {
                    asm!("in al, dx", in("dx") port, out("al") *byte, options(nomem, nostack));
                }
            }
        }
    }
    sys::exit_thread(0)
}
