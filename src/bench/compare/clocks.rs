//! When a piece of work ran, by the host's clock: the time-stamp counter of whoever ran it against CLOCK_MONOTONIC of the host.
//!
//! A container's work reads that very clock. A guest's rings the monitor's boot timer, and the monitor notes the host's time of
//! the ring. Either way the host's time was taken between two readings of the counter, so that no delay and no offset of a
//! hypervisor's needs to be known: the counter's value at that time lies between the two, and how far they are apart bounds
//! the error. This is done before the first piece and after the last; the line through both is the map.

use serde::Serialize;
use thiserror::Error;

use super::work::{Anchor, Record};
use crate::bench::clock::Instant;

/// A map less certain than this says too little, in nanoseconds.
const UNCERTAINTY_MAX_NS: f64 = 20e6;

/// Why pieces cannot be told from each other by when they ran.
#[derive(Debug, Error, PartialEq)]
pub enum ClockError {
    /// A guest's rings are not in the monitor's report.
    #[error("the guest rang its monitor's boot timer with {0} and the monitor did not hear it; run it again")]
    NotHeard(u64),
    /// It did not ring at all.
    #[error(
        "the guest's kernel lets nobody write to an I/O port (ioperm(2), /dev/port), so that its clock can't be told"
    )]
    NoBell,
    /// The readings took too long.
    #[error("the counter can be told only to {:.1} ms of the host's time; is the machine overloaded?", .0 / 1e6)]
    Uncertain(f64),
    /// The times lie outside of the run.
    #[error("the work's times lie outside of its run by the host's clock; is it in a time namespace of its own?")]
    Elsewhere,
}

/// The line between a time-stamp counter and the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HostClock {
    /// Counts in a second of the host.
    pub counts_per_second: f64,
    /// A time is off by this at most, in nanoseconds.
    pub uncertainty_ns: f64,
    #[serde(skip)]
    counter: f64,
    #[serde(skip)]
    host_ns: f64,
}

impl HostClock {
    /// The map of a container's work, whose clock is the host's.
    ///
    /// # Errors
    /// [`ClockError`].
    pub fn of_container(record: &Record, began: Instant, ended: Instant) -> Result<Self, ClockError> {
        Self::through(record.clocks, began, ended)
    }

    /// The map of a guest's work. `rings` is what the monitor heard: the byte, and when by the host's clock in nanoseconds.
    ///
    /// # Errors
    /// [`ClockError`].
    pub fn of_guest(record: &Record, rings: &[(u8, u64)], began: Instant, ended: Instant) -> Result<Self, ClockError> {
        let heard = |anchor: Anchor| {
            let ring = rings.iter().find(|(byte, _)| u64::from(*byte) == anchor.told);
            ring.map(|(_, at)| Anchor { told: *at, ..anchor }).ok_or(ClockError::NotHeard(anchor.told))
        };
        let [first, last] = record.rings.ok_or(ClockError::NoBell)?;
        Self::through([heard(first)?, heard(last)?], began, ended)
    }

    /// The line through two anchors that tell the host's time; the run lies between `began` and `ended`.
    fn through([first, last]: [Anchor; 2], began: Instant, ended: Instant) -> Result<Self, ClockError> {
        let middle = |anchor: Anchor| anchor.before as f64 + anchor.took as f64 / 2.0;
        let (counts, ns) = (middle(last) - middle(first), last.told as f64 - first.told as f64);
        let inside = began.as_nanos() <= first.told && last.told <= ended.as_nanos();
        if !inside || counts <= 0.0 || ns <= 0.0 {
            return Err(ClockError::Elsewhere);
        }
        let per_count = ns / counts;
        let uncertainty_ns = first.took.max(last.took) as f64 / 2.0 * per_count;
        if uncertainty_ns > UNCERTAINTY_MAX_NS {
            return Err(ClockError::Uncertain(uncertainty_ns));
        }
        let (counter, host_ns) = (middle(first), first.told as f64);
        Ok(Self { counts_per_second: 1e9 / per_count, uncertainty_ns, counter, host_ns })
    }

    /// The host's time at which the counter was `stamp`.
    pub fn at(&self, stamp: u64) -> Instant {
        let ns = self.host_ns + (stamp as f64 - self.counter) / self.counts_per_second * 1e9;
        Instant::from_nanos(ns.max(0.0) as u64)
    }

    /// A difference of the counter in microseconds, to the nanosecond.
    pub fn us(&self, counts: u64) -> f64 {
        (counts as f64 / self.counts_per_second * 1e9).round() / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest whose counter is 2 GHz and 7e9 ahead, and whose rings took `took` counts.
    fn guest(took: u64) -> Record {
        let anchor = |ns: u64, told| Anchor { before: 7_000_000_000 + 2 * ns - took / 2, took, told };
        Record {
            stamps: vec![7_000_000_000, 7_000_200_000],
            clocks: [anchor(0, 55), anchor(4_000_000_000, 4_000_000_055)],
            rings: Some([anchor(1000, 128), anchor(4_000_000_000, 133)]),
        }
    }

    const BEGAN: Instant = Instant::from_nanos(500);
    const ENDED: Instant = Instant::from_nanos(5_000_000_000);
    const HEARD: [(u8, u64); 4] = [(1, 600), (128, 1000), (129, 1100), (133, 4_000_000_000)];

    /// Proves that a guest's counter, whatever its offset, becomes the host's time by what the monitor heard, to within what the
    /// rings took.
    #[test]
    fn a_guests_counter_becomes_the_hosts_time() {
        let clock = HostClock::of_guest(&guest(2000), &HEARD, BEGAN, ENDED).unwrap();
        assert!((clock.counts_per_second - 2e9).abs() < 1.0 && (clock.uncertainty_ns - 500.0).abs() < 1e-3);
        assert_eq!(clock.at(7_000_000_000 + 2_000_000_000).as_nanos(), 1_000_000_000);
        assert_eq!(clock.us(200_001), 100.001);
    }

    /// Proves that a map that says nothing is refused, with the reason.
    #[test]
    fn a_map_that_says_nothing_is_refused() {
        let of = |record: &Record, heard: &[(u8, u64)]| HostClock::of_guest(record, heard, BEGAN, ENDED).unwrap_err();
        assert_eq!(of(&guest(2000), &HEARD[..2]), ClockError::NotHeard(133));
        assert_eq!(of(&Record { rings: None, ..guest(2000) }, &HEARD), ClockError::NoBell);
        assert!(matches!(of(&guest(200_000_000), &HEARD), ClockError::Uncertain(_)));
        assert_eq!(of(&guest(2000), &[(128, 1000), (133, 6_000_000_000)]), ClockError::Elsewhere);
        assert_eq!(of(&guest(2000), &[(128, 1000), (133, 1000)]), ClockError::Elsewhere);
        let elsewhere = HostClock::of_container(&guest(2000), BEGAN, ENDED);
        assert_eq!(elsewhere, Err(ClockError::Elsewhere), "a clock that began before the run is not the host's");
    }
}
