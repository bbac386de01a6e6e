//! Exit port: the guest's init ends the machine with a status. ringfence's own device.
//!
//! Four ports hold a 32-bit little-endian status. Writing the last one, alone or as part of a wider access, ends the machine.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::lock;
use crate::bus::{Device, PowerRequest, PowerSwitch};
use crate::layout;

/// The exit port's state as plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitPortState {
    /// The status' bytes as written so far, little-endian.
    pub status: [u8; layout::EXIT_PORT_COUNT as usize],
}

/// The exit port.
pub struct ExitPort {
    state: Mutex<ExitPortState>,
    power: Arc<dyn PowerSwitch>,
}

impl ExitPort {
    /// A port to which nothing was written.
    pub fn new(power: Arc<dyn PowerSwitch>) -> Self {
        Self::from_state(ExitPortState::default(), power)
    }

    /// A port in the given state.
    pub fn from_state(state: ExitPortState, power: Arc<dyn PowerSwitch>) -> Self {
        Self { state: Mutex::new(state), power }
    }

    /// The state as plain data.
    pub fn state(&self) -> ExitPortState {
        *lock(&self.state)
    }
}

impl Device for ExitPort {
    /// Write-only.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        let mut complete = None;
        for (at, &value) in (offset as usize..).zip(data) {
            let Some(byte) = state.status.get_mut(at) else { continue };
            *byte = value;
            if at == state.status.len() - 1 {
                complete = Some(u32::from_le_bytes(std::mem::take(&mut state.status)));
            }
        }
        drop(state);
        if let Some(status) = complete {
            self.power.request(PowerRequest::Exit(status));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::Requests;

    fn bench() -> (Arc<Requests>, ExitPort) {
        let requests = Arc::new(Requests::default());
        (requests.clone(), ExitPort::new(requests))
    }

    /// Proves that a status is the same by one 32-bit write, two of 16 bits or four of 8, and that nothing happens before the
    /// last byte, across a restore too.
    #[test]
    fn a_status_of_any_width() {
        let bytes = 0x1234_5687u32.to_le_bytes();
        for width in [1, 2, 4] {
            let (requests, mut port) = bench();
            for (i, part) in bytes.chunks(width).enumerate() {
                assert_eq!(requests.take(), []);
                port = ExitPort::from_state(port.state(), requests.clone());
                port.write((i * width) as u64, part);
            }
            assert_eq!(requests.take(), [PowerRequest::Exit(0x1234_5687)], "width {width}");
        }
    }

    /// Proves that the last byte alone completes, with zeros for what was not written, and that nothing is left over.
    #[test]
    fn the_last_byte_completes() {
        let (requests, port) = bench();
        port.write(0, &[7, 1]);
        port.write(3, &[0]);
        port.write(3, &[0]);
        assert_eq!(requests.take(), [PowerRequest::Exit(0x107), PowerRequest::Exit(0)]);
    }

    proptest! {
        /// Proves that each access asks at most once, and only one that writes the last byte.
        #[test]
        fn any_use_is_safe(acts in proptest::collection::vec((0u64..4, proptest::collection::vec(any::<u8>(), 1..=8)), 1..50)) {
            let (requests, port) = bench();
            for (offset, mut data) in acts {
                port.write(offset, &data);
                let completes = (offset..offset + data.len() as u64).contains(&3);
                prop_assert_eq!(requests.take().len(), usize::from(completes));
                port.read(offset, &mut data);
                prop_assert!(data.iter().all(|byte| *byte == 0xff));
            }
        }
    }
}
