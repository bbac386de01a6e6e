//! Namespaces and a root file system of its own, without a runtime: what a container costs the kernel.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::payload;
use crate::bench::container::NotRun;

struct Namespaces {
    unshare: PathBuf,
    root: PathBuf,
}

pub(super) fn find(shop: &Workshop<'_>) -> Found {
    let not_run = |reason: &str, remedy: &str| NotRun {
        name: "namespaces".to_owned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    if !rustix::process::geteuid().is_root() {
        return Err(not_run("needs root to make namespaces other than a user's", "Run as root."));
    }
    let mut places = ["/usr/bin/unshare", "/bin/unshare"].iter().map(PathBuf::from);
    let unshare = places.find(|path| path.is_file());
    let unshare = unshare.ok_or_else(|| not_run("no unshare(1)", "Install it: apt-get install util-linux."))?;
    Ok(Box::new(Namespaces { unshare, root: shop.rootfs.path().to_owned() }))
}

impl Subject for Namespaces {
    fn name(&self) -> &str {
        "namespaces"
    }

    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn version(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.unshare.clone(), self.root.join(payload::NAME)]
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        // Its child goes with it, or a payload that stays would be left.
        let mut command = command(&self.unshare, "--mount --pid --fork --kill-child --ipc --uts --net --root");
        command.arg(&self.root).arg(format!("/{}", payload::NAME)).args(order.hold.then_some(payload::HOLD));
        Ok(Attempt::new(command))
    }
}
