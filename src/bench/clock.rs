//! The one clock everything is timed by: CLOCK_MONOTONIC, which children and the guest's monitor read as well.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time, in nanoseconds since the host started (clock_gettime(2), CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// The point that a child wrote down, in nanoseconds of the same clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the host started.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// From `earlier` until this point; zero when it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// From this point until now.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the clock is the system's monotonic one, in nanoseconds, and never runs back.
    #[test]
    fn it_is_the_monotonic_clock() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let start = Instant::now();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // CLOCK_MONOTONIC leaves out the time a machine was suspended; uptime does not.
        assert!(start.as_nanos() as f64 / 1e9 <= uptime + 1.0);
        std::thread::sleep(Duration::from_millis(2));
        assert!(start.elapsed() >= Duration::from_millis(2));
        assert_eq!(start.since(Instant::now()), Duration::ZERO);
        assert_eq!(Instant::from_nanos(7).as_nanos(), 7);
    }
}
