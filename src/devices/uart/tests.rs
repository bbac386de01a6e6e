use proptest::prelude::*;

use super::*;

const DATA: u8 = offset::DATA;
const IER: u8 = offset::IER;
const IIR: u8 = offset::IIR_FCR;
const FCR: u8 = offset::IIR_FCR;
const LCR: u8 = offset::LCR;
const MCR: u8 = offset::MCR;
const LSR: u8 = offset::LSR;
const MSR: u8 = offset::MSR;
const SCRATCH: u8 = offset::SCRATCH;

/// A far end that takes everything.
fn takes_all(_: u8) -> bool {
    true
}

/// A far end that is full.
fn full(_: u8) -> bool {
    false
}

fn set(uart: &mut Uart, offset: u8, value: u8) {
    uart.write(offset, value, takes_all);
}

/// FIFOs on with a trigger level of 14, RTS on, the given interrupts enabled.
fn ready(ier: Ier) -> Uart {
    let mut uart = Uart::new();
    set(&mut uart, FCR, 0xc1);
    set(&mut uart, MCR, (Mcr::DTR | Mcr::RTS | Mcr::OUT2).bits());
    set(&mut uart, IER, ier.bits());
    uart
}

/// Proves that the registers after reset are those of the data sheet's table II, with the far end's modem lines on.
#[test]
fn reset_values() {
    let mut uart = Uart::new();
    let expected = [(IER, 0x00), (IIR, 0x01), (LCR, 0x00), (MCR, 0x00), (LSR, 0x60), (MSR, 0xb0), (SCRATCH, 0x00)];
    for (offset, value) in expected {
        assert_eq!(uart.read(offset), value, "offset {offset}");
    }
    assert!(!uart.interrupt());
}

/// Proves that what tells a 16550A from an 8250, a 16450, a 16550, a 16650 and a 16750 tells the right chip.
#[test]
fn is_recognised_as_a_16550a() {
    let mut uart = Uart::new();
    set(&mut uart, IER, 0xff);
    assert_eq!(uart.read(IER), 0x0f, "four interrupts, no more: no sleep mode");
    set(&mut uart, IER, 0);
    assert_eq!(uart.read(IER), 0);
    // Loopback brings RTS and OUT2 back as CTS and DCD.
    set(&mut uart, MCR, (Mcr::LOOP | Mcr::RTS | Mcr::OUT2).bits());
    assert_eq!(uart.read(MSR) & 0xf0, 0x90);
    set(&mut uart, MCR, 0xff);
    assert_eq!(uart.read(MCR), 0x1f, "no automatic flow control, no clock divider");
    set(&mut uart, MCR, 0);
    set(&mut uart, FCR, 0x01);
    assert_eq!(uart.read(IIR) >> 6, 3, "FIFOs that work");
    // An enhanced feature register would show at this offset while LCR is 0xbf.
    set(&mut uart, LCR, 0xbf);
    assert_eq!(uart.read(IIR), 0xc1);
    set(&mut uart, LCR, 0x80);
    set(&mut uart, FCR, 0x21);
    assert_eq!(uart.read(IIR) & 0x20, 0, "no 64-byte FIFO");
    set(&mut uart, LCR, 0);
    set(&mut uart, FCR, 0);
    assert_eq!(uart.read(IIR) >> 6, 0);
    set(&mut uart, SCRATCH, 0xa5);
    assert_eq!(uart.read(SCRATCH), 0xa5);
}

/// Proves that the divisor latch is behind DLAB and does not touch data and IER.
#[test]
fn divisor_latch() {
    let mut uart = ready(Ier::RX_DATA);
    set(&mut uart, LCR, LCR_DLAB | 3);
    uart.write(DATA, 0x34, |_| panic!("the divisor is not transmitted"));
    set(&mut uart, IER, 0x12);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0x34, 0x12));
    set(&mut uart, LCR, 3);
    assert_eq!((uart.read(IER), uart.read(LCR)), (Ier::RX_DATA.bits(), 3));
    assert_eq!(uart.state().divisor, 0x1234);
}

/// Proves the THRE interrupt: raised by enabling it while empty, as often as it is enabled, cleared by reading IIR when it is
/// the cause, raised again by a byte that left. Drivers that find otherwise fall back to polling.
#[test]
fn thr_empty_interrupt() {
    let mut uart = ready(Ier::empty());
    for _ in 0..2 {
        set(&mut uart, IER, Ier::THR_EMPTY.bits());
        assert!(uart.interrupt());
        assert_eq!(uart.read(IIR) & 0x0f, Cause::ThrEmpty as u8);
        assert_eq!(uart.read(IIR) & 0x0f, IIR_NONE, "reading IIR cleared it");
        assert!(!uart.interrupt());
        set(&mut uart, IER, 0);
    }
    set(&mut uart, IER, Ier::THR_EMPTY.bits());
    uart.read(IIR);
    set(&mut uart, IER, Ier::THR_EMPTY.bits());
    assert!(!uart.interrupt(), "enabled already: writing it again is no event");
    set(&mut uart, DATA, b'x');
    assert!(uart.interrupt(), "the byte left");
}

/// Proves that reading IIR for another cause leaves the THRE interrupt pending.
#[test]
fn iir_clears_only_what_it_shows() {
    let mut uart = ready(Ier::RX_DATA | Ier::THR_EMPTY);
    uart.receive(b"a");
    assert_eq!(uart.read(IIR) & 0x0f, Cause::RxTimeout as u8);
    assert_eq!(uart.read(DATA), b'a');
    assert_eq!(uart.read(IIR) & 0x0f, Cause::ThrEmpty as u8);
    assert_eq!(uart.read(IIR) & 0x0f, IIR_NONE);
}

/// Proves the priorities of table IV with all causes pending at once, each taken away in turn.
#[test]
fn causes_come_by_priority() {
    let mut uart = ready(Ier::all());
    uart.receive_break();
    uart.receive(&[1; 15]);
    uart.set_modem_lines(Msr::DCD, false);
    assert_eq!(uart.cause(), Some(Cause::LineStatus));
    assert_eq!(uart.read(LSR), 0xf1, "data, break, transmitter empty, error in the FIFO");
    assert_eq!(uart.cause(), Some(Cause::RxData));
    assert_eq!(uart.read(DATA), 0, "a break is a zero");
    uart.read(DATA);
    assert_eq!(uart.cause(), Some(Cause::RxData), "14 characters are the trigger level");
    uart.read(DATA);
    assert_eq!(uart.cause(), Some(Cause::RxTimeout));
    for _ in 0..13 {
        uart.read(DATA);
    }
    assert_eq!(uart.cause(), Some(Cause::ThrEmpty));
    uart.read(IIR);
    assert_eq!(uart.cause(), Some(Cause::ModemStatus));
    assert_eq!(uart.read(MSR), 0x38, "DCD off and changed");
    assert_eq!(uart.cause(), None);
    assert_eq!(uart.read(MSR), 0x30, "deltas are read once");
}

/// Proves the four trigger levels, and one character with the FIFOs off.
#[test]
fn trigger_levels() {
    for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut uart = ready(Ier::RX_DATA);
        set(&mut uart, FCR, fcr);
        for received in 1..=FIFO_DEPTH {
            assert_eq!(uart.receive(b"x"), 1);
            let expected = if received >= level { Cause::RxData } else { Cause::RxTimeout };
            assert_eq!(uart.cause(), Some(expected), "FCR {fcr:#x}, {received} characters");
        }
        assert_eq!(uart.receive(b"x"), 0, "the FIFO is full");
        set(&mut uart, FCR, 0);
        assert_eq!(uart.read(LSR) & 1, 0, "turning the FIFOs off empties them");
        assert_eq!(uart.receive(b"xy"), 1);
        assert_eq!(uart.cause(), Some(Cause::RxData));
    }
}

/// Proves that input waits while RTS is off or loopback is on, and is asked for once it can come.
#[test]
fn rts_holds_input_back() {
    let mut uart = Uart::new();
    assert_eq!(uart.receive(b"abc"), 0);
    assert!(!uart.take_input_wanted());
    set(&mut uart, MCR, (Mcr::RTS | Mcr::LOOP).bits());
    assert_eq!(uart.receive(b"abc"), 0, "loopback disconnects the pin");
    assert!(!uart.take_input_wanted());
    set(&mut uart, MCR, Mcr::RTS.bits());
    assert!(uart.take_input_wanted());
    assert!(!uart.take_input_wanted(), "said once");
    assert_eq!(uart.receive(b"abc"), 1, "the FIFOs are off");
    assert!(!uart.take_input_wanted(), "the character was not read yet");
    assert_eq!(uart.receive(b""), 0);
    assert_eq!(uart.read(DATA), b'a');
    assert!(uart.take_input_wanted());
}

/// Proves that a full far end keeps THRE clear and loses nothing that was written while there was room, and that THRE and its
/// interrupt come back once all has been taken.
#[test]
fn a_full_far_end_is_backpressure() {
    let mut uart = ready(Ier::THR_EMPTY);
    uart.read(IIR);
    for byte in 0..TRANSMIT_ROOM {
        let byte = byte as u8;
        uart.write(DATA, byte, full);
        assert_eq!(uart.read(LSR) & 0x60, 0);
        assert!(!uart.interrupt());
    }
    uart.write(DATA, 0xee, |_| panic!("bytes keep their order"));
    let mut taken = Vec::new();
    let mut take_some = |byte| {
        taken.push(byte);
        taken.len() < 4
    };
    uart.transmit_waiting(&mut take_some);
    assert!(!uart.is_drained() && !uart.interrupt());
    taken.pop();
    uart.transmit_waiting(|byte| {
        taken.push(byte);
        true
    });
    assert_eq!(taken, (0..TRANSMIT_ROOM).map(|i| i as u8).collect::<Vec<_>>(), "the one past its room was lost");
    assert_eq!(uart.read(LSR), 0x60);
    assert_eq!(uart.cause(), Some(Cause::ThrEmpty));
    uart.read(IIR);
    uart.transmit_waiting(takes_all);
    assert!(!uart.interrupt(), "nothing waited, nothing happened");
}

/// Proves that clearing the transmit FIFO drops what waits and makes the transmitter empty.
#[test]
fn clearing_the_transmit_fifo() {
    let mut uart = ready(Ier::THR_EMPTY);
    uart.read(IIR);
    uart.write(DATA, 1, full);
    assert!(!uart.interrupt());
    set(&mut uart, FCR, 0xc5);
    assert!(uart.is_drained() && uart.interrupt());
    assert_eq!(uart.state().fcr, 0xc1, "the clear bits clear themselves");
}

/// Proves that loopback sends to itself and not out, and that an overrun is latched until LSR is read.
#[test]
fn loopback() {
    let mut uart = ready(Ier::LINE_STATUS);
    set(&mut uart, MCR, Mcr::LOOP.bits());
    for byte in 0..=FIFO_DEPTH as u8 {
        uart.write(DATA, byte, |_| panic!("nothing leaves in loopback"));
    }
    assert_eq!(uart.cause(), Some(Cause::LineStatus));
    assert_eq!(uart.read(LSR) & 0x03, 0x03);
    assert_eq!(uart.read(LSR) & 0x03, 0x01);
    let back: Vec<_> = (0..FIFO_DEPTH).map(|_| uart.read(DATA)).collect();
    assert_eq!(back, (0..FIFO_DEPTH as u8).collect::<Vec<_>>());
    set(&mut uart, FCR, 0);
    set(&mut uart, DATA, 1);
    set(&mut uart, DATA, 2);
    assert_eq!((uart.read(LSR) & 3, uart.read(DATA)), (3, 2), "without FIFOs the new character stays");
}

/// Proves each modem line's delta, and that a ring shows by its trailing edge only.
#[test]
fn modem_deltas() {
    let mut uart = ready(Ier::MODEM_STATUS);
    uart.read(MSR);
    for (line, delta) in [(Msr::CTS, 0x01), (Msr::DSR, 0x02), (Msr::DCD, 0x08)] {
        for on in [false, true] {
            uart.set_modem_lines(line, on);
            assert!(uart.interrupt());
            assert_eq!(uart.read(MSR) & 0x0f, delta);
            uart.set_modem_lines(line, on);
            assert!(!uart.interrupt(), "no change, no delta");
        }
    }
    uart.set_modem_lines(Msr::RI, true);
    assert!(!uart.interrupt());
    assert_eq!(uart.read(MSR), 0xf0);
    uart.set_modem_lines(Msr::RI, false);
    assert_eq!(uart.read(MSR), 0xb4);
}

/// Proves that a break waits for room in a full FIFO and then comes, marked.
#[test]
fn a_break_waits_for_room() {
    let mut uart = ready(Ier::empty());
    uart.receive(&[7; FIFO_DEPTH]);
    uart.receive_break();
    for _ in 0..FIFO_DEPTH {
        assert_eq!(uart.read(LSR) & 0x10, 0);
        assert_eq!(uart.read(DATA), 7);
    }
    assert_eq!(uart.read(LSR), 0xf1);
    assert_eq!((uart.read(DATA), uart.read(LSR)), (0, 0x60));
}

#[derive(Clone, Debug)]
enum Act {
    Read(u8),
    Write(u8, u8, bool),
    Receive(Vec<u8>),
    Drain(bool),
    Lines(u8, bool),
    Break,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<u8>().prop_map(Act::Read),
        6 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(o, v, r)| Act::Write(o, v, r)),
        3 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Act::Receive),
        1 => any::<bool>().prop_map(Act::Drain),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(l, on)| Act::Lines(l, on)),
        1 => Just(Act::Break),
    ]
}

fn apply(uart: &mut Uart, act: &Act) {
    match act {
        Act::Read(offset) => {
            uart.read(*offset);
        }
        Act::Write(offset, value, room) => uart.write(*offset, *value, |_| *room),
        Act::Receive(bytes) => {
            assert!(uart.receive(bytes) <= bytes.len());
        }
        Act::Drain(room) => uart.transmit_waiting(|_| *room),
        Act::Lines(lines, on) => uart.set_modem_lines(Msr::from_bits_truncate(*lines), *on),
        Act::Break => uart.receive_break(),
    }
}

proptest! {
    /// Proves that whatever is done to it, the UART stays consistent: FIFOs within their depth, IIR and LSR true to the
    /// state, the interrupt output equal to what IIR says, refused input asked for, and the state a full description.
    #[test]
    fn any_use_keeps_it_consistent(acts in proptest::collection::vec(act(), 1..200)) {
        let mut uart = Uart::new();
        for act in &acts {
            apply(&mut uart, act);
            let state = uart.state();
            prop_assert!(state.rx.len() <= uart.depth() && state.tx.len() <= TRANSMIT_ROOM);
            prop_assert_eq!(&Uart::from_state(&state).state(), &state);
            let mut copy = Uart::from_state(&state);
            prop_assert_eq!(copy.interrupt(), copy.read(IIR) & 1 == 0);
            let lsr = copy.read(LSR);
            prop_assert_eq!(lsr & 0x01 != 0, !state.rx.is_empty());
            prop_assert_eq!(lsr & 0x20 != 0, state.tx.is_empty());
            uart.take_input_wanted();
            prop_assert!(!(uart.refused && uart.rx.is_empty() && uart.takes_input()));
        }
    }

    /// Proves that a state from a hostile file makes a UART that is within its bounds.
    #[test]
    fn any_state_is_made_sane(
        regs: [u8; 6], divisor: u16, flags: [bool; 4],
        rx in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..60),
        tx in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let rx = rx.into_iter().map(|(byte, is_break)| Received { byte, is_break }).collect();
        let [ier, fcr, lcr, mcr, msr, scratch] = regs;
        let [overrun, thr_interrupt, refused, break_waiting] = flags;
        let state = UartState {
            ier, fcr, lcr, mcr, msr, scratch, divisor, rx, tx, overrun, thr_interrupt, refused, break_waiting,
        };
        let sane = Uart::from_state(&state).state();
        prop_assert!(sane.rx.len() <= FIFO_DEPTH && sane.tx.len() <= TRANSMIT_ROOM);
        prop_assert_eq!(Uart::from_state(&sane).state(), sane);
    }

    /// Proves that a driver that heeds THRE gets every byte out, in order, to a far end that is full at any moment.
    #[test]
    fn output_is_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), moods in proptest::collection::vec(any::<bool>(), 1..50)) {
        let mut uart = ready(Ier::empty());
        let mut mood = moods.iter().cycle();
        let mut out = Vec::new();
        let mut far_end = |byte| {
            let takes = *mood.next().unwrap();
            if takes {
                out.push(byte);
            }
            takes
        };
        let mut rest = bytes.chunks(FIFO_DEPTH);
        // A mood that is false for ever never drains: bounded by the turns.
        for _ in 0..40_000 {
            if uart.read(LSR) & 0x20 != 0 {
                let Some(burst) = rest.next() else { break };
                burst.iter().for_each(|&byte| uart.write(DATA, byte, &mut far_end));
            } else {
                uart.transmit_waiting(&mut far_end);
            }
        }
        prop_assert_eq!(&out[..], &bytes[..out.len()]);
        if moods.contains(&true) {
            prop_assert_eq!(out.len(), bytes.len());
        }
    }
}
