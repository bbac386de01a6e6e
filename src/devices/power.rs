//! ACPI sleep control, sleep status and reset registers of a hardware-reduced platform (ACPI 6.5, sections 4.8.3.6 and
//! 4.8.3.7).

use std::sync::{Arc, Mutex};

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::bus::{Device, PowerRequest, PowerSwitch};
use crate::layout;

bitflags! {
    /// Sleep control register (ACPI 6.5, table 4.19).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct SleepControl: u8 {
        /// SLP_TYP, bits 2 to 4.
        const TYPE = 0b111 << SLEEP_TYPE_SHIFT;
        /// SLP_EN: enter the state that SLP_TYP names. Reads as zero.
        const ENABLE = 1 << 5;
    }
}

const SLEEP_TYPE_SHIFT: u8 = 2;
const STATUS: u64 = (layout::ACPI_SLEEP_STATUS_PORT - layout::ACPI_SLEEP_CONTROL_PORT) as u64;
const RESET: u64 = (layout::ACPI_RESET_PORT - layout::ACPI_SLEEP_CONTROL_PORT) as u64;

/// The power registers' state as plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPowerState {
    /// SLP_TYP as last written, 0 to 7.
    pub sleep_type: u8,
}

/// The three registers, on three ports in a row.
pub struct AcpiPower {
    state: Mutex<AcpiPowerState>,
    power: Arc<dyn PowerSwitch>,
}

impl AcpiPower {
    /// Ports from sleep control to reset.
    pub const PORT_COUNT: u16 = layout::ACPI_RESET_PORT - layout::ACPI_SLEEP_CONTROL_PORT + 1;

    /// Registers just reset.
    pub fn new(power: Arc<dyn PowerSwitch>) -> Self {
        Self::from_state(AcpiPowerState::default(), power)
    }

    /// Registers in the given state.
    pub fn from_state(state: AcpiPowerState, power: Arc<dyn PowerSwitch>) -> Self {
        Self { state: Mutex::new(AcpiPowerState { sleep_type: state.sleep_type & 0b111 }), power }
    }

    /// The state as plain data.
    pub fn state(&self) -> AcpiPowerState {
        *lock(&self.state)
    }

    fn write_sleep_control(&self, control: SleepControl) {
        let sleep_type = (control & SleepControl::TYPE).bits() >> SLEEP_TYPE_SHIFT;
        lock(&self.state).sleep_type = sleep_type;
        // No other sleep state is offered by the tables: the machine goes on running, as if it had woken at once.
        if control.contains(SleepControl::ENABLE) && sleep_type == layout::ACPI_S5_SLEEP_TYPE {
            self.power.request(PowerRequest::PowerOff);
        }
    }
}

impl Device for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let sleep_type = lock(&self.state).sleep_type;
        for (at, byte) in (offset..).zip(data) {
            *byte = match at {
                0 => sleep_type << SLEEP_TYPE_SHIFT,
                // WAK_STS is never set: no sleep state that one wakes from.
                STATUS => 0,
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, &value) in (offset..).zip(data) {
            match at {
                0 => self.write_sleep_control(SleepControl::from_bits_truncate(value)),
                RESET if value == layout::ACPI_RESET_VALUE => self.power.request(PowerRequest::Reset),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::Requests;

    fn bench() -> (Arc<Requests>, AcpiPower) {
        let requests = Arc::new(Requests::default());
        (requests.clone(), AcpiPower::new(requests))
    }

    /// Proves that only SLP_EN with the type of S5 powers off, and that SLP_TYP reads back while SLP_EN reads as zero.
    #[test]
    fn only_s5_powers_off() {
        let (requests, power) = bench();
        for control in 0..=0xff_u8 {
            power.write(0, &[control]);
            let expected = (control & 0x20 != 0 && control >> 2 & 7 == 5).then_some(PowerRequest::PowerOff);
            assert_eq!(requests.take(), Vec::from_iter(expected), "control {control:#x}");
            let mut data = [0xaa; 2];
            power.read(0, &mut data);
            assert_eq!(data, [control & 0x1c, 0]);
            assert_eq!(AcpiPower::from_state(power.state(), requests.clone()).state(), power.state());
        }
    }

    /// Proves that the reset register resets for its value and no other.
    #[test]
    fn only_the_reset_value_resets() {
        let (requests, power) = bench();
        for value in 0..=0xff {
            power.write(2, &[value]);
            let expected = (value == layout::ACPI_RESET_VALUE).then_some(PowerRequest::Reset);
            assert_eq!(requests.take(), Vec::from_iter(expected), "value {value:#x}");
        }
    }

    proptest! {
        /// Proves that accesses of any width are safe and that the state keeps to three bits.
        #[test]
        fn any_use_is_safe(acts in proptest::collection::vec((0u64..3, proptest::collection::vec(any::<u8>(), 1..=8)), 1..50)) {
            let (_, power) = bench();
            for (offset, mut data) in acts {
                power.write(offset, &data);
                power.read(offset, &mut data);
                prop_assert!(power.state().sleep_type < 8);
            }
        }
    }
}
