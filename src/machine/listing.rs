//! Putting a machine on the list of those that run now.

use crate::config::MachineConfig;
use crate::memory::GuestRam;
use crate::placement::Allocation;
use crate::registry::{Asked, RamAsked, RamPiece, Registering, Registration, RegistryError};
use crate::sandbox::{Sandbox, Support};

/// The allocation as it was asked for and decided.
pub(super) fn asked(
    config: &MachineConfig,
    allocation: Option<&Allocation>,
    ram: &GuestRam,
    sandbox: &Sandbox,
) -> Asked {
    Asked {
        vcpus: config.cpus,
        memory_bytes: config.memory.as_u64(),
        placement: allocation.map(|allocation| allocation.granted().clone()),
        ram: RamAsked::from(ram.backing()),
        confined: !sandbox.is_off(),
        landlock: sandbox.paths().map(|support| support == Support::Enforced),
    }
}

/// Puts the machine on the list. A machine that nobody gave a name runs without it where there can be no list.
pub(super) fn register(
    config: &MachineConfig,
    asked: Asked,
    ram: &GuestRam,
    warnings: &mut Vec<String>,
) -> Result<Option<Registration>, RegistryError> {
    let Some(listing) = &config.listing else { return Ok(None) };
    let pieces = ram
        .regions()
        .map(|r| RamPiece { guest_address: r.start, bytes: r.len, host_address: r.host_address })
        .collect();
    let machine = Registering { kernel: &config.kernel.path, initrd: config.initrd.as_deref(), ram: pieces, asked };
    match Registration::new(listing, machine) {
        Ok(registration) => Ok(Some(registration)),
        Err(error) if listing.name.is_none() => {
            warnings.push(format!("`ringfence ps` will not show this machine: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
