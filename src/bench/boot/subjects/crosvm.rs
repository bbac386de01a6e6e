//! crosvm, without its sandbox of several processes, as the others have none here.

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Build crosvm from its own source and put it into $PATH.";
/// A reset ends it with a status of its own.
const STATUSES: &[i32] = &[0, 32];

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    monitor::find(shop, guest, "crosvm", "crosvm", REMEDY, start)
}

fn start(monitor: &Monitor, order: &Order<'_>) -> Result<Attempt<'static>, AttemptError> {
    let mut command = command(&monitor.program, "run --disable-sandbox --serial type=stdout,hardware=serial,num=1");
    command.args(["--cpus", &order.shape.cpus.to_string(), "--mem", &order.shape.mib().to_string()]);
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        command.arg("--initrd").arg(initrd);
    }
    command.arg("--params").arg(&monitor.guest.cmdline).arg(monitor.guest.kernel(order.hold));
    Ok(Attempt::new(command).ending(Ends::With(STATUSES)))
}
