//! What happened when a vCPU could not go on, in words that help.

use std::fmt::{self, Write};

use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::exit::InternalError;
use super::vcpu::Shared;
use crate::host::Flavour;

/// KVM_INTERNAL_ERROR_EMULATION.
const EMULATION: u32 = 1;
/// Longest x86 instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;

/// Why a vCPU stopped.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    Shutdown,
    SystemEvent(u32),
    FailEntry { reason: u64, cpu: u32 },
    InternalError(InternalError),
    RunFailed(kvm_ioctls::Error),
    Unexpected(u32),
}

/// The mode a vCPU was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Protected16,
    Protected32,
    Long,
}

/// Where and how a vCPU stopped.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    vcpu: u32,
    flavour: Flavour,
    cause: Cause,
    registers: Option<(Box<kvm_regs>, Box<kvm_sregs>)>,
    code: Vec<u8>,
}

/// Collects what can still be read of the vCPU.
pub(super) fn diagnose(vcpu: &VcpuFd, id: u32, cause: Cause, shared: &Shared) -> Diagnosis {
    let registers = vcpu.get_regs().ok().zip(vcpu.get_sregs().ok());
    let mut code = match &cause {
        Cause::InternalError(error) => error.instruction.clone(),
        _ => Vec::new(),
    };
    if code.is_empty()
        && let Some((regs, sregs)) = &registers
    {
        code = read_code(vcpu, sregs.cs.base.wrapping_add(regs.rip), shared);
    }
    let registers = registers.map(|(regs, sregs)| (Box::new(regs), Box::new(sregs)));
    Diagnosis { vcpu: id, flavour: shared.flavour, cause, registers, code }
}

/// The bytes at a guest-virtual address, as many as are mapped, at most one instruction's.
fn read_code(vcpu: &VcpuFd, address: u64, shared: &Shared) -> Vec<u8> {
    let mut code = Vec::with_capacity(MAX_INSTRUCTION);
    for i in 0..MAX_INSTRUCTION as u64 {
        let Ok(translation) = vcpu.translate_gva(address.wrapping_add(i)) else { break };
        let mut byte = [0];
        if translation.valid == 0 || shared.ram.read(translation.physical_address, &mut byte).is_err() {
            break;
        }
        code.push(byte[0]);
    }
    code
}

impl Mode {
    fn of(sregs: &kvm_sregs) -> Self {
        match (sregs.cr0 & 1, sregs.efer >> 10 & 1 & u64::from(sregs.cs.l), sregs.cs.db) {
            (0, _, _) => Self::Real,
            (_, 1, _) => Self::Long,
            (_, _, 0) => Self::Protected16,
            _ => Self::Protected32,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Protected16 => 16,
            Self::Protected32 => 32,
            Self::Long => 64,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "real mode",
            Self::Protected16 => "16-bit protected mode",
            Self::Protected32 => "32-bit protected mode",
            Self::Long => "64-bit mode",
        })
    }
}

/// The first instruction in `code`, in Intel's syntax, and its bytes.
fn disassemble(code: &[u8], bits: u32, rip: u64) -> Option<(String, Vec<u8>)> {
    let instruction = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE).iter().next()?;
    let bytes = code[..instruction.len().min(code.len())].to_vec();
    if instruction.is_invalid() {
        return Some(("not an instruction this decoder knows".to_owned(), code.to_vec()));
    }
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    Some((text, bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

impl Cause {
    fn headline(&self) -> String {
        match self {
            Self::Shutdown => "shut down: a triple fault (KVM_EXIT_SHUTDOWN)".to_owned(),
            Self::SystemEvent(kind) => format!("asked KVM for system event {kind} (KVM_EXIT_SYSTEM_EVENT)"),
            Self::FailEntry { reason, cpu } => format!(
                "could not enter the guest: the CPU refused its state (KVM_EXIT_FAIL_ENTRY, hardware reason {reason:#x}, host CPU {cpu})"
            ),
            Self::InternalError(e) if e.suberror == EMULATION => {
                "met an instruction KVM cannot emulate (KVM_EXIT_INTERNAL_ERROR, suberror 1)".to_owned()
            }
            Self::InternalError(e) => {
                format!(
                    "hit an internal error of KVM (KVM_EXIT_INTERNAL_ERROR, suberror {}, data {:x?})",
                    e.suberror, e.data
                )
            }
            Self::RunFailed(error) => format!("could not be run: KVM_RUN failed: {error}"),
            Self::Unexpected(reason) => format!("stopped for exit reason {reason}, which this monitor never asks for"),
        }
    }

    fn advice(&self, flavour: Flavour) -> &'static str {
        match (self, flavour) {
            (Self::InternalError(e), Flavour::PageTable) if e.suberror == EMULATION => {
                "This host's KVM is page-table based: it emulates a kernel's ring 0 and lacks some instructions. \
                 Boot the default kernel (leave --kernel out), or one built with the patches in kernels/linux/patches, \
                 or use a host with VMX or SVM."
            }
            (Self::InternalError(e), _) if e.suberror == EMULATION => {
                "The guest ran this instruction on emulated memory or in a mode that needs emulation; \
                 a kernel for another machine or a jump into data often ends like this. Check --kernel."
            }
            (Self::Shutdown, _) => {
                "A kernel that faults before it has handlers ends like this: check that the image fits this machine, \
                 try --entry linux64, or add earlyprintk=ttyS0 with --cmdline to see how far it gets. \
                 A guest that resets by triple fault (reboot=t) ends like this too."
            }
            (Self::FailEntry { .. }, _) => {
                "The entry state was not valid for this CPU: report this with the output of `ringfence check` and -v."
            }
            (Self::RunFailed(_), _) => "See `ringfence check` and the host's kernel log (dmesg).",
            _ => "Report this with the output of `ringfence check` and -v.",
        }
    }
}

impl Diagnosis {
    /// kvm_amd's registers after a shutdown are those of a reset.
    fn state_is_lost(&self) -> bool {
        self.flavour == Flavour::Svm && matches!(self.cause, Cause::Shutdown)
    }

    /// Whether it stands where a processor comes out of INIT and reset (Intel SDM vol. 3A, section 10.1.4).
    fn is_at_reset_vector(&self) -> bool {
        const CS_BASE: u64 = 0xffff_0000;
        const RIP: u64 = 0xfff0;
        self.registers
            .as_ref()
            .is_some_and(|(regs, sregs)| Mode::of(sregs) == Mode::Real && (sregs.cs.base, regs.rip) == (CS_BASE, RIP))
    }

    fn advice(&self) -> &'static str {
        if self.is_at_reset_vector() && !self.state_is_lost() {
            return "The guest sent this processor an INIT, as a reset does, and there is no firmware here to start again: \
                    let it reset by the keyboard controller (reboot=k) or by ACPI (reboot=a).";
        }
        self.cause.advice(self.flavour)
    }

    /// All registers, for `-v`.
    pub fn registers(&self) -> Option<String> {
        let (r, s) = self.registers.as_ref().filter(|_| !self.state_is_lost())?;
        let mut text = String::new();
        let rows = [
            [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
            [("rsi", r.rsi), ("rdi", r.rdi), ("rsp", r.rsp), ("rbp", r.rbp)],
            [("r8", r.r8), ("r9", r.r9), ("r10", r.r10), ("r11", r.r11)],
            [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
            [("cr0", s.cr0), ("cr2", s.cr2), ("cr3", s.cr3), ("cr4", s.cr4)],
            [("efer", s.efer), ("flags", r.rflags), ("gdt", s.gdt.base), ("idt", s.idt.base)],
        ];
        for row in rows {
            let cells: Vec<_> = row.iter().map(|(name, value)| format!("{name:<5}{value:#018x}")).collect();
            let _ = writeln!(text, "  {}", cells.join("  "));
        }
        Some(text)
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {} {}", self.vcpu, self.cause.headline())?;
        if self.state_is_lost() {
            write!(f, "\n  where it was is not known: KVM on AMD resets a vCPU that shuts down")?;
        } else if let Some((regs, sregs)) = &self.registers {
            let mode = Mode::of(sregs);
            write!(f, "\n  at rip {:#x} in {mode}, ring {}", regs.rip, sregs.ss.dpl)?;
            match disassemble(&self.code, mode.bits(), regs.rip) {
                Some((text, bytes)) => write!(f, "\n  instruction: {text}  [{}]", hex(&bytes))?,
                None => write!(f, "\n  instruction: its memory cannot be read")?,
            }
        }
        write!(f, "\n  KVM: {}\n  {}", self.flavour, self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(cause: Cause, code: &[u8], flavour: Flavour) -> Diagnosis {
        let regs = kvm_regs { rip: 0x100_0000, ..Default::default() };
        let mut sregs = kvm_sregs { cr0: 0x8000_0001, efer: 0x500, ..Default::default() };
        sregs.cs.l = 1;
        Diagnosis { vcpu: 0, flavour, cause, registers: Some((Box::new(regs), Box::new(sregs))), code: code.to_vec() }
    }

    /// Proves that an emulation failure names the instruction, its bytes, where it was, on what KVM, and what to do.
    #[test]
    fn names_the_instruction() {
        let error = InternalError { suberror: EMULATION, instruction: Vec::new(), data: Vec::new() };
        let diagnosis = stopped(Cause::InternalError(error), &[0x48, 0x0f, 0xc7, 0x0b, 0x90], Flavour::PageTable);
        let text = diagnosis.to_string();
        for part in
            ["cmpxchg16b [rbx]", "[48 0f c7 0b]", "0x1000000", "64-bit mode", "page-table", "kernels/linux/patches"]
        {
            assert!(text.contains(part), "{part} is missing from:\n{text}");
        }
        assert!(diagnosis.registers().unwrap().contains("cr0"));
    }

    /// Proves that unreadable and undecodable code are said so rather than guessed.
    #[test]
    fn admits_what_it_cannot_read() {
        assert!(stopped(Cause::Shutdown, &[], Flavour::Vmx).to_string().contains("cannot be read"));
        assert!(stopped(Cause::Shutdown, &[0xff, 0xff], Flavour::Vmx).to_string().contains("ff ff"));
        let error = InternalError { suberror: EMULATION, instruction: Vec::new(), data: Vec::new() };
        let mut reset = stopped(Cause::InternalError(error), &[], Flavour::PageTable);
        let (regs, sregs) = reset.registers.as_mut().unwrap();
        (regs.rip, sregs.cs.base, sregs.cr0) = (0xfff0, 0xffff_0000, 0x6000_0010);
        assert!(reset.to_string().contains("INIT") && !reset.to_string().contains("patches"), "{reset}");
        let lost = stopped(Cause::Shutdown, &[0x90], Flavour::Svm);
        assert!(lost.to_string().contains("not known") && !lost.to_string().contains("at rip"), "{lost}");
        assert_eq!(lost.registers(), None);
    }
}
