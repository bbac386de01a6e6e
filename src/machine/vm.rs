//! KVM's side of a machine: the virtual machine, its interrupt controllers, its vCPUs.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_HALT_POLL, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_X86_DISABLE_EXITS, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    KVM_X86_DISABLE_EXITS_HLT, Msrs, kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::MachineRequest;
use super::report::{covered, now_ns};
use super::write_ring::WriteRing;
use crate::config::{Halt, IrqChip};
use crate::cpu::{self, Topology, cpuid::Template};
use crate::host::Flavour;
use crate::layout;
use crate::memory::Region;

/// Why KVM did not make the machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// An ioctl failed.
    #[error("{attempted}: KVM says: {source}")]
    Ioctl {
        /// What was attempted, on what.
        attempted: String,
        /// KVM's words.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The CPUID table could not be made.
    #[error(transparent)]
    Cpuid(#[from] cpu::CpuidError),
    /// KVM lacks a way to halt.
    #[error("{option}: this host's KVM does not have it; do with --halt host, or use a newer kernel on the host")]
    NoHalt {
        /// The option, and KVM's name of it.
        option: &'static str,
    },
}

/// Notes when a thread was inside one of KVM's ioctls, so that the monitor's own share of a start can be told.
#[derive(Default)]
pub(super) struct KvmTime(Mutex<Vec<(u64, u64)>>);

impl KvmTime {
    /// Runs one ioctl and names it if it fails.
    fn ioctl<T>(
        &self,
        attempted: &'static str,
        f: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, VmError> {
        let start = now_ns();
        let result = f();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((start, now_ns()));
        result.map_err(|source| VmError::Ioctl { attempted: attempted.to_owned(), source })
    }

    /// Nanoseconds in which any thread was.
    pub(super) fn ns(&self) -> u64 {
        covered(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Processors that have an 8-bit APIC id of their own; 255 means all of them.
const MAX_XAPIC_IDS: u32 = 255;

/// A KVM virtual machine with its interrupt controllers.
#[derive(Clone)]
pub(super) struct Vm {
    pub(super) fd: Arc<VmFd>,
    pub(super) irqchip: IrqChip,
    pub(super) time: Arc<KvmTime>,
}

impl Vm {
    /// Makes a machine of which nothing is known yet.
    pub(super) fn begin(kvm: &Kvm, time: &KvmTime) -> Result<VmFd, VmError> {
        time.ioctl("KVM_CREATE_VM (make a virtual machine)", || kvm.create_vm())
    }

    /// Makes its interrupt controllers, and sets what must be set before there are vCPUs.
    pub(super) fn complete(fd: VmFd, time: Arc<KvmTime>, request: &MachineRequest) -> Result<Self, VmError> {
        let irqchip = create_irqchip(&fd, &time, request.irqchip, request.flavour)?;
        set_halt(&fd, &time, request.halt)?;
        if request.cpus > MAX_XAPIC_IDS {
            let mut cap = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
            cap.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
            time.ioctl("KVM_CAP_X2APIC_API (more vCPUs than 8-bit APIC ids)", || fd.enable_cap(&cap))?;
        }
        Ok(Self { fd: Arc::new(fd), irqchip, time })
    }

    /// Makes vCPU `id`.
    pub(super) fn create_vcpu(&self, id: u32) -> Result<VcpuFd, VmError> {
        let vcpu = self.time.ioctl("KVM_CREATE_VCPU", || self.fd.create_vcpu(u64::from(id)));
        vcpu.map_err(|e| e.on(&format!("vCPU {id}")))
    }

    /// The page where KVM gathers writes, if it can for ports. `vcpu` may be any one.
    pub(super) fn write_ring(&self, vcpu: &VcpuFd) -> Option<Arc<WriteRing>> {
        if !self.fd.check_extension(Cap::CoalescedPio) {
            return None;
        }
        WriteRing::map(vcpu.as_raw_fd()).ok().map(Arc::new)
    }

    /// Lets KVM start the threads that it otherwise starts when the guest first runs (Linux 6.13 and later), so that they can
    /// be found and moved before: KVM_RUN returns before the guest is entered.
    pub(super) fn start_kvms_threads(&self, vcpu: &mut VcpuFd) -> Result<(), VmError> {
        vcpu.set_kvm_immediate_exit(1);
        let returned = self.time.ioctl("KVM_RUN (with immediate_exit)", || match vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            other => other.map(drop),
        });
        vcpu.set_kvm_immediate_exit(0);
        returned
    }

    /// What the CPUID tables of `cpus` vCPUs are made of. `vcpu` is asked for the TSC's frequency.
    pub(super) fn cpuid(&self, kvm: &Kvm, vcpu: &VcpuFd, flavour: Flavour, cpus: u32) -> Result<Template, VmError> {
        let supported =
            self.time.ioctl("KVM_GET_SUPPORTED_CPUID", || kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
        // Without it the guest measures the frequency itself.
        let tsc_khz = self.time.ioctl("KVM_GET_TSC_KHZ", || vcpu.get_tsc_khz()).unwrap_or(0);
        Ok(Template::new(&supported, flavour, Topology { cpus }, tsc_khz))
    }

    /// Tells KVM of pieces of the guest's RAM, the first of which becomes slot `slot`. RAM must live as long as the machine runs.
    pub(super) fn map(&self, slot: usize, regions: &[Region]) -> Result<(), VmError> {
        for (slot, region) in (slot..).zip(regions) {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start,
                memory_size: region.len,
                userspace_addr: region.host_address,
            };
            // SAFETY: the region is a mapping owned by `GuestRam`, which every vCPU thread holds while it runs the guest, so the
            // guest reaches no other memory of this process.
            let set = || unsafe { self.fd.set_user_memory_region(region) };
            self.time.ioctl("KVM_SET_USER_MEMORY_REGION (give the guest its RAM)", set)?;
        }
        Ok(())
    }
}

impl VmError {
    fn on(self, what: &str) -> Self {
        match self {
            Self::Ioctl { attempted, source } => Self::Ioctl { attempted: format!("{attempted}, {what}"), source },
            other => other,
        }
    }
}

/// Sets who waits when a vCPU halts (KVM API, sections 7.13 and 7.20). KVM takes it before there are vCPUs only.
fn set_halt(fd: &VmFd, time: &KvmTime, halt: Halt) -> Result<(), VmError> {
    let (number, needed, argument, option) = match halt {
        Halt::Default => return Ok(()),
        Halt::Guest => (
            KVM_CAP_X86_DISABLE_EXITS,
            KVM_X86_DISABLE_EXITS_HLT as i32,
            u64::from(KVM_X86_DISABLE_EXITS_HLT),
            "--halt guest (KVM_CAP_X86_DISABLE_EXITS, HLT)",
        ),
        Halt::Host(ns) => (KVM_CAP_HALT_POLL, 1, u64::from(ns), "--halt host:MICROSECONDS (KVM_CAP_HALT_POLL)"),
    };
    let has = fd.check_extension_raw(u64::from(number));
    if has & needed == 0 {
        return Err(VmError::NoHalt { option });
    }
    let mut cap = kvm_enable_cap { cap: number, ..Default::default() };
    cap.args[0] = argument;
    time.ioctl(option, || fd.enable_cap(&cap))
}

/// Makes the interrupt controllers and says which they are: KVM without split irqchips gets its own ones.
fn create_irqchip(fd: &VmFd, time: &KvmTime, wanted: IrqChip, flavour: Flavour) -> Result<IrqChip, VmError> {
    if flavour == Flavour::Vmx {
        // Intel's CPUs without "unrestricted guest" run real mode in virtual-8086 mode, with these pages.
        time.ioctl("KVM_SET_IDENTITY_MAP_ADDR", || fd.set_identity_map_address(layout::KVM_IDENTITY_MAP))?;
        time.ioctl("KVM_SET_TSS_ADDR", || fd.set_tss_address(layout::KVM_TSS as usize))?;
    }
    if wanted == IrqChip::Split {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = u64::from(layout::IOAPIC_PINS);
        if time.ioctl("KVM_CAP_SPLIT_IRQCHIP", || fd.enable_cap(&cap)).is_ok() {
            return Ok(IrqChip::Split);
        }
    }
    time.ioctl("KVM_CREATE_IRQCHIP (local APICs, I/O APIC and PIC in KVM)", || fd.create_irq_chip())?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    time.ioctl("KVM_CREATE_PIT2 (the timer in KVM)", || fd.create_pit2(pit))?;
    Ok(IrqChip::Kernel)
}

/// Where and in what mode the first vCPU starts. The others start when the guest sends them INIT and SIPI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) mode: cpu::regs::Mode,
    pub(super) address: u64,
}

/// Gives vCPU `id` what firmware would: CPUID, MSRs, the local APIC's interrupt inputs.
pub(super) fn prepare(vcpu: &VcpuFd, id: u32, template: &Template, time: &KvmTime) -> Result<(), VmError> {
    let cpuid = template.for_vcpu(id)?;
    time.ioctl("KVM_SET_CPUID2", || vcpu.set_cpuid2(&cpuid))?;
    let msrs = Msrs::from_entries(&cpu::msrs::entries()).expect("a handful of MSRs is within KVM's limit");
    // A register that this KVM does not have is left out: the guest finds it as the hardware has it.
    time.ioctl("KVM_SET_MSRS", || vcpu.set_msrs(&msrs))?;
    let mut lapic = time.ioctl("KVM_GET_LAPIC", || vcpu.get_lapic())?;
    cpu::lapic::set_local_interrupts(&mut lapic);
    time.ioctl("KVM_SET_LAPIC", || vcpu.set_lapic(&lapic))
}

/// Puts the first vCPU at the kernel's entry.
pub(super) fn enter_kernel(vcpu: &VcpuFd, entry: Entry, time: &KvmTime) -> Result<(), VmError> {
    let mut sregs = time.ioctl("KVM_GET_SREGS", || vcpu.get_sregs())?;
    cpu::regs::system(entry.mode, &mut sregs);
    time.ioctl("KVM_SET_SREGS", || vcpu.set_sregs(&sregs))?;
    time.ioctl("KVM_SET_REGS", || vcpu.set_regs(&cpu::regs::general(entry.mode, entry.address)))
}
