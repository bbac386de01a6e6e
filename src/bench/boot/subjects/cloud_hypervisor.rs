//! Cloud Hypervisor. It takes a guest's reset for a reboot, so that its end is measured only where the guest powers off.

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::{Guest, GuestKind};

const REMEDY: &str = "Put the static `cloud-hypervisor` of its release page into $PATH.";

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    monitor::find(shop, guest, "cloud-hypervisor", "cloud-hypervisor", REMEDY, start)
}

fn start(monitor: &Monitor, order: &Order<'_>) -> Result<Attempt<'static>, AttemptError> {
    let size = format!("--cpus boot={} --memory size={}M", order.shape.cpus, order.shape.mib());
    let mut command = command(&monitor.program, &size);
    command.args("--console off --serial tty".split(' '));
    command.arg("--kernel").arg(monitor.guest.kernel(order.hold)).arg("--cmdline").arg(&monitor.guest.cmdline);
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        command.arg("--initramfs").arg(initrd);
    }
    let ends = if monitor.guest.kind == GuestKind::Trivial { Ends::With(&[0]) } else { Ends::Killed };
    Ok(Attempt::new(command).ending(ends))
}
