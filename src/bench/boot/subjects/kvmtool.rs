//! kvmtool.

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Build `lkvm` from kvmtool's own source and put it into $PATH.";

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    monitor::find(shop, guest, "kvmtool", "lkvm", REMEDY, start)
}

fn start(monitor: &Monitor, order: &Order<'_>) -> Result<Attempt<'static>, AttemptError> {
    let size = format!("run -c {} -m {} --console serial", order.shape.cpus, order.shape.mib());
    let mut command = command(&monitor.program, &size);
    // Its name is that of a socket, so that none is taken twice.
    command.arg("--name").arg(order.id).arg("--kernel").arg(monitor.guest.kernel(order.hold));
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        command.arg("--initrd").arg(initrd);
    }
    command.arg("--params").arg(&monitor.guest.cmdline);
    Ok(Attempt::new(command))
}
