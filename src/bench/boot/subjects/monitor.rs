//! What the monitors besides ringfence have in common: a program in `$PATH`, the guest, and nothing but their words apart.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

/// Makes the run that is ordered.
pub(super) type Start = fn(&Monitor, &Order<'_>) -> Result<Attempt<'static>, AttemptError>;

/// A monitor that is installed.
pub(super) struct Monitor {
    name: &'static str,
    start: Start,
    version: Option<String>,
    pub(super) program: PathBuf,
    pub(super) guest: Guest,
    /// A folder of the benchmark's own.
    pub(super) work: PathBuf,
}

/// The subject `name`, if its `program` is installed; else `remedy` tells how it comes to be.
pub(super) fn find(
    shop: &Workshop<'_>,
    guest: &Guest,
    name: &'static str,
    program: &str,
    remedy: &str,
    start: Start,
) -> Found {
    let found = shop.program(name, program, remedy)?;
    let (program, version) = (found.path.clone(), found.version.clone());
    Ok(Box::new(Monitor { name, start, version, program, guest: guest.clone(), work: shop.work.to_owned() }))
}

impl Subject for Monitor {
    fn name(&self) -> &str {
        self.name
    }

    fn kind(&self) -> Kind {
        Kind::Monitor
    }

    fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.guest.files(&self.program)
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        (self.start)(self, order)
    }
}
