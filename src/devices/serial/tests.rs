use std::collections::VecDeque;
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::devices::{IoApic, Msi, MsiSink};
use crate::layout;

/// A sink of a given capacity that can be emptied.
struct Sink {
    capacity: usize,
    bytes: Mutex<VecDeque<u8>>,
}

impl Sink {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, bytes: Mutex::default() })
    }

    fn drain(&self) -> Vec<u8> {
        lock(&self.bytes).drain(..).collect()
    }
}

impl ByteSink for Sink {
    fn push(&self, byte: u8) -> bool {
        let mut bytes = lock(&self.bytes);
        let room = bytes.len() < self.capacity;
        if room {
            bytes.push_back(byte);
        }
        room
    }

    fn has_room(&self) -> bool {
        lock(&self.bytes).len() < self.capacity
    }
}

/// Counts what it is told.
#[derive(Default)]
struct Wanted(AtomicUsize);

impl SerialEvents for Wanted {
    fn input_wanted(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The CPU's side of the I/O APIC: interrupts that were sent and not yet served. Several at once are one, as in a local
/// APIC's request register.
#[derive(Default)]
struct Cpu {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Cpu {
    /// Waits for an interrupt and takes it; `false` when none comes in time.
    fn wait(&self, timeout: Duration) -> bool {
        let requested = lock(&self.requested);
        let (mut requested, _) = self.changed.wait_timeout_while(requested, timeout, |r| !*r).unwrap();
        std::mem::take(&mut *requested)
    }
}

impl MsiSink for Cpu {
    fn signal(&self, _: Msi) {
        *lock(&self.requested) = true;
        self.changed.notify_one();
    }

    fn route(&self, _: u32, _: Msi, _: bool) {}
}

/// A port on an edge-triggered, unmasked pin of the I/O APIC.
struct Bench {
    port: Arc<SerialPort>,
    cpu: Arc<Cpu>,
    sink: Arc<Sink>,
    wanted: Arc<Wanted>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        let cpu = Arc::new(Cpu::default());
        let ioapic = IoApic::new(cpu.clone());
        let select = 0x10 + 2 * layout::COM1_GSI as u8;
        ioapic.write(0x00, &[select]);
        ioapic.write(0x10, &0x34u32.to_le_bytes());
        let (sink, wanted) = (Sink::new(capacity), Arc::new(Wanted::default()));
        let port = SerialPort::new(ioapic.line(layout::COM1_GSI), sink.clone(), wanted.clone());
        Self { port: Arc::new(port), cpu, sink, wanted }
    }

    fn outb(&self, offset: u64, value: u8) {
        self.port.write(offset, &[value]);
    }

    fn inb(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.port.read(offset, &mut data);
        data[0]
    }

    /// FIFOs on, RTS and OUT2 on, all interrupts but THRE.
    fn open(&self) {
        self.outb(2, 0xc7);
        self.outb(4, 0x0b);
        self.outb(1, 0x0d);
    }
}

/// An interrupt handler that trusts edges only: it is called once for each, and serves until IIR says "none".
#[derive(Default)]
struct Driver {
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    modem_changes: Vec<u8>,
}

impl Driver {
    fn start_sending(&self, bench: &Bench) {
        bench.outb(1, 0x0f);
    }

    fn serve(&mut self, bench: &Bench) {
        loop {
            let iir = bench.inb(2) & 0x0f;
            if iir == 0x01 {
                return;
            }
            while bench.inb(5) & 1 != 0 {
                self.received.push(bench.inb(0));
            }
            let msr = bench.inb(6);
            if msr & 0x0f != 0 {
                self.modem_changes.push(msr);
            }
            if bench.inb(5) & 0x20 != 0 {
                for byte in self.to_send.drain(..self.to_send.len().min(16)) {
                    bench.outb(0, byte);
                }
                if self.to_send.is_empty() {
                    bench.outb(1, 0x0d);
                }
            }
        }
    }
}

/// Proves that a byte goes from a port write to the sink, and an interrupt only comes when it is enabled.
#[test]
fn writes_reach_the_sink() {
    let bench = Bench::new(100);
    for byte in b"hello" {
        bench.outb(0, *byte);
    }
    assert_eq!(bench.sink.drain(), b"hello");
    assert!(bench.port.is_drained());
    assert!(!bench.cpu.wait(Duration::ZERO));
}

/// Proves that a wide access is one to each port it covers.
#[test]
fn wide_accesses_are_split() {
    let bench = Bench::new(100);
    // LCR 0x83 (DLAB), MCR 0x0b, then the divisor 0x000c as one word.
    bench.port.write(3, &[0x83, 0x0b]);
    bench.port.write(0, &[0x0c, 0x00]);
    let mut data = [0; 4];
    bench.port.read(0, &mut data);
    assert_eq!(data, [0x0c, 0x00, 0x01, 0x83]);
    assert!(bench.sink.drain().is_empty());
}

/// Proves that the feeder is told when refused input can come: after RTS, and each time the FIFO ran empty.
#[test]
fn the_feeder_is_told() {
    let bench = Bench::new(100);
    let told = || bench.wanted.0.swap(0, Ordering::SeqCst);
    assert_eq!(bench.port.receive(&[1; 40]), 0);
    assert_eq!(told(), 0);
    bench.open();
    assert_eq!(told(), 1);
    assert_eq!(bench.port.receive(&[1; 40]), 16);
    for left in (0..16).rev() {
        bench.inb(0);
        assert_eq!(told(), usize::from(left == 0));
    }
    assert_eq!(bench.port.receive(&[1; 16]), 16);
    (0..16).for_each(|_| _ = bench.inb(0));
    assert_eq!(told(), 0, "nothing was refused");
}

/// Proves that carrier, ring and break each interrupt and show as themselves.
#[test]
fn carrier_ring_and_break() {
    let bench = Bench::new(100);
    bench.open();
    let mut driver = Driver::default();
    bench.port.set_carrier(false);
    assert!(bench.cpu.wait(Duration::ZERO));
    driver.serve(&bench);
    bench.port.ring();
    assert!(bench.cpu.wait(Duration::ZERO));
    driver.serve(&bench);
    assert_eq!(driver.modem_changes, [0x38, 0x34]);
    bench.port.send_break();
    assert!(bench.cpu.wait(Duration::ZERO));
    assert_eq!((bench.inb(2) & 0x0f, bench.inb(5) & 0x10, bench.inb(0)), (0x06, 0x10, 0));
}

/// Proves that a restored port has its registers, and its interrupt line at the right level.
#[test]
fn state_survives() {
    let bench = Bench::new(100);
    bench.open();
    bench.port.receive(b"abc");
    let state = bench.port.state();
    let other = Bench::new(100);
    let ioapic = IoApic::new(other.cpu.clone());
    ioapic.write(0x00, &[0x10]);
    ioapic.write(0x10, &0x34u32.to_le_bytes());
    let port = SerialPort::from_state(&state, ioapic.line(0), other.sink.clone(), other.wanted.clone());
    assert_eq!(port.state(), state);
    assert!(other.cpu.wait(Duration::ZERO), "the pending interrupt was raised");
}

#[derive(Clone, Debug)]
enum Event {
    Input(Vec<u8>),
    Send(Vec<u8>),
    Room,
    Ring,
    Serve,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..50).prop_map(Event::Input),
        proptest::collection::vec(any::<u8>(), 1..50).prop_map(Event::Send),
        Just(Event::Room),
        Just(Event::Ring),
        Just(Event::Serve),
    ]
}

/// The feeder, the far end and a driver that wakes on edges only.
struct Session {
    bench: Bench,
    driver: Driver,
    pending_input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Session {
    fn feed(&mut self) {
        let taken = self.bench.port.receive(self.pending_input.make_contiguous());
        self.pending_input.drain(..taken);
    }

    fn make_room(&mut self) {
        self.output.extend(self.bench.sink.drain());
        self.bench.port.sink_has_room();
    }

    fn serve(&mut self) -> bool {
        let came = self.bench.cpu.wait(Duration::ZERO);
        if came {
            self.driver.serve(&self.bench);
        }
        if self.bench.wanted.0.swap(0, Ordering::SeqCst) > 0 {
            self.feed();
        }
        came
    }
}

proptest! {
    /// Proves that no interrupt is lost: a driver that acts on edges only, on an edge-triggered pin, gets all input, sends all
    /// output and sees the rings, whatever the order of events and however small the sink.
    #[test]
    fn edges_are_enough(events in proptest::collection::vec(event(), 1..60), capacity in 1usize..40) {
        let bench = Bench::new(capacity);
        bench.open();
        let mut session =
            Session { bench, driver: Driver::default(), pending_input: VecDeque::new(), output: Vec::new() };
        let (mut typed, mut sent, mut rings) = (Vec::<u8>::new(), Vec::<u8>::new(), false);
        for event in events {
            match event {
                Event::Input(bytes) => {
                    typed.extend(&bytes);
                    session.pending_input.extend(bytes);
                    session.feed();
                }
                Event::Send(bytes) => {
                    sent.extend(&bytes);
                    session.driver.to_send.extend(bytes);
                    session.driver.start_sending(&session.bench);
                }
                Event::Room => session.make_room(),
                Event::Ring => {
                    session.bench.port.ring();
                    rings = true;
                }
                Event::Serve => _ = session.serve(),
            }
        }
        // Every turn serves an interrupt or moves output on, or all is done.
        for _ in 0..4 * (typed.len() + sent.len()) + 8 {
            session.serve();
            session.make_room();
        }
        prop_assert_eq!(session.driver.received, typed);
        prop_assert_eq!(session.output, sent);
        prop_assert_eq!(!session.driver.modem_changes.is_empty(), rings);
    }
}

/// Proves the same with real threads: a feeder, a drainer and a CPU that sleeps until an interrupt, 200 kB each way. A lost
/// wake-up would leave the CPU asleep with work to do.
#[test]
fn threads_lose_nothing() {
    const LEN: usize = 200_000;
    let pattern = |seed: usize| (0..LEN).map(|i| (i.wrapping_mul(31) ^ i >> 8 ^ seed) as u8).collect::<Vec<_>>();
    let (input, output) = (pattern(1), pattern(2));
    let bench = Arc::new(Bench::new(64));
    bench.open();
    let feeder = {
        let (bench, input) = (bench.clone(), input.clone());
        std::thread::spawn(move || {
            let mut rest = &input[..];
            while !rest.is_empty() {
                rest = &rest[bench.port.receive(rest)..];
                if !rest.is_empty() {
                    // The event, not the clock, is what must make progress: refused input waits until it is told.
                    while bench.wanted.0.swap(0, Ordering::SeqCst) == 0 {
                        std::thread::yield_now();
                    }
                }
            }
        })
    };
    let drainer = {
        let bench = bench.clone();
        std::thread::spawn(move || {
            let mut got = Vec::new();
            while got.len() < LEN {
                let some = bench.sink.drain();
                if some.is_empty() {
                    std::thread::yield_now();
                    continue;
                }
                got.extend(some);
                bench.port.sink_has_room();
            }
            got
        })
    };
    let mut driver = Driver { to_send: output.iter().copied().collect(), ..Driver::default() };
    driver.start_sending(&bench);
    while driver.received.len() < LEN || !driver.to_send.is_empty() {
        assert!(bench.cpu.wait(Duration::from_secs(20)), "an interrupt was lost");
        driver.serve(&bench);
    }
    feeder.join().unwrap();
    assert_eq!(driver.received, input);
    assert_eq!(drainer.join().unwrap(), output);
}
