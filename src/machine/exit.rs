//! Why a vCPU came back from KVM_RUN (KVM API, section 5), in the run loop's own words.

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN,
    KVM_EXIT_IOAPIC_EOI, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, kvm_run,
};
use kvm_ioctls::VcpuFd;

/// One return from KVM_RUN.
#[derive(Debug)]
pub(super) enum Exit<'a> {
    /// `in`: `data` holds one or more items of `size` bytes to be filled.
    PortIn { port: u16, size: usize, data: &'a mut [u8] },
    /// `out`: `data` holds one or more items of `size` bytes.
    PortOut { port: u16, size: usize, data: &'a [u8] },
    /// A read of memory that is not RAM.
    MmioRead { address: u64, data: &'a mut [u8] },
    /// A write to memory that is not RAM.
    MmioWrite { address: u64, data: &'a [u8] },
    /// A level-triggered interrupt with this vector was ended.
    IoapicEoi { vector: u8 },
    /// A signal arrived, or immediate_exit was set.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// The guest asked KVM itself for an end (KVM_SYSTEM_EVENT_*).
    SystemEvent { kind: u32 },
    /// The CPU refused to enter the guest.
    FailEntry { reason: u64, cpu: u32 },
    /// KVM gave up.
    InternalError(InternalError),
    /// `hlt` came out of KVM, which only happens with no local APIC in KVM.
    Halt,
    /// A reason that this monitor never asks for.
    Unexpected { reason: u32 },
}

/// KVM_EXIT_INTERNAL_ERROR's details.
#[derive(Clone, Debug)]
pub struct InternalError {
    /// KVM_INTERNAL_ERROR_*: 1 is an instruction that the emulator does not know.
    pub suberror: u32,
    /// Bytes of the instruction, where KVM gives them.
    pub instruction: Vec<u8>,
    /// What else KVM gives.
    pub data: Vec<u64>,
}

/// Emulation failure: `data[0]` bit 0 says that instruction bytes follow (KVM API, "KVM_EXIT_INTERNAL_ERROR").
const SUBERROR_EMULATION: u32 = 1;
const FLAG_INSTRUCTION_BYTES: u64 = 1;

/// Enters the guest and says why it came back. Errors are KVM_RUN's own.
pub(super) fn enter(vcpu: &mut VcpuFd) -> Result<Exit<'_>, kvm_ioctls::Error> {
    match vcpu.run().map(|_| ()) {
        Ok(()) => {}
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => return Ok(Exit::Interrupted),
        Err(e) => return Err(e),
    }
    Ok(decode(vcpu.get_kvm_run()))
}

fn decode(run: &mut kvm_run) -> Exit<'_> {
    let start = std::ptr::from_mut(run).cast::<u8>();
    let details = &mut run.__bindgen_anon_1;
    // SAFETY: KVM fills the union's member that belongs to exit_reason, and each member is plain old data. The port data lies
    // in the same shared mapping of KVM_GET_VCPU_MMAP_SIZE bytes, at the offset and of the length KVM gives.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_IO => {
                let io = details.io;
                let size = usize::from(io.size);
                let data = std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), size * io.count as usize);
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Exit::PortIn { port: io.port, size, data }
                } else {
                    Exit::PortOut { port: io.port, size, data }
                }
            }
            KVM_EXIT_MMIO => {
                let mmio = &mut details.mmio;
                let len = (mmio.len as usize).min(mmio.data.len());
                if mmio.is_write == 0 {
                    Exit::MmioRead { address: mmio.phys_addr, data: &mut mmio.data[..len] }
                } else {
                    Exit::MmioWrite { address: mmio.phys_addr, data: &mmio.data[..len] }
                }
            }
            KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi { vector: details.eoi.vector },
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent { kind: details.system_event.type_ },
            KVM_EXIT_FAIL_ENTRY => {
                let entry = details.fail_entry;
                Exit::FailEntry { reason: entry.hardware_entry_failure_reason, cpu: entry.cpu }
            }
            KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(internal_error(details.internal)),
            KVM_EXIT_HLT => Exit::Halt,
            reason => Exit::Unexpected { reason },
        }
    }
}

fn internal_error(raw: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_13) -> InternalError {
    let data = raw.data[..(raw.ndata as usize).min(raw.data.len())].to_vec();
    let mut instruction = Vec::new();
    // For an emulation failure the words after the flags are a length byte and up to 15 bytes of code.
    if raw.suberror == SUBERROR_EMULATION && data.first().is_some_and(|flags| flags & FLAG_INSTRUCTION_BYTES != 0) {
        let bytes: Vec<u8> = data[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Some((len, code)) = bytes.split_first() {
            instruction = code[..usize::from(*len).min(code.len()).min(15)].to_vec();
        }
    }
    InternalError { suberror: raw.suberror, instruction, data }
}
