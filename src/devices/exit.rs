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
