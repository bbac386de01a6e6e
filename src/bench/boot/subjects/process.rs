//! A plain process: fork and exec, the least that starting a program costs.

use std::path::PathBuf;
use std::process::Command;

use super::{Found, Kind, Order, Subject, Workshop};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::payload;

struct Plain(PathBuf);

pub(super) fn find(shop: &Workshop<'_>) -> Found {
    Ok(Box::new(Plain(shop.rootfs.path().join(payload::NAME))))
}

impl Subject for Plain {
    fn name(&self) -> &str {
        "process"
    }

    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn version(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        let mut command = Command::new(&self.0);
        command.args(order.hold.then_some(payload::HOLD));
        Ok(Attempt::new(command))
    }
}
