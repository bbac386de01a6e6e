//! Turns: a warm-up that counts memory, then timed runs, then traced ones, the subjects one after the other in each.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::attempt::{self, Attempt, AttemptError, Running, Stamps};
use super::cold::Chill;
use super::memory;
use super::phases::{self, Dated};
use super::prepare::not_run;
use super::results::{Group, Measure, SubjectResult};
use super::session::{Plan, SessionError};
use super::subjects::{Kind, Order, Shape, Subject};
use super::trace::Tracer;
use crate::bench::child::Stop;
use crate::bench::clock::Instant;
use crate::bench::progress::Progress;

/// A start that takes longer than this, in seconds, is not made many times over.
pub(super) const SLOW: f64 = 2.0;
/// So many failures one after the other end a subject's part; of one that is slow, a single one.
const FAILURES: u32 = 3;
/// What a start is taken for before the first one, in seconds: Linux where it is slow, and anything else.
const GUESS: (f64, f64) = (12.0, 0.2);

/// A subject that takes part.
pub(super) struct Contestant {
    pub(super) subject: Box<dyn Subject>,
    /// What its payload writes.
    pub(super) marker: Vec<u8>,
    /// Timed runs; set by the warm-up.
    pub(super) runs: u32,
    /// Runs for phases.
    pub(super) traced: u32,
    pub(super) patience: Duration,
    /// What a start took in the warm-up.
    pub(super) seconds: f64,
    /// Failures one after the other.
    pub(super) in_a_row: u32,
}

impl Contestant {
    pub(super) fn is_monitor(&self) -> bool {
        self.subject.kind() == Kind::Monitor
    }

    /// One run. With a report it tells its phases, if it is ringfence.
    pub(super) fn run(&self, shape: Shape, report: Option<&Path>, stop: &Stop) -> Result<Stamps, AttemptError> {
        let id = unique();
        let mut attempt = self.subject.attempt(&Order { shape, hold: false, report, id: &id })?;
        attempt::run(&mut attempt, &self.marker, self.patience, stop)
    }

    /// Whether its part is over; says so in the group's results.
    fn over(&self) -> bool {
        self.in_a_row >= if self.seconds > SLOW { 1 } else { FAILURES }
    }
}

/// A name that no other run has.
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("rf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a subject of `runs` runs takes part in turn `turn` of `turns`: its runs are spread evenly over them.
fn takes_part(turn: u32, turns: u32, runs: u32) -> bool {
    let before = |turn: u32| u64::from(turn) * u64::from(runs) / u64::from(turns.max(1));
    before(turn + 1) > before(turn)
}

/// Runs each once, its payload staying until its memory has been counted. Those that fail take no part, with the reason.
pub(super) fn warm_up(
    plan: &Plan,
    contestants: Vec<Contestant>,
    group: &mut Group,
    stop: &Stop,
) -> Result<Vec<Contestant>, SessionError> {
    let guess = |c: &Contestant| if c.patience >= Duration::from_secs(60) { GUESS.0 } else { GUESS.1 };
    let mut progress = Progress::new(contestants.iter().map(guess).sum());
    let mut able = Vec::new();
    for mut contestant in contestants {
        let name = contestant.subject.name().to_owned();
        progress.step(&format!("{}: warm-up and memory, {name}", group.name));
        match held(plan, &contestant, stop) {
            Ok((found, took)) => {
                contestant.seconds = took.as_secs_f64();
                contestant.runs = plan.runs(contestant.seconds);
                contestant.traced = plan.traced_runs(contestant.seconds);
                let result = group.subjects.iter_mut().find(|subject| subject.name == name);
                result.into_iter().for_each(|result| result.memory = Some(found.clone()));
                progress.done(guess(&contestant));
                able.push(contestant);
            }
            Err(AttemptError::Stopped) => return Err(SessionError::Stopped),
            Err(error) => {
                progress.done(guess(&contestant));
                let position = group.subjects.iter().position(|subject| subject.name == name);
                let command = position.map(|i| group.subjects.remove(i).command).unwrap_or_default();
                let remedy = match error {
                    AttemptError::Late { .. } => {
                        "It is too slow here, or hangs: measure it on another host.".to_owned()
                    }
                    _ => format!("Try it by hand: {command}"),
                };
                group.not_run.push(not_run(&name, &error.to_string(), &remedy));
            }
        }
    }
    Ok(able)
}

/// A run whose payload stays until its memory has been counted; that, and how long its line took.
fn held(plan: &Plan, contestant: &Contestant, stop: &Stop) -> Result<(memory::Memory, Duration), AttemptError> {
    let id = unique();
    let order = Order { shape: plan.shape, hold: true, report: None, id: &id };
    let mut attempt: Attempt<'_> = contestant.subject.attempt(&order)?;
    let mut running = Running::start(attempt.program.command())?;
    let took = running.line(&contestant.marker, contestant.patience, stop)?.since(running.start);
    let shape = contestant.is_monitor().then_some(plan.shape);
    let found = memory::count(running.pid(), contestant.subject.name(), &attempt.program, shape, stop);
    drop(running);
    Ok((found, took))
}

/// What is needed wherever runs are made.
pub(super) struct Course<'a> {
    pub(super) plan: &'a Plan,
    pub(super) progress: Progress,
    pub(super) stop: &'a Stop,
}

/// Runs that are timed, with nothing else going on: those of some of all turns.
pub(super) fn timed(
    course: &mut Course<'_>,
    contestants: &mut [Contestant],
    group: &mut Group,
    chill: Option<Chill>,
    (range, turns): (Range<usize>, u32),
) -> Result<(), SessionError> {
    for turn in range.start as u32..range.end as u32 {
        for contestant in contestants.iter_mut().filter(|c| takes_part(turn, turns, c.runs)) {
            let name = contestant.subject.name().to_owned();
            course.progress.step(&format!("{}: run {} of {turns}, {name}", group.name, turn + 1));
            if !contestant.over() {
                if let Some(chill) = chill
                    && let Err(reason) = chill.apply(&contestant.subject.files())
                {
                    course.progress.say(&format!("not cold: {reason}"));
                }
                let result = contestant.run(course.plan.shape, None, course.stop);
                note(group, contestant, &name, turn, result)?;
            }
            course.progress.done(contestant.seconds);
        }
    }
    Ok(())
}

/// Keeps what a timed run gave.
fn note(
    group: &mut Group,
    contestant: &mut Contestant,
    name: &str,
    turn: u32,
    result: Result<Stamps, AttemptError>,
) -> Result<(), SessionError> {
    let Some(into) = group.subjects.iter_mut().find(|subject| subject.name == name) else { return Ok(()) };
    match result {
        Ok(stamps) => {
            contestant.in_a_row = 0;
            let us = |to: Instant| to.since(stamps.start).as_secs_f64() * 1e6;
            into.push(Measure::Userspace, turn, us(stamps.line));
            if let Some(end) = stamps.end {
                into.push(Measure::Exit, turn, us(end));
            }
        }
        Err(AttemptError::Stopped) => return Err(SessionError::Stopped),
        Err(error) => {
            contestant.in_a_row += 1;
            into.failures.push(format!("turn {turn}: {error}"));
            if contestant.over() {
                let text = format!("turn {turn}: not run any more, after {} that failed", contestant.in_a_row);
                into.failures.push(text);
            }
        }
    }
    Ok(())
}

/// Runs for the phases: with ringfence's report, and the kernel's trace of the others. Their points go to each contestant's
/// `points`.
pub(super) fn traced(
    course: &mut Course<'_>,
    contestants: &mut [Contestant],
    group: &mut Group,
    tracer: Option<&Tracer>,
    points: &mut [Vec<Dated>],
    (range, turns): (Range<usize>, u32),
) -> Result<(), SessionError> {
    let (plan, stop) = (course.plan, course.stop);
    let report = tempfile::NamedTempFile::new().map_err(SessionError::Folder)?;
    for turn in range.start as u32..range.end as u32 {
        for (contestant, points) in contestants.iter_mut().zip(&mut *points) {
            if !takes_part(turn, turns, contestant.traced) || contestant.over() {
                continue;
            }
            let name = contestant.subject.name().to_owned();
            course.progress.step(&format!("{}: phases, run {} of {turns}, {name}", group.name, turn + 1));
            let ours = contestant.subject.reports().then_some(report.path());
            let monitor = contestant.is_monitor();
            let tracing = tracer.filter(|tracer| monitor && tracer.begin().is_ok());
            let result = contestant.run(plan.shape, ours, stop);
            let start = tracing.and_then(Tracer::finish);
            course.progress.done(contestant.seconds);
            let Some(into) = group.subjects.iter_mut().find(|subject| subject.name == name) else { continue };
            match result {
                Ok(stamps) => {
                    points.push((stamps.start, phases::points(&stamps, ours, start.as_ref(), monitor)));
                    if let Some(start) = start {
                        into.push(Measure::FirstRun, turn, start.first_run_us);
                        into.push(Measure::OwnShare, turn, start.own_share_us);
                        into.push(Measure::TakingRam, turn, start.taking_ram_us);
                    }
                    if let Some(us) = ours.and_then(|report| phases::bell(report, stamps.start)) {
                        into.push(Measure::Bell, turn, us);
                    }
                    reported(plan, contestant, into, (turn, report.path()), stop)?;
                }
                Err(AttemptError::Stopped) => return Err(SessionError::Stopped),
                Err(error) => {
                    contestant.in_a_row += 1;
                    into.failures.push(format!("traced run {turn}: {error}"));
                }
            }
        }
    }
    Ok(())
}

/// A run with nothing traced, of a subject that is quick and tells by itself when it came to the first KVM_RUN: the trace costs
/// each system call something.
fn reported(
    plan: &Plan,
    contestant: &mut Contestant,
    into: &mut SubjectResult,
    (turn, report): (u32, &Path),
    stop: &Stop,
) -> Result<(), SessionError> {
    if !contestant.subject.tells_first_run() || contestant.seconds > SLOW {
        return Ok(());
    }
    match contestant.run(plan.shape, Some(report), stop) {
        Ok(stamps) => {
            if let Some((whole, own)) = phases::first_run(report, stamps.start) {
                into.push(Measure::FirstRunReported, turn, whole);
                into.push(Measure::OwnShareReported, turn, own);
            }
        }
        Err(AttemptError::Stopped) => return Err(SessionError::Stopped),
        Err(error) => {
            contestant.in_a_row += 1;
            into.failures.push(format!("run {turn} with a report: {error}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that every run is made, and that few runs are spread over many turns.
    #[test]
    fn few_runs_are_spread_over_many_turns() {
        let turns = |runs| (0..20).filter(|turn| takes_part(*turn, 20, runs)).collect::<Vec<_>>();
        assert_eq!(turns(20).len(), 20);
        assert_eq!(turns(3), [6, 13, 19]);
        assert!(turns(0).is_empty());
        assert!((1..=20).all(|runs| turns(runs).len() == runs as usize));
    }
}
