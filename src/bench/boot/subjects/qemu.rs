//! QEMU, as a microvm and as the usual PC.

use std::path::PathBuf;

use super::{Found, Kind, Order, Subject, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::{Guest, GuestKind};
use crate::host;

const REMEDY: &str = "Install it: apt-get install qemu-system-x86.";

/// Which machine QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QemuMachine {
    /// Without firmware's and PCI's work, without option ROMs and old timers: what its documentation advises for speed.
    Microvm,
    /// A PC with PCI Express, and SeaBIOS: what `virt-install` and its like make.
    Q35,
}

struct Qemu {
    machine: QemuMachine,
    program: PathBuf,
    version: Option<String>,
    guest: Guest,
}

pub(super) fn find(shop: &Workshop<'_>, guest: &Guest, machine: QemuMachine) -> Found {
    let program = shop.program(machine.name(), "qemu-system-x86_64", REMEDY)?;
    let (program, version) = (program.path.clone(), program.version.clone());
    Ok(Box::new(Qemu { machine, program, version, guest: guest.clone() }))
}

impl QemuMachine {
    const fn name(self) -> &'static str {
        match self {
            Self::Microvm => "qemu-microvm",
            Self::Q35 => "qemu-q35",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Microvm => "-M microvm,x-option-roms=off,pit=off,pic=off,rtc=off",
            Self::Q35 => "-M q35",
        }
    }
}

impl Subject for Qemu {
    fn name(&self) -> &str {
        self.machine.name()
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
        let mut command = command(&self.program, self.machine.words());
        let size = format!("-accel kvm -m {} -smp {}", order.shape.mib(), order.shape.cpus);
        command.args(size.split(' '));
        // Where KVM emulates ring 0 its emulator lacks this feature's instruction, and ringfence hides it as well.
        command.arg("-cpu").arg(if host::flavour().emulates_ring_0() { "host,-cx16" } else { "host" });
        command.args("-nodefaults -no-user-config -display none -serial stdio -no-reboot".split(' '));
        // A debug exit is where the guest's init gives its status, as it does to ringfence. A microvm has no keyboard controller for
        // the few instructions to reset, and takes their write by another.
        match (self.guest.kind, self.machine) {
            (GuestKind::Trivial, QemuMachine::Q35) => {}
            (GuestKind::Trivial, QemuMachine::Microvm) => {
                command.args(["-device", "isa-debug-exit,iobase=0x64,iosize=1"]);
            }
            _ => {
                command.args(["-device", "isa-debug-exit,iobase=0x614,iosize=4"]);
            }
        }
        command.arg("-kernel").arg(self.guest.kernel(order.hold)).arg("-append").arg(&self.guest.cmdline);
        if let Some(initrd) = self.guest.initrd(order.hold) {
            command.arg("-initrd").arg(initrd);
        }
        // The debug exit's status is twice what was written, plus one: 1 for 0, 253 for 0xfe.
        Ok(Attempt::new(command).ending(Ends::With(&[0, 1, 253])))
    }
}
