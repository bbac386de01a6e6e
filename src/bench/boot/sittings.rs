//! Sittings: the timed runs are spread over the whole report, with everything else between them.
//!
//! A machine's speed drifts from minute to minute. Runs made in one short stretch all see the same speed, and the next report
//! another; runs spread over minutes see what the machine does in them, and the spread of their sittings says how much that is.

use std::ops::Range;
use std::time::Duration;

use super::attempt::AttemptError;
use super::cold::Chill;
use super::guest::Guest;
use super::load::{self, Load};
use super::phases::{self, Dated};
use super::results::Group;
use super::rounds::{self, Contestant, Course};
use super::session::{Plan, SessionError};
use super::subjects::Shape;
use super::sweep::{Axis, Growth, fit};
use super::trace::Tracer;
use crate::bench::child::Stop;
use crate::bench::clock::Instant;
use crate::bench::environment::Noise;
use crate::bench::progress::Progress;
use crate::bench::statistics::Sample;

/// Sittings, at most: two for each stretch that an interval is made of.
const SITTINGS: u32 = 8;
/// Fewest turns of a sitting.
const TURNS_MIN: u32 = 2;
/// With fewer turns there is no interval that more time would make truer.
const SPREAD_MIN: u32 = 8;
/// What went before has ended, and its last memory is given back.
const SETTLE: Duration = Duration::from_millis(200);
/// Samples at each size of a sweep, at most.
const SWEEP_RUNS: u32 = 5;

/// How the timed runs were spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) sittings: u32,
    /// From the first to the end of the last.
    pub(super) seconds: f64,
}

/// The subjects of one group, and what is still to be done with them.
pub(super) struct Side {
    pub(super) guest: Option<Guest>,
    pub(super) contestants: Vec<Contestant>,
    pub(super) group: Group,
    pub(super) loads: Vec<Load>,
    pub(super) growths: Vec<Growth>,
    points: Vec<Vec<Dated>>,
    /// Numbers at once, each of one contestant.
    levels: Vec<(u32, usize)>,
    /// Sizes, each of all contestants.
    sizes: Vec<(Axis, f64, Shape)>,
}

/// The share of `count` things that belongs to one of `sittings`.
fn share(count: usize, sitting: u32, sittings: u32) -> Range<usize> {
    let before = |sitting: u32| count * sitting as usize / sittings.max(1) as usize;
    before(sitting)..before(sitting + 1)
}

impl Side {
    pub(super) fn new(plan: &Plan, guest: Option<Guest>, contestants: Vec<Contestant>, group: Group) -> Self {
        // Where KVM emulates the guest's kernel, a start takes ten seconds of a CPU: many at once would take hours.
        let quick: Vec<usize> = (0..contestants.len()).filter(|i| contestants[*i].seconds <= rounds::SLOW).collect();
        let levels = plan.at_once.iter().flat_map(|n| quick.iter().map(|i| (*n, *i))).collect();
        let growths = growths(plan, &contestants, &quick, group.name);
        let sizes = if growths.is_empty() { Vec::new() } else { plan.sweep.shapes(plan.shape) };
        let sizes = sizes.repeat(plan.runs.min(SWEEP_RUNS) as usize);
        let points = contestants.iter().map(|_| Vec::new()).collect();
        Self { guest, contestants, group, loads: Vec::new(), growths, points, levels, sizes }
    }

    fn turns(&self) -> u32 {
        self.contestants.iter().map(|c| c.runs).max().unwrap_or(0)
    }

    fn traced_turns(&self) -> u32 {
        self.contestants.iter().map(|c| c.traced).max().unwrap_or(0)
    }

    /// Expected seconds of all that is to be done.
    fn seconds(&self) -> f64 {
        let runs = self.contestants.iter().map(|c| f64::from(c.runs + c.traced) * c.seconds);
        let levels = self.levels.iter().map(|level| self.level_seconds(*level));
        runs.chain(levels).sum::<f64>() + self.size_seconds() * self.sizes.len() as f64
    }

    fn level_seconds(&self, (at_once, i): (u32, usize)) -> f64 {
        f64::from(load::starts(at_once)) * self.contestants[i].seconds
    }

    fn size_seconds(&self) -> f64 {
        let grows = |c: &&Contestant| self.growths.iter().any(|growth| growth.subject == c.subject.name());
        self.contestants.iter().filter(grows).map(|c| c.seconds).sum()
    }

    /// The timed runs of one sitting.
    fn timed(&mut self, course: &mut Course<'_>, chill: Option<Chill>, at: (u32, u32)) -> Result<(), SessionError> {
        let turns = self.turns();
        let range = share(turns as usize, at.0, at.1);
        rounds::timed(course, &mut self.contestants, &mut self.group, chill, (range, turns))
    }

    /// Everything else that belongs to one sitting.
    fn others(&mut self, course: &mut Course<'_>, tracer: Option<&Tracer>, at: (u32, u32)) -> Result<(), SessionError> {
        let turns = self.traced_turns();
        let range = share(turns as usize, at.0, at.1);
        rounds::traced(course, &mut self.contestants, &mut self.group, tracer, &mut self.points, (range, turns))?;
        for i in share(self.levels.len(), at.0, at.1) {
            self.load(course, self.levels[i])?;
        }
        for i in share(self.sizes.len(), at.0, at.1) {
            self.grow(course, i)?;
        }
        Ok(())
    }

    /// Several at once.
    fn load(&mut self, course: &mut Course<'_>, level: (u32, usize)) -> Result<(), SessionError> {
        course.stop.check()?;
        let (at_once, contestant) = (level.0, &self.contestants[level.1]);
        let (subject, marker) = (&*contestant.subject, &contestant.marker);
        course.progress.step(&format!("{}: {at_once} at once, {}", self.group.name, subject.name()));
        let patience = contestant.patience * at_once.max(1);
        let shape = course.plan.shape;
        self.loads.push(load::run(self.group.name, subject, shape, marker, at_once, patience, course.stop));
        course.progress.done(self.level_seconds(level));
        Ok(())
    }

    /// One size, of every contestant that grows.
    fn grow(&mut self, course: &mut Course<'_>, i: usize) -> Result<(), SessionError> {
        let (axis, place, shape) = self.sizes[i];
        course.progress.step(&format!("{}: sizes, {} of {}", self.group.name, i + 1, self.sizes.len()));
        for contestant in &self.contestants {
            let name = contestant.subject.name();
            let Some(growth) = self.growths.iter_mut().find(|g| g.subject == name && g.axis == axis) else { continue };
            match contestant.run(shape, None, course.stop) {
                Ok(stamps) => {
                    let us = stamps.line.since(stamps.start).as_secs_f64() * 1e6;
                    growth.points.iter_mut().filter(|p| p.0 == place).for_each(|p| p.1.push(us));
                }
                Err(AttemptError::Stopped) => return Err(SessionError::Stopped),
                Err(error) => growth.failures.push(format!("{} {place}: {error}", axis.title())),
            }
        }
        course.progress.done(self.size_seconds());
        Ok(())
    }

    /// What is made of it once all is done.
    fn end(&mut self, plan: &Plan) {
        for (contestant, points) in self.contestants.iter().zip(&self.points) {
            let found = (!points.is_empty()).then(|| phases::means(points));
            let into = self.group.subjects.iter_mut().find(|subject| subject.name == contestant.subject.name());
            into.into_iter().for_each(|into| into.phases.clone_from(&found));
        }
        for growth in &mut self.growths {
            growth.points.retain(|point| !point.1.is_empty());
            growth.line = fit(&growth.points);
        }
        // As a table shows them, subject by subject.
        self.group.sum_up(&plan.baseline);
    }
}

/// Growths to be measured: of each quick monitor, along each axis that it has and that is asked for.
fn growths(plan: &Plan, contestants: &[Contestant], quick: &[usize], group: &'static str) -> Vec<Growth> {
    let shapes = plan.sweep.shapes(plan.shape);
    let mut growths = Vec::new();
    for contestant in quick.iter().map(|i| &contestants[*i]).filter(|c| c.is_monitor()) {
        for axis in [Axis::Memory, Axis::Cpus] {
            if axis == Axis::Cpus && !contestant.subject.takes_cpus() {
                continue;
            }
            let of_axis = shapes.iter().filter(|shape| shape.0 == axis);
            let points: Vec<_> = of_axis.map(|shape| (shape.1, Sample::default())).collect();
            if !points.is_empty() {
                let subject = contestant.subject.name().to_owned();
                growths.push(Growth { group, subject, axis, points, line: None, failures: Vec::new() });
            }
        }
    }
    growths
}

/// Makes all runs. The noise of the machine is probed before each sitting.
pub(super) fn run(
    plan: &Plan,
    sides: &mut [Side],
    tools: (Option<Chill>, Option<&Tracer>),
    noise: &mut Vec<Noise>,
    stop: &Stop,
) -> Result<Spread, SessionError> {
    let turns = sides.iter().map(Side::turns).max().unwrap_or(0);
    let sittings = (turns / TURNS_MIN).clamp(1, SITTINGS);
    let over = if turns < SPREAD_MIN { Duration::ZERO } else { plan.over };
    let work: f64 = sides.iter().map(Side::seconds).sum();
    let mut course = Course { plan, progress: Progress::new(work.max(over.as_secs_f64())), stop };
    let began = Instant::now();
    let mut seconds = 0.0;
    for sitting in 0..sittings {
        if sitting > 0 {
            wait(&mut course, over.mul_f64(f64::from(sitting) / f64::from(sittings)), began)?;
            stop.sleep(SETTLE)?;
        }
        noise.push(Noise::probe());
        for side in &mut *sides {
            side.timed(&mut course, tools.0, (sitting, sittings))?;
        }
        seconds = began.elapsed().as_secs_f64();
        for side in &mut *sides {
            side.others(&mut course, tools.1, (sitting, sittings))?;
        }
    }
    sides.iter_mut().for_each(|side| side.end(plan));
    Ok(Spread { sittings, seconds })
}

/// Waits until `after` the beginning.
fn wait(course: &mut Course<'_>, after: Duration, began: Instant) -> Result<(), SessionError> {
    let Some(left) = after.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else { return Ok(()) };
    let over = course.plan.over.as_secs();
    course.progress.step(&format!("waiting, so that the runs see {over} s of the machine's drift (--over)"));
    course.stop.sleep(left)?;
    course.progress.done(left.as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that everything is done once, in order, however it is spread.
    #[test]
    fn everything_is_done_once() {
        for count in [0, 1, 3, 8, 20, 1001] {
            let done: Vec<usize> = (0..8).flat_map(|sitting| share(count, sitting, 8)).collect();
            assert_eq!(done, (0..count).collect::<Vec<_>>());
        }
        assert_eq!((0..8).map(|sitting| share(20, sitting, 8).len()).collect::<Vec<_>>(), [2, 3, 2, 3, 2, 3, 2, 3]);
        assert_eq!(share(5, 0, 1), 0..5);
    }
}
