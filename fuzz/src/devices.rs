//! Device models, hammered as a guest can: any offset inside the device, any width, any order, saved and restored in between.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringfence::bus::{Bus, Device, InterruptLine, PowerRequest, PowerSwitch};
use ringfence::devices::uart::{FIFO_DEPTH, TRANSMIT_ROOM, Uart};
use ringfence::devices::{
    AcpiPower, BootTimer, ByteSink, ExitPort, I8042, IoApic, Msi, MsiSink, SerialEvents, SerialPort, WindowSize,
};
use ringfence::layout;

use super::input::Input;

/// Widths of an access; KVM gives the first four, the others must do no harm either.
const WIDTHS: [usize; 8] = [1, 2, 4, 8, 3, 5, 7, 0];

/// One guest access inside a device of `len` bytes; returns what was written, `None` for a read.
fn access<'a>(input: &mut Input<'a>, device: &dyn Device, len: u64) -> Option<(u64, &'a [u8])> {
    let (write, width, offset) = (input.bool(), WIDTHS[input.below(WIDTHS.len())], u64::from(input.u16()) % len);
    if write {
        let data = input.bytes(width);
        device.write(offset, data);
        return Some((offset, data));
    }
    let mut data = [0x5a; 8];
    device.read(offset, &mut data[..width]);
    assert!(data[width..].iter().all(|b| *b == 0x5a), "it wrote past the access");
    None
}

#[derive(Default)]
struct Switch(Mutex<Vec<PowerRequest>>);

impl Switch {
    fn take(&self) -> Vec<PowerRequest> {
        std::mem::take(&mut self.0.lock().expect("no thread panics here"))
    }
}

impl PowerSwitch for Switch {
    fn request(&self, what: PowerRequest) {
        self.0.lock().expect("no thread panics here").push(what);
    }
}

#[derive(Default)]
struct Wire {
    high: AtomicBool,
    changes: AtomicUsize,
}

impl InterruptLine for Wire {
    fn set_level(&self, high: bool) {
        if self.high.swap(high, Ordering::Relaxed) != high {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The far end of a cable that is full now and then.
#[derive(Default)]
struct Cable {
    full: AtomicBool,
    taken: AtomicU64,
    wanted: AtomicUsize,
}

impl ByteSink for Cable {
    fn push(&self, _: u8) -> bool {
        let room = self.has_room();
        self.taken.fetch_add(u64::from(room), Ordering::Relaxed);
        room
    }

    fn has_room(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }
}

impl SerialEvents for Cable {
    fn input_wanted(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }
}

/// The serial port: its FIFOs stay bounded, its interrupt line is what its registers say, a restored one is the same, and an
/// access touches the line a bounded number of times.
pub fn serial(data: &[u8]) {
    let (mut input, wire, cable) = (Input::new(data), Arc::new(Wire::default()), Arc::new(Cable::default()));
    let mut port = SerialPort::new(wire.clone(), cable.clone(), cable.clone());
    while !input.is_empty() {
        let changes = wire.changes.load(Ordering::Relaxed);
        match input.below(16) {
            0 => {
                let offered = input.short();
                let before = port.state().rx.len();
                let taken = port.receive(offered);
                assert!(taken <= offered.len() && before + taken <= FIFO_DEPTH);
            }
            1 => cable.full.store(true, Ordering::Relaxed),
            2 => {
                cable.full.store(false, Ordering::Relaxed);
                port.sink_has_room();
                assert!(port.is_drained());
            }
            3 => port.set_carrier(input.bool()),
            4 => port.ring(),
            5 => port.send_break(),
            6 => {
                let state = port.state();
                port = SerialPort::from_state(&state, wire.clone(), cable.clone(), cable.clone());
                assert_eq!(port.state(), state);
            }
            _ => {
                access(&mut input, &port, u64::from(layout::COM1_PORT_COUNT));
            }
        }
        let state = port.state();
        assert!(state.rx.len() <= FIFO_DEPTH && state.tx.len() <= TRANSMIT_ROOM);
        assert_eq!(Uart::from_state(&state).interrupt(), wire.high.load(Ordering::Relaxed), "{state:?}");
        assert!(wire.changes.load(Ordering::Relaxed) - changes <= 1);
    }
    assert!(cable.taken.load(Ordering::Relaxed) <= 9 * data.len() as u64);
    assert!(cable.wanted.load(Ordering::Relaxed) <= data.len());
}

/// A guest that sends more than the FIFO holds, and more than the transmitter has room for, to a cable that is full.
pub fn serial_seeds() -> Vec<Vec<u8>> {
    let sent = |count| [&[1][..], &[7, 1, 0, 0, 0, b'x'].repeat(count)].concat();
    vec![sent(FIFO_DEPTH + 1), sent(TRANSMIT_ROOM + 1)]
}

#[derive(Default)]
struct Messages {
    sent: AtomicUsize,
    routed: AtomicUsize,
}

impl MsiSink for Messages {
    fn signal(&self, msi: Msi) {
        self.check(msi);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn route(&self, pin: u32, msi: Msi, _: bool) {
        assert!(pin < layout::IOAPIC_PINS);
        self.check(msi);
        self.routed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Messages {
    /// A message goes to the local APICs and nowhere else.
    fn check(&self, msi: Msi) {
        assert_eq!(msi.address & 0xfff0_0000, 0xfee0_0000);
        assert_eq!((msi.address >> 47, msi.data >> 16), (0, 0));
    }
}

/// The I/O APIC: messages go to the local APICs only, at most one a pin for each access, none of a masked pin, and a restored
/// one is the same.
pub fn ioapic(data: &[u8]) {
    let (mut input, messages) = (Input::new(data), Arc::new(Messages::default()));
    let mut ioapic = IoApic::new(messages.clone());
    let lines = |ioapic: &Arc<IoApic>| [0, layout::COM1_GSI, layout::IOAPIC_PINS - 1].map(|pin| ioapic.line(pin));
    let mut wires = lines(&ioapic);
    while !input.is_empty() {
        let before = (messages.sent.load(Ordering::Relaxed), messages.routed.load(Ordering::Relaxed));
        let masked = ioapic.state().redirection.iter().all(|entry| entry >> 16 & 1 != 0);
        let mut quiet = false;
        match input.below(8) {
            0 => {
                wires[input.below(wires.len())].set_level(input.bool());
                quiet = masked;
            }
            1 => {
                ioapic.end_of_interrupt(input.u8());
                quiet = masked;
            }
            2 => {
                let state = ioapic.state();
                ioapic = IoApic::from_state(&state, messages.clone());
                assert_eq!(ioapic.state(), state);
                wires = lines(&ioapic);
            }
            // Where registers are.
            3 | 4 => ioapic.write(0, &[input.u8() & 0x3f]),
            5 | 6 => ioapic.write(0x10, input.bytes(4)),
            _ => {
                access(&mut input, &*ioapic, layout::IOAPIC_SIZE);
            }
        }
        let sent = messages.sent.load(Ordering::Relaxed) - before.0;
        let routed = messages.routed.load(Ordering::Relaxed) - before.1;
        assert!(sent <= layout::IOAPIC_PINS as usize && routed <= layout::IOAPIC_PINS as usize);
        assert!(!quiet || sent == 0, "a masked pin interrupted");
        // Delivery status always reads as idle.
        assert!(ioapic.state().redirection.iter().all(|entry| entry >> 12 & 1 == 0));
    }
}

/// The keyboard controller: it resets by its commands only, once for each byte written at most, and a restored one is the same.
pub fn i8042(data: &[u8]) {
    let (mut input, switch) = (Input::new(data), Arc::new(Switch::default()));
    let mut device = I8042::new(switch.clone());
    while !input.is_empty() {
        if input.below(8) == 0 {
            let state = device.state();
            device = I8042::from_state(state, switch.clone());
            assert_eq!(device.state(), state);
        }
        let expected = device.state().expects_output_port;
        let written = access(&mut input, &device, u64::from(I8042::PORT_COUNT));
        let requests = switch.take();
        let (offset, bytes) = written.unwrap_or((1, &[]));
        let may_reset = bytes.iter().any(|b| b & 0xf1 == 0xf0) || offset == 0 && expected || bytes.contains(&0xd1);
        assert!(requests.len() <= bytes.len() && requests.iter().all(|r| *r == PowerRequest::Reset));
        assert!(requests.is_empty() || may_reset, "{bytes:02x?} at {offset}");
    }
}

/// ACPI's registers: they ask for what was written, and a restored one is the same.
pub fn acpi_power(data: &[u8]) {
    let (mut input, switch) = (Input::new(data), Arc::new(Switch::default()));
    let mut device = AcpiPower::new(switch.clone());
    while !input.is_empty() {
        if input.below(8) == 0 {
            let state = device.state();
            device = AcpiPower::from_state(state, switch.clone());
            assert_eq!(device.state(), state);
        }
        let (offset, bytes) = access(&mut input, &device, u64::from(AcpiPower::PORT_COUNT)).unwrap_or((0, &[]));
        let at =
            |port: u16| bytes.get((u64::from(port - layout::ACPI_SLEEP_CONTROL_PORT)).wrapping_sub(offset) as usize);
        let sleeps =
            at(layout::ACPI_SLEEP_CONTROL_PORT).is_some_and(|b| b & 0x3c == 0x20 | layout::ACPI_S5_SLEEP_TYPE << 2);
        let resets = at(layout::ACPI_RESET_PORT) == Some(&layout::ACPI_RESET_VALUE);
        let wanted = [(sleeps, PowerRequest::PowerOff), (resets, PowerRequest::Reset)];
        let wanted: Vec<_> = wanted.iter().filter_map(|(on, request)| on.then_some(*request)).collect();
        assert_eq!(switch.take(), wanted, "{bytes:02x?} at {offset}");
        assert!(device.state().sleep_type < 8);
    }
}

/// The exit port: it ends the machine by its last byte and by nothing else, and a restored one is the same.
pub fn exit_port(data: &[u8]) {
    let (mut input, switch) = (Input::new(data), Arc::new(Switch::default()));
    let mut device = ExitPort::new(switch.clone());
    while !input.is_empty() {
        let before = device.state();
        if input.below(8) == 0 {
            device = ExitPort::from_state(before, switch.clone());
        }
        let mut status = before.status;
        let written = access(&mut input, &device, u64::from(layout::EXIT_PORT_COUNT));
        let (offset, bytes) = written.unwrap_or((0, &[]));
        let reached = bytes.iter().zip(offset as usize..).map(|(b, at)| status.get_mut(at).map(|s| *s = *b)).count();
        let completes = reached > 0 && offset as usize + reached >= status.len();
        let wanted: Vec<_> = completes.then(|| PowerRequest::Exit(u32::from_le_bytes(status))).into_iter().collect();
        assert_eq!(switch.take(), wanted);
    }
}

/// The boot timer: it keeps a bounded record, in order, and counts the rest.
pub fn boot_timer(data: &[u8]) {
    let (mut input, clock) = (Input::new(data), AtomicU64::new(0));
    let rung = Arc::new(AtomicU64::new(0));
    let bell = rung.clone();
    let timer = BootTimer::new(
        move || clock.fetch_add(1, Ordering::Relaxed),
        move || {
            bell.fetch_add(1, Ordering::Relaxed);
        },
    );
    while !input.is_empty() {
        access(&mut input, &timer, 1);
    }
    let milestones = timer.milestones();
    assert!(milestones.len() <= BootTimer::CAPACITY && milestones.windows(2).all(|w| w[0].at_ns < w[1].at_ns));
    assert_eq!(milestones.len() as u64 + timer.dropped(), rung.load(Ordering::Relaxed));
}

/// The window size: read-only for the guest, whatever it writes.
pub fn window_size(data: &[u8]) {
    let (mut input, device) = (Input::new(data), WindowSize::new());
    let mut size = 0;
    while !input.is_empty() {
        if input.below(4) == 0 {
            let (columns, rows) = (input.u16(), input.u16());
            device.set(columns, rows);
            size = u32::from(columns) << 16 | u32::from(rows);
        }
        access(&mut input, &device, u64::from(layout::WINDOW_SIZE_PORT_COUNT));
        let mut read = [0; 4];
        device.read(0, &mut read);
        assert_eq!(u32::from_le_bytes(read), size);
    }
}

/// A device that knows its size, and that no access may leave it.
struct Fenced(u64);

impl Device for Fenced {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.write(offset, data);
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        assert!(
            offset + data.len() as u64 <= self.0,
            "{offset:#x} and {} bytes leave a device of {:#x}",
            data.len(),
            self.0
        );
    }
}

/// The bus: whatever devices are put on it and whatever is accessed, each device sees only its own range, what nobody answers
/// reads as all ones, and ranges never overlap.
pub fn bus(data: &[u8]) {
    let (mut input, mut bus) = (Input::new(data), Bus::new());
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    while !input.is_empty() {
        // Near each other, near the end of the address space, or anywhere.
        let address = match input.below(4) {
            0 => input.u64(),
            1 => u64::MAX - u64::from(input.u8()),
            _ => u64::from(input.u16() & 0x3ff),
        };
        match input.below(4) {
            0 if ranges.len() < 32 => {
                let len = u64::from(input.u8());
                let free = len > 0
                    && address.checked_add(len - 1).is_some_and(|last| {
                        ranges.iter().all(|(start, len)| last < *start || address > start + (len - 1))
                    });
                assert_eq!(bus.insert(address, len, Arc::new(Fenced(len))).is_ok(), free);
                if free {
                    ranges.push((address, len));
                }
            }
            kind => {
                let width = WIDTHS[input.below(7)];
                let inside = |(start, len): &(u64, u64)| {
                    address
                        .checked_sub(*start)
                        .and_then(|at| at.checked_add(width as u64))
                        .is_some_and(|end| end <= *len)
                };
                let answered = ranges.iter().any(inside);
                let mut bytes = [0x5a; 8];
                if kind == 1 {
                    assert_eq!(bus.write(address, &bytes[..width]), answered);
                } else {
                    assert_eq!(bus.read(address, &mut bytes[..width]), answered);
                    assert!(bytes[..width].iter().all(|b| *b == if answered { 0 } else { 0xff }));
                }
            }
        }
    }
}
