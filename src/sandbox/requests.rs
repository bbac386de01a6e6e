//! The numbers of KVM's ioctls (Linux `include/uapi/linux/kvm.h`), put together as `_IO`, `_IOR` and `_IOW` do
//! (`include/uapi/asm-generic/ioctl.h`): direction, size of the argument, type, number.

use kvm_bindings::{
    kvm_coalesced_mmio_zone, kvm_irq_level, kvm_irq_routing, kvm_msi, kvm_regs, kvm_sregs, kvm_translation,
    kvm_userspace_memory_region,
};

/// KVM's type of ioctl.
const KVMIO: u32 = 0xae;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn request<T>(direction: u32, number: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | KVMIO << 8 | number
}

pub(super) const KVM_RUN: u32 = request::<()>(0, 0x80);
pub(super) const KVM_SIGNAL_MSI: u32 = request::<kvm_msi>(WRITE, 0xa5);
pub(super) const KVM_SET_GSI_ROUTING: u32 = request::<kvm_irq_routing>(WRITE, 0x6a);
pub(super) const KVM_IRQ_LINE: u32 = request::<kvm_irq_level>(WRITE, 0x61);
pub(super) const KVM_REGISTER_COALESCED_MMIO: u32 = request::<kvm_coalesced_mmio_zone>(WRITE, 0x67);
pub(super) const KVM_UNREGISTER_COALESCED_MMIO: u32 = request::<kvm_coalesced_mmio_zone>(WRITE, 0x68);
pub(super) const KVM_SET_USER_MEMORY_REGION: u32 = request::<kvm_userspace_memory_region>(WRITE, 0x46);
pub(super) const KVM_GET_REGS: u32 = request::<kvm_regs>(READ, 0x81);
pub(super) const KVM_GET_SREGS: u32 = request::<kvm_sregs>(READ, 0x83);
pub(super) const KVM_TRANSLATE: u32 = request::<kvm_translation>(READ | WRITE, 0x85);
