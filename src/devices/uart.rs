//! Register model of the 16550A UART (National Semiconductor PC16550D data sheet, section 8, "Registers").
//!
//! Pure: no lock, no thread, no interrupt controller. What leaves the transmitter goes to a closure given with each call, what
//! arrives is given to [`Uart::receive`], and the state of the interrupt output is asked for with [`Uart::interrupt`].
//!
//! Characters take no time on the line. Three consequences, each as if the line were infinitely fast:
//! the transmitter is empty again as soon as the far end has taken a byte; a receive FIFO below its trigger level counts as
//! timed out at once (section 8.4, "FIFO interrupt mode operation", B), so that nothing ever waits for a timer; and the only
//! way to see THRE clear is a far end that is full. It then stays clear until [`Uart::transmit_waiting`], which is the
//! backpressure a real port has from a slow modem. A reset of the transmit FIFO drops what the far end has not taken, as on the
//! chip; what it has taken is on the line.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

mod registers;

pub use registers::{Cause, Fcr, Ier, Lsr, Mcr, Msr};
use registers::{IIR_FIFOS_ENABLED, IIR_NONE, LCR_DLAB, offset};

/// Depth of the receive and of the transmit FIFO, in characters.
pub const FIFO_DEPTH: usize = 16;

/// What the transmitter holds while the far end is full, in characters. More than the FIFO, because a write may have been
/// gathered on its way here: the guest that saw THRE set can have sent this many before it could see THRE clear.
pub const TRANSMIT_ROOM: usize = 256;

/// A character in the receive FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Its eight bits.
    pub byte: u8,
    /// It is a break that the line status register has not shown yet.
    pub is_break: bool,
}

/// A UART's whole state as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartState {
    /// Interrupt enable register.
    pub ier: u8,
    /// FIFO control register without its self-clearing bits.
    pub fcr: u8,
    /// Line control register.
    pub lcr: u8,
    /// Modem control register.
    pub mcr: u8,
    /// Modem lines (high nibble) and deltas (low nibble), not looped back.
    pub msr: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Divisor latch, the baud rate's divisor of 115200.
    pub divisor: u16,
    /// Receive FIFO, oldest first.
    pub rx: Vec<Received>,
    /// Transmitter, oldest first: bytes that the far end has not taken, at most [`TRANSMIT_ROOM`].
    pub tx: Vec<u8>,
    /// LSR.OE latch.
    pub overrun: bool,
    /// The THRE interrupt is pending.
    pub thr_interrupt: bool,
    /// Input was offered and not taken.
    pub refused: bool,
    /// A break waits for room in the receive FIFO.
    pub break_waiting: bool,
}

/// A 16550A.
#[derive(Clone, Debug)]
pub struct Uart {
    ier: Ier,
    fcr: Fcr,
    lcr: u8,
    mcr: Mcr,
    /// Lines from outside.
    lines: Msr,
    deltas: Msr,
    scratch: u8,
    divisor: u16,
    rx: VecDeque<Received>,
    tx: VecDeque<u8>,
    overrun: bool,
    thr_interrupt: bool,
    refused: bool,
    break_waiting: bool,
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// After a master reset (section 8.1, table II), with CTS, DSR and DCD on: a far end is there.
    pub fn new() -> Self {
        Self {
            ier: Ier::empty(),
            fcr: Fcr::empty(),
            lcr: 0,
            mcr: Mcr::empty(),
            lines: Msr::CTS | Msr::DSR | Msr::DCD,
            deltas: Msr::empty(),
            scratch: 0,
            divisor: 0,
            rx: VecDeque::with_capacity(FIFO_DEPTH),
            tx: VecDeque::with_capacity(FIFO_DEPTH),
            overrun: false,
            thr_interrupt: true,
            refused: false,
            break_waiting: false,
        }
    }

    /// The state as plain data.
    pub fn state(&self) -> UartState {
        UartState {
            ier: self.ier.bits(),
            fcr: self.fcr.bits(),
            lcr: self.lcr,
            mcr: self.mcr.bits(),
            msr: (self.lines | self.deltas).bits(),
            scratch: self.scratch,
            divisor: self.divisor,
            rx: self.rx.iter().copied().collect(),
            tx: self.tx.iter().copied().collect(),
            overrun: self.overrun,
            thr_interrupt: self.thr_interrupt,
            refused: self.refused,
            break_waiting: self.break_waiting,
        }
    }

    /// A UART in the given state. Bits that no register has and characters past what the FIFOs hold are dropped.
    pub fn from_state(state: &UartState) -> Self {
        let fcr = Fcr::from_bits_truncate(state.fcr) - (Fcr::CLEAR_RX | Fcr::CLEAR_TX);
        let msr = Msr::from_bits_truncate(state.msr);
        let mut uart = Self {
            ier: Ier::from_bits_truncate(state.ier),
            fcr,
            lcr: state.lcr,
            mcr: Mcr::from_bits_truncate(state.mcr),
            lines: msr & Msr::LINES,
            deltas: msr & Msr::DELTAS,
            scratch: state.scratch,
            divisor: state.divisor,
            overrun: state.overrun,
            thr_interrupt: state.thr_interrupt,
            refused: state.refused,
            break_waiting: state.break_waiting,
            ..Self::new()
        };
        uart.rx.extend(state.rx.iter().take(uart.depth()));
        uart.tx.extend(state.tx.iter().take(TRANSMIT_ROOM));
        uart
    }

    /// Characters the receive FIFO holds: one while the FIFOs are off.
    fn depth(&self) -> usize {
        if self.fcr.contains(Fcr::ENABLE) { FIFO_DEPTH } else { 1 }
    }

    /// Receive interrupt trigger level in characters (section 8.4).
    fn trigger(&self) -> usize {
        if !self.fcr.contains(Fcr::ENABLE) {
            return 1;
        }
        match (self.fcr.contains(Fcr::TRIGGER_HIGH), self.fcr.contains(Fcr::TRIGGER_LOW)) {
            (false, false) => 1,
            (false, true) => 4,
            (true, false) => 8,
            (true, true) => 14,
        }
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    /// Reads the register at `offset` (0 to 7, higher bits are not decoded), with its side effects.
    pub fn read(&mut self, offset: u8) -> u8 {
        match offset & 7 {
            offset::DATA if self.dlab() => self.divisor as u8,
            offset::IER if self.dlab() => (self.divisor >> 8) as u8,
            offset::DATA => self.read_data(),
            offset::IER => self.ier.bits(),
            offset::IIR_FCR => self.read_iir(),
            offset::LCR => self.lcr,
            offset::MCR => self.mcr.bits(),
            offset::LSR => self.read_lsr(),
            offset::MSR => {
                let value = self.msr();
                self.deltas = Msr::empty();
                value.bits()
            }
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset` (0 to 7, higher bits are not decoded).
    ///
    /// `far_end` is offered what leaves the transmitter and says whether it took the byte.
    pub fn write(&mut self, offset: u8, value: u8, far_end: impl FnMut(u8) -> bool) {
        match offset & 7 {
            offset::DATA if self.dlab() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            offset::IER if self.dlab() => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            offset::DATA => self.write_data(value, far_end),
            offset::IER => self.write_ier(Ier::from_bits_truncate(value)),
            offset::IIR_FCR => self.write_fcr(Fcr::from_bits_truncate(value)),
            offset::LCR => self.lcr = value,
            offset::MCR => {
                let before = self.modem_lines();
                self.mcr = Mcr::from_bits_truncate(value);
                self.note_modem_change(before);
            }
            // LSR is meant for factory tests and MSR is read-only (sections 8.5, 8.9).
            offset::SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.rx.pop_front().map_or(0, |r| r.byte);
        if std::mem::take(&mut self.break_waiting) {
            self.receive_break();
        }
        byte
    }

    fn write_data(&mut self, byte: u8, mut far_end: impl FnMut(u8) -> bool) {
        if self.mcr.contains(Mcr::LOOP) {
            self.loop_back(byte);
            self.thr_interrupt = self.tx.is_empty();
            return;
        }
        self.thr_interrupt = self.tx.is_empty() && far_end(byte);
        // A byte written to a full transmitter is lost, as it is on the chip: the guest must look at LSR.THRE.
        if !self.thr_interrupt && self.tx.len() < TRANSMIT_ROOM {
            self.tx.push_back(byte);
        }
    }

    fn loop_back(&mut self, byte: u8) {
        if self.rx.len() == self.depth() {
            self.overrun = true;
            if self.fcr.contains(Fcr::ENABLE) {
                return;
            }
            // Without FIFOs the new character replaces the old one (section 8.5, bit 1).
            self.rx.clear();
        }
        self.rx.push_back(Received { byte, is_break: false });
    }

    fn write_ier(&mut self, ier: Ier) {
        // Enabling the interrupt while the transmitter is empty raises it (section 8.6, table IV); drivers test for it.
        if (ier - self.ier).contains(Ier::THR_EMPTY) {
            self.thr_interrupt = self.tx.is_empty();
        }
        self.ier = ier;
    }

    fn write_fcr(&mut self, fcr: Fcr) {
        let toggled = (fcr ^ self.fcr).contains(Fcr::ENABLE);
        if toggled || fcr.contains(Fcr::ENABLE | Fcr::CLEAR_RX) {
            self.rx.clear();
        }
        if (toggled || fcr.contains(Fcr::ENABLE | Fcr::CLEAR_TX)) && !self.tx.is_empty() {
            self.tx.clear();
            self.thr_interrupt = true;
        }
        // With the enable bit clear the other bits are not programmed (section 8.4).
        self.fcr = if fcr.contains(Fcr::ENABLE) { fcr - (Fcr::CLEAR_RX | Fcr::CLEAR_TX) } else { Fcr::empty() };
    }

    fn read_iir(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(Cause::ThrEmpty) {
            self.thr_interrupt = false;
        }
        let fifos = if self.fcr.contains(Fcr::ENABLE) { IIR_FIFOS_ENABLED } else { 0 };
        cause.map_or(IIR_NONE, |c| c as u8) | fifos
    }

    fn lsr(&self) -> Lsr {
        let mut lsr = Lsr::empty();
        lsr.set(Lsr::DATA_READY, !self.rx.is_empty());
        lsr.set(Lsr::OVERRUN, self.overrun);
        lsr.set(Lsr::BREAK, self.rx.front().is_some_and(|r| r.is_break));
        lsr.set(Lsr::THR_EMPTY | Lsr::TX_EMPTY, self.tx.is_empty());
        lsr.set(Lsr::FIFO_ERROR, self.fcr.contains(Fcr::ENABLE) && self.rx.iter().any(|r| r.is_break));
        lsr
    }

    fn read_lsr(&mut self) -> u8 {
        let lsr = self.lsr();
        self.overrun = false;
        if let Some(front) = self.rx.front_mut() {
            front.is_break = false;
        }
        lsr.bits()
    }

    /// The four modem inputs as MSR shows them: from outside, or from MCR in loopback (section 8.8, bit 4).
    fn modem_lines(&self) -> Msr {
        if !self.mcr.contains(Mcr::LOOP) {
            return self.lines;
        }
        let mut lines = Msr::empty();
        lines.set(Msr::CTS, self.mcr.contains(Mcr::RTS));
        lines.set(Msr::DSR, self.mcr.contains(Mcr::DTR));
        lines.set(Msr::RI, self.mcr.contains(Mcr::OUT1));
        lines.set(Msr::DCD, self.mcr.contains(Mcr::OUT2));
        lines
    }

    fn msr(&self) -> Msr {
        self.modem_lines() | self.deltas
    }

    fn note_modem_change(&mut self, before: Msr) {
        let now = self.modem_lines();
        let changed = before ^ now;
        self.deltas.set(Msr::DELTA_CTS, self.deltas.contains(Msr::DELTA_CTS) || changed.contains(Msr::CTS));
        self.deltas.set(Msr::DELTA_DSR, self.deltas.contains(Msr::DELTA_DSR) || changed.contains(Msr::DSR));
        self.deltas.set(Msr::DELTA_DCD, self.deltas.contains(Msr::DELTA_DCD) || changed.contains(Msr::DCD));
        self.deltas.set(Msr::TRAILING_RI, self.deltas.contains(Msr::TRAILING_RI) || (before - now).contains(Msr::RI));
    }

    /// The interrupt of highest priority that is pending and enabled.
    pub fn cause(&self) -> Option<Cause> {
        let line_error = self.overrun || self.rx.front().is_some_and(|r| r.is_break);
        if self.ier.contains(Ier::LINE_STATUS) && line_error {
            Some(Cause::LineStatus)
        } else if self.ier.contains(Ier::RX_DATA) && !self.rx.is_empty() {
            Some(if self.rx.len() >= self.trigger() { Cause::RxData } else { Cause::RxTimeout })
        } else if self.ier.contains(Ier::THR_EMPTY) && self.thr_interrupt {
            Some(Cause::ThrEmpty)
        } else if self.ier.contains(Ier::MODEM_STATUS) && !self.deltas.is_empty() {
            Some(Cause::ModemStatus)
        } else {
            None
        }
    }

    /// Level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.cause().is_some()
    }

    /// Whether the guest takes input: RTS is on at the pin, which loopback disconnects.
    fn takes_input(&self) -> bool {
        self.mcr & (Mcr::RTS | Mcr::LOOP) == Mcr::RTS
    }

    /// Takes bytes from the far end; returns how many. None while RTS is off, never more than the FIFO has room for.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let room = if self.takes_input() { self.depth() - self.rx.len() } else { 0 };
        let taken = room.min(bytes.len());
        self.rx.extend(bytes[..taken].iter().map(|&byte| Received { byte, is_break: false }));
        self.refused = taken < bytes.len();
        taken
    }

    /// Whether input that was refused is worth offering again. True once for each refusal.
    pub fn take_input_wanted(&mut self) -> bool {
        let wanted = self.refused && self.rx.is_empty() && self.takes_input();
        if wanted {
            self.refused = false;
        }
        wanted
    }

    /// The far end sends a break: a zero character marked in LSR. It waits for room and does not heed RTS.
    pub fn receive_break(&mut self) {
        if self.rx.len() < self.depth() {
            self.rx.push_back(Received { byte: 0, is_break: true });
        } else {
            self.break_waiting = true;
        }
    }

    /// The far end, once full, has room again: offers it what waits in the transmit FIFO.
    pub fn transmit_waiting(&mut self, mut far_end: impl FnMut(u8) -> bool) {
        if self.tx.is_empty() {
            return;
        }
        while let Some(&byte) = self.tx.front() {
            if !far_end(byte) {
                return;
            }
            self.tx.pop_front();
        }
        self.thr_interrupt = true;
    }

    /// Whether the far end has taken all that was transmitted.
    pub fn is_drained(&self) -> bool {
        self.tx.is_empty()
    }

    /// Drives modem inputs from outside: `lines` of [`Msr::LINES`] to `on`.
    pub fn set_modem_lines(&mut self, lines: Msr, on: bool) {
        let before = self.modem_lines();
        self.lines.set(lines & Msr::LINES, on);
        self.note_modem_change(before);
    }
}

#[cfg(test)]
mod tests;
