//! A whole measurement: what is asked for, and everything in its order.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::attempt::AttemptError;
use super::cold::Chill;
use super::guest::{Guest, GuestError, GuestKind};
use super::prepare;
use super::results::{PROGRAM, Results, SCHEMA};
use super::sittings::{self, Side};
use super::subjects::{Shape, Variant};
use super::sweep::Sweep;
pub use super::sweep::SweepError;
use super::trace::Tracer;
use super::{harness, payload, rounds};
use crate::bench::child::{ChildError, Stop};
use crate::bench::clock::Instant;
use crate::bench::container::{NotRun, RootFsError};
use crate::bench::environment::{Environment, Noise, Warning};
use crate::host::Root;

/// Runs by the harness and bare ones, to compare it with.
const HARNESS_RUNS: usize = 100;
/// Runs of a subject that is slow, where nothing else is asked for.
const SLOW_RUNS: u32 = 3;
/// Traced runs, at most.
const TRACED_RUNS: u32 = 30;

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A folder of our own.
    #[error("cannot make a folder in {}; is the disk full, or TMPDIR another's?", std::env::temp_dir().display())]
    Folder(#[source] std::io::Error),
    /// The containers' root file system.
    #[error(transparent)]
    RootFs(#[from] RootFsError),
    /// What the monitors boot.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Something that was asked for is not known.
    #[error("there is no subject \"{name}\"; there are {}", super::subjects::NAMES.join(", "))]
    NoSubject {
        /// What was asked for.
        name: String,
    },
    /// The user asked to stop.
    #[error("stopped; nothing was written")]
    Stopped,
}

impl From<ChildError> for SessionError {
    fn from(_: ChildError) -> Self {
        Self::Stopped
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Runs of each subject.
    pub runs: u32,
    /// The time that the timed runs are spread over, at least; not used for fewer than eight.
    pub over: Duration,
    /// Runs of a subject that takes longer than two seconds a start; `None` for three at most.
    pub slow_runs: Option<u32>,
    /// The size of guests.
    pub shape: Shape,
    /// Kinds of guests, each a group of its own.
    pub guests: Vec<GuestKind>,
    /// A kernel in place of the default one.
    pub kernel: Option<PathBuf>,
    /// Words added to the command line of every Linux.
    pub cmdline: String,
    /// A distribution's kernel; `None` to look for one in /boot.
    pub distribution: Option<PathBuf>,
    /// ringfence with other arguments, besides.
    pub variants: Vec<Variant>,
    /// Only these subjects; empty for all.
    pub only: Vec<String>,
    /// Whom ratios are to.
    pub baseline: String,
    /// Whether caches are emptied before every run.
    pub cold: bool,
    /// Numbers of starts at once.
    pub at_once: Vec<u32>,
    /// Sizes to measure at.
    pub sweep: Sweep,
    /// This program.
    pub ringfence: PathBuf,
    /// The command line that asked for it.
    pub command: String,
}

impl Plan {
    /// Timed runs of a subject whose start takes so many seconds.
    pub(super) fn runs(&self, seconds: f64) -> u32 {
        if seconds > rounds::SLOW { self.slow_runs.unwrap_or(self.runs.min(SLOW_RUNS)) } else { self.runs }
    }

    /// Runs for the phases, apart from those that are timed.
    pub(super) fn traced_runs(&self, seconds: f64) -> u32 {
        if seconds > rounds::SLOW { 1 } else { self.runs.min(TRACED_RUNS) }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Measures everything that is wanted. What cannot run is in the results with the reason.
///
/// # Errors
/// [`SessionError`].
pub fn run(plan: &Plan, stop: &Stop) -> Result<Results, SessionError> {
    if let Some(unknown) = plan.only.iter().find(|name| !super::subjects::NAMES.contains(&name.as_str())) {
        return Err(SessionError::NoSubject { name: unknown.clone() });
    }
    let (began, began_unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let environment = Environment::of(&Root::default());
    let mut noise = vec![Noise::probe()];
    let ground = prepare::Ground::new(plan, stop)?;
    let program = ground.rootfs.path().join(payload::NAME);
    let harness = harness::check(&program, HARNESS_RUNS, stop).map(Some).or_else(stopped)?;
    let (tracer, no_tracer) = match Tracer::new() {
        Ok(tracer) => (Some(tracer), None),
        Err(reason) => (None, Some(reason)),
    };
    let chill = plan.cold.then(Chill::best);
    let mut sides = Vec::new();
    for &kind in &plan.guests {
        let (guest, contestants, mut group) = prepare::group(plan, &ground, kind, stop)?;
        let contestants = rounds::warm_up(plan, contestants, &mut group, stop)?;
        sides.push(Side::new(plan, guest, contestants, group));
    }
    let spread = sittings::run(plan, &mut sides, (chill, tracer.as_ref()), &mut noise, stop)?;
    let slow = sides.iter().flat_map(|side| side.contestants.iter().map(move |c| (c, side.group.name)));
    let slow = slow.filter(|(c, _)| c.seconds > rounds::SLOW);
    let slow: Vec<_> = slow.map(|(c, group)| format!("{} ({group})", c.subject.name())).collect();
    let mut results = Results {
        schema: SCHEMA,
        program: PROGRAM,
        command: plan.command.clone(),
        began_unix: began_unix.as_secs(),
        took_s: 0.0,
        sittings: spread.sittings,
        spread_s: spread.seconds,
        cpus: plan.shape.cpus,
        memory_bytes: plan.shape.memory.as_u64(),
        cold: chill.map(|chill| chill.describe().to_owned()),
        guests: Vec::new(),
        environment,
        noise: Vec::new(),
        warnings: Vec::new(),
        harness,
        groups: Vec::new(),
        loads: Vec::new(),
        growths: Vec::new(),
    };
    for side in sides {
        results.guests.extend(side.guest.iter().map(describe));
        results.groups.push(side.group);
        results.loads.extend(side.loads);
        results.growths.extend(side.growths);
    }
    noise.push(Noise::probe());
    results.warnings = warnings(plan, &results, &noise, &slow, no_tracer);
    results.noise = noise;
    results.took_s = began.elapsed().as_secs_f64();
    Ok(results)
}

/// A check that fails is none; that the user wants to stop is the end of all.
fn stopped<T>(error: AttemptError) -> Result<Option<T>, SessionError> {
    if matches!(error, AttemptError::Stopped) { Err(SessionError::Stopped) } else { Ok(None) }
}

fn describe(guest: &Guest) -> (String, String) {
    (guest.kernel(false).display().to_string(), guest.cmdline.clone())
}

/// What the reader must know before the figures.
fn warnings(
    plan: &Plan,
    results: &Results,
    noise: &[Noise],
    slow: &[String],
    no_tracer: Option<String>,
) -> Vec<Warning> {
    let mut warnings = results.environment.warnings(noise);
    if cfg!(debug_assertions) {
        warnings.push(Warning::new(
            "this ringfence is a debug build, which is slower and larger",
            "Measure with a release build: make build.",
        ));
    }
    if let Some(chill) = &results.cold {
        let what = format!("caches are cold: before every run, {chill}");
        warnings.push(Warning::new(what, "Leave out --cold for starts from a warm cache."));
    }
    if let Some(kernel) = &plan.kernel {
        let what = format!("guests run another kernel than the default one: {}", kernel.display());
        warnings.push(Warning::new(what, "Leave out --kernel for the default one."));
    }
    if !slow.is_empty() {
        let names = slow.join(", ");
        warnings.push(Warning::new(
            format!("slow starts were made only a few times, so that their tail is not known, and neither at once nor over sizes: {names}"),
            "More with --slow-runs N.",
        ));
    }
    if !plan.cmdline.is_empty() {
        let what = format!("every Linux got more words on its command line: {}", plan.cmdline);
        warnings.push(Warning::new(what, "Leave out --cmdline for the default ones."));
    }
    warnings.push(Warning::new(
        "every guest has its serial console on, by which its payload's line comes",
        "It is on for all alike; leave it so.",
    ));
    if let Some(reason) = no_tracer {
        warnings.push(Warning::new(
            format!("the time until the first KVM_RUN was not measured: {reason}"),
            "Run as root, with tracefs mounted.",
        ));
    }
    if let Some(harness) = results.harness.as_ref().filter(|harness| harness.overhead_us.value > 200.0) {
        let what = format!("the harness itself added {:.0} us to a start", harness.overhead_us.value);
        warnings.push(Warning::new(what, "End what else runs, and try again."));
    }
    warnings
}

/// A distribution's kernel: the newest that /boot has.
pub(super) fn distribution_kernel(asked: Option<&Path>, boot: &Path) -> Result<PathBuf, NotRun> {
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(boot).into_iter().flatten().flatten().map(|entry| entry.path());
    let kernel = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    let newest = entries.filter(kernel).max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    newest.ok_or_else(|| NotRun {
        name: "ringfence-distro".to_owned(),
        reason: format!("no distribution's kernel in {}", boot.display()),
        remedy: "Name one: --distribution-kernel FILE.".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    fn plan() -> Plan {
        Plan {
            runs: 20,
            over: Duration::ZERO,
            slow_runs: Some(2),
            shape: Shape { cpus: 1, memory: ByteSize::mib(128) },
            guests: vec![GuestKind::Linux],
            kernel: None,
            cmdline: String::new(),
            distribution: None,
            variants: Vec::new(),
            only: vec!["process".to_owned()],
            baseline: "ringfence".to_owned(),
            cold: false,
            at_once: Vec::new(),
            sweep: Sweep::default(),
            ringfence: "ringfence".into(),
            command: String::new(),
        }
    }

    /// Proves that slow subjects get runs of their own number, and that a name nobody has is refused before anything runs.
    #[test]
    fn plans() {
        let plan = plan();
        assert_eq!([plan.runs(0.1), plan.runs(10.0)], [20, 2]);
        assert_eq!([plan.traced_runs(0.1), plan.traced_runs(10.0)], [20, 1]);
        assert_eq!(Plan { slow_runs: None, ..plan.clone() }.runs(10.0), 3);
        assert!(plan.wants("process") && !plan.wants("runc"));
        let wrong = Plan { only: vec!["lxc".to_owned()], ..plan };
        let error = run(&wrong, &Stop::default()).unwrap_err().to_string();
        assert!(error.contains("\"lxc\"") && error.contains("ringfence-distro, qemu-microvm"), "{error}");
    }

    /// Proves that the newest kernel is taken, and that none is told with a remedy.
    #[test]
    fn distribution_kernels_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let absent = distribution_kernel(None, dir.path()).unwrap_err();
        assert!(absent.remedy.contains("--distribution-kernel"));
        std::fs::write(dir.path().join("vmlinuz-6.1"), "").unwrap();
        std::fs::write(dir.path().join("config-6.1"), "").unwrap();
        assert_eq!(distribution_kernel(None, dir.path()).unwrap(), dir.path().join("vmlinuz-6.1"));
        assert_eq!(distribution_kernel(Some(Path::new("/x")), dir.path()).unwrap(), Path::new("/x"));
    }
}
