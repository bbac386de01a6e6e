//! Firecracker, by a configuration file and without its API's socket: its quickest way.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

const REMEDY: &str = "Put the `firecracker` of its release page into $PATH.";

struct Firecracker {
    program: PathBuf,
    version: Option<String>,
    guest: Guest,
    work: PathBuf,
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let program = shop.program("firecracker", "firecracker", REMEDY)?;
    Ok(Box::new(Firecracker {
        program: program.path.clone(),
        version: program.version.clone(),
        guest: guest.clone(),
        work: shop.work.to_owned(),
    }))
}

impl Subject for Firecracker {
    fn name(&self) -> &str {
        "firecracker"
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
        let mut source = json!({
            "kernel_image_path": self.guest.kernel(order.hold),
            "boot_args": self.guest.cmdline,
        });
        if let Some(initrd) = self.guest.initrd(order.hold) {
            source["initrd_path"] = json!(initrd);
        }
        let config = json!({
            "boot-source": source,
            "drives": [],
            "machine-config": { "vcpu_count": order.shape.cpus, "mem_size_mib": order.shape.mib() },
        });
        let path = self.work.join(format!("firecracker-{}.json", order.id));
        fs::write(&path, config.to_string())
            .map_err(|e| AttemptError::Start(format!("cannot write {}: {e}", path.display())))?;
        let mut command = command(&self.program, "--no-api --config-file");
        command.arg(path);
        Ok(Attempt::new(command))
    }
}
