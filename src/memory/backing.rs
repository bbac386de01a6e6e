//! From which pages guest RAM is made, and what is asked of the kernel about them.

use std::io;

use super::mapping::Mapping;
use crate::layout::PAGE_SIZE;
use crate::units::ByteSize;

/// How the pages behind guest RAM are to be had.
///
/// The default is a page of the host's choice when one is first touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// Size of the pages of a pool (MAP_HUGETLB): a power of two. `None`: ordinary pages.
    pub pool_page: Option<u64>,
    /// What is said about transparent huge pages.
    pub transparent: Advice,
    /// The only NUMA node to take pages from (MPOL_BIND).
    pub node: Option<u32>,
    /// Pages that are there stay there (mlock2 with MLOCK_ONFAULT).
    pub lock: bool,
    /// All pages are there before the guest runs; [`super::GuestRam::prefault`] sees to it.
    pub prefault: bool,
    /// Never merged with equal pages (KSM).
    pub never_merge: bool,
}

/// What is said to the kernel about huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advice {
    /// MADV_HUGEPAGE.
    #[default]
    Prefer,
    /// MADV_NOHUGEPAGE.
    Avoid,
    /// Nothing.
    None,
}

impl Backing {
    /// Whether files may be mapped into RAM. Their pages would be the page cache's: neither on the node asked for, nor from the
    /// pool, nor this process's own before they are written.
    pub(super) fn maps_files(&self) -> bool {
        self.pool_page.is_none() && self.node.is_none() && !self.lock && !self.prefault
    }

    /// Whether huge pages are asked for only when it is known what RAM is for.
    pub(super) fn waits_for_huge_pages(&self) -> bool {
        self.pool_page.is_none() && !self.prefault && self.transparent == Advice::Prefer
    }

    /// Size of the smallest page that RAM is made of.
    pub(super) fn page(&self) -> u64 {
        self.pool_page.unwrap_or(PAGE_SIZE)
    }

    /// Says to the kernel what holds for pages that are not there yet. To be done before the first touch.
    pub(super) fn apply(&self, mapping: &Mapping) -> Result<(), BackingError> {
        if let Some(node) = self.node {
            bind(mapping, node).map_err(|source| BackingError::Bind { node, source })?;
        }
        match self.transparent {
            _ if self.pool_page.is_some() => {}
            Advice::Prefer if self.prefault => advise(mapping, libc::MADV_HUGEPAGE),
            // Without prefaulting that waits. Pages that only hold a few tables stay small, also where the host gives huge ones
            // unasked: clearing 2 MiB takes longer than all that is written into them.
            Advice::Prefer | Advice::Avoid => advise(mapping, libc::MADV_NOHUGEPAGE),
            _ => {}
        }
        if self.never_merge {
            never_merge(mapping);
        }
        // Pages of a pool are never swapped, and the kernel marks no mapping of them as locked.
        if self.lock && self.pool_page.is_none() {
            let size = ByteSize::bytes(mapping.len() as u64);
            lock(mapping).map_err(|source| BackingError::Lock { size, source })?;
        }
        Ok(())
    }
}

/// Why the host does not back RAM as it should.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// mbind(2).
    #[error(
        "cannot bind guest RAM to NUMA node {node}: {source}; the node must have memory, the process's cpuset (cpuset.mems) \
         must allow it, and a container's seccomp filter must allow mbind"
    )]
    Bind {
        /// The node.
        node: u32,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// mlock2(2).
    #[error(
        "cannot lock {size} of guest RAM: {source}; raise the limit of locked memory: ulimit -l, or LimitMEMLOCK= of a systemd service"
    )]
    Lock {
        /// The guest's RAM.
        size: ByteSize,
        /// The host's words.
        #[source]
        source: io::Error,
    },
}

/// Highest node number that Linux can be built for (CONFIG_NODES_SHIFT = 10).
const NODES: usize = 1024;

fn bind(mapping: &Mapping, node: u32) -> io::Result<()> {
    let mut mask = [0u64; NODES / 64];
    let word = mask.get_mut(node as usize / 64).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (node % 64);
    // The kernel takes one bit less than it is told.
    let bits = NODES + 1;
    // SAFETY: a policy for a mapping of ours changes no contents; the mask has as many bits as it is said to have, less the one
    // that the kernel does not read.
    let done = unsafe {
        libc::syscall(libc::SYS_mbind, mapping.address(), mapping.len(), libc::MPOL_BIND, mask.as_ptr(), bits, 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives advice; one that this kernel does not know is none.
pub(super) fn advise(mapping: &Mapping, advice: libc::c_int) {
    // SAFETY: only advice that changes no contents is given here, about a mapping of ours.
    unsafe { libc::madvise(mapping.address(), mapping.len(), advice) };
}

/// Takes the whole process out of merging, which it may have inherited, and the mapping as well. A kernel that knows neither
/// merges nothing; what came of it is read back later.
fn never_merge(mapping: &Mapping) {
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    // SAFETY: sets an attribute of this process; no memory is passed.
    unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
    advise(mapping, libc::MADV_UNMERGEABLE);
}

/// Locks pages as they are touched, so that touching them in parallel locks them in parallel.
fn lock(mapping: &Mapping) -> io::Result<()> {
    // SAFETY: locking a mapping of ours changes no contents.
    let done = unsafe { libc::mlock2(mapping.address(), mapping.len(), libc::MLOCK_ONFAULT) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
