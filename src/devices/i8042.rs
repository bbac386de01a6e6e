//! The reset line of an i8042 keyboard controller, and nothing else of it (IBM PS/2 technical reference, "Keyboard and
//! auxiliary device controller").
//!
//! The status register says that the input buffer is free and that the output buffer is full, always. The first lets a
//! `reboot=k` go ahead at once. The second makes a driver that probes find a controller whose buffer cannot be emptied:
//! Linux's `i8042_flush` reads 16 bytes, 50 us apart, and ends with "No controller found" in under a millisecond, where a
//! controller that is silent costs it half a second a command. With ACPI it does not even look: the FADT says there is none.

use std::sync::{Arc, Mutex};

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::bus::{Device, PowerRequest, PowerSwitch};
use crate::layout;

bitflags! {
    /// Status register, port 0x64.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        /// A byte waits in port 0x60.
        const OUTPUT_FULL = 1 << 0;
        /// The last self-test passed.
        const SYSTEM = 1 << 2;
    }
}

/// Offset of the command and status port from the data port.
const COMMAND: u64 = (layout::I8042_COMMAND_PORT - layout::I8042_DATA_PORT) as u64;
/// The next byte written to the data port is the output port.
const WRITE_OUTPUT_PORT: u8 = 0xd1;
/// Commands 0xF0 to 0xFF pulse the output port's low four bits that are zero in the command.
const PULSE: u8 = 0xf0;
/// Output port bit 0 low holds the processor in reset.
const RESET_LINE: u8 = 1 << 0;

/// An i8042's state as plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// The next byte written to the data port is the output port.
    pub expects_output_port: bool,
}

/// An i8042 on the five ports from 0x60 to 0x64, of which it decodes the first and the last.
pub struct I8042 {
    state: Mutex<I8042State>,
    power: Arc<dyn PowerSwitch>,
}

impl I8042 {
    /// Ports from the data port to the command port.
    pub const PORT_COUNT: u16 = layout::I8042_COMMAND_PORT - layout::I8042_DATA_PORT + 1;

    /// A controller just reset.
    pub fn new(power: Arc<dyn PowerSwitch>) -> Self {
        Self::from_state(I8042State::default(), power)
    }

    /// A controller in the given state.
    pub fn from_state(state: I8042State, power: Arc<dyn PowerSwitch>) -> Self {
        Self { state: Mutex::new(state), power }
    }

    /// The state as plain data.
    pub fn state(&self) -> I8042State {
        *lock(&self.state)
    }

    fn write_byte(&self, offset: u64, value: u8) {
        let mut state = lock(&self.state);
        let reset = match offset {
            COMMAND => {
                state.expects_output_port = value == WRITE_OUTPUT_PORT;
                value & PULSE == PULSE && value & RESET_LINE == 0
            }
            0 => std::mem::take(&mut state.expects_output_port) && value & RESET_LINE == 0,
            _ => false,
        };
        drop(state);
        if reset {
            self.power.request(PowerRequest::Reset);
        }
    }
}

impl Device for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = if at == COMMAND { (Status::OUTPUT_FULL | Status::SYSTEM).bits() } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, &value) in (offset..).zip(data) {
            self.write_byte(at, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::Requests;

    fn bench() -> (Arc<Requests>, I8042) {
        let requests = Arc::new(Requests::default());
        (requests.clone(), I8042::new(requests))
    }

    fn status(i8042: &I8042) -> u8 {
        let mut data = [0];
        i8042.read(4, &mut data);
        data[0]
    }

    /// Proves that each way to pulse the reset line resets, and that other commands do not.
    #[test]
    fn resets() {
        let (requests, i8042) = bench();
        for command in 0..=0xff {
            i8042.write(4, &[command]);
            let resets = command >= 0xf0 && command % 2 == 0;
            assert_eq!(!requests.take().is_empty(), resets, "command {command:#x}");
        }
        // The output port: bit 0 low is reset; 0xdf opens A20 as boot code does.
        i8042.write(4, &[0xd1]);
        i8042.write(0, &[0xdf]);
        assert_eq!(requests.take(), []);
        i8042.write(0, &[0xfe]);
        assert_eq!(requests.take(), [], "only the byte after the command is the output port");
        i8042.write(4, &[0xd1]);
        assert!(i8042.state().expects_output_port);
        let restored = I8042::from_state(i8042.state(), requests.clone());
        restored.write(0, &[0xde]);
        assert_eq!(requests.take(), [PowerRequest::Reset]);
    }

    /// Proves that a reset need not wait (input buffer free) and that a driver's flush gives up (output buffer always full).
    #[test]
    fn probing_ends() {
        let (_, i8042) = bench();
        for _ in 0..17 {
            assert_eq!(status(&i8042) & 0b11, 0b01);
            let mut data = [0];
            i8042.read(0, &mut data);
        }
    }

    proptest! {
        /// Proves that accesses of any width at any of the ports are safe.
        #[test]
        fn any_use_is_safe(acts in proptest::collection::vec((0u64..5, proptest::collection::vec(any::<u8>(), 1..=8)), 1..50)) {
            let (_, i8042) = bench();
            for (offset, mut data) in acts {
                i8042.write(offset, &data);
                i8042.read(offset, &mut data);
                prop_assert_eq!(status(&i8042), 0x05);
            }
        }
    }
}
