//! Opening `/dev/kvm`, and what to do when that fails.

use super::Root;
use super::cpus::cpuinfo_field;
use kvm_ioctls::{Kvm, VmFd};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of KVM's interface there has been since Linux 2.6.22; others are to be refused
/// (Linux, Documentation/virt/kvm/api.rst, section 4.1).
pub const API_VERSION: i32 = 12;

/// Why KVM can't be used, with the remedy as far as the host's files tell.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device file is not there.
    #[error("{path} does not exist: {cause}. {remedy}", path = path.display(), remedy = cause.remedy())]
    Missing {
        /// The device file.
        path: PathBuf,
        /// What the host's files say about the reason.
        cause: Absence,
    },
    /// The device file is there, no driver answers it (ENODEV, ENXIO).
    #[error("{path} exists but no driver answers it: {cause}. {remedy}", path = path.display(), remedy = cause.remedy())]
    NoDriver {
        /// The device file.
        path: PathBuf,
        /// What the host's files say about the reason.
        cause: Absence,
    },
    /// The file's mode keeps this user out (EACCES).
    #[error("no permission to open {path} for reading and writing. {remedy}", path = path.display(), remedy = admits.remedy(path))]
    Permission {
        /// The device file.
        path: PathBuf,
        /// Who may open it.
        admits: Admits,
    },
    /// A control group keeps this process from the device (EPERM), as container runtimes do.
    #[error("the device {path} is forbidden to this process (a container's device rules). {remedy}", path = path.display(), remedy = CONTAINER_REMEDY)]
    Forbidden {
        /// The device file.
        path: PathBuf,
    },
    /// The file is something else than KVM.
    #[error("{path} is not KVM: it does not answer KVM_GET_API_VERSION ({source}). Give the path of the kvm device, usually {DEVICE}.", path = path.display())]
    NotKvm {
        /// The file.
        path: PathBuf,
        /// What the ioctl said.
        source: io::Error,
    },
    /// A version of the interface that is not known.
    #[error("{path} speaks version {found} of KVM's interface, ringfence version {API_VERSION}. Use a kernel whose KVM has version {API_VERSION} (every one since Linux 2.6.22).", path = path.display())]
    Version {
        /// The device file.
        path: PathBuf,
        /// What it answered.
        found: i32,
    },
    /// Anything else.
    #[error("cannot open {path}: {source}. See the kernel's log (dmesg) for what KVM says.", path = path.display())]
    Other {
        /// The device file.
        path: PathBuf,
        /// What `open` said.
        source: io::Error,
    },
}

const CONTAINER_REMEDY: &str = "Start the container with the device: `docker run --device /dev/kvm ...`.";

/// Whom the mode of a device file lets in, besides root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admits {
    /// The members of this group.
    Group(String),
    /// Its owner alone; a group that has no name, or is root's, counts as nobody.
    Owner,
}

impl Admits {
    /// What the file at `path` below `root` says.
    fn find(path: &Path, root: &Root) -> Self {
        const GROUP_READ_WRITE: u32 = 0o060;
        let group = std::fs::metadata(root.join(path)).ok().and_then(|file| {
            let open = file.mode() & GROUP_READ_WRITE == GROUP_READ_WRITE && file.gid() != 0;
            // group(5): name:password:GID:members.
            let has_gid = |line: &&str| line.split(':').nth(2).and_then(|gid| gid.parse().ok()) == Some(file.gid());
            let groups = root.read("/etc/group").filter(|_| open)?;
            groups.lines().find(has_gid)?.split(':').next().map(str::to_owned)
        });
        group.map_or(Self::Owner, Self::Group)
    }

    fn remedy(&self, path: &Path) -> String {
        match self {
            Self::Group(name) => {
                format!("Add yourself to its group, `sudo usermod -aG {name} $USER`, and log in again.")
            }
            Self::Owner => format!(
                "Only its owner may use it: take it until the next boot, `sudo chown $USER {}`, or install your \
                 distribution's QEMU package, whose rules give it to the group kvm.",
                path.display()
            ),
        }
    }
}

/// Why a host has no KVM, as far as its files tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// This process is in a container that was not given the device.
    Container,
    /// The CPU can virtualize; the vendor's module, named here, is not loaded or refused to load.
    ModuleNotLoaded(&'static str),
    /// The CPU shows neither VMX nor SVM, and it is itself a virtual machine's.
    NestedOff,
    /// The CPU shows neither VMX nor SVM.
    NoVirtualization,
    /// KVM is loaded; only the device file is missing.
    NoDeviceFile,
}

impl std::fmt::Display for Absence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Container => f.write_str("this process is in a container that was not given the device"),
            Self::ModuleNotLoaded(module) => write!(f, "the CPU can virtualize but the module {module} is not loaded"),
            Self::NestedOff => f.write_str("this host is itself a virtual machine, whose CPUs show no VMX or SVM"),
            Self::NoVirtualization => f.write_str("the CPU shows no VMX or SVM"),
            Self::NoDeviceFile => f.write_str("KVM is loaded but its device file was never made"),
        }
    }
}

impl Absence {
    /// What the user can do.
    pub fn remedy(self) -> String {
        match self {
            Self::Container => CONTAINER_REMEDY.to_owned(),
            Self::ModuleNotLoaded(module) => format!(
                "Load it, `sudo modprobe {module}`; if that fails, switch virtualization on in the firmware's setup."
            ),
            Self::NestedOff => {
                "Switch nested virtualization on where this machine runs, or use `make run-nested` (slow, needs no KVM)."
                    .to_owned()
            }
            Self::NoVirtualization => {
                "Switch it on in the firmware's setup if the CPU has it, or use `make run-nested` (slow, needs no KVM)."
                    .to_owned()
            }
            Self::NoDeviceFile => {
                format!("Make it, `sudo mknod {DEVICE} c 10 232 && sudo chmod 660 {DEVICE} && sudo chgrp kvm {DEVICE}`.")
            }
        }
    }

    /// What the files below `root` say.
    pub fn find(root: &Root) -> Self {
        if in_container(root) {
            return Self::Container;
        }
        if root.has("/sys/class/misc/kvm") {
            return Self::NoDeviceFile;
        }
        let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo_field(&cpuinfo, "flags").unwrap_or_default();
        let has = |name: &str| flags.split_ascii_whitespace().any(|flag| flag == name);
        if has("vmx") {
            Self::ModuleNotLoaded("kvm_intel")
        } else if has("svm") {
            Self::ModuleNotLoaded("kvm_amd")
        } else if has("hypervisor") {
            Self::NestedOff
        } else {
            Self::NoVirtualization
        }
    }
}

/// Whether container runtimes left their marks: Docker's and Podman's files, or systemd's note.
pub fn in_container(root: &Root) -> bool {
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].iter().any(|path| root.has(path))
}

impl OpenError {
    /// The same in two parts: what is wrong, and what the user can do.
    pub fn parts(&self) -> (String, String) {
        let whole = self.to_string();
        match whole.split_once(". ") {
            Some((what, remedy)) => (what.to_owned(), remedy.to_owned()),
            None => (whole, String::new()),
        }
    }
}

/// Opens this host's `/dev/kvm` and checks its version.
///
/// # Errors
/// An [`OpenError`] whose text ends with what the user can do; files that tell the reason are read only then.
pub fn open() -> Result<Kvm, OpenError> {
    open_at(Path::new(DEVICE), &Root::default())
}

/// Opens KVM's device file, `path` below `root`; in case of an error the reason is looked for there too.
///
/// # Errors
/// See [`open`].
pub fn open_at(path: &Path, root: &Root) -> Result<Kvm, OpenError> {
    let name = CString::new(root.join(path).into_os_string().into_vec()).map_err(|e| OpenError::Other {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, e),
    })?;
    let kvm = Kvm::new_with_path(name).map_err(|e| classify(path, e.errno(), root))?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        found if found < 0 => Err(OpenError::NotKvm { path: path.to_owned(), source: io::Error::last_os_error() }),
        found => Err(OpenError::Version { path: path.to_owned(), found }),
    }
}

fn classify(path: &Path, errno: i32, root: &Root) -> OpenError {
    let path = path.to_owned();
    match errno {
        libc::ENOENT => OpenError::Missing { path, cause: Absence::find(root) },
        libc::ENODEV | libc::ENXIO => OpenError::NoDriver { path, cause: Absence::find(root) },
        libc::EACCES => OpenError::Permission { admits: Admits::find(&path, root), path },
        libc::EPERM => OpenError::Forbidden { path },
        _ => OpenError::Other { path, source: io::Error::from_raw_os_error(errno) },
    }
}

/// Whether this host's KVM lets a machine be made: creates a VM and one vCPU in it and destroys both.
///
/// # Errors
/// Those of KVM_CREATE_VM (EBUSY: another hypervisor holds the hardware; ENOMEM) and KVM_CREATE_VCPU.
pub fn try_machine(kvm: &Kvm) -> io::Result<()> {
    let to_io = |e: kvm_ioctls::Error| io::Error::from_raw_os_error(e.errno());
    let vm: VmFd = kvm.create_vm().map_err(to_io)?;
    vm.create_vcpu(0).map_err(to_io)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    fn open_missing(files: &[(&str, &str)]) -> String {
        let (_dir, root) = fake::root(files);
        open_at(Path::new(DEVICE), &root).unwrap_err().to_string()
    }

    /// Proves that a missing device is explained by what the host's files say, each with its own remedy.
    #[test]
    fn a_missing_device_names_its_remedy() {
        for (files, expected) in [
            (&[("proc/cpuinfo", "flags\t\t: fpu vmx hypervisor\n")][..], "sudo modprobe kvm_intel"),
            (&[("proc/cpuinfo", "flags\t\t: fpu svm\n")], "sudo modprobe kvm_amd"),
            (&[("proc/cpuinfo", "flags\t\t: fpu hypervisor\n")], "make run-nested"),
            (&[("proc/cpuinfo", "flags\t\t: fpu\n")], "firmware's setup"),
            (&[], "firmware's setup"),
            (&[("sys/class/misc/kvm/dev", "10:232")], "mknod"),
            (&[(".dockerenv", ""), ("proc/cpuinfo", "flags : vmx\n")], "--device /dev/kvm"),
        ] {
            let text = open_missing(files);
            assert!(text.contains("dev/kvm does not exist: "), "{text}");
            assert!(text.contains(expected), "{files:?}: {text}");
        }
    }

    /// Proves that each errno of `open` becomes the error that names its remedy.
    #[test]
    fn errnos_have_their_remedies() {
        let (_dir, root) = fake::root(&[("proc/cpuinfo", "flags\t\t: svm\n")]);
        for (errno, expected) in [
            (libc::EACCES, "sudo chown $USER /dev/kvm"),
            (libc::EPERM, "--device /dev/kvm"),
            (libc::ENODEV, "modprobe kvm_amd"),
            (libc::ENXIO, "modprobe kvm_amd"),
            (libc::EMFILE, "Too many open files"),
        ] {
            let text = classify(Path::new(DEVICE), errno, &root).to_string();
            assert!(text.contains(expected), "{errno}: {text}");
        }
    }

    /// Proves that nobody is sent into a group which the device's mode does not let in.
    #[test]
    fn permission_is_had_of_the_group_that_has_it() {
        let (_dir, root) = fake::root(&[("dev/kvm", ""), ("etc/group", "root:x:0:\nvirt:x:1234:someone\n")]);
        let device = root.join(DEVICE);
        let remedy = |mode, gid| {
            std::fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            let remedy = std::os::unix::fs::chown(&device, None, Some(gid)).ok();
            remedy.map(|()| classify(Path::new(DEVICE), libc::EACCES, &root).to_string())
        };
        let Some(text) = remedy(0o660, 1234) else { return println!("skipped: only root gives files to other groups") };
        assert!(text.contains("usermod -aG virt $USER"), "{text}");
        for (mode, gid) in [(0o600, 1234), (0o640, 1234), (0o660, 0), (0o660, 99)] {
            let text = remedy(mode, gid).unwrap();
            assert!(text.contains("chown $USER /dev/kvm") && !text.contains("usermod"), "{mode:o} {gid}: {text}");
        }
    }

    /// Proves that every error splits into what is wrong and a remedy.
    #[test]
    fn errors_have_two_parts() {
        let (_dir, root) = fake::root(&[]);
        for errno in [libc::ENOENT, libc::ENODEV, libc::EACCES, libc::EPERM, libc::EIO] {
            let (what, remedy) = classify(Path::new(DEVICE), errno, &root).parts();
            assert!(what.contains(DEVICE) && !what.ends_with('.'), "{what}");
            assert!(remedy.ends_with('.'), "{remedy}");
        }
    }

    /// Proves that a file that is something else is refused as such, and is not taken for KVM.
    #[test]
    fn other_files_are_not_kvm() {
        let error = open_at(Path::new("/dev/null"), &Root::default()).unwrap_err();
        assert!(matches!(error, OpenError::NotKvm { .. }), "{error}");
        assert!(error.to_string().contains("/dev/null is not KVM"), "{error}");
    }

    /// Proves that a path no file can have is an error, not a panic.
    #[test]
    fn a_nul_in_the_path_is_an_error() {
        assert!(matches!(open_at(Path::new("a\0b"), &Root::default()), Err(OpenError::Other { .. })));
    }
}
