//! Dispatch of port and memory-mapped accesses to devices, and the traits a device sees of the machine.

mod dispatch;

pub use dispatch::{Bus, BusError};

/// A device on a [`Bus`]. Offsets count from the start of the device's range.
///
/// Devices lock themselves: several vCPUs call at once. `data` is 1, 2, 4 or 8 bytes, little-endian, and never reaches past
/// the device's range. An access a device does not know reads as all ones and is ignored when written, as on a PC's bus.
pub trait Device: Send + Sync {
    /// The guest reads `data.len()` bytes at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// An interrupt input of the interrupt controller, as a device sees it.
pub trait InterruptLine: Send + Sync {
    /// Drives the line high (`true`) or low. Setting a level it already has does nothing.
    fn set_level(&self, high: bool);

    /// A low-high-low pulse, for edge-triggered sources.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// How the guest asked for the machine's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// ACPI sleep state S5.
    PowerOff,
    /// Reset by the keyboard controller or the ACPI reset register.
    Reset,
    /// The guest's init gave a status to the exit port.
    Exit(u32),
}

/// The machine's power switch, as a device sees it.
pub trait PowerSwitch: Send + Sync {
    /// Ends the machine. The first request counts, later ones are ignored.
    fn request(&self, what: PowerRequest);
}
