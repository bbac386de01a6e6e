//! The least that any monitor pays: nothing but KVM's calls, for a guest of a few instructions.
//!
//! No CPUID, MSRs or tables, no thread, no console, no sandbox; the process's end takes the machine down. What ringfence takes
//! beyond it is ringfence's own.

use std::io::{self, Write};
use std::path::Path;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;
use crate::machine::{Phase, Report, covered, now_ns};
use crate::units::ByteSize;

/// Where the guest starts, in real mode.
const ENTRY: u64 = 0x1000;
/// Least RAM: the guest's page and those below it.
const RAM_MIN: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// RAM below the 32-bit hole ends here at the latest, the rest starts at 4 GiB: as every monitor lays it out.
const LOW_RAM: u64 = 3 * GIB;
/// Pins of an I/O APIC, as KVM wants to know for a split irqchip.
const PINS: u64 = 24;

/// Why the guest did not run.
#[derive(Debug, Error)]
pub enum FloorError {
    /// One of KVM's calls.
    #[error("{0} failed")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// RAM.
    #[error("cannot map {} of RAM: {reason}", size.rounded())]
    Ram {
        /// How much.
        size: ByteSize,
        /// The system's reason.
        reason: String,
    },
    /// The guest did what it has no instruction for.
    #[error("the guest left by {0}, which it has no instruction for")]
    Exit(String),
    /// What it is to tell.
    #[error("cannot write the report")]
    Report(#[source] io::Error),
    /// Its line.
    #[error("cannot write the guest's line")]
    Line(#[source] io::Error),
}

/// When it came to its first KVM_RUN, with the time inside the calls before.
#[derive(Debug, Default)]
struct Times {
    calls: Vec<(u64, u64)>,
    first_run: u64,
}

impl Times {
    /// Makes one of KVM's calls.
    fn call<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, FloorError> {
        let from = now_ns();
        let result = call();
        self.calls.push((from, now_ns()));
        result.map_err(|e| FloorError::Kvm(name, e))
    }

    /// Writes them as `ringfence run --report` does.
    fn write(mut self, path: &Path) -> Result<(), FloorError> {
        let report = Report {
            phases: vec![(Phase::FirstRun, self.first_run)],
            kvm_setup_ns: covered(&mut self.calls),
            ..Report::default()
        };
        let json = serde_json::to_vec(&report).map_err(|e| FloorError::Report(e.into()))?;
        std::fs::write(path, json).map_err(FloorError::Report)
    }
}

/// Makes a machine with a split irqchip and one vCPU, and runs the guest until it resets it; with `hold` it stays. Then writes to
/// `report`, if there is one, when it came to the first KVM_RUN.
///
/// # Errors
/// [`FloorError`].
pub fn run(size: ByteSize, hold: bool, report: Option<&Path>) -> Result<(), FloorError> {
    let mut times = Times::default();
    let ram = map(size)?;
    let kvm = Kvm::new().map_err(|e| FloorError::Kvm("opening /dev/kvm", e))?;
    let vm = times.call("KVM_CREATE_VM", || kvm.create_vm())?;
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args[0] = PINS;
    times.call("KVM_CAP_SPLIT_IRQCHIP", || vm.enable_cap(&split))?;
    let mut vcpu = times.call("KVM_CREATE_VCPU", || vm.create_vcpu(0))?;
    ram.write_slice(&code(hold), GuestAddress(ENTRY)).map_err(|e| FloorError::Ram { size, reason: e.to_string() })?;
    for (slot, region) in ram.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for as long as `ram` is there, which is longer than the vCPU.
        let set = || unsafe { vm.set_user_memory_region(region) };
        times.call("KVM_SET_USER_MEMORY_REGION", set)?;
    }
    let mut sregs = times.call("KVM_GET_SREGS", || vcpu.get_sregs())?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    times.call("KVM_SET_SREGS", || vcpu.set_sregs(&sregs))?;
    let mut regs = times.call("KVM_GET_REGS", || vcpu.get_regs())?;
    (regs.rip, regs.rflags) = (ENTRY, 2);
    times.call("KVM_SET_REGS", || vcpu.set_regs(&regs))?;
    times.first_run = now_ns();
    serve(&mut vcpu)?;
    report.map_or(Ok(()), |path| times.write(path))
}

/// Runs the guest until it resets its machine.
fn serve(vcpu: &mut VcpuFd) -> Result<(), FloorError> {
    loop {
        match vcpu.run().map_err(|e| FloorError::Kvm("KVM_RUN", e))? {
            VcpuExit::IoOut(layout::COM1_PORT, data) => {
                let mut stdout = io::stdout();
                stdout.write_all(data).and_then(|()| stdout.flush()).map_err(FloorError::Line)?;
            }
            VcpuExit::IoOut(layout::I8042_COMMAND_PORT, _) => return Ok(()),
            other => return Err(FloorError::Exit(format!("{other:?}"))),
        }
    }
}

fn map(size: ByteSize) -> Result<GuestMemoryMmap, FloorError> {
    let failed = |reason: String| FloorError::Ram { size, reason };
    let bytes = size.as_u64();
    if bytes < RAM_MIN {
        return Err(failed(format!("the least is {}", ByteSize::bytes(RAM_MIN).rounded())));
    }
    let low = bytes.min(LOW_RAM);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(4 * GIB), (bytes - low) as usize));
    }
    GuestMemoryMmap::from_ranges(&ranges).map_err(|e| failed(e.to_string()))
}

/// 16-bit code: its byte to the serial port, then a reset unless held, then halt.
pub(super) fn code(hold: bool) -> Vec<u8> {
    let [low, high] = layout::COM1_PORT.to_le_bytes();
    // mov dx, COM1; mov al, mark; out dx, al
    let mut code = vec![0xba, low, high, 0xb0, super::guest::TRIVIAL_MARK, 0xee];
    if !hold {
        // mov al, 0xfe; out 0x64, al
        code.extend_from_slice(&[0xb0, 0xfe, 0xe6, layout::I8042_COMMAND_PORT as u8]);
    }
    // hlt; jmp to it
    code.extend_from_slice(&[0xf4, 0xeb, 0xfd]);
    code
}
