//! Boot timer: the guest rings a bell, the host's clock tells the time. ringfence's own device.

use std::sync::Mutex;

use super::lock;
use crate::bus::Device;

/// A milestone the guest reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milestone {
    /// The byte that was written: which phase was reached.
    pub phase: u8,
    /// When, in nanoseconds of the clock the timer was made with.
    pub at_ns: u64,
}

impl Milestone {
    /// Userspace runs.
    pub const USERSPACE: u8 = 0x01;
    /// The payload is about to be executed.
    pub const PAYLOAD: u8 = 0x02;
}

/// The boot timer port. Keeps the first [`BootTimer::CAPACITY`] milestones; a guest that rings on is only counted.
pub struct BootTimer {
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    rung: Box<dyn Fn() + Send + Sync>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    milestones: Vec<Milestone>,
    dropped: u64,
}

impl BootTimer {
    /// Most milestones that are kept.
    pub const CAPACITY: usize = 64;

    /// A timer that reads `clock`, in nanoseconds: CLOCK_MONOTONIC, to be comparable with the monitor's own phases. `rung` is
    /// called after each ring, when [`Self::milestones`] tells of it.
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static, rung: impl Fn() + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), rung: Box::new(rung), record: Mutex::default() }
    }

    /// The milestones so far, in the order they were reached.
    pub fn milestones(&self) -> Vec<Milestone> {
        lock(&self.record).milestones.clone()
    }

    /// How many milestones came after the record was full.
    pub fn dropped(&self) -> u64 {
        lock(&self.record).dropped
    }
}

impl Device for BootTimer {
    /// Write-only.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at_ns = (self.clock)();
        let (0, Some(&phase)) = (offset, data.first()) else { return };
        let mut record = lock(&self.record);
        if record.milestones.len() < Self::CAPACITY {
            record.milestones.push(Milestone { phase, at_ns });
        } else {
            record.dropped = record.dropped.saturating_add(1);
        }
        drop(record);
        (self.rung)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Weak};

    use super::*;

    fn ticking() -> BootTimer {
        let clock = AtomicU64::new(0);
        BootTimer::new(move || clock.fetch_add(10, Ordering::Relaxed), || ())
    }

    /// Proves that milestones are kept in order with the clock's time, whatever the width of the write.
    #[test]
    fn milestones_are_timed() {
        let timer = ticking();
        timer.write(0, &[Milestone::USERSPACE]);
        timer.write(0, &[Milestone::PAYLOAD, 0, 0, 0]);
        let expected = [Milestone { phase: 1, at_ns: 0 }, Milestone { phase: 2, at_ns: 10 }];
        assert_eq!(timer.milestones(), expected);
        let mut data = [0; 4];
        timer.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    /// Proves that whoever is told of a ring finds its milestone: told before, it would look, find none and sleep on.
    #[test]
    fn who_hears_of_a_ring_finds_it() {
        let heard = Arc::new(AtomicU64::new(0));
        let timer = Arc::new_cyclic(|timer: &Weak<BootTimer>| {
            let (timer, heard) = (timer.clone(), heard.clone());
            let count = move || timer.upgrade().map_or(0, |timer| timer.milestones().len() as u64);
            BootTimer::new(|| 0, move || heard.store(count(), Ordering::Relaxed))
        });
        for count in 1..4 {
            timer.write(0, &[Milestone::PAYLOAD]);
            assert_eq!(heard.load(Ordering::Relaxed), count);
        }
    }

    /// Proves that a guest that rings for ever costs no memory.
    #[test]
    fn the_record_is_bounded() {
        let timer = ticking();
        (0..1000).for_each(|i| timer.write(0, &[i as u8]));
        assert_eq!(timer.milestones().len(), BootTimer::CAPACITY);
        assert_eq!(timer.milestones()[63], Milestone { phase: 63, at_ns: 630 });
        assert_eq!(timer.dropped(), 1000 - 64);
    }
}
