//! Before anything is timed: the files, the programs, the subjects.

use std::time::Duration;

use tempfile::TempDir;

use super::guest::{Guest, GuestKind};
use super::payload;
use super::results::{Group, SubjectResult};
use super::rounds::Contestant;
use super::session::{Plan, SessionError, distribution_kernel};
use super::subjects::{self, Kind, Order, Workshop};
use crate::bench::child::{Stop, words};
use crate::bench::container::{NotRun, RootFs};
use crate::host::software::{self, Program};
use crate::host::{Root, flavour};

/// No subject takes longer for its payload's line and its end; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for Linux, which takes seconds where KVM emulates its kernel.
const LINUX_PATIENCE: Duration = Duration::from_secs(60);

/// What every group stands on.
pub(super) struct Ground {
    // Before the folder that it lies in.
    pub(super) rootfs: RootFs,
    programs: Vec<Program>,
    work: TempDir,
}

impl Ground {
    pub(super) fn new(plan: &Plan, stop: &Stop) -> Result<Self, SessionError> {
        stop.check()?;
        let work = tempfile::Builder::new().prefix("ringfence-bench-").tempdir().map_err(SessionError::Folder)?;
        let rootfs = RootFs::make(&work.path().join("rootfs"), &[(payload::NAME, &payload::program())])?;
        let programs = software::find(&Root::default(), std::env::var_os("PATH").as_deref());
        debug_assert!(plan.ringfence.is_absolute() || cfg!(test));
        Ok(Self { rootfs, programs, work })
    }
}

/// The subjects of one group, not run yet.
pub(super) fn group(
    plan: &Plan,
    ground: &Ground,
    kind: GuestKind,
    stop: &Stop,
) -> Result<(Option<Guest>, Vec<Contestant>, Group), SessionError> {
    let dir = ground.work.path();
    let trivial = kind == GuestKind::Trivial;
    let guest =
        if trivial { Guest::trivial(dir) } else { Guest::linux(dir, plan.kernel.as_deref(), &plan.cmdline, kind) };
    // Containers can be measured without a kernel to boot.
    let (guest, no_guest) = match guest {
        Ok(guest) => (Some(guest), None),
        Err(error) => (None, Some(not_run("all monitors", &error.to_string(), "Do what it says."))),
    };
    let shop = Workshop {
        guest: guest.as_ref(),
        distribution: distribution(plan, ground),
        rootfs: &ground.rootfs,
        programs: &ground.programs,
        ringfence: &plan.ringfence,
        work: dir,
        variants: &plan.variants,
        containers: !trivial,
    };
    let found = subjects::find(&shop, &|name| plan.wants(name), stop)?;
    let title = if trivial {
        "Monitors alone: a guest of a few instructions"
    } else {
        "A payload in a guest with its own Linux, in a container, as a process"
    };
    let name = if trivial { "trivial" } else { "linux" };
    let mut group = Group {
        name,
        title: title.to_owned(),
        baseline: None,
        subjects: Vec::new(),
        not_run: no_guest.into_iter().collect(),
    };
    let mut contestants = Vec::new();
    for subject in found {
        match subject {
            Err(not_run) => group.not_run.push(not_run),
            Ok(subject) => {
                group.subjects.push(result(plan, &*subject));
                contestants.push(contestant(subject, guest.as_ref()));
            }
        }
    }
    Ok((guest, contestants, group))
}

/// A subject before its warm-up.
fn contestant(subject: Box<dyn subjects::Subject>, guest: Option<&Guest>) -> Contestant {
    let guest = guest.filter(|_| subject.kind() == Kind::Monitor);
    let patience = match guest {
        Some(guest) if guest.kind != GuestKind::Trivial => LINUX_PATIENCE,
        _ => PATIENCE,
    };
    let line = || payload::LINE.trim_end().as_bytes().to_vec();
    let marker = guest.map_or_else(line, |guest| guest.marker.clone());
    Contestant { subject, marker, runs: 0, traced: 0, patience, seconds: 0.0, in_a_row: 0 }
}

fn result(plan: &Plan, subject: &dyn subjects::Subject) -> SubjectResult {
    let order = Order { shape: plan.shape, hold: false, report: None, id: "rf-example" };
    let command = match subject.attempt(&order) {
        Ok(mut attempt) => words(attempt.program.command()),
        Err(error) => error.to_string(),
    };
    SubjectResult {
        name: subject.name().to_owned(),
        kind: subject.kind(),
        version: subject.version().map(ToOwned::to_owned),
        command,
        series: Vec::new(),
        phases: None,
        memory: None,
        failures: Vec::new(),
    }
}

/// A distribution's kernel as a guest.
fn distribution(plan: &Plan, ground: &Ground) -> Result<Guest, NotRun> {
    const NAME: &str = "ringfence-distro";
    if flavour().emulates_ring_0() {
        return Err(not_run(
            NAME,
            "a page-table based KVM stops an unpatched kernel at instructions it cannot emulate",
            "Measure on a host with VMX or SVM.",
        ));
    }
    let kernel = distribution_kernel(plan.distribution.as_deref(), "/boot".as_ref())?;
    let folder = ground.work.path().join("distribution");
    std::fs::create_dir_all(&folder).map_err(|e| not_run(NAME, &e.to_string(), "Make room."))?;
    Guest::linux(&folder, Some(&kernel), &plan.cmdline, GuestKind::Distribution)
        .map_err(|e| not_run(NAME, &e.to_string(), "Do what it says."))
}

pub(super) fn not_run(name: &str, reason: &str, remedy: &str) -> NotRun {
    NotRun { name: name.to_owned(), reason: reason.to_owned(), remedy: remedy.to_owned() }
}
