//! Landlock: what a thread may do to paths and TCP ports (Linux `Documentation/userspace-api/landlock.rst`).
//!
//! What is open stays usable, and nothing else can be opened. The rules are made once, and each thread enters them by itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::SandboxError;
use super::calls::ThreadKind;

/// The newest rules that are asked for; a kernel that knows fewer applies those.
const NEWEST: ABI = ABI::V6;

/// Whether the kernel has landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It confines the threads.
    Enforced,
    /// The kernel lacks it, or it is not among its security modules.
    Absent,
}

/// The rules of each kind of thread; none where the kernel has no landlock.
#[derive(Debug)]
pub(super) struct Rulesets {
    main: Option<OwnedFd>,
    others: Option<OwnedFd>,
}

impl Rulesets {
    /// Makes them. Only the main thread may do anything by path: remove files below `removable`.
    pub(super) fn new(removable: &[PathBuf]) -> Result<Self, SandboxError> {
        // The main thread signals the vCPUs' threads, which some kernels that know this scope take for another domain's.
        // Its filter lets it signal no other process.
        let mut main = create(Scope::AbstractUnixSocket.into())?;
        for folder in removable {
            let failed =
                |reason: String| SandboxError::Landlock { on: format!(" for \"{}\"", folder.display()), reason };
            let fd = PathFd::new(folder).map_err(|e| failed(e.to_string()))?;
            main = main.add_rule(PathBeneath::new(fd, AccessFs::RemoveFile)).map_err(|e| failed(e.to_string()))?;
        }
        let others = create(Scope::from_all(NEWEST))?;
        Ok(Self { main: main.into(), others: others.into() })
    }

    pub(super) fn of(&self, kind: ThreadKind) -> Option<BorrowedFd<'_>> {
        match kind {
            ThreadKind::Main => self.main.as_ref(),
            ThreadKind::Vcpu | ThreadKind::Console => self.others.as_ref(),
        }
        .map(AsFd::as_fd)
    }

    pub(super) fn support(&self) -> Support {
        if self.others.is_some() { Support::Enforced } else { Support::Absent }
    }
}

/// The version of landlock that the running kernel has; `None` without landlock.
#[allow(unsafe_code)]
pub fn landlock_abi() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    let no_rules = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes a null pointer and a size of 0, and makes nothing.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_rules, 0, LANDLOCK_CREATE_RULESET_VERSION) };
    u32::try_from(abi).ok()
}

fn create(scopes: landlock::BitFlags<Scope>) -> Result<RulesetCreated, SandboxError> {
    let make = || -> Result<_, RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(scopes)?
            .create()
    };
    make().map_err(|error| SandboxError::Landlock { on: String::new(), reason: error.to_string() })
}

/// Puts the calling thread under the rules behind `ruleset`. It must have no_new_privs.
#[allow(unsafe_code)]
pub(super) fn restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    let fd: RawFd = ruleset.as_raw_fd();
    // SAFETY: takes a descriptor and no flags.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
