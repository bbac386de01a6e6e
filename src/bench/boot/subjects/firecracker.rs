//! Firecracker, by a configuration file and without its API's socket: its quickest way.

use std::fs;

use serde_json::json;

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Put the `firecracker` of its release page into $PATH.";

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    monitor::find(shop, guest, "firecracker", "firecracker", REMEDY, start)
}

fn start(monitor: &Monitor, order: &Order<'_>) -> Result<Attempt<'static>, AttemptError> {
    let mut source = json!({
        "kernel_image_path": monitor.guest.kernel(order.hold),
        "boot_args": monitor.guest.cmdline,
    });
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        source["initrd_path"] = json!(initrd);
    }
    let config = json!({
        "boot-source": source,
        "drives": [],
        "machine-config": { "vcpu_count": order.shape.cpus, "mem_size_mib": order.shape.mib() },
    });
    let path = monitor.work.join(format!("firecracker-{}.json", order.id));
    fs::write(&path, config.to_string())
        .map_err(|e| AttemptError::Start(format!("cannot write {}: {e}", path.display())))?;
    let mut command = command(&monitor.program, "--no-api --config-file");
    command.arg(path);
    Ok(Attempt::new(command))
}
