//! The guest's output: a bounded queue the vCPU pushes into and a thread that writes it out.
//!
//! The vCPU never waits for the reader. While the queue is full the UART keeps its byte, as a real one does whose line is
//! held up by flow control, and is called back when there is room again.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::drain::Drain;
use super::ring::Ring;

/// Bytes held between the guest and the reader.
pub const CAPACITY: usize = 64 * 1024;
/// Bytes written at once.
const CHUNK: usize = 16 * 1024;
/// How long the writer gathers bytes after a write. A guest in full flow then costs a system call in this time and not
/// one a byte, and a person still sees the answer to a key before a display shows its next picture.
const GATHER: Duration = Duration::from_micros(500);
/// The writer's stack. It calls little; a panic's message needs the most.
const STACK: usize = 128 * 1024;
/// Wake level of a writer that is awake.
const AWAKE: usize = usize::MAX;

type RoomCallback = Box<dyn Fn() + Send + Sync>;

/// The guest's output. One thread pushes at a time (the UART's lock sees to that); all else may be called by any.
pub struct Output {
    ring: Ring,
    /// Bytes held from which on a push wakes the writer: 1 when it sleeps, half the ring when it gathers.
    wake_level: AtomicUsize,
    /// A push found the ring full, or was told so: someone waits for the room callback.
    starved: AtomicBool,
    started: AtomicBool,
    /// Output goes nowhere, by choice or because the reader is gone.
    discarding: AtomicBool,
    discarded: AtomicU64,
    written: AtomicU64,
    writes: AtomicU64,
    kicked: AtomicBool,
    stopping: AtomicBool,
    flushing: AtomicUsize,
    fault: OnceLock<io::Error>,
    room: OnceLock<RoomCallback>,
    writer: OnceLock<Thread>,
    /// Handed to the writer when it starts; its lock also guards the condition `flush` waits for.
    drain: Mutex<Option<Box<dyn Drain>>>,
    drained: Condvar,
}

/// What went through an [`Output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputStatistics {
    /// Bytes written out.
    pub written: u64,
    /// Bytes accepted from the guest and thrown away because nobody reads.
    pub discarded: u64,
    /// Write calls made.
    pub writes: u64,
}

impl Output {
    /// An output that ends in `drain`. Nothing is written before [`Self::start`].
    pub(super) fn new(drain: Box<dyn Drain>) -> Arc<Self> {
        Arc::new(Self::with(CAPACITY, Some(drain)))
    }

    /// An output nobody reads.
    pub(super) fn nowhere() -> Arc<Self> {
        Arc::new(Self::with(1, None))
    }

    fn with(capacity: usize, drain: Option<Box<dyn Drain>>) -> Self {
        Self {
            ring: Ring::new(capacity),
            wake_level: AtomicUsize::new(AWAKE),
            starved: AtomicBool::new(false),
            started: AtomicBool::new(false),
            discarding: AtomicBool::new(drain.is_none()),
            discarded: AtomicU64::new(0),
            written: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            kicked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            flushing: AtomicUsize::new(0),
            fault: OnceLock::new(),
            room: OnceLock::new(),
            writer: OnceLock::new(),
            drain: Mutex::new(drain),
            drained: Condvar::new(),
        }
    }

    /// Names what to call, from the writer's thread, when there is room again after a push was refused. Only the first
    /// callback counts. It may push.
    pub fn on_room(&self, callback: impl Fn() + Send + Sync + 'static) {
        let _ = self.room.set(Box::new(callback));
    }

    /// Starts the thread that writes, unless it runs already. Until then up to [`CAPACITY`] bytes are kept.
    ///
    /// # Errors
    /// The host refuses another thread; nothing is lost, and a later call may succeed.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        self.start_with(|| true).map(drop)
    }

    /// As [`Self::start`]; the thread calls `first` before all else, and ends at once when that returns `false`. Returns
    /// whether a thread was started.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(super) fn start_with(self: &Arc<Self>, first: impl FnOnce() -> bool + Send + 'static) -> io::Result<bool> {
        if self.discarding.load(Ordering::Relaxed) || self.started.swap(true, Ordering::SeqCst) {
            return Ok(false);
        }
        let output = Arc::clone(self);
        // Allocated here, so that the writer needs no heap arena of its own.
        let chunk = vec![0u8; CHUNK].into_boxed_slice();
        let spawned = thread::Builder::new().name("console".into()).stack_size(STACK).spawn(move || {
            if first() {
                output.run(chunk);
            }
        });
        if let Err(error) = spawned {
            self.started.store(false, Ordering::SeqCst);
            return Err(error);
        }
        Ok(true)
    }

    /// Takes one byte from the guest, or returns `false` when there is no room: the room callback follows.
    #[inline]
    pub fn push(&self, byte: u8) -> bool {
        if self.discarding.load(Ordering::Relaxed) {
            self.discarded.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let Some(held) = self.ring.push(byte).or_else(|| self.push_when_full(byte)) else { return false };
        if held >= self.wake_level.load(Ordering::SeqCst) {
            self.wake();
        }
        true
    }

    /// Whether a push would be taken now. After `false` the room callback follows.
    pub fn has_room(&self) -> bool {
        let room = || self.discarding.load(Ordering::Relaxed) || self.ring.len() < self.ring.capacity();
        room() || {
            self.starved.store(true, Ordering::SeqCst);
            room()
        }
    }

    /// The writer may have made room between the refusal and the note that someone waits, and not seen the note.
    #[cold]
    fn push_when_full(&self, byte: u8) -> Option<usize> {
        self.starved.store(true, Ordering::SeqCst);
        self.ring.push(byte)
    }

    #[cold]
    fn wake(&self) {
        if self.wake_level.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Waits until everything pushed so far is written or discarded, at most until `deadline`; without one, as long as
    /// the reader takes. Returns whether all went out.
    pub fn flush(self: &Arc<Self>, deadline: Option<Instant>) -> bool {
        if self.is_drained() {
            return true;
        }
        if self.start().is_err() {
            return false;
        }
        let mut guard = lock(&self.drain);
        self.flushing.fetch_add(1, Ordering::SeqCst);
        self.unpark();
        while !self.is_drained() {
            let now = Instant::now();
            // A wait without a deadline looks again now and then all the same; it costs nothing.
            let wait = deadline.map_or(Duration::from_secs(1), |end| end.saturating_duration_since(now));
            if wait.is_zero() {
                break;
            }
            guard = self.drained.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.flushing.fetch_sub(1, Ordering::SeqCst);
        self.is_drained()
    }

    fn is_drained(&self) -> bool {
        self.ring.len() == 0 || self.discarding.load(Ordering::SeqCst)
    }

    /// Lets the writer call [`Drain::catch_up`]: a reader has come.
    pub(super) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.unpark();
    }

    /// Lets the writer's thread end. What is not flushed is lost.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.unpark();
    }

    /// Why output is discarded, when an error is the reason.
    pub fn fault(&self) -> Option<&io::Error> {
        self.fault.get()
    }

    /// What went through so far.
    pub fn statistics(&self) -> OutputStatistics {
        // A push may have been under way when the reader was found gone: its byte stays in the ring for ever.
        let stranded = if self.discarding.load(Ordering::SeqCst) { self.ring.len() as u64 } else { 0 };
        OutputStatistics {
            written: self.written.load(Ordering::Relaxed),
            discarded: self.discarded.load(Ordering::Relaxed) + stranded,
            writes: self.writes.load(Ordering::Relaxed),
        }
    }

    /// The writer's life.
    fn run(&self, mut chunk: Box<[u8]>) {
        let _ = self.writer.set(thread::current());
        let Some(mut drain) = lock(&self.drain).take() else { return };
        while !self.stopping.load(Ordering::SeqCst) {
            if self.kicked.swap(false, Ordering::SeqCst)
                && let Err(error) = drain.catch_up()
            {
                return self.give_up(error);
            }
            let count = self.ring.peek(&mut chunk);
            if count == 0 {
                self.sleep();
            } else if let Err(error) = self.write_out(drain.as_mut(), &chunk[..count]) {
                return self.give_up(error);
            } else if count < chunk.len() {
                self.gather();
            }
        }
    }

    fn write_out(&self, drain: &mut dyn Drain, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = drain.write(bytes)?;
            bytes = &bytes[count..];
            self.written.fetch_add(count as u64, Ordering::Relaxed);
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.ring.advance(count);
            self.announce();
        }
        Ok(())
    }

    /// Tells who waits for room, or for the end of all bytes.
    fn announce(&self) {
        let held = self.ring.len();
        if held <= self.ring.capacity() / 2
            && self.starved.swap(false, Ordering::SeqCst)
            && let Some(room) = self.room.get()
        {
            room();
        }
        if held == 0 && self.flushing.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.drain);
            self.drained.notify_all();
        }
    }

    /// Lets bytes gather for a while; a ring half full or a flush ends it early.
    fn gather(&self) {
        self.wake_level.store(self.ring.capacity() / 2, Ordering::SeqCst);
        if self.flushing.load(Ordering::SeqCst) == 0 && self.ring.len() < self.ring.capacity() / 2 {
            thread::park_timeout(GATHER);
        }
        self.wake_level.store(AWAKE, Ordering::SeqCst);
    }

    /// Sleeps until there is something to do.
    fn sleep(&self) {
        self.wake_level.store(1, Ordering::SeqCst);
        let idle = || !self.kicked.load(Ordering::SeqCst) && !self.stopping.load(Ordering::SeqCst);
        if self.ring.len() == 0 && idle() {
            thread::park();
        }
        self.wake_level.store(AWAKE, Ordering::SeqCst);
    }

    /// The reader is gone: everything, now and later, is discarded, so that the guest is never held up.
    fn give_up(&self, error: io::Error) {
        let _ = self.fault.set(error);
        self.discarding.store(true, Ordering::SeqCst);
        let held = self.ring.len();
        self.ring.advance(held);
        self.discarded.fetch_add(held as u64, Ordering::Relaxed);
        self.announce();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
