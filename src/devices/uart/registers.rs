//! The 16550A's registers: offsets, bits and interrupt causes.

use bitflags::bitflags;

bitflags! {
    /// Interrupt enable register (section 8.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ier: u8 {
        /// Received data available, and character timeout.
        const RX_DATA = 1 << 0;
        /// Transmitter holding register empty.
        const THR_EMPTY = 1 << 1;
        /// Overrun or break.
        const LINE_STATUS = 1 << 2;
        /// A modem line changed.
        const MODEM_STATUS = 1 << 3;
    }

    /// FIFO control register (section 8.4); the two trigger bits are kept with it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Fcr: u8 {
        /// Both FIFOs are on.
        const ENABLE = 1 << 0;
        /// Empties the receive FIFO; clears itself.
        const CLEAR_RX = 1 << 1;
        /// Empties the transmit FIFO; clears itself.
        const CLEAR_TX = 1 << 2;
        /// DMA mode, which has no DMA controller here.
        const DMA_MODE = 1 << 3;
        /// Low bit of the receive trigger.
        const TRIGGER_LOW = 1 << 6;
        /// High bit of the receive trigger.
        const TRIGGER_HIGH = 1 << 7;
    }

    /// Modem control register (section 8.8).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mcr: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send: the guest takes input.
        const RTS = 1 << 1;
        /// Auxiliary output 1.
        const OUT1 = 1 << 2;
        /// Auxiliary output 2. A PC gates the interrupt with it; this model does not, as operating systems on
        /// non-PC boards leave it off.
        const OUT2 = 1 << 3;
        /// Local loopback.
        const LOOP = 1 << 4;
    }

    /// Line status register (section 8.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lsr: u8 {
        /// A received character waits.
        const DATA_READY = 1 << 0;
        /// A received character was lost.
        const OVERRUN = 1 << 1;
        /// The character at the front is a break.
        const BREAK = 1 << 4;
        /// The transmit FIFO is empty.
        const THR_EMPTY = 1 << 5;
        /// Transmit FIFO and shift register are empty.
        const TX_EMPTY = 1 << 6;
        /// A character with an error is in the receive FIFO.
        const FIFO_ERROR = 1 << 7;
    }

    /// Modem status register (section 8.9).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Msr: u8 {
        /// CTS changed.
        const DELTA_CTS = 1 << 0;
        /// DSR changed.
        const DELTA_DSR = 1 << 1;
        /// RI went from on to off.
        const TRAILING_RI = 1 << 2;
        /// DCD changed.
        const DELTA_DCD = 1 << 3;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
        /// The four deltas, which a read clears.
        const DELTAS = 0x0f;
        /// The four lines.
        const LINES = 0xf0;
    }
}

/// Divisor latch access bit of the line control register (section 8.3). The word format's other bits are only stored.
pub(super) const LCR_DLAB: u8 = 1 << 7;

/// IIR bits 6 and 7 read as one while the FIFOs are on (section 8.6).
pub(super) const IIR_FIFOS_ENABLED: u8 = 0xc0;

/// What the interrupt identification register shows, highest priority first (section 8.6, table IV).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Overrun or break.
    LineStatus = 0x06,
    /// The receive FIFO has reached its trigger level.
    RxData = 0x04,
    /// Characters wait below the trigger level.
    RxTimeout = 0x0c,
    /// The transmitter takes characters.
    ThrEmpty = 0x02,
    /// A modem line changed.
    ModemStatus = 0x00,
}

/// IIR with no interrupt pending.
pub(super) const IIR_NONE: u8 = 0x01;

/// Register offsets from the port's base (section 8.0, table I); the same offset serves reads, writes and DLAB.
pub(super) mod offset {
    pub const DATA: u8 = 0;
    pub const IER: u8 = 1;
    pub const IIR_FCR: u8 = 2;
    pub const LCR: u8 = 3;
    pub const MCR: u8 = 4;
    pub const LSR: u8 = 5;
    pub const MSR: u8 = 6;
    pub const SCRATCH: u8 = 7;
}
