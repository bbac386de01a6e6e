//! Slices of time with and without the neighbour, and which piece of work ran in which.
//!
//! A piece belongs to the slice in which it began. One that began shortly before the neighbour was switched, or shortly after, is
//! dropped and counted: the margin is more than a piece takes, so that a piece that began before it and still ran at the switch was
//! held up before. Dropping pieces by when they ended would drop the long ones, which are what is looked for.

use std::time::Duration;

use serde::Serialize;

use super::clocks::HostClock;
use crate::bench::clock::Instant;
use crate::bench::paired::Pair;
use crate::bench::statistics::Sample;

/// How long a slice lasts.
pub const SLICE: Duration = Duration::from_millis(100);
/// Pieces that begin this much before or after a switch are dropped, and those within the clocks' error more.
pub const MARGIN: Duration = Duration::from_millis(2);
/// A pair in which a slice has fewer pieces tells no 99th percentile.
const PIECES_MIN: usize = 100;
/// The share of a stopped neighbour's slice in which it may have run.
const STOPPED: f64 = 0.001;
/// The share of its CPUs' time that a running neighbour must have had.
const RUNNING: f64 = 0.05;

/// Whether the neighbour runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Company {
    /// It does not.
    Alone,
    /// It does.
    Beside,
}

/// A time in which the neighbour ran or was stopped throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice {
    /// Which of the two.
    pub company: Company,
    /// When it was sure to be so.
    pub from: Instant,
    /// Until just before it was asked to be otherwise.
    pub to: Instant,
    /// CPU time the neighbour had in it.
    pub neighbour: Duration,
    /// Time that this machine's own host took from each of the subject's CPUs (`/proc/stat`), in all.
    pub steal: Duration,
}

impl Slice {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }

    /// Whether the neighbour, of so many CPUs, did what it was told, by its own CPU time.
    fn is_true(&self, cpus: usize) -> bool {
        let ran = self.neighbour.as_secs_f64() / self.length().as_secs_f64().max(1e-9);
        match self.company {
            Company::Alone => ran <= STOPPED,
            Company::Beside => ran >= RUNNING * cpus as f64,
        }
    }
}

/// Alone and beside in turns, two pairs at a time: one pair the one way about and one the other, so that a steady drift cancels out;
/// which of them comes first is drawn, so that nothing periodic falls in step.
pub fn order(seed: u64) -> impl Iterator<Item = Company> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        let (a, b) = if rng.bool() { (Company::Alone, Company::Beside) } else { (Company::Beside, Company::Alone) };
        [a, b, b, a]
    })
    .flatten()
}

/// What became of the pieces of one turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sorted {
    /// The pieces of each pair of slices, in microseconds, in their order; `base` is alone.
    pub pairs: Vec<Pair>,
    /// The slices of these pairs, in the order of time.
    pub slices: Vec<Slice>,
    /// Pieces that began too close to a switch.
    pub dropped: usize,
    /// Pairs in which the neighbour did not do as it was told, or too few pieces began.
    pub unfit: usize,
}

/// Puts pieces into the slices in which they began. `stamps` are the counter when each piece began and the last ended, `slices` come
/// in the order of time, `cpus` is how many the neighbour may use. Pieces before the first slice and after the last whole pair are no
/// part of the measurement.
pub fn sort(stamps: &[u64], clock: &HostClock, slices: &[Slice], cpus: usize) -> Sorted {
    let mut sorted = Sorted::default();
    let end = stamps.last().map_or(Instant::from_nanos(0), |stamp| clock.at(*stamp));
    let uncertain = Duration::from_nanos(clock.uncertainty_ns.ceil() as u64);
    let margin = MARGIN + uncertain;
    let mut next = 0;
    let begins = |at: usize| (at + 1 < stamps.len()).then(|| clock.at(stamps[at]));
    for pair in slices.chunks_exact(2).take_while(|pair| pair[1].to <= end) {
        let mut pieces = [Vec::new(), Vec::new()];
        let mut dropped = 0;
        for (slice, pieces) in pair.iter().zip(&mut pieces) {
            while begins(next).is_some_and(|began| began < slice.to) {
                let began = begins(next).unwrap_or(end);
                if began.since(slice.from) >= margin && slice.to.since(began) > margin {
                    pieces.push(clock.us(stamps[next + 1].wrapping_sub(stamps[next])));
                } else if began >= slices[0].from {
                    dropped += 1;
                }
                next += 1;
            }
        }
        sorted.dropped += dropped;
        let [first, second] = pieces;
        if pair.iter().all(|slice| slice.is_true(cpus)) && first.len().min(second.len()) >= PIECES_MIN {
            let alone_first = pair[0].company == Company::Alone;
            let (base, treated) = if alone_first { (first, second) } else { (second, first) };
            sorted.pairs.push(Pair { base, treated });
            sorted.slices.extend(pair);
        } else {
            sorted.unfit += 1;
        }
    }
    sorted
}

/// A slice in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SliceFigures {
    /// Its round, from 0.
    pub round: usize,
    /// Whether the neighbour ran.
    pub company: Company,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// How many pieces of the sample are from it; slices of one company follow each other as its pieces do.
    pub pieces: usize,
    /// Their 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPUs that the neighbour kept busy, on average.
    pub neighbour_cpus: f64,
    /// CPUs that this machine's host took from the subject's, on average.
    pub steal_cpus: f64,
}

/// The slices of a turn for the report.
pub fn figures(round: usize, sorted: &Sorted) -> Vec<SliceFigures> {
    let pieces = sorted.slices.chunks_exact(2).zip(&sorted.pairs);
    let each = pieces.flat_map(|(slices, pair)| {
        slices
            .iter()
            .map(move |slice| (slice, if slice.company == Company::Alone { &pair.base } else { &pair.treated }))
    });
    let figures = each.map(|(slice, pieces)| {
        let seconds = slice.length().as_secs_f64();
        SliceFigures {
            round,
            company: slice.company,
            seconds,
            pieces: pieces.len(),
            p99_us: Sample::new(pieces.clone()).quantile(0.99),
            neighbour_cpus: slice.neighbour.as_secs_f64() / seconds,
            steal_cpus: slice.steal.as_secs_f64() / seconds,
        }
    });
    figures.collect()
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
