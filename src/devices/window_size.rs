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

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the register reads as zero until it is set, by parts as well, and is read-only.
    #[test]
    fn reads_what_was_set() {
        let register = WindowSize::new();
        let mut data = [0xaa; 4];
        register.read(0, &mut data);
        assert_eq!(data, [0; 4]);
        register.set(132, 50);
        register.write(0, &[1, 2, 3, 4]);
        register.read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), 132 << 16 | 50);
        let mut columns = [0; 2];
        register.read(2, &mut columns);
        assert_eq!(u16::from_le_bytes(columns), 132);
        let mut past = [0; 8];
        register.read(3, &mut past);
        assert_eq!(past, [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    }
}
