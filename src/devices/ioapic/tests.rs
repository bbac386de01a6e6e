use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Signal(Msi),
    Route(u32, Msi, bool),
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Said>>);

impl Recorder {
    fn take(&self) -> Vec<Said> {
        std::mem::take(&mut lock(&self.0))
    }

    fn signals(&self) -> Vec<Msi> {
        self.take().into_iter().filter_map(|said| if let Said::Signal(msi) = said { Some(msi) } else { None }).collect()
    }
}

impl MsiSink for Recorder {
    fn signal(&self, msi: Msi) {
        lock(&self.0).push(Said::Signal(msi));
    }

    fn route(&self, pin: u32, msi: Msi, level: bool) {
        lock(&self.0).push(Said::Route(pin, msi, level));
    }
}

fn write_register(ioapic: &IoApic, index: u8, value: u32) {
    ioapic.write(0x00, &u32::from(index).to_le_bytes());
    ioapic.write(0x10, &value.to_le_bytes());
}

fn read_register(ioapic: &IoApic, index: u8) -> u32 {
    ioapic.write(0x00, &u32::from(index).to_le_bytes());
    let mut data = [0; 4];
    ioapic.read(0x10, &mut data);
    u32::from_le_bytes(data)
}

fn write_entry(ioapic: &IoApic, pin: u8, entry: u64) {
    write_register(ioapic, 0x11 + 2 * pin, (entry >> 32) as u32);
    write_register(ioapic, 0x10 + 2 * pin, entry as u32);
}

fn read_entry(ioapic: &IoApic, pin: u8) -> u64 {
    u64::from(read_register(ioapic, 0x11 + 2 * pin)) << 32 | u64::from(read_register(ioapic, 0x10 + 2 * pin))
}

const LEVEL: u64 = Flags::LEVEL.bits();
const ACTIVE_LOW: u64 = Flags::ACTIVE_LOW.bits();
const MASKED: u64 = Flags::MASKED.bits();
const REMOTE_IRR: u64 = Flags::REMOTE_IRR.bits();

fn bench() -> (Arc<Recorder>, Arc<IoApic>) {
    let recorder = Arc::new(Recorder::default());
    let ioapic = IoApic::new(recorder.clone());
    (recorder, ioapic)
}

/// Proves the registers after reset: every pin masked, 24 of them, the version and ID the tables name.
#[test]
fn reset_values() {
    let (_, ioapic) = bench();
    assert_eq!(read_register(&ioapic, 0x00), u32::from(layout::IOAPIC_ID) << 24);
    assert_eq!(read_register(&ioapic, 0x01), 23 << 16 | u32::from(layout::IOAPIC_VERSION));
    assert_eq!(read_register(&ioapic, 0x02), u32::from(layout::IOAPIC_ID) << 24);
    for pin in 0..24 {
        assert_eq!(read_entry(&ioapic, pin), MASKED);
    }
    assert_eq!(read_register(&ioapic, 0x40), u32::MAX, "past the last pin");
    write_register(&ioapic, 0x00, u32::MAX);
    assert_eq!(read_register(&ioapic, 0x00), 0x0f00_0000, "the ID has four bits");
}

/// Proves that an edge is sent once for each rise, to where and as what the entry says (Intel SDM vol. 3A, section 11.11).
#[test]
fn an_edge_is_one_message() {
    let (recorder, ioapic) = bench();
    let line = ioapic.line(4);
    write_entry(&ioapic, 4, 3 << 56 | 0x34);
    line.set_level(true);
    line.set_level(true);
    assert_eq!(recorder.take(), [Said::Signal(Msi { address: 0xfee0_3000, data: 0x34 })], "and no route");
    line.set_level(false);
    assert_eq!(recorder.take(), []);
    line.pulse();
    assert_eq!(recorder.signals().len(), 1);
    // Logical destination, lowest priority.
    write_entry(&ioapic, 4, 0xff << 56 | 1 << 11 | 1 << 8 | 0x51);
    line.pulse();
    assert_eq!(recorder.signals(), [Msi { address: 0xfeef_f004, data: 0x151 }]);
    // Destination ID 0x1234 of a guest with more than 255 CPUs: bits 14:8 are in bits 55:49 of the entry.
    write_entry(&ioapic, 4, 0x34 << 56 | 0x12 << 49 | 0x51);
    line.pulse();
    assert_eq!(recorder.signals(), [Msi { address: 0x1200 << 32 | 0xfee3_4000, data: 0x51 }]);
}

/// Proves that an edge on a masked pin is lost, as the data sheet has it, and that unmasking invents none.
#[test]
fn a_masked_edge_is_lost() {
    let (recorder, ioapic) = bench();
    let line = ioapic.line(4);
    write_entry(&ioapic, 4, MASKED | 0x34);
    line.set_level(true);
    write_entry(&ioapic, 4, 0x34);
    assert_eq!(recorder.take(), []);
}

/// Proves that a level interrupt is sent once until its EOI, and again after it for as long as the line is asserted.
#[test]
fn a_level_waits_for_its_end() {
    let (recorder, ioapic) = bench();
    let line = ioapic.line(5);
    let msi = Msi { address: 0xfee0_0000, data: 0xc045 };
    write_entry(&ioapic, 5, LEVEL | 0x45);
    assert_eq!(recorder.take(), [Said::Route(5, msi, true)]);
    line.set_level(true);
    assert_eq!(recorder.signals(), [msi]);
    assert_eq!(read_entry(&ioapic, 5), REMOTE_IRR | LEVEL | 0x45);
    line.set_level(false);
    line.set_level(true);
    assert_eq!(recorder.signals(), [], "not before the EOI");
    ioapic.end_of_interrupt(0x44);
    assert_eq!(recorder.signals(), [], "another vector's EOI");
    ioapic.end_of_interrupt(0x45);
    assert_eq!(recorder.signals(), [msi], "still asserted");
    line.set_level(false);
    ioapic.write(0x40, &[0x45]);
    assert_eq!(recorder.signals(), []);
    assert_eq!(read_entry(&ioapic, 5), LEVEL | 0x45);
}

/// Proves that an asserted level is sent when unmasked, and that making the entry edge and level again clears remote IRR.
#[test]
fn unmasking_and_retyping_a_level() {
    let (recorder, ioapic) = bench();
    let line = ioapic.line(5);
    write_entry(&ioapic, 5, MASKED | LEVEL | 0x45);
    line.set_level(true);
    assert_eq!(recorder.take(), [], "masked: no message and no route");
    write_entry(&ioapic, 5, LEVEL | 0x45);
    assert_eq!(recorder.signals().len(), 1);
    write_entry(&ioapic, 5, MASKED | LEVEL | 0x45);
    write_entry(&ioapic, 5, MASKED | 0x45);
    assert_eq!(read_entry(&ioapic, 5), MASKED | 0x45);
    write_entry(&ioapic, 5, LEVEL | 0x45);
    assert_eq!(recorder.signals().len(), 1);
}

/// Proves that routes are told when they change and only then, and taken back when the pin becomes an edge.
#[test]
fn routes_are_told_once() {
    let (recorder, ioapic) = bench();
    let entry = LEVEL | 0x45;
    let first = Msi { address: 0xfee0_0000, data: 0xc045 };
    write_entry(&ioapic, 7, entry);
    write_entry(&ioapic, 7, entry | MASKED);
    write_entry(&ioapic, 7, entry);
    assert_eq!(recorder.take(), [Said::Route(7, first, true)]);
    // Both halves change: the high half is told with the old low half, which is true while it lasts.
    write_entry(&ioapic, 7, 1 << 56 | LEVEL | 0x46);
    let moved = Msi { address: 0xfee0_1000, data: 0xc045 };
    let second = Msi { address: 0xfee0_1000, data: 0xc046 };
    assert_eq!(recorder.take(), [Said::Route(7, moved, true), Said::Route(7, second, true)]);
    write_entry(&ioapic, 7, 1 << 56 | 0x46);
    let edge = Msi { address: 0xfee0_1000, data: 0x46 };
    assert_eq!(recorder.take(), [Said::Route(7, edge, false)]);
}

/// Proves that an active-low pin interrupts when driven low, and that one nothing drives never does.
#[test]
fn polarity() {
    let (recorder, ioapic) = bench();
    let line = ioapic.line(6);
    line.set_level(true);
    write_entry(&ioapic, 6, ACTIVE_LOW | 0x50);
    line.set_level(false);
    assert_eq!(recorder.signals().len(), 1);
    line.set_level(true);
    assert_eq!(recorder.signals().len(), 0);
    write_entry(&ioapic, 9, LEVEL | ACTIVE_LOW | 0x60);
    assert_eq!(recorder.signals(), [], "pin 9 is not wired");
}

/// Proves that every delivery mode sends what it names, and ExtINT and the reserved modes nothing.
#[test]
fn delivery_modes() {
    for (mode, sends) in [(0, true), (1, true), (2, true), (3, false), (4, true), (5, true), (6, false), (7, false)] {
        let (recorder, ioapic) = bench();
        write_entry(&ioapic, 4, mode << 8 | 0x34);
        ioapic.line(4).pulse();
        let expected = sends.then_some(Msi { address: 0xfee0_0000, data: (mode as u32) << 8 | 0x34 });
        assert_eq!(recorder.signals(), Vec::from_iter(expected), "mode {mode}");
    }
}

/// Proves that narrow and wide accesses do what their comment says.
#[test]
fn access_widths() {
    let (_, ioapic) = bench();
    ioapic.write(0x00, &[0x12]);
    ioapic.write(0x10, &[0x55]);
    ioapic.write(0x10, &[0x55, 0x55]);
    assert_eq!(read_entry(&ioapic, 1), MASKED, "a narrow write to the window is ignored");
    ioapic.write(0x00, &[0x12, 0xff]);
    ioapic.write(0x10, &0xdead_beef_0000_0077u64.to_le_bytes());
    assert_eq!(read_entry(&ioapic, 1), 0x77);
    ioapic.write(0x00, &[0x12]);
    let mut wide = [0xaa; 8];
    ioapic.read(0x10, &mut wide);
    assert_eq!(wide, [0x77, 0, 0, 0, 0, 0, 0, 0]);
    let mut narrow = [0; 1];
    ioapic.read(0x00, &mut narrow);
    assert_eq!(narrow, [0x12]);
    ioapic.read(0x04, &mut wide);
    assert_eq!(wide, [0xff; 8]);
}

#[derive(Clone, Debug)]
enum Act {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Entry(u8, u64),
    Level(u32, bool),
    End(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let offset = || prop_oneof![Just(0u64), Just(0x10), Just(0x40), 0..layout::IOAPIC_SIZE];
    prop_oneof![
        1 => (offset(), 1usize..=8).prop_map(|(o, n)| Act::Read(o, n)),
        1 => (offset(), proptest::collection::vec(any::<u8>(), 1..=8)).prop_map(|(o, d)| Act::Write(o, d)),
        2 => (0u8..24, any::<u64>()).prop_map(|(p, e)| Act::Entry(p, e)),
        2 => (0u32..24, any::<bool>()).prop_map(|(p, h)| Act::Level(p, h)),
        1 => any::<u8>().prop_map(Act::End),
    ]
}

proptest! {
    /// Proves that whatever a guest does, entries hold only bits there are, remote IRR is set only for levels, a message is
    /// always one to the local APICs, every asserted and unmasked level is on its way, and the state is a full description.
    #[test]
    fn any_use_keeps_it_consistent(acts in proptest::collection::vec(act(), 1..100)) {
        let (recorder, ioapic) = bench();
        let lines: Vec<_> = (0..24).map(|pin| ioapic.line(pin)).collect();
        for act in acts {
            match act {
                Act::Read(offset, len) => ioapic.read(offset, &mut vec![0; len]),
                Act::Write(offset, data) => ioapic.write(offset, &data),
                Act::Entry(pin, entry) => write_entry(&ioapic, pin, entry),
                Act::Level(pin, high) => lines[pin as usize].set_level(high),
                Act::End(vector) => ioapic.end_of_interrupt(vector),
            }
            let registers = lock(&ioapic.registers);
            for (pin, entry) in registers.redirection.iter().enumerate() {
                prop_assert_eq!(entry.0 & !(WRITABLE | REMOTE_IRR), 0);
                prop_assert!(!entry.has(Flags::REMOTE_IRR) || entry.has(Flags::LEVEL));
                let fixed = matches!(entry.0 >> 8 & 7, 0 | 1);
                if entry.has(Flags::LEVEL) && !entry.has(Flags::MASKED) && fixed && registers.is_asserted(pin) {
                    prop_assert!(entry.has(Flags::REMOTE_IRR));
                }
            }
            drop(registers);
            for said in recorder.take() {
                let (Said::Signal(msi) | Said::Route(_, msi, _)) = said;
                prop_assert_eq!(msi.address as u32 >> 20, 0xfee);
            }
            let state = ioapic.state();
            prop_assert_eq!(IoApic::from_state(&state, Arc::new(Recorder::default())).state(), state);
        }
    }

    /// Proves that a state from a hostile file has only bits there are.
    #[test]
    fn any_state_is_made_sane(id: u8, select: u8, redirection: [u64; PINS], levels: u32) {
        let ioapic = IoApic::from_state(&IoApicState { id, select, redirection, levels }, Arc::new(Recorder::default()));
        let sane = ioapic.state();
        prop_assert!(sane.id < 16 && sane.levels < 1 << 24);
        prop_assert!(sane.redirection.iter().all(|entry| entry & !(WRITABLE | REMOTE_IRR) == 0));
    }
}
