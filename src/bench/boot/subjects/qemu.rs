//! QEMU, as a microvm and as the usual PC.

use super::monitor::{self, Monitor};
use super::{Found, Order, Workshop, command};
use crate::bench::boot::attempt::{Attempt, AttemptError, Ends};
use crate::bench::boot::guest::{Guest, GuestKind};
use crate::host;

const PROGRAM: &str = "qemu-system-x86_64";
const REMEDY: &str = "Install it: apt-get install qemu-system-x86.";

/// Which machine QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// Without firmware's and PCI's work, without option ROMs and old timers: what its documentation advises for speed.
    Microvm,
    /// A PC with PCI Express, and SeaBIOS: what `virt-install` and its like make.
    Q35,
}

pub(super) fn find_microvm(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let start = |monitor: &Monitor, order: &Order<'_>| start(monitor, order, Machine::Microvm);
    monitor::find(shop, guest, "qemu-microvm", PROGRAM, REMEDY, start)
}

pub(super) fn find_q35(shop: &Workshop<'_>, guest: &Guest) -> Found {
    let start = |monitor: &Monitor, order: &Order<'_>| start(monitor, order, Machine::Q35);
    monitor::find(shop, guest, "qemu-q35", PROGRAM, REMEDY, start)
}

impl Machine {
    const fn words(self) -> &'static str {
        match self {
            Self::Microvm => "-M microvm,x-option-roms=off,pit=off,pic=off,rtc=off",
            Self::Q35 => "-M q35",
        }
    }
}

fn start(monitor: &Monitor, order: &Order<'_>, machine: Machine) -> Result<Attempt<'static>, AttemptError> {
    let mut command = command(&monitor.program, machine.words());
    let size = format!("-accel kvm -m {} -smp {}", order.shape.mib(), order.shape.cpus);
    command.args(size.split(' '));
    // Where KVM emulates ring 0 its emulator lacks this feature's instruction, and ringfence hides it as well.
    command.arg("-cpu").arg(if host::flavour().emulates_ring_0() { "host,-cx16" } else { "host" });
    command.args("-nodefaults -no-user-config -display none -serial stdio -no-reboot".split(' '));
    // A debug exit is where the guest's init gives its status, as it does to ringfence. A microvm has no keyboard controller for
    // the few instructions to reset, and takes their write by another.
    match (monitor.guest.kind, machine) {
        (GuestKind::Trivial, Machine::Q35) => {}
        (GuestKind::Trivial, Machine::Microvm) => {
            command.args(["-device", "isa-debug-exit,iobase=0x64,iosize=1"]);
        }
        _ => {
            command.args(["-device", "isa-debug-exit,iobase=0x614,iosize=4"]);
        }
    }
    command.arg("-kernel").arg(monitor.guest.kernel(order.hold)).arg("-append").arg(&monitor.guest.cmdline);
    if let Some(initrd) = monitor.guest.initrd(order.hold) {
        command.arg("-initrd").arg(initrd);
    }
    // The debug exit's status is twice what was written, plus one: 1 for 0, 253 for 0xfe.
    Ok(Attempt::new(command).ending(Ends::With(&[0, 1, 253])))
}
