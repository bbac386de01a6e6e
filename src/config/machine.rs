//! A machine's fixed allocation and what it boots.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Listing, Placement, RamPolicy, SandboxPolicy};
use crate::layout::PAGE_SIZE;
use crate::units::ByteSize;

/// Smallest guest RAM: the boot structures below 1 MiB and 1 MiB of high memory.
pub const MIN_RAM: ByteSize = ByteSize::mib(2);

/// Where interrupts are routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IrqChip {
    /// Local APICs in KVM, the I/O APIC here, no PIC and no PIT: the quickest to make. Falls back to `Kernel` where KVM lacks it.
    #[default]
    Split,
    /// Local APICs, I/O APIC, PIC and PIT all in KVM, for kernels that need the old timer.
    Kernel,
}

/// Which of a kernel's entries is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BootEntry {
    /// The PVH entry when the kernel has one, else the 64-bit entry.
    #[default]
    Auto,
    /// The PVH entry; an error when the kernel has none.
    Pvh,
    /// The 64-bit entry of the Linux boot protocol.
    Linux64,
}

/// A kernel image on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFile {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is replaced and never changed in place (a file of our own store): then it is mapped rather than read.
    pub immutable: bool,
}

/// A machine, as asked for.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Number of vCPUs, at least 1.
    pub cpus: u32,
    /// Guest RAM: whole pages, at least [`MIN_RAM`].
    pub memory: ByteSize,
    /// What to boot.
    pub kernel: KernelFile,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Whether the initrd is a file of our own store, replaced and never changed in place: then it is mapped rather than read.
    pub initrd_immutable: bool,
    /// An archive appended to the initrd; may be empty.
    pub initrd_overlay: Vec<u8>,
    /// Kernel command line, whole.
    pub cmdline: String,
    /// Interrupt controllers.
    pub irqchip: IrqChip,
    /// Entry point.
    pub entry: BootEntry,
    /// Folder in which unpacked kernels are kept; none: they are unpacked anew each time.
    pub cache: Option<PathBuf>,
    /// Where its threads run.
    pub placement: Placement,
    /// How its RAM is backed.
    pub ram_policy: RamPolicy,
    /// How far the monitor confines itself.
    pub sandbox: SandboxPolicy,
    /// How it is listed among the machines that run now; none: it is not.
    pub listing: Option<Listing>,
}

/// Why an allocation cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No vCPU.
    #[error("a machine needs at least 1 vCPU: --cpus 1")]
    NoCpus,
    /// Not whole pages.
    #[error("--memory {0} is not a whole number of {PAGE_SIZE}-byte pages; {near} is", near = whole_pages(*.0))]
    NotPages(ByteSize),
    /// Too little.
    #[error("--memory {0} is too little: a guest needs at least {MIN_RAM}")]
    TooLittle(ByteSize),
    /// More than the host has free.
    #[error(
        "--memory {asked} is more than this host has free: {} of {}. Ask for less, or stop what uses it",
        .available.rounded(), .total.rounded()
    )]
    MoreThanFree {
        /// What was asked for.
        asked: ByteSize,
        /// Free now, by the kernel's own estimate (MemAvailable).
        available: ByteSize,
        /// The host's RAM.
        total: ByteSize,
    },
    /// More vCPUs than KVM takes.
    #[error("--cpus {asked} is more than this host's KVM allows in one machine: {max}")]
    TooManyCpus {
        /// What was asked for.
        asked: u32,
        /// KVM_CAP_MAX_VCPUS.
        max: u32,
    },
}

/// The nearest sizes of whole pages, as `--memory` takes them.
fn whole_pages(size: ByteSize) -> String {
    let kib = |bytes: u64| format!("{}K", bytes >> 10);
    let down = kib(size.as_u64() / PAGE_SIZE * PAGE_SIZE);
    match size.as_u64().checked_next_multiple_of(PAGE_SIZE) {
        Some(up) => format!("{down} or {}", kib(up)),
        None => down,
    }
}

impl MachineConfig {
    /// Checks what can be checked without asking the host.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.cpus == 0 {
            return Err(ConfigError::NoCpus);
        }
        if self.memory < MIN_RAM {
            return Err(ConfigError::TooLittle(self.memory));
        }
        if !self.memory.as_u64().is_multiple_of(PAGE_SIZE) {
            return Err(ConfigError::NotPages(self.memory));
        }
        Ok(())
    }
}

impl FromStr for IrqChip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "split" => Ok(Self::Split),
            "kernel" => Ok(Self::Kernel),
            _ => Err("use split or kernel".to_owned()),
        }
    }
}

impl FromStr for BootEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "pvh" => Ok(Self::Pvh),
            "linux64" => Ok(Self::Linux64),
            _ => Err("use auto, pvh or linux64".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cpus: u32, memory: u64) -> MachineConfig {
        MachineConfig {
            cpus,
            memory: ByteSize::bytes(memory),
            kernel: KernelFile { path: "k".into(), immutable: false },
            initrd: None,
            initrd_immutable: false,
            initrd_overlay: Vec::new(),
            cmdline: String::new(),
            irqchip: IrqChip::Split,
            entry: BootEntry::Auto,
            cache: None,
            placement: Placement::default(),
            ram_policy: RamPolicy::default(),
            sandbox: SandboxPolicy::default(),
            listing: None,
        }
    }

    /// Proves that an impossible allocation is refused with the sizes that would do.
    #[test]
    fn refuses_impossible_allocations() {
        assert_eq!(config(1, 2 << 20).check(), Ok(()));
        assert_eq!(config(0, 2 << 20).check(), Err(ConfigError::NoCpus));
        assert!(matches!(config(1, 4096).check(), Err(ConfigError::TooLittle(_))));
        let error = config(1, (256 << 20) + 1).check().unwrap_err().to_string();
        assert!(error.contains("262144K or 262148K is"), "{error}");
        let error = config(1, u64::MAX).check().unwrap_err().to_string();
        assert!(error.ends_with("; 18014398509481980K is"), "{error}");
    }
}
