//! The least that any monitor pays: a program that makes only KVM's calls, for a guest of a few instructions.
//!
//! A benchmark's own program becomes it when its first argument is [`WORD`]: `start bare MIB`.

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// The argument that turns a benchmark into the bare program.
pub const WORD: &str = "bare";

/// Where the guest starts, in real mode.
const ENTRY: u64 = 0x1000;
const GIB: u64 = 1 << 30;
/// RAM below the 32-bit hole ends here at the latest, the rest starts at 4 GiB: as every monitor here lays it out.
const LOW_RAM: u64 = 3 * GIB;

/// Makes a machine of `mib` MiB with a split irqchip and one vCPU, and runs `code` until its first port access.
///
/// No CPUID, MSRs or tables, no thread, no console; the process's end takes the machine down.
pub fn run(mib: u64, code: &[u8]) {
    let size = mib << 20;
    let low = size.min(LOW_RAM);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(4 * GIB), (size - low) as usize));
    }
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&ranges).expect("address space for the RAM");
    ram.write_slice(code, GuestAddress(ENTRY)).expect("the code lies in RAM");
    let kvm = Kvm::new().expect("/dev/kvm");
    let vm = kvm.create_vm().expect("KVM_CREATE_VM");
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args[0] = 24;
    vm.enable_cap(&split).expect("KVM_CAP_SPLIT_IRQCHIP");
    let mut vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
    for (slot, region) in ram.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped, and `ram` outlives the vCPU.
        unsafe { vm.set_user_memory_region(region) }.expect("KVM_SET_USER_MEMORY_REGION");
    }
    let mut sregs = vcpu.get_sregs().expect("KVM_GET_SREGS");
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).expect("KVM_SET_SREGS");
    let mut regs = vcpu.get_regs().expect("KVM_GET_REGS");
    (regs.rip, regs.rflags) = (ENTRY, 2);
    vcpu.set_regs(&regs).expect("KVM_SET_REGS");
    match vcpu.run().expect("KVM_RUN") {
        VcpuExit::IoOut(0x64, _) => {}
        other => panic!("the guest did something else than write to its keyboard controller: {other:?}"),
    }
}
