//! Several starts at once: how many a second, and how long each takes then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::attempt::{self, Stamps};
use super::subjects::{Order, Shape, Subject};
use crate::bench::child::Stop;
use crate::bench::clock::Instant;
use crate::bench::statistics::{Sample, Summary};

/// Fewest starts at a level, so that few at once give a figure too.
const STARTS_MIN: u32 = 16;
/// Starts at a level, for each that goes on at the same time.
const ROUNDS: u32 = 3;

/// One subject, so many at once.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// The group's name.
    pub group: &'static str,
    /// The subject's name.
    pub subject: String,
    /// How many go on at the same time.
    pub at_once: u32,
    /// How many were made in all.
    pub starts: u32,
    /// Finished starts a second, from the first's beginning to the last's end.
    pub per_second: f64,
    /// From exec to the payload's line, in microseconds.
    pub userspace_us: Sample,
    /// What a table shows of it.
    pub userspace: Option<Summary>,
    /// From exec to exit, in microseconds.
    pub exit_us: Sample,
    /// What a table shows of it.
    pub exit: Option<Summary>,
    /// Starts that failed.
    pub failures: Vec<String>,
}

/// How many starts are made at a level.
pub fn starts(at_once: u32) -> u32 {
    at_once.saturating_mul(ROUNDS).max(STARTS_MIN)
}

/// Keeps `at_once` starts going until [`starts`] have been made.
pub fn run(
    group: &'static str,
    subject: &dyn Subject,
    shape: Shape,
    marker: &[u8],
    at_once: u32,
    patience: Duration,
    stop: &Stop,
) -> Load {
    let starts = starts(at_once);
    let next = AtomicU32::new(0);
    let done: Mutex<Vec<Result<Stamps, String>>> = Mutex::default();
    let worker = || {
        while !stop.requested() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= starts {
                return;
            }
            let id = format!("rf-{}-{at_once}-{number}", std::process::id());
            let order = Order { shape, hold: false, report: None, id: &id };
            let result = subject.attempt(&order).and_then(|mut a| attempt::run(&mut a, marker, patience, stop));
            let result = result.map_err(|error| format!("start {number} of {starts}: {error}"));
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
        }
    };
    std::thread::scope(|scope| (0..at_once.min(starts)).for_each(|_| drop(scope.spawn(worker))));
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    judge(group, subject.name(), at_once, starts, done)
}

fn judge(group: &'static str, subject: &str, at_once: u32, starts: u32, done: Vec<Result<Stamps, String>>) -> Load {
    let us = |from: Instant, to: Instant| to.since(from).as_secs_f64() * 1e6;
    let (mut failures, mut good) = (Vec::new(), Vec::new());
    for result in done {
        match result {
            Ok(stamps) => good.push(stamps),
            Err(reason) => failures.push(reason),
        }
    }
    let userspace_us = Sample::new(good.iter().map(|stamps| us(stamps.start, stamps.line)).collect());
    let exit_us = Sample::new(good.iter().filter_map(|stamps| Some(us(stamps.start, stamps.end?))).collect());
    let first = good.iter().map(|stamps| stamps.start).min();
    let last = good.iter().map(|stamps| stamps.end.unwrap_or(stamps.line)).max();
    let whole = first.zip(last).map_or(f64::NAN, |(first, last)| us(first, last) / 1e6);
    Load {
        group,
        subject: subject.to_owned(),
        at_once,
        starts,
        per_second: good.len() as f64 / whole,
        userspace: userspace_us.summary(),
        userspace_us,
        exit: exit_us.summary(),
        exit_us,
        failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the rate is of finished starts over the whole time, and that failures are kept apart.
    #[test]
    fn rates_are_over_the_whole_time() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let stamps = |start, line, end| Ok(Stamps { start: at(start), line: at(line), end: Some(at(end)) });
        let done = vec![stamps(100, 110, 120), stamps(100, 115, 130), stamps(120, 130, 150), Err("no".to_owned())];
        let load = judge("linux", "x", 2, 4, done);
        assert!((load.per_second - 60.0).abs() < 1e-9, "{load:?}");
        assert_eq!((load.exit_us.len(), load.failures.len()), (3, 1));
        assert_eq!(load.userspace_us.values(), [10_000.0, 15_000.0, 10_000.0]);
        assert_eq!([starts(1), starts(4), starts(64)], [16, 16, 192]);
    }
}
