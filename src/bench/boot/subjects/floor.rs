//! A program that makes nothing but KVM's calls: what is left of a monitor when all that is its own is taken away.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};

/// Its name.
pub const NAME: &str = "kvm-calls";

struct Floor(PathBuf);

pub(super) fn find(shop: &Workshop<'_>) -> Found {
    Ok(Box::new(Floor(shop.ringfence.to_owned())))
}

impl Subject for Floor {
    fn name(&self) -> &str {
        NAME
    }

    fn tells_first_run(&self) -> bool {
        true
    }

    fn kind(&self) -> Kind {
        Kind::Monitor
    }

    /// It has one, always.
    fn takes_cpus(&self) -> bool {
        false
    }

    fn version(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        let mut command = command(&self.0, &format!("bench floor --memory {}M", order.shape.mib()));
        command.args(order.hold.then_some("--hold"));
        if let Some(report) = order.report {
            command.arg("--report").arg(report);
        }
        Ok(Attempt::new(command))
    }
}
