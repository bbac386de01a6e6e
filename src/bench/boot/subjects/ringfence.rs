//! ringfence itself, by the flags a user would give.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Variant, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;

/// Name of the subject with a distribution's kernel.
pub const DISTRIBUTION: &str = "ringfence-distro";

struct Ringfence {
    name: String,
    program: PathBuf,
    guest: Guest,
    more: Vec<String>,
}

fn subject(shop: &Workshop<'_>, name: &str, guest: Guest, more: &[String]) -> Found {
    Ok(Box::new(Ringfence { name: name.to_owned(), program: shop.ringfence.to_owned(), guest, more: more.to_vec() }))
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    subject(shop, "ringfence", guest.clone(), &[])
}

pub(super) fn find_distribution(shop: &Workshop<'_>) -> Found {
    subject(shop, DISTRIBUTION, shop.distribution.clone()?, &[])
}

pub(super) fn find_variant(shop: &Workshop<'_>, guest: &Guest, variant: &Variant) -> Found {
    subject(shop, &variant.name, guest.clone(), &variant.arguments)
}

impl Subject for Ringfence {
    fn name(&self) -> &str {
        &self.name
    }

    fn reports(&self) -> bool {
        true
    }

    fn kind(&self) -> Kind {
        Kind::Monitor
    }

    fn version(&self) -> Option<&str> {
        Some(concat!("ringfence ", env!("CARGO_PKG_VERSION")))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.guest.files(&self.program)
    }

    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError> {
        let size = format!("run --cpus {} --memory {}M", order.shape.cpus, order.shape.mib());
        let mut command = command(&self.program, &size);
        command.arg("--kernel").arg(self.guest.kernel(order.hold));
        command.arg("--initrd").arg(self.guest.initrd(order.hold).unwrap_or("none".as_ref()));
        command.arg("--cmdline-only").arg(&self.guest.cmdline);
        command.args(&self.more);
        if let Some(report) = order.report {
            command.arg("--report").arg(report);
        }
        Ok(Attempt { report: order.report.map(ToOwned::to_owned), ..Attempt::new(command) })
    }
}
