//! Which of KVM's three ways of running a guest is behind `/dev/kvm`.

use super::Root;
use serde::Serialize;
use std::fmt;
use std::sync::OnceLock;

/// How this host's KVM runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// Intel VT-x (`kvm_intel`): the whole guest runs natively.
    Vmx,
    /// AMD-V (`kvm_amd`): the whole guest runs natively.
    Svm,
    /// Page-table based (`kvm_pvm`), with no virtualization hardware: ring 3 runs natively, ring 0 of an ordinary kernel
    /// is emulated instruction by instruction.
    PageTable,
    /// No vendor module is loaded, or one that is not known.
    Unknown,
}

impl Flavour {
    /// Whether ring 0 of an ordinary kernel is emulated here, so that CPUID and the command line must be adapted.
    pub const fn emulates_ring_0(self) -> bool {
        matches!(self, Self::PageTable)
    }

    /// The kernel module that makes the flavour, when there is one.
    pub const fn module(self) -> Option<&'static str> {
        match self {
            Self::Vmx => Some("kvm_intel"),
            Self::Svm => Some("kvm_amd"),
            Self::PageTable => Some("kvm_pvm"),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmx => "VMX (Intel VT-x)",
            Self::Svm => "SVM (AMD-V)",
            Self::PageTable => "page-table based (PVM)",
            Self::Unknown => "unknown",
        })
    }
}

/// What a kernel is told on its command line on a page-table based KVM: there CPUID executed by the guest shows these
/// features whatever the monitor sets.
///
/// KVM's emulator lacks the instructions of the first ones; with `erms` or `fsrm` kernels clear and copy pages by
/// `rep stosb` and `rep movsb`, of which it does one byte at a time where `rep stosq` does eight. `tick_stretch` is a
/// patch of the default kernel: a timer tick is some 3500 instructions, which other kernels pay every jiffy.
pub const PAGE_TABLE_CMDLINE: &str = "noxsave nofsgsbase clearcpuid=popcnt,smap,smep,erms,fsrm tick_stretch=8";

/// The flavour of this host's KVM; looked up once a process, with at most three system calls where a module is loaded.
pub fn flavour() -> Flavour {
    static FLAVOUR: OnceLock<Flavour> = OnceLock::new();
    *FLAVOUR.get_or_init(|| flavour_in(&Root::default()))
}

/// Whether this host's KVM is page-table based: one system call, once a process.
///
/// This is all that building a machine has to know; [`flavour`] is for telling the user.
pub fn is_page_table_based() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| has_module(&Root::default(), Flavour::PageTable))
}

/// The flavour according to the sysfs and procfs below `root`.
///
/// A vendor module built into the kernel has its directory in sysfs even when it found no hardware and gave up, so
/// `kvm_pvm` wins over the others, and between `kvm_intel` and `kvm_amd` the CPU's vendor decides.
pub fn flavour_in(root: &Root) -> Flavour {
    if has_module(root, Flavour::PageTable) {
        return Flavour::PageTable;
    }
    match (has_module(root, Flavour::Vmx), has_module(root, Flavour::Svm)) {
        (true, false) => Flavour::Vmx,
        (false, true) => Flavour::Svm,
        (false, false) => Flavour::Unknown,
        (true, true) => match cpu_vendor(root).as_deref() {
            Some("GenuineIntel" | "CentaurHauls" | "  Shanghai  ") => Flavour::Vmx,
            Some("AuthenticAMD" | "HygonGenuine") => Flavour::Svm,
            _ => Flavour::Unknown,
        },
    }
}

fn has_module(root: &Root, flavour: Flavour) -> bool {
    flavour.module().is_some_and(|module| root.has(format!("/sys/module/{module}")))
}

fn cpu_vendor(root: &Root) -> Option<String> {
    let cpuinfo = root.read("/proc/cpuinfo")?;
    super::cpus::cpuinfo_field(&cpuinfo, "vendor_id").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    /// Proves that each module, alone, names its flavour, and that none is Unknown.
    #[test]
    fn modules_name_the_flavour() {
        for (files, expected) in [
            (&[("sys/module/kvm_intel/", "")][..], Flavour::Vmx),
            (&[("sys/module/kvm_amd/", "")], Flavour::Svm),
            (&[("sys/module/kvm_pvm/", "")], Flavour::PageTable),
            (&[("sys/module/kvm/", "")], Flavour::Unknown),
            (&[], Flavour::Unknown),
        ] {
            let (_dir, root) = fake::root(files);
            assert_eq!(flavour_in(&root), expected, "{files:?}");
        }
    }

    /// Proves that built-in modules that lost are not taken for the one in charge.
    #[test]
    fn built_in_modules_do_not_mislead() {
        let (_dir, root) = fake::root(&[("sys/module/kvm_intel/", ""), ("sys/module/kvm_pvm/", "")]);
        assert_eq!(flavour_in(&root), Flavour::PageTable);
        for (vendor, expected) in
            [("GenuineIntel", Flavour::Vmx), ("AuthenticAMD", Flavour::Svm), ("Unheard-of", Flavour::Unknown)]
        {
            let cpuinfo = format!("processor\t: 0\nvendor_id\t: {vendor}\n");
            let (_dir, root) = fake::root(&[
                ("sys/module/kvm_intel/", ""),
                ("sys/module/kvm_amd/", ""),
                ("proc/cpuinfo", cpuinfo.as_str()),
            ]);
            assert_eq!(flavour_in(&root), expected, "{vendor}");
        }
    }

    /// Proves that the two cached answers agree with each other and with an uncached look at this host.
    #[test]
    fn cached_answers_agree() {
        assert_eq!(flavour(), flavour_in(&Root::default()));
        assert_eq!(is_page_table_based(), flavour().emulates_ring_0());
    }
}
