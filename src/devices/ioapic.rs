//! I/O APIC (Intel 82093AA data sheet, order number 290566, section 3), its messages sent as MSIs.
//!
//! The register model is pure: each call is given the [`MsiSink`] to act on.
//!
//! It says it is version 0x20, not the 82093AA's 0x11: KVM's local APIC offers directed EOI when the I/O APIC is not KVM's
//! own, and a guest that makes use of it must find the EOI register of the later versions. Guests that rely on the local
//! APIC's broadcast work as well.

use std::sync::{Arc, Mutex};

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::bus::{Device, InterruptLine};
use crate::layout;

/// Number of interrupt inputs.
const PINS: usize = layout::IOAPIC_PINS as usize;

/// A message-signalled interrupt as a device writes it (Intel SDM vol. 3A, section 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where: the local APICs' message area, destination and mode. Destinations above 255 have their bits 31:8 in the
    /// address' bits 63:40, the form of KVM_CAP_X2APIC_API with KVM_X2APIC_API_USE_32BIT_IDS.
    pub address: u64,
    /// What: vector, delivery mode, level and trigger.
    pub data: u32,
}

/// Where the I/O APIC's messages go. Called with the I/O APIC locked: it must not call back.
pub trait MsiSink: Send + Sync {
    /// Sends a message to the local APICs.
    fn signal(&self, msi: Msi);
    /// `pin` is unmasked and sends `msi` from now on. For a `level` pin the local APIC's end of interrupt has to come back
    /// by [`IoApic::end_of_interrupt`]; with `level` false that is over. Edge pins that never were level are not told of.
    fn route(&self, pin: u32, msi: Msi, level: bool);
}

bitflags! {
    /// Flags of a redirection table entry (section 3.2.4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u64 {
        const LOGICAL = 1 << 11;
        /// Read-only. Messages leave at once, so it is always idle.
        const DELIVERY_STATUS = 1 << 12;
        const ACTIVE_LOW = 1 << 13;
        /// Read-only: a level interrupt was accepted and its EOI has not come.
        const REMOTE_IRR = 1 << 14;
        const LEVEL = 1 << 15;
        const MASKED = 1 << 16;
    }
}

/// Bits of an entry that software writes: vector to polarity, trigger, mask, destination, and in bits 55:49 the extended
/// destination ID of guests with more than 255 CPUs (KVM_FEATURE_MSI_EXT_DEST_ID).
const WRITABLE: u64 = 0x7ff | RW_FLAGS | 0xff << 56 | 0x7f << 49;
const RW_FLAGS: u64 = Flags::LOGICAL.bits() | Flags::ACTIVE_LOW.bits() | Flags::LEVEL.bits() | Flags::MASKED.bits();

/// Delivery modes (section 3.2.4, bits 10:8) that name a message: fixed, lowest priority, SMI, NMI, INIT.
/// ExtINT (7) has no 8259A behind it here; 3 and 6 are reserved.
const MESSAGE_MODES: [u64; 5] = [0, 1, 2, 4, 5];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Redirection(u64);

impl Redirection {
    /// At reset every pin is masked (section 3.2.4).
    const RESET: Self = Self(Flags::MASKED.bits());

    fn has(self, flag: Flags) -> bool {
        self.0 & flag.bits() != 0
    }

    fn set(&mut self, flag: Flags, on: bool) {
        self.0 = if on { self.0 | flag.bits() } else { self.0 & !flag.bits() };
    }

    fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The message this entry sends, `None` for a delivery mode that sends none.
    fn message(self) -> Option<Msi> {
        let mode = self.0 >> 8 & 7;
        if !MESSAGE_MODES.contains(&mode) {
            return None;
        }
        let destination = self.0 >> 56;
        let extended = self.0 >> 49 & 0x7f;
        let address = MSI_ADDRESS | destination << 12 | u64::from(self.has(Flags::LOGICAL)) << 2 | extended << 40;
        let level = self.has(Flags::LEVEL);
        let data = u32::from(self.vector()) | (mode as u32) << 8 | u32::from(level) << 14 | u32::from(level) << 15;
        Some(Msi { address, data })
    }
}

/// Bits 31:20 of every MSI address (Intel SDM vol. 3A, section 11.11.1).
const MSI_ADDRESS: u64 = 0xfee0_0000;

/// Indirect registers (section 3.2).
mod register {
    pub const ID: u8 = 0x00;
    pub const VERSION: u8 = 0x01;
    pub const ARBITRATION: u8 = 0x02;
    pub const REDIRECTION: u8 = 0x10;
}

/// Memory-mapped registers (section 3.1); the EOI register is that of version 0x20.
mod offset {
    pub const SELECT: u64 = 0x00;
    pub const WINDOW: u64 = 0x10;
    pub const EOI: u64 = 0x40;
}

/// The ID is a 4-bit field at bit 24.
const ID_SHIFT: u32 = 24;

/// An I/O APIC's whole state as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    /// APIC ID, 0 to 15.
    pub id: u8,
    /// The register the window shows.
    pub select: u8,
    /// Redirection table.
    pub redirection: [u64; PINS],
    /// Electrical level of each pin, one bit a pin.
    pub levels: u32,
}

/// The registers and what they do.
#[derive(Debug)]
struct Registers {
    id: u8,
    select: u8,
    redirection: [Redirection; PINS],
    levels: u32,
    /// Pins that a device drives. The others never interrupt, whatever polarity the guest gives them.
    wired: u32,
    /// What each level pin's route was last told.
    routes: [Option<Msi>; PINS],
}

impl Registers {
    fn new(state: &IoApicState) -> Self {
        let kept = WRITABLE | Flags::REMOTE_IRR.bits();
        Self {
            id: state.id & 0xf,
            select: state.select,
            redirection: state.redirection.map(|entry| Redirection(entry & kept)),
            levels: state.levels & ((1 << PINS) - 1),
            wired: 0,
            routes: [None; PINS],
        }
    }

    fn state(&self) -> IoApicState {
        IoApicState {
            id: self.id,
            select: self.select,
            redirection: self.redirection.map(|entry| entry.0),
            levels: self.levels,
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            register::ID | register::ARBITRATION => u32::from(self.id) << ID_SHIFT,
            register::VERSION => u32::from(layout::IOAPIC_VERSION) | (PINS as u32 - 1) << 16,
            _ => match self.selected_entry() {
                Some((pin, high)) => (self.redirection[pin].0 >> if high { 32 } else { 0 }) as u32,
                None => u32::MAX,
            },
        }
    }

    /// Pin and half of the redirection entry the select register names.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let index = self.select.checked_sub(register::REDIRECTION)?;
        let pin = usize::from(index / 2);
        (pin < PINS).then_some((pin, index % 2 == 1))
    }

    fn write_selected(&mut self, value: u32, sink: &dyn MsiSink) {
        if self.select == register::ID {
            self.id = (value >> ID_SHIFT) as u8 & 0xf;
        }
        let Some((pin, high)) = self.selected_entry() else { return };
        let old = self.redirection[pin].0;
        let (keep, written) = if high {
            (u64::from(u32::MAX), u64::from(value) << 32)
        } else {
            (u64::from(u32::MAX) << 32, u64::from(value))
        };
        let writable = WRITABLE & !keep;
        let mut entry = Redirection(old & !writable | written & writable);
        // Remote IRR has no meaning for edge pins; a guest makes an entry edge and level again to clear it.
        if !entry.has(Flags::LEVEL) {
            entry.set(Flags::REMOTE_IRR, false);
        }
        self.redirection[pin] = entry;
        self.update_route(pin, sink);
        if entry.has(Flags::LEVEL) {
            self.deliver_level(pin, sink);
        }
    }

    /// Tells the sink about level pins. Edge pins need no route, and a route costs KVM milliseconds.
    fn update_route(&mut self, pin: usize, sink: &dyn MsiSink) {
        let entry = self.redirection[pin];
        if entry.has(Flags::MASKED) {
            return;
        }
        let Some(msi) = entry.message() else { return };
        if entry.has(Flags::LEVEL) {
            if self.routes[pin] != Some(msi) {
                self.routes[pin] = Some(msi);
                sink.route(pin as u32, msi, true);
            }
        } else if self.routes[pin].take().is_some() {
            sink.route(pin as u32, msi, false);
        }
    }

    fn is_asserted(&self, pin: usize) -> bool {
        let high = self.levels >> pin & 1 != 0;
        self.wired >> pin & 1 != 0 && high != self.redirection[pin].has(Flags::ACTIVE_LOW)
    }

    fn deliver_level(&mut self, pin: usize, sink: &dyn MsiSink) {
        let entry = self.redirection[pin];
        if entry.has(Flags::MASKED) || entry.has(Flags::REMOTE_IRR) || !self.is_asserted(pin) {
            return;
        }
        let Some(msi) = entry.message() else { return };
        // SMI, NMI and INIT are edge whatever the entry says (section 3.2.4), and no EOI comes for them.
        let has_eoi = matches!(entry.0 >> 8 & 7, 0 | 1);
        self.redirection[pin].set(Flags::REMOTE_IRR, has_eoi);
        sink.signal(msi);
    }

    fn set_level(&mut self, pin: usize, high: bool, sink: &dyn MsiSink) {
        let bit = 1 << pin;
        if (self.levels & bit != 0) == high {
            return;
        }
        self.levels ^= bit;
        let entry = self.redirection[pin];
        if entry.has(Flags::LEVEL) {
            self.deliver_level(pin, sink);
        } else if !entry.has(Flags::MASKED) && self.is_asserted(pin) {
            // An edge on a masked pin is lost (section 3.2.4, bit 16).
            if let Some(msi) = entry.message() {
                sink.signal(msi);
            }
        }
    }

    fn end_of_interrupt(&mut self, vector: u8, sink: &dyn MsiSink) {
        for pin in 0..PINS {
            let entry = &mut self.redirection[pin];
            if entry.vector() == vector && entry.has(Flags::REMOTE_IRR) {
                entry.set(Flags::REMOTE_IRR, false);
                self.deliver_level(pin, sink);
            }
        }
    }
}

/// The I/O APIC: 24 pins, a memory-mapped window of [`layout::IOAPIC_SIZE`] bytes.
pub struct IoApic {
    registers: Mutex<Registers>,
    sink: Arc<dyn MsiSink>,
}

impl IoApic {
    /// An I/O APIC just reset: every pin is masked.
    pub fn new(sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let state =
            IoApicState { id: layout::IOAPIC_ID, select: 0, redirection: [Redirection::RESET.0; PINS], levels: 0 };
        Self::from_state(&state, sink)
    }

    /// An I/O APIC in the given state; the sink is told the routes of its level pins. Bits no register has are dropped.
    pub fn from_state(state: &IoApicState, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let mut registers = Registers::new(state);
        for pin in 0..PINS {
            registers.update_route(pin, &*sink);
        }
        Arc::new(Self { registers: Mutex::new(registers), sink })
    }

    /// The state as plain data.
    pub fn state(&self) -> IoApicState {
        lock(&self.registers).state()
    }

    /// The input `pin`, for a device to drive. Low until it does, or as the state says.
    ///
    /// # Panics
    /// When there is no such pin: pins come from [`layout`], never from a guest.
    pub fn line(self: &Arc<Self>, pin: u32) -> Arc<dyn InterruptLine> {
        assert!(pin < layout::IOAPIC_PINS, "the I/O APIC has no pin {pin}");
        lock(&self.registers).wired |= 1 << pin;
        Arc::new(Line { ioapic: self.clone(), pin: pin as usize })
    }

    /// A local APIC ended the level interrupt `vector`: pins still asserted interrupt again.
    pub fn end_of_interrupt(&self, vector: u8) {
        lock(&self.registers).end_of_interrupt(vector, &*self.sink);
    }
}

struct Line {
    ioapic: Arc<IoApic>,
    pin: usize,
}

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        lock(&self.ioapic.registers).set_level(self.pin, high, &*self.ioapic.sink);
    }
}

impl Device for IoApic {
    /// Registers are 32 bits wide on 16-byte boundaries (section 3.1): a narrower read gets the low bytes, a wider one zeros
    /// above.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = lock(&self.registers);
        let value = match offset {
            offset::SELECT => u32::from(registers.select),
            offset::WINDOW => registers.read_selected(),
            offset::EOI => 0,
            _ => return data.fill(0xff),
        };
        drop(registers);
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = value.to_le_bytes().get(at).copied().unwrap_or(0);
        }
    }

    /// The select and EOI registers have eight bits, so any width will do. The window takes 32 bits: a narrower write is
    /// ignored rather than guessed at, of a wider one the low half counts.
    fn write(&self, offset: u64, data: &[u8]) {
        let mut registers = lock(&self.registers);
        match (offset, data) {
            (offset::SELECT, [select, ..]) => registers.select = *select,
            (offset::WINDOW, [a, b, c, d, ..]) => {
                registers.write_selected(u32::from_le_bytes([*a, *b, *c, *d]), &*self.sink);
            }
            (offset::EOI, [vector, ..]) => registers.end_of_interrupt(*vector, &*self.sink),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
