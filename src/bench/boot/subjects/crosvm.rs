//! crosvm, without its sandbox of several processes, as the others have none here.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Build crosvm from its own source and put it into $PATH.";
/// A reset ends it with a status of its own.
const STATUSES: &[i32] = &[0, 32];

struct Crosvm {
    program: PathBuf,
    version: Option<String>,
    guest: Guest,
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let program = shop.program("crosvm", "crosvm", REMEDY)?;
    let (program, version) = (program.path.clone(), program.version.clone());
    Ok(Box::new(Crosvm { program, version, guest: guest.clone() }))
}

impl Subject for Crosvm {
    fn name(&self) -> &str {
        "crosvm"
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
        let mut command = command(&self.program, "run --disable-sandbox --serial type=stdout,hardware=serial,num=1");
        command.args(["--cpus", &order.shape.cpus.to_string(), "--mem", &order.shape.mib().to_string()]);
        if let Some(initrd) = self.guest.initrd(order.hold) {
            command.arg("--initrd").arg(initrd);
        }
        command.arg("--params").arg(&self.guest.cmdline).arg(self.guest.kernel(order.hold));
        Ok(Attempt::new(command).ending(Ends::With(STATUSES)))
    }
}
