//! The machine's power switch: whoever ends the machine first says how.

use std::sync::OnceLock;

use super::outcome::Outcome;
use super::wake::Wake;
use crate::bus::{PowerRequest, PowerSwitch};

/// Remembers the first reason to end and wakes the event loop.
pub(super) struct Power {
    outcome: OnceLock<Outcome>,
    wake: Wake,
}

impl Power {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { outcome: OnceLock::new(), wake: Wake::new()? })
    }

    /// Ends the machine with `outcome`, unless it is ending already.
    pub(super) fn end(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() {
            self.wake.wake();
        }
    }

    /// How the machine ended, once it has.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Readable once the machine has ended.
    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }
}

impl PowerSwitch for Power {
    fn request(&self, what: PowerRequest) {
        self.end(match what {
            PowerRequest::PowerOff => Outcome::PoweredOff,
            PowerRequest::Reset => Outcome::Reset,
            PowerRequest::Exit(status) => Outcome::Exited(status),
        });
    }
}
