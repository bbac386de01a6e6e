//! Cloud Hypervisor. It takes a guest's reset for a reboot, so that its end is measured only where the guest powers off.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::{Guest, GuestKind};

const REMEDY: &str = "Put the static `cloud-hypervisor` of its release page into $PATH.";

struct CloudHypervisor {
    program: PathBuf,
    version: Option<String>,
    guest: Guest,
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let program = shop.program("cloud-hypervisor", "cloud-hypervisor", REMEDY)?;
    let (program, version) = (program.path.clone(), program.version.clone());
    Ok(Box::new(CloudHypervisor { program, version, guest: guest.clone() }))
}

impl Subject for CloudHypervisor {
    fn name(&self) -> &str {
        "cloud-hypervisor"
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
        let size = format!("--cpus boot={} --memory size={}M", order.shape.cpus, order.shape.mib());
        let mut command = command(&self.program, &size);
        command.args("--console off --serial tty".split(' '));
        command.arg("--kernel").arg(self.guest.kernel(order.hold)).arg("--cmdline").arg(&self.guest.cmdline);
        if let Some(initrd) = self.guest.initrd(order.hold) {
            command.arg("--initramfs").arg(initrd);
        }
        let ends = if self.guest.kind == GuestKind::Trivial { Ends::With(&[0]) } else { Ends::Killed };
        Ok(Attempt::new(command).ending(ends))
    }
}
