//! kvmtool. On x86 it takes a bzImage, or a flat file that it enters in real mode; a vmlinux it does not take.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError};
use crate::bench::boot::guest::Guest;
use crate::bench::container::NotRun;

const REMEDY: &str = "Build `lkvm` from kvmtool's own source and put it into $PATH.";

const NAME: &str = "kvmtool";

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let found = monitor::find(shop, guest, NAME, "lkvm", REMEDY, start)?;
    if guest.flat(false).is_some() || is_bzimage(guest.kernel(false)) {
        return Ok(found);
    }
    let reason = format!("it boots a bzImage only, and {} is none", guest.kernel(false).display());
    Err(NotRun { name: NAME.to_owned(), reason, remedy: "Give all monitors a bzImage: --kernel FILE.".to_owned() })
}

/// Whether the file has the signature of a Linux boot header (Documentation/arch/x86/boot.rst).
fn is_bzimage(path: &Path) -> bool {
    let mut signature = [0; 4];
    File::open(path).is_ok_and(|file| file.read_exact_at(&mut signature, 0x202).is_ok() && &signature == b"HdrS")
}

fn start(monitor: &Monitor, order: &Order<'_>) -> Result<Attempt<'static>, AttemptError> {
    let size = format!("run -c {} -m {} --console serial", order.shape.cpus, order.shape.mib());
    let mut command = command(&monitor.program, &size);
    // Its name is that of a socket, so that none is taken twice.
    let kernel = monitor.guest.flat(order.hold).unwrap_or(monitor.guest.kernel(order.hold));
    command.arg("--name").arg(order.id).arg("--kernel").arg(kernel);
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        command.arg("--initrd").arg(initrd);
    }
    command.arg("--params").arg(&monitor.guest.cmdline);
    Ok(Attempt::new(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a bzImage is told from anything else by its content.
    #[test]
    fn only_a_boot_header_is_a_bzimage() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let is = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            is_bzimage(file.path())
        };
        let mut image = vec![0; 0x400];
        assert!(!is(b"") && !is(&image));
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(is(&image) && !is_bzimage(Path::new("/nonexistent")));
    }
}
