//! Register models and their glue to the bus: UART, I/O APIC, i8042, ACPI power, boot timer, exit port.
//!
//! A device knows registers and offsets, not addresses, threads or KVM. It is given what it acts on (an interrupt line, a
//! power switch, a byte sink) as a trait, and its state is plain data: `state()` and `from_state()`.

mod boot_timer;
mod exit;
mod i8042;
mod ioapic;
mod power;
mod serial;
pub mod uart;
mod window_size;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use boot_timer::{BootTimer, Milestone};
pub use exit::{ExitPort, ExitPortState};
pub use i8042::{I8042, I8042State};
pub use ioapic::{IoApic, IoApicState, Msi, MsiSink};
pub use power::{AcpiPower, AcpiPowerState};
pub use serial::{ByteSink, SerialEvents, SerialPort};
pub use window_size::WindowSize;

/// Locks a device. Registers have no invariant that a panic elsewhere could have broken, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A power switch that remembers what it was asked.
#[cfg(test)]
#[derive(Default)]
struct Requests(Mutex<Vec<crate::bus::PowerRequest>>);

#[cfg(test)]
impl Requests {
    fn take(&self) -> Vec<crate::bus::PowerRequest> {
        std::mem::take(&mut lock(&self.0))
    }
}

#[cfg(test)]
impl crate::bus::PowerSwitch for Requests {
    fn request(&self, what: crate::bus::PowerRequest) {
        lock(&self.0).push(what);
    }
}
