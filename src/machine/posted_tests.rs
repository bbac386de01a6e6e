use std::collections::VecDeque;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::bus::InterruptLine;
use crate::devices::{ByteSink, SerialEvents, SerialPort};

const DATA: u64 = layout::COM1_PORT as u64;
const IER: u64 = DATA + 1;
const IIR_FCR: u64 = DATA + 2;
const LSR: u64 = DATA + 5;

/// Stands for KVM: gathers into the page while it is on.
#[derive(Default)]
struct Kvm {
    on: AtomicBool,
    /// KVM's lock of the page.
    adding: Mutex<()>,
    refuses: bool,
}

impl Gather for Kvm {
    fn start(&self) -> bool {
        let _adding = self.adding.lock().unwrap();
        self.on.store(!self.refuses, Ordering::SeqCst);
        !self.refuses
    }

    fn stop(&self) -> bool {
        let _adding = self.adding.lock().unwrap();
        self.on.store(false, Ordering::SeqCst);
        true
    }
}

/// A console of a given capacity.
struct Sink {
    capacity: usize,
    held: Mutex<VecDeque<u8>>,
    flow: Arc<Flow>,
}

impl ByteSink for Sink {
    fn push(&self, byte: u8) -> bool {
        self.flow.byte();
        let mut held = self.held.lock().unwrap();
        let room = held.len() < self.capacity;
        if room {
            held.push_back(byte);
        }
        room
    }

    fn has_room(&self) -> bool {
        self.held.lock().unwrap().len() < self.capacity
    }
}

/// An edge-triggered interrupt input.
#[derive(Default)]
struct Edge {
    level: AtomicBool,
    risen: AtomicBool,
}

impl InterruptLine for Edge {
    fn set_level(&self, high: bool) {
        if high && !self.level.swap(high, Ordering::SeqCst) {
            self.risen.store(true, Ordering::SeqCst);
        }
        self.level.store(high, Ordering::SeqCst);
    }
}

struct Quiet;

impl SerialEvents for Quiet {
    fn input_wanted(&self) {}
}

/// A serial port on a bus whose writes a stand-in for KVM gathers, as a guest sees it.
struct Bench {
    kvm: Arc<Kvm>,
    ring: Arc<WriteRing>,
    posted: Posted,
    ports: Bus,
    port: Arc<SerialPort>,
    sink: Arc<Sink>,
    line: Arc<Edge>,
    flow: Arc<Flow>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        Self::on(capacity, Kvm::default())
    }

    fn on(capacity: usize, kvm: Kvm) -> Self {
        let kvm = Arc::new(kvm);
        let ring = Arc::new(WriteRing::anonymous());
        let flow = Arc::new(Flow::new(Arc::new(Wake::new().unwrap())));
        let sink = Arc::new(Sink { capacity, held: Mutex::default(), flow: flow.clone() });
        let line = Arc::new(Edge::default());
        let port = Arc::new(SerialPort::new(line.clone(), sink.clone(), Arc::new(Quiet)));
        let mut ports = Bus::new();
        ports.insert(DATA, u64::from(layout::COM1_PORT_COUNT), port.clone()).unwrap();
        let posted = Posted::new(kvm.clone(), Some(ring.clone()));
        Self { kvm, ring, posted, ports, port, sink, line, flow }
    }

    /// A write by the guest; returns whether it was gathered.
    fn outb(&self, port: u64, value: u8) -> bool {
        if port == DATA {
            let _adding = self.kvm.adding.lock().unwrap();
            if self.kvm.on.load(Ordering::SeqCst) && self.ring.gather(port, &[value]) {
                return true;
            }
        }
        self.posted.before_exit(&self.ports);
        self.ports.write(port, &[value]);
        false
    }

    fn inb(&self, port: u64) -> u8 {
        self.posted.before_exit(&self.ports);
        let mut data = [0];
        self.ports.read(port, &mut data);
        data[0]
    }

    /// The console writes out what it holds.
    fn write_out(&self) -> Vec<u8> {
        let out = self.sink.held.lock().unwrap().drain(..).collect();
        self.port.sink_has_room();
        out
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The guest looks whether the transmitter is empty, and then sends this many bytes without looking again.
    Send(usize),
    /// It resets the transmit FIFO.
    Reset,
    /// The event loop serves.
    Tick,
    /// The console writes out.
    Room,
    /// Gathering starts or ends.
    Start,
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..=FIFO_DEPTH).prop_map(Event::Send),
        2 => (1..=ENTRIES).prop_map(Event::Send),
        1 => Just(Event::Reset),
        2 => Just(Event::Tick),
        2 => Just(Event::Room),
        1 => Just(Event::Start),
        1 => Just(Event::Stop),
    ]
}

proptest! {
    /// Proves that no byte that the guest sends after it saw THRE is lost or reordered, up to a page of them, whatever the order
    /// of gathered writes, exits, ticks, full and emptied consoles, and starts and stops of the gathering. A reset of the
    /// transmit FIFO drops exactly what the transmitter held: nothing that was sent before and taken by the console, and nothing
    /// that is sent after.
    #[test]
    fn nothing_is_lost_or_reordered(events in proptest::collection::vec(event(), 1..80), capacity in 1usize..300) {
        let bench = Bench::new(capacity);
        bench.outb(IIR_FCR, 0x01);
        let (mut next, mut expected, mut out) = (0u8, Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Send(count) => {
                    if bench.inb(LSR) & 0x20 == 0 {
                        continue;
                    }
                    for _ in 0..count {
                        bench.outb(DATA, next);
                        expected.push(next);
                        next = next.wrapping_mul(5).wrapping_add(3);
                    }
                }
                Event::Reset => {
                    bench.posted.before_exit(&bench.ports);
                    let held = bench.port.state().tx;
                    bench.outb(IIR_FCR, 0x05);
                    let dropped = expected.split_off(expected.len() - held.len());
                    prop_assert_eq!(dropped, held);
                }
                Event::Tick => _ = bench.posted.serve(&bench.ports),
                Event::Room => out.extend(bench.write_out()),
                Event::Start if !bench.kvm.on.load(Ordering::SeqCst) => prop_assert!(bench.posted.start()),
                Event::Stop if bench.kvm.on.load(Ordering::SeqCst) => bench.posted.stop(&bench.ports),
                Event::Start | Event::Stop => {}
            }
            prop_assert!(bench.port.state().tx.len() < TRANSMIT_ROOM);
        }
        bench.posted.at_end(&bench.ports);
        while !bench.port.is_drained() || !bench.sink.held.lock().unwrap().is_empty() {
            out.extend(bench.write_out());
        }
        prop_assert_eq!(out, expected);
        prop_assert!(bench.ring.is_empty());
    }

    /// Proves that no THRE interrupt is lost: a driver that sends only when one comes, and then sixteen bytes, sends all it
    /// has, when nothing but ticks and room in the console goes on.
    #[test]
    fn the_transmitter_asks_for_more(bytes in proptest::collection::vec(any::<u8>(), 1..400), capacity in 1usize..40) {
        let bench = Bench::new(capacity);
        prop_assert!(bench.posted.start());
        bench.outb(IIR_FCR, 0x01);
        bench.outb(IER, 0x02);
        let (mut rest, mut out) = (bytes.chunks(FIFO_DEPTH), Vec::new());
        for turn in 0..4 * bytes.len() + 8 {
            if bench.line.risen.swap(false, Ordering::SeqCst) && bench.inb(IIR_FCR) & 0x0f == 0x02 {
                rest.next().into_iter().flatten().for_each(|&byte| _ = bench.outb(DATA, byte));
            }
            match turn % 2 {
                0 => _ = bench.posted.serve(&bench.ports),
                _ => out.extend(bench.write_out()),
            }
        }
        prop_assert_eq!(out, bytes);
    }
}

/// Proves that a full page makes exits, in order, and that one serving is bounded by the page.
#[test]
fn a_full_page_makes_exits() {
    let bench = Bench::new(usize::MAX);
    assert!(bench.posted.start());
    let gathered: Vec<bool> = (0..ENTRIES).map(|i| bench.outb(DATA, i as u8)).collect();
    assert!(gathered[..ENTRIES - 1].iter().all(|g| *g) && !gathered[ENTRIES - 1], "the page holds {}", ENTRIES - 1);
    assert_eq!(bench.write_out(), (0..ENTRIES).map(|i| i as u8).collect::<Vec<_>>());
    assert_eq!(bench.posted.served(), ENTRIES as u64 - 1);
}

/// Proves that divisor writes and loopback, which go through the same port, keep their order with gathered bytes.
#[test]
fn registers_behind_the_same_port_keep_their_order() {
    const LCR: u64 = DATA + 3;
    const MCR: u64 = DATA + 4;
    let bench = Bench::new(usize::MAX);
    assert!(bench.posted.start());
    assert!(bench.outb(DATA, b'a'));
    bench.outb(LCR, 0x83);
    assert!(bench.outb(DATA, 12));
    bench.outb(LCR, 0x03);
    assert!(bench.outb(DATA, b'b'));
    bench.outb(MCR, 0x10);
    assert!(bench.outb(DATA, b'c'));
    assert_eq!(bench.inb(DATA), b'c', "loopback");
    bench.outb(MCR, 0);
    assert!(bench.outb(DATA, b'd'));
    bench.posted.at_end(&bench.ports);
    assert_eq!((bench.write_out(), bench.port.state().divisor), (b"abd".to_vec(), 12));
}

/// Proves that several vCPUs and the event loop, at once, lose nothing and keep each vCPU's order.
#[test]
fn vcpus_and_the_event_loop_at_once() {
    const EACH: u32 = 60_000;
    let bench = Bench::new(usize::MAX);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..3u8)
            .map(|id| {
                let bench = &bench;
                scope.spawn(move || {
                    for i in 0..EACH {
                        bench.outb(DATA, id << 6 | (i % 61) as u8);
                        if i % 50 == 0 {
                            bench.inb(LSR);
                        }
                    }
                })
            })
            .collect();
        let (bench, done) = (&bench, &done);
        let event_loop = scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                assert!(bench.posted.start());
                for _ in 0..50 {
                    bench.posted.serve(&bench.ports);
                    std::thread::yield_now();
                }
                bench.posted.stop(&bench.ports);
                assert!(bench.ring.is_empty());
            }
        });
        vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
        done.store(true, Ordering::SeqCst);
        event_loop.join().unwrap();
    });
    let out = bench.write_out();
    assert!(bench.posted.served() > 0, "something was gathered");
    for id in 0..3u8 {
        let sent: Vec<u8> = out.iter().filter(|b| *b >> 6 == id).map(|b| b & 0x3f).collect();
        assert_eq!(sent, (0..EACH).map(|i| (i % 61) as u8).collect::<Vec<_>>(), "vCPU {id}");
    }
}

/// A clock that only moves when told.
struct Loop {
    bench: Bench,
    gathering: Gathering,
    now: Instant,
}

impl Loop {
    fn new(kvm: Kvm) -> Self {
        let bench = Bench::on(usize::MAX, kvm);
        let gathering = Gathering::new(bench.flow.clone());
        Self { bench, gathering, now: Instant::now() }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.gathering.turn(self.now, &self.bench.posted, &self.bench.ports);
    }

    fn send(&self, count: u64) {
        (0..count).for_each(|_| _ = self.bench.outb(DATA, 0));
    }

    fn gathers(&self) -> bool {
        self.bench.kvm.on.load(Ordering::SeqCst)
    }
}

/// Proves that a guest in full flow has its bytes gathered, that they are shown each tick, that silence ends it, and that a
/// silent guest then wakes nobody.
#[test]
fn gathering_follows_the_flow() {
    let mut events = Loop::new(Kvm::default());
    events.send(BURST - 1);
    events.pass(TICK);
    assert!(!events.gathers() && events.gathering.look_again(events.now).is_none(), "a few bytes are shown at once");
    // The first burst counts from the machine's start; the second is fast.
    events.send(BURST + 1);
    events.pass(Duration::ZERO);
    assert!(events.gathers());
    assert_eq!(events.gathering.look_again(events.now), Some(TICK));
    for _ in 0..10 {
        events.bench.write_out();
        events.send(30);
        events.bench.inb(LSR);
        events.send(5);
        events.pass(TICK);
        assert_eq!(events.bench.write_out().len(), 35, "nothing waits longer than a tick");
    }
    assert!(events.gathers());
    for _ in 0..QUIET_TICKS {
        assert!(events.gathers());
        events.pass(TICK);
    }
    assert!(!events.gathers() && events.gathering.look_again(events.now).is_none());
    events.send(2 * BURST);
    events.pass(TICK);
    assert!(events.gathers(), "and it starts again");
}

/// Proves that a driver that waits for the transmitter's interrupt, with no exit between, is soon served by exits again.
#[test]
fn a_driver_that_waits_is_not_held_up() {
    let mut events = Loop::new(Kvm::default());
    events.send(2 * BURST);
    events.pass(TICK);
    for _ in 0..PATIENCE / WAITED {
        assert!(events.gathers());
        assert_eq!(events.bench.inb(IIR_FCR) & 0x0f, 0x01);
        events.send(16);
        events.pass(TICK);
    }
    assert!(!events.gathers());
    for _ in 0..20 {
        events.send(BURST);
        events.pass(HOLD_OFF / 40);
        assert!(!events.gathers());
    }
    events.send(BURST);
    events.pass(HOLD_OFF);
    assert!(events.gathers(), "it is tried again later");
}

/// Proves that a vCPU that gets little of its CPU, so that it fills its bursts over several ticks, is not taken for one that
/// waits; and that one that makes no exit at all is, after a while.
#[test]
fn a_slow_driver_does_not_wait() {
    let mut events = Loop::new(Kvm::default());
    events.send(2 * BURST);
    events.pass(TICK);
    for _ in 0..100 {
        for _ in 0..4 {
            events.send(4);
            events.pass(TICK);
            events.pass(TICK);
        }
        events.send(1);
        events.bench.inb(IIR_FCR);
        events.pass(TICK);
        assert!(events.gathers());
    }
    for _ in 0..PATIENCE {
        assert!(events.gathers());
        events.send(16);
        events.pass(TICK);
    }
    assert!(!events.gathers());
}

/// Proves that a slow flow is no burst.
#[test]
fn a_slow_flow_is_left_alone() {
    let flow = Flow::new(Arc::new(Wake::new().unwrap()));
    let slow = BURST_TIME.as_nanos() as u64;
    (1..100).for_each(|i| flow.burst_ends(i * slow));
    assert!(!flow.bursting.load(Ordering::SeqCst));
    flow.burst_ends(100 * slow - 1);
    assert!(flow.bursting.load(Ordering::SeqCst));
}

/// Proves that without KVM's help each write is an exit, and that it is asked for help once.
#[test]
fn without_kvm_all_goes_on() {
    let mut events = Loop::new(Kvm { refuses: true, ..Kvm::default() });
    for _ in 0..10 {
        events.send(BURST);
        events.pass(TICK);
        assert!(events.gathering.look_again(events.now).is_none());
    }
    assert_eq!(events.gathering.state, State::Never);
    assert_eq!(events.bench.write_out().len() as u64, 10 * BURST);
}
