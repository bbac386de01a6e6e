//! Posted writes: while the guest streams to the serial port, KVM gathers its bytes and spares an exit for each.
//!
//! Order is kept by one rule: before an exit of any vCPU is served, everything gathered is served. So a guest that reads LSR or
//! IIR, or writes any other register, finds its earlier bytes in the UART. What no exit follows, the event loop serves every
//! [`TICK`]. It only does so while bytes flow: gathering starts when the guest has sent [`BURST`] bytes in [`BURST_TIME`], and
//! ends when none came for [`QUIET_TICKS`] ticks. A silent guest costs nothing, and one that sends a few bytes has them shown
//! at once.
//!
//! A driver may wait for the transmitter's interrupt with no exit between; each of its bursts would then last a tick. It is
//! known by ticks that find bytes while exits, as when it looks why it was interrupted, find none: [`PATIENCE`] of these end
//! the gathering for [`HOLD_OFF`]. Ticks without an exit between count less: the vCPU may just be slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvm_ioctls::{IoEventAddress, VmFd};

use super::report::now_ns;
use super::wake::Wake;
use super::write_ring::{ENTRIES, WriteRing};
use crate::bus::Bus;
use crate::devices::uart::{FIFO_DEPTH, TRANSMIT_ROOM};
use crate::layout;

/// Longest time that a gathered byte waits for an exit.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// Bytes that, sent in [`BURST_TIME`], start the gathering.
const BURST: u64 = 64;
const BURST_TIME: Duration = Duration::from_millis(50);
/// Ticks without a byte that end the gathering.
const QUIET_TICKS: u32 = 20;
/// What ends the gathering, too, as the sum over ticks in a row that found what no exit found.
const PATIENCE: u32 = 3 * WAITED;
/// A tick since whose predecessor exits found nothing.
const WAITED: u32 = 7;
/// A tick since whose predecessor there was no exit.
const ALONE: u32 = 1;
/// How long the gathering then stays off.
const HOLD_OFF: Duration = Duration::from_secs(1);

// The UART loses nothing that the page can hold, should the console be full when it is served.
const _: () = assert!(ENTRIES + FIFO_DEPTH <= TRANSMIT_ROOM);

/// What the guest sent, watched for bursts.
pub(super) struct Flow {
    bytes: AtomicU64,
    burst_began: AtomicU64,
    /// A burst was seen and the event loop told.
    bursting: AtomicBool,
    wake: Arc<Wake>,
}

impl Flow {
    /// `wake` is rung when a burst begins.
    pub(super) fn new(wake: Arc<Wake>) -> Self {
        Self { bytes: AtomicU64::new(0), burst_began: AtomicU64::new(0), bursting: AtomicBool::new(false), wake }
    }

    /// A byte was sent. Called by one thread at a time: the UART is locked.
    pub(super) fn byte(&self) {
        let bytes = self.bytes.load(Ordering::Relaxed) + 1;
        self.bytes.store(bytes, Ordering::Relaxed);
        if bytes.is_multiple_of(BURST) {
            self.burst_ends(now_ns());
        }
    }

    /// [`BURST`] bytes more were sent, the last one at `now` nanoseconds.
    fn burst_ends(&self, now: u64) {
        let took = now.saturating_sub(self.burst_began.swap(now, Ordering::Relaxed));
        if u128::from(took) < BURST_TIME.as_nanos() && !self.bursting.swap(true, Ordering::SeqCst) {
            self.wake.wake();
        }
    }
}

/// Whoever gathers: KVM.
pub(super) trait Gather: Send + Sync {
    /// Begins to gather; `false` when it cannot.
    fn start(&self) -> bool;
    /// Gathers no more; when it returns `true`, nobody is adding any more.
    fn stop(&self) -> bool;
}

/// Where the transmitter is: its holding register, the only one whose writes can wait.
const PORT: IoEventAddress = IoEventAddress::Pio(layout::COM1_PORT as u64);

impl Gather for VmFd {
    fn start(&self) -> bool {
        self.register_coalesced_mmio(PORT, 1).is_ok()
    }

    fn stop(&self) -> bool {
        self.unregister_coalesced_mmio(PORT, 1).is_ok()
    }
}

/// The serial port's gathered writes.
pub(super) struct Posted {
    kvm: Arc<dyn Gather>,
    ring: Option<Arc<WriteRing>>,
    /// The page may hold something. Set before KVM gathers, cleared after it has stopped and all is served.
    gathering: AtomicBool,
    /// Writes served so far, and those of them that an exit found.
    served: AtomicU64,
    found_by_exits: AtomicU64,
    /// Exits while something may be gathered.
    exits: AtomicU64,
}

impl Posted {
    /// Nothing is gathered yet, and nothing ever is without a `ring`.
    pub(super) fn new(kvm: Arc<dyn Gather>, ring: Option<Arc<WriteRing>>) -> Self {
        let [served, found_by_exits, exits] = [const { AtomicU64::new(0) }; 3];
        Self { kvm, ring, gathering: AtomicBool::new(false), served, found_by_exits, exits }
    }

    /// Serves what was gathered, before an exit is served. Costs a load while nothing is gathered.
    #[inline]
    pub(super) fn before_exit(&self, ports: &Bus) {
        if self.gathering.load(Ordering::SeqCst) {
            let found = self.serve(ports);
            self.found_by_exits.fetch_add(found, Ordering::Relaxed);
            self.exits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Serves what was gathered; the vCPUs have stopped, so that it is the last.
    pub(super) fn at_end(&self, ports: &Bus) {
        while self.serve(ports) > 0 {}
    }

    /// Writes that were gathered and served.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn serve(&self, ports: &Bus) -> u64 {
        let Some(ring) = &self.ring else { return 0 };
        let found = ring.take(|address, data| _ = ports.write(address, data)) as u64;
        if found > 0 {
            self.served.fetch_add(found, Ordering::Relaxed);
        }
        found
    }

    /// Lets KVM gather; `false` when it does not.
    fn start(&self) -> bool {
        if self.ring.is_none() {
            return false;
        }
        self.gathering.store(true, Ordering::SeqCst);
        let started = self.kvm.start();
        if !started {
            self.gathering.store(false, Ordering::SeqCst);
        }
        started
    }

    /// KVM gathers no more; what it has is served.
    fn stop(&self, ports: &Bus) {
        // KVM cannot refuse; if it did, it would go on to gather, and be heeded.
        if self.kvm.stop() {
            self.serve(ports);
            self.gathering.store(false, Ordering::SeqCst);
        }
    }
}

/// When KVM gathers; the event loop's.
pub(super) struct Gathering {
    flow: Arc<Flow>,
    state: State,
    /// What the last tick saw.
    bytes: u64,
    found_by_exits: u64,
    /// Exits when a tick or an exit last found something.
    exits: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Each write is an exit; gathering does not start before then.
    Off { until: Option<Instant> },
    /// KVM does not gather.
    Never,
    /// KVM gathers.
    On { next: Instant, quiet: u32, starved: u32 },
}

impl Gathering {
    pub(super) fn new(flow: Arc<Flow>) -> Self {
        Self { flow, state: State::Off { until: None }, bytes: 0, found_by_exits: 0, exits: 0 }
    }

    /// How long the event loop may sleep from `now` on; `None` for as long as it likes.
    pub(super) fn look_again(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::On { next, .. } => Some(next.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// To be called whenever the event loop is awake.
    pub(super) fn turn(&mut self, now: Instant, posted: &Posted, ports: &Bus) {
        match self.state {
            State::On { next, .. } if now >= next => self.tick(now, posted, ports),
            State::Off { until } if self.flow.bursting.load(Ordering::SeqCst) => {
                if until.is_none_or(|until| now >= until) {
                    self.start(now, posted);
                } else {
                    // The next burst asks again.
                    self.flow.bursting.store(false, Ordering::SeqCst);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, now: Instant, posted: &Posted) {
        self.state = match posted.start() {
            true => State::On { next: now + TICK, quiet: 0, starved: 0 },
            // `bursting` stays set, and nobody is woken for this again.
            false => State::Never,
        };
        self.bytes = self.flow.bytes.load(Ordering::Relaxed);
        self.found_by_exits = posted.found_by_exits.load(Ordering::Relaxed);
        self.exits = posted.exits.load(Ordering::Relaxed);
    }

    fn tick(&mut self, now: Instant, posted: &Posted, ports: &Bus) {
        let State::On { quiet, starved, .. } = self.state else { return };
        let by_exits = posted.found_by_exits.load(Ordering::Relaxed);
        let found = posted.serve(ports);
        let bytes = self.flow.bytes.load(Ordering::Relaxed);
        let quiet = if found == 0 && bytes == self.bytes { quiet + 1 } else { 0 };
        let exits = posted.exits.load(Ordering::Relaxed);
        let starved = match found {
            _ if by_exits != self.found_by_exits => 0,
            0 => starved,
            _ if exits != self.exits => starved + WAITED,
            _ => starved + ALONE,
        };
        if found > 0 || by_exits != self.found_by_exits {
            self.exits = exits;
        }
        (self.bytes, self.found_by_exits) = (bytes, by_exits);
        self.state = State::On { next: now + TICK, quiet, starved };
        if quiet >= QUIET_TICKS || starved >= PATIENCE {
            posted.stop(ports);
            self.state = State::Off { until: (starved >= PATIENCE).then_some(now + HOLD_OFF) };
            self.flow.bursting.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
#[path = "posted_tests.rs"]
mod tests;
