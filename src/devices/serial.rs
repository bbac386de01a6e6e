//! A serial port on the bus: the UART with its interrupt line, and the far end of its cable.

use std::sync::{Arc, Mutex, MutexGuard};

use super::lock;
use super::uart::{Msr, Uart, UartState};
use crate::bus::{Device, InterruptLine};

/// Takes what the guest transmits. Called with the port locked, on a vCPU's thread: it must be quick, must not wait, and must
/// not call the port.
pub trait ByteSink: Send + Sync {
    /// Takes a byte; `false` when full, and then the byte is not taken. Once there is room again, call
    /// [`SerialPort::sink_has_room`].
    fn push(&self, byte: u8) -> bool;
    /// Whether a byte would be taken now.
    fn has_room(&self) -> bool;
}

/// What the port tells whoever feeds it. Called with the port unlocked, on a vCPU's thread.
pub trait SerialEvents: Send + Sync {
    /// Input was refused, and now the receive FIFO is empty and RTS is on: offer it again.
    fn input_wanted(&self);
}

/// A 16550A on eight ports, its interrupt line, and its cable's far end.
pub struct SerialPort {
    port: Mutex<Port>,
    line: Arc<dyn InterruptLine>,
    sink: Arc<dyn ByteSink>,
    events: Arc<dyn SerialEvents>,
}

struct Port {
    uart: Uart,
    /// The level last driven, so that the line is only touched when it changes.
    level: bool,
}

impl SerialPort {
    /// A port just reset; carrier, CTS and DSR are on.
    pub fn new(line: Arc<dyn InterruptLine>, sink: Arc<dyn ByteSink>, events: Arc<dyn SerialEvents>) -> Self {
        Self::with(Uart::new(), line, sink, events)
    }

    /// A port in the given state, its interrupt line driven accordingly.
    pub fn from_state(
        state: &UartState,
        line: Arc<dyn InterruptLine>,
        sink: Arc<dyn ByteSink>,
        events: Arc<dyn SerialEvents>,
    ) -> Self {
        let port = Self::with(Uart::from_state(state), line, sink, events);
        let mut inner = lock(&port.port);
        inner.level = inner.uart.interrupt();
        port.line.set_level(inner.level);
        drop(inner);
        port
    }

    fn with(uart: Uart, line: Arc<dyn InterruptLine>, sink: Arc<dyn ByteSink>, events: Arc<dyn SerialEvents>) -> Self {
        Self { port: Mutex::new(Port { uart, level: false }), line, sink, events }
    }

    /// The state as plain data.
    pub fn state(&self) -> UartState {
        lock(&self.port).uart.state()
    }

    /// Offers input; returns how many bytes were taken: none while RTS is off, at most what the FIFO has room for.
    /// After fewer than all were taken, [`SerialEvents::input_wanted`] says when to offer the rest.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut port = lock(&self.port);
        let taken = port.uart.receive(bytes);
        self.settle(port);
        taken
    }

    /// The sink was full and has room again: what waits in the transmitter goes on, and THRE is set once it is empty.
    pub fn sink_has_room(&self) {
        let mut port = lock(&self.port);
        port.uart.transmit_waiting(|byte| self.sink.push(byte));
        self.settle(port);
    }

    /// Raises or drops data carrier detect.
    pub fn set_carrier(&self, on: bool) {
        let mut port = lock(&self.port);
        port.uart.set_modem_lines(Msr::DCD, on);
        self.settle(port);
    }

    /// A pulse on the ring indicator; the guest sees its trailing edge.
    pub fn ring(&self) {
        let mut port = lock(&self.port);
        port.uart.set_modem_lines(Msr::RI, true);
        port.uart.set_modem_lines(Msr::RI, false);
        self.settle(port);
    }

    /// Sends a break to the guest.
    pub fn send_break(&self) {
        let mut port = lock(&self.port);
        port.uart.receive_break();
        self.settle(port);
    }

    /// Whether the sink has taken all that the guest transmitted.
    pub fn is_drained(&self) -> bool {
        lock(&self.port).uart.is_drained()
    }

    /// Drives the interrupt line to what the registers say.
    ///
    /// The line follows the UART's output, a level. An edge-triggered input sees a new edge for each cause that appears after
    /// the handler has seen IIR say "none", which is the contract of a 16550A on an ISA interrupt. Done with the port locked, so
    /// that two threads cannot leave the line at a level that is no longer true.
    fn settle(&self, mut port: MutexGuard<'_, Port>) {
        let level = port.uart.interrupt();
        if level != port.level {
            port.level = level;
            self.line.set_level(level);
        }
        let wanted = port.uart.take_input_wanted();
        drop(port);
        if wanted {
            self.events.input_wanted();
        }
    }
}

impl Device for SerialPort {
    /// The chip has eight data lines: a wider access is one access for each port, in ascending order.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = lock(&self.port);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = port.uart.read((offset as usize + i) as u8);
        }
        self.settle(port);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut port = lock(&self.port);
        for (i, &value) in data.iter().enumerate() {
            port.uart.write((offset as usize + i) as u8, value, |byte| self.sink.push(byte));
        }
        self.settle(port);
    }
}

#[cfg(test)]
mod tests;
