//! runc, crun, youki, podman, docker and nerdctl, with their own defaults.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::payload;
use crate::bench::child::{ChildError, Stop};
use crate::bench::container::{self, Limits, Runtime};

struct Contained {
    runtime: Runtime,
    files: Vec<PathBuf>,
}

/// All that work here; those that don't are named with the reason.
pub(super) fn find(shop: &Workshop<'_>, wanted: &dyn Fn(&str) -> bool, stop: &Stop) -> Result<Vec<Found>, ChildError> {
    let (runtimes, absent) = container::find(shop.rootfs, &shop.work.join("containers"), stop)?;
    let mut found: Vec<Found> = Vec::new();
    for runtime in runtimes.into_iter().filter(|runtime| wanted(runtime.name)) {
        let program = shop.programs.iter().find(|program| program.name == runtime.name);
        let payload = shop.rootfs.path().join(payload::NAME);
        let files = program.map(|program| program.path.clone()).into_iter().chain([payload]).collect();
        found.push(Ok(Box::new(Contained { runtime, files })));
    }
    found.extend(absent.into_iter().filter(|not_run| wanted(&not_run.name)).map(Err));
    Ok(found)
}

impl Subject for Contained {
    fn name(&self) -> &str {
        self.runtime.name
    }

    fn kind(&self) -> Kind {
        Kind::Container
    }

    fn version(&self) -> Option<&str> {
        self.runtime.version.as_deref()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        let path = format!("/{}", payload::NAME);
        let words: &[&str] = if order.hold { &[&path, payload::HOLD] } else { &[&path] };
        let container = self.runtime.container(order.id, words, &Limits::default());
        container.map(Attempt::container).map_err(|error| AttemptError::Start(error.to_string()))
    }
}
