//! Does this KVM keep a guest's interrupt shadow?
//!
//! After `sti` the processor takes no interrupt until the next instruction has been executed (AMD APM vol. 2, section
//! 15.21.5, "Interrupt Shadows"), which is what makes `sti; hlt` a safe way to wait. A VMM that enters a guest between the
//! two says so in the VMCB, and the processor is to wait one instruction. One that does not lets the interrupt in before the
//! `hlt`, and the guest then sleeps although what it waits for has been.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_STI, kvm_msi, kvm_regs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const RAM: usize = 1 << 20;
const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x2000;
const STACK: u64 = 0x8000;
const VECTOR: u8 = 0x40;
/// Spurious interrupt vector register: the LAPIC's software enable bit and vector 0xFF (AMD APM vol. 2, section 16.4.7).
const SPURIOUS: usize = 0xF0;

/// Where the handler of an interrupt returns to, when it came while a vCPU stood at a `hlt` just after `sti`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// Before the `hlt`: the shadow was lost, and the guest will sleep with nothing to wake it.
    BeforeHalt,
    /// After it, as the processor manual says.
    AfterHalt,
}

/// Makes the moment happen: one vCPU in real mode at a `hlt`, in the shadow of a `sti`, an interrupt pending.
pub fn probe() -> Taken {
    let kvm = Kvm::new().expect("/dev/kvm opens");
    let vm = kvm.create_vm().expect("a VM");
    vm.create_irq_chip().expect("an interrupt controller");
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)]).expect("guest memory");
    let region = kvm_userspace_memory_region {
        memory_size: RAM as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0)).expect("its address") as u64,
        ..Default::default()
    };
    // SAFETY: the mapping is as long as the region says and outlives the VM, which is dropped first.
    unsafe { vm.set_user_memory_region(region) }.expect("the memory slot");
    // hlt; and the handler: pop ax; out 0x80, ax.
    memory.write_slice(&[0xF4], GuestAddress(CODE)).expect("the code");
    memory.write_slice(&[0x58, 0xE7, 0x80], GuestAddress(HANDLER)).expect("the handler");
    memory.write_obj(HANDLER as u32, GuestAddress(u64::from(VECTOR) * 4)).expect("the interrupt vector");

    let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
    let mut sregs = vcpu.get_sregs().expect("the segment registers");
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).expect("the segment registers are set");
    vcpu.set_regs(&kvm_regs { rip: CODE, rsp: STACK, rflags: 0x202, ..Default::default() })
        .expect("the registers are set");
    let mut lapic = vcpu.get_lapic().expect("the LAPIC");
    (lapic.regs[SPURIOUS], lapic.regs[SPURIOUS + 1]) = (-1, 1);
    vcpu.set_lapic(&lapic).expect("the LAPIC is set");
    let mut events = vcpu.get_vcpu_events().expect("the events");
    events.flags = KVM_VCPUEVENT_VALID_SHADOW;
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI as u8;
    vcpu.set_vcpu_events(&events).expect("the shadow is set");
    let msi = kvm_msi { address_lo: 0xFEE0_0000, data: u32::from(VECTOR), ..Default::default() };
    vm.signal_msi(msi).expect("the interrupt is sent");

    match vcpu.run().expect("the vCPU runs") {
        VcpuExit::IoOut(0x80, bytes) => match u64::from(u16::from_le_bytes([bytes[0], bytes[1]])) {
            CODE => Taken::BeforeHalt,
            after => {
                assert_eq!(after, CODE + 1, "the handler returns to nowhere near the hlt");
                Taken::AfterHalt
            }
        },
        exit => panic!("the handler did not report: {exit:?}"),
    }
}
