//! A sorted table of address ranges and their devices.

use std::sync::Arc;

use super::Device;

/// Devices by address range, for one address space (ports or memory).
///
/// Built once, then only read: lookups take no lock.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

struct Range {
    start: u64,
    /// Last address that belongs to the device.
    last: u64,
    device: Arc<dyn Device>,
}

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Length zero or past the end of the address space.
    #[error("a device range of {len} bytes at {start:#x} does not exist")]
    BadRange {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device is there.
    #[error("the device range [{start:#x}, {last:#x}] overlaps one that starts at {other:#x}")]
    Overlap {
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
        /// First address of the range that is already there.
        other: u64,
    },
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at [`start`, `start + len`).
    pub fn insert(&mut self, start: u64, len: u64, device: Arc<dyn Device>) -> Result<(), BusError> {
        let bad = BusError::BadRange { start, len };
        let Some(last) = len.checked_sub(1).and_then(|l| start.checked_add(l)) else { return Err(bad) };
        let at = self.ranges.partition_point(|r| r.start < start);
        let before = at.checked_sub(1).and_then(|i| self.ranges.get(i)).filter(|r| r.last >= start);
        let after = self.ranges.get(at).filter(|r| r.start <= last);
        if let Some(other) = before.or(after) {
            return Err(BusError::Overlap { start, last, other: other.start });
        }
        self.ranges.insert(at, Range { start, last, device });
        Ok(())
    }

    fn find(&self, address: u64, len: usize) -> Option<(&Arc<dyn Device>, u64)> {
        let at = self.ranges.partition_point(|r| r.start <= address).checked_sub(1)?;
        let range = &self.ranges[at];
        let last = address.checked_add((len as u64).checked_sub(1)?)?;
        (last <= range.last).then(|| (&range.device, address - range.start))
    }

    /// Reads from the device at `address`; all ones where there is none. Returns whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to the device at `address`; nothing happens where there is none. Returns whether a device answered.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Device for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    /// Proves that accesses reach the device with offsets counted from its start, and only when wholly inside it.
    #[test]
    fn dispatches_by_range() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, device.clone()).unwrap();
        assert!(bus.write(0x3ff, &[7]));
        assert!(!bus.write(0x3ff, &[7, 8]), "straddles the end");
        assert!(!bus.write(0x3f7, &[7]));
        assert!(!bus.write(0x400, &[7]));
        assert_eq!(*device.0.lock().unwrap(), [(7, vec![7])]);
        let mut data = [0; 2];
        assert!(!bus.read(0x80, &mut data));
        assert_eq!(data, [0xff; 2], "an empty bus floats high");
    }

    /// Proves that overlapping, empty and overflowing ranges are refused.
    #[test]
    fn refuses_bad_ranges() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(10, 10, device.clone()).unwrap();
        for (start, len) in [(10, 1), (19, 1), (5, 6), (0, 100), (12, 2)] {
            assert!(matches!(bus.insert(start, len, device.clone()), Err(BusError::Overlap { .. })), "{start} {len}");
        }
        assert!(matches!(bus.insert(5, 0, device.clone()), Err(BusError::BadRange { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, device.clone()), Err(BusError::BadRange { .. })));
        bus.insert(5, 5, device.clone()).unwrap();
        bus.insert(20, 5, device).unwrap();
    }

    /// Proves that the last byte of the address space can be reached, and nothing behind it.
    #[test]
    fn reaches_the_end_of_the_address_space() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(u64::MAX - 3, 4, device).unwrap();
        assert!(bus.write(u64::MAX - 3, &[1, 2, 3, 4]) && bus.write(u64::MAX, &[1]));
        assert!(!bus.write(u64::MAX, &[1, 2]) && !bus.write(u64::MAX - 3, &[]));
    }

    proptest! {
        /// Proves that no access at any address panics, and that a found device sees an offset inside its range.
        #[test]
        fn any_access_is_safe(address: u64, len in 1usize..=8, start in 0u64..u64::MAX - 64) {
            let device = Arc::new(Recorder::default());
            let mut bus = Bus::new();
            bus.insert(start, 64, device.clone()).unwrap();
            let hit = bus.write(address, &vec![0; len]);
            prop_assert_eq!(hit, address >= start && address.checked_add(len as u64 - 1).is_some_and(|l| l <= start + 63));
        }
    }
}
