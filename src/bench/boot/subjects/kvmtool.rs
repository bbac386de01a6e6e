//! kvmtool.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Build `lkvm` from kvmtool's own source and put it into $PATH.";

struct Kvmtool {
    program: PathBuf,
    version: Option<String>,
    guest: Guest,
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let program = shop.program("kvmtool", "lkvm", REMEDY)?;
    let (program, version) = (program.path.clone(), program.version.clone());
    Ok(Box::new(Kvmtool { program, version, guest: guest.clone() }))
}

impl Subject for Kvmtool {
    fn name(&self) -> &str {
        "kvmtool"
    }

    fn kind(&self) -> Kind {
        Kind::Monitor
    }

    fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn files(&self) -> Vec<PathBuf> {
        let initrd = self.guest.initrd(false).map(ToOwned::to_owned);
        [self.program.clone(), self.guest.kernel(false).to_owned()].into_iter().chain(initrd).collect()
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        let size = format!("run -c {} -m {} --console serial", order.shape.cpus, order.shape.mib());
        let mut command = command(&self.program, &size);
        // Its name is that of a socket, so that none is taken twice.
        command.arg("--name").arg(order.id).arg("--kernel").arg(self.guest.kernel(order.hold));
        if let Some(initrd) = self.guest.initrd(order.hold) {
            command.arg("--initrd").arg(initrd);
        }
        command.arg("--params").arg(&self.guest.cmdline);
        Ok(Attempt::new(command))
    }
}
