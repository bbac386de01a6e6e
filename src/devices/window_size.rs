//! Size of the host's terminal, for the guest's init to set on its own. ringfence's own device.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::bus::Device;

/// The window size register: columns in the high 16 bits, rows in the low 16; zero when not known.
#[derive(Debug, Default)]
pub struct WindowSize(AtomicU32);

impl WindowSize {
    /// A register that says "not known".
    pub fn new() -> Self {
        Self::default()
    }

    /// The size, in character cells, that the guest reads from now on. Zero by zero: not known.
    pub fn set(&self, columns: u16, rows: u16) {
        self.0.store(u32::from(columns) << 16 | u32::from(rows), Ordering::Relaxed);
    }
}

impl Device for WindowSize {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.0.load(Ordering::Relaxed).to_le_bytes();
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Read-only.
    fn write(&self, _offset: u64, _data: &[u8]) {}
}
