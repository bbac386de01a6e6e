//! Growth with the machine's size: the same start at several sizes, and a straight line through them.
//!
//! The line is Theil's and Sen's: the median of the slopes between all pairs of samples at different sizes, and the median of
//! what is left as the value at zero (Theil 1950, "A rank-invariant method of linear and polynomial regression analysis"; Sen
//! 1968, "Estimates of the regression coefficient based on Kendall's tau"). A few slow runs do not bend it.

use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

use super::subjects::Shape;
use crate::bench::statistics::{Sample, quantile};
use crate::units::ByteSize;

/// Most sizes of one axis.
const SIZES_MAX: usize = 16;

/// What is wrong with a sweep that was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is no sweep; write memory=128M..8G, cpus=1..4, or both with a comma between")]
pub struct SweepError(String);

/// The sizes to measure at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Sizes of RAM, ascending.
    pub memory: Vec<ByteSize>,
    /// Numbers of vCPUs, ascending.
    pub cpus: Vec<u32>,
}

impl FromStr for Sweep {
    type Err = SweepError;

    /// `memory=128M..8G,cpus=1..4`: each doubled from the first to the last, both included.
    fn from_str(text: &str) -> Result<Self, SweepError> {
        let wrong = || SweepError(text.to_owned());
        let mut sweep = Self::default();
        for axis in text.split(',') {
            let (name, range) = axis.split_once('=').ok_or_else(wrong)?;
            let (from, to) = range.split_once("..").ok_or_else(wrong)?;
            match name {
                "memory" if sweep.memory.is_empty() => {
                    let size = |text: &str| text.parse::<ByteSize>().map(ByteSize::as_u64).map_err(|_| wrong());
                    sweep.memory =
                        doubled(size(from)?, size(to)?).ok_or_else(wrong)?.into_iter().map(ByteSize::bytes).collect();
                }
                "cpus" if sweep.cpus.is_empty() => {
                    let number = |text: &str| text.parse::<u32>().map(u64::from).map_err(|_| wrong());
                    let numbers = doubled(number(from)?, number(to)?).ok_or_else(wrong)?;
                    sweep.cpus = numbers.into_iter().filter_map(|n| u32::try_from(n).ok()).collect();
                }
                _ => return Err(wrong()),
            }
        }
        Ok(sweep)
    }
}

/// From the first to the last, each twice the one before, the last one as it is.
fn doubled(first: u64, last: u64) -> Option<Vec<u64>> {
    if first == 0 || last < first {
        return None;
    }
    let mut values: Vec<u64> =
        std::iter::successors(Some(first), |n| n.checked_mul(2)).take_while(|n| *n < last).collect();
    values.push(last);
    (values.len() <= SIZES_MAX).then_some(values)
}

/// Which size changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// RAM, in GiB.
    Memory,
    /// vCPUs.
    Cpus,
}

impl Axis {
    /// For a plot.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Memory => "RAM, GiB",
            Self::Cpus => "vCPUs",
        }
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "RAM",
            Self::Cpus => "vCPUs",
        }
    }

    /// A place on it, short enough for the head of a column: `128M`, `8G`, `4`.
    pub fn place(self, place: f64) -> String {
        match self {
            Self::Memory if place < 1.0 => format!("{}M", (place * 1024.0).round()),
            Self::Memory => format!("{}G", (place * 100.0).round() / 100.0),
            Self::Cpus => format!("{place}"),
        }
    }

    /// What the slope is for.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Memory => "GiB of RAM",
            Self::Cpus => "vCPU",
        }
    }
}

impl Sweep {
    /// Machines to measure, with the axis and the place on it; the other size as in `shape`.
    pub fn shapes(&self, shape: Shape) -> Vec<(Axis, f64, Shape)> {
        let memory = self
            .memory
            .iter()
            .map(|&memory| (Axis::Memory, memory.as_u64() as f64 / f64::from(1 << 30), Shape { memory, ..shape }));
        let cpus = self.cpus.iter().map(|&cpus| (Axis::Cpus, f64::from(cpus), Shape { cpus, ..shape }));
        memory.chain(cpus).collect()
    }
}

/// One subject's growth along one axis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// The group's name.
    pub group: &'static str,
    /// The subject's name.
    pub subject: String,
    /// What grows.
    pub axis: Axis,
    /// Samples at each size: place on the axis, exec to payload in microseconds.
    pub points: Vec<(f64, Sample)>,
    /// The line, where there are two sizes or more.
    pub line: Option<Line>,
    /// Runs that failed.
    pub failures: Vec<String>,
}

/// A straight line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Microseconds at the size zero.
    pub at_zero_us: f64,
    /// Microseconds for each unit of the axis.
    pub slope_us: f64,
}

/// The line of Theil and Sen through samples; `None` when there are fewer than two sizes.
pub fn fit(points: &[(f64, Sample)]) -> Option<Line> {
    let all: Vec<(f64, f64)> = points.iter().flat_map(|(x, sample)| sample.values().iter().map(|y| (*x, *y))).collect();
    let mut slopes = Vec::new();
    for (i, (x, y)) in all.iter().enumerate() {
        let others = all[i + 1..].iter().filter(|(other, _)| other != x);
        slopes.extend(others.map(|(other_x, other_y)| (other_y - y) / (other_x - x)));
    }
    if slopes.is_empty() {
        return None;
    }
    let slope_us = quantile(&mut slopes, 0.5);
    let mut rest: Vec<f64> = all.iter().map(|(x, y)| y - slope_us * x).collect();
    Some(Line { at_zero_us: quantile(&mut rest, 0.5), slope_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that sizes are doubled between the ends, both of them included, and what is refused.
    #[test]
    fn sweeps_are_read() {
        let sweep: Sweep = "memory=128M..1G,cpus=1..6".parse().unwrap();
        assert_eq!(sweep.memory, [128, 256, 512, 1024].map(ByteSize::mib));
        assert_eq!(sweep.cpus, [1, 2, 4, 6]);
        assert_eq!("cpus=3..3".parse::<Sweep>().unwrap().cpus, [3]);
        for wrong in [
            "",
            "memory",
            "memory=1G",
            "memory=8G..1G",
            "cpus=0..4",
            "cpus=1..2,cpus=1..2",
            "disk=1..2",
            "cpus=1..99999999",
        ] {
            assert!(wrong.parse::<Sweep>().unwrap_err().to_string().contains("is no sweep"), "{wrong}");
        }
        let places = [0.125, 1.5, 8.0].map(|place| Axis::Memory.place(place));
        assert_eq!((places, Axis::Cpus.place(4.0)), (["128M", "1.5G", "8G"].map(str::to_owned), "4".to_owned()));
        let shape = Shape { cpus: 1, memory: ByteSize::mib(128) };
        let shapes = sweep.shapes(shape);
        assert_eq!(shapes[3], (Axis::Memory, 1.0, Shape { cpus: 1, memory: ByteSize::gib(1) }));
        assert_eq!(shapes[7], (Axis::Cpus, 6.0, Shape { cpus: 6, memory: ByteSize::mib(128) }));
    }

    /// Proves the fit on a line that one slow run would bend a least-squares line away from.
    #[test]
    fn the_line_is_not_bent_by_a_slow_run() {
        let points: Vec<(f64, Sample)> =
            (1..=5).map(|x| (f64::from(x), Sample::new(vec![100.0 + 7.0 * f64::from(x); 3]))).collect();
        let mut slow = points.clone();
        slow[4].1.push(1e6);
        for points in [points, slow] {
            let line = fit(&points).unwrap();
            assert!((line.slope_us - 7.0).abs() < 1e-9 && (line.at_zero_us - 100.0).abs() < 1e-9, "{line:?}");
        }
        assert_eq!(fit(&[(1.0, Sample::new(vec![1.0, 2.0]))]), None);
    }
}
