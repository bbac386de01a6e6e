//! The monitor's boot timer as a bell: the monitor notes the host's time of each byte, so that a byte between two readings of the
//! counter tells what the counter was at that time.

use core::arch::asm;

use crate::sys;

/// A port that may be written.
pub enum Bell {
    /// By the instruction itself.
    Bare(u16),
    /// Through /dev/port, this file.
    Device(usize, u16),
}

impl Bell {
    /// The bell at `port`; `None` when this kernel lets nobody reach it.
    pub fn at(port: u16) -> Option<Self> {
        if sys::open_port(port) {
            return Some(Self::Bare(port));
        }
        sys::open(c"/dev/port").map(|fd| Self::Device(fd, port))
    }

    /// Rings it.
    pub fn ring(&self, byte: u8) {
        match *self {
            // SAFETY: ioperm(2) has opened the port, which is the monitor's own; nothing in memory is touched.
            Self::Bare(port) => unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) },
            Self::Device(fd, port) => sys::write_at(fd, byte, usize::from(port)),
        }
    }
}
