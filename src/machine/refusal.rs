//! Why this host cannot give the RAM that was asked for, and what would help.

use std::fmt;

use super::build::MachineError;
use super::reserve::ReserveError;
use crate::config::HugePage;
use crate::memory::Backing;
use crate::placement::AllocationError;
use crate::units::{ByteSize, CpuList};

/// One reason why RAM cannot be had as asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than is free.
    #[error(
        "--memory {memory} with the {overhead} that a guest of this size costs the host besides is more than this host has free: \
         {} of {}. Ask for less, or stop what uses it",
        .available.rounded(), .total.rounded()
    )]
    MoreThanFree {
        /// Guest RAM.
        memory: ByteSize,
        /// What the host needs besides.
        overhead: ByteSize,
        /// Free now, by the kernel's own estimate (MemAvailable).
        available: ByteSize,
        /// The host's RAM.
        total: ByteSize,
    },
    /// A control group's limit.
    #[error(
        "--memory {memory} with the {overhead} that it costs besides is more than this process's control group allows: {room} \
         are left of the {limit} in {file}. Raise that limit, ask for less, or run outside of the group"
    )]
    Cgroup {
        /// Guest RAM.
        memory: ByteSize,
        /// What the host needs besides.
        overhead: ByteSize,
        /// What is left.
        room: ByteSize,
        /// The limit.
        limit: ByteSize,
        /// Where it is written.
        file: String,
    },
    /// RLIMIT_MEMLOCK.
    #[error(
        "--lock: this process may lock {limit} of memory and --memory {memory} needs locking. Raise the limit (as root: ulimit -l \
         {kib}; for a systemd service: LimitMEMLOCK={kib}K; for a user: memlock in /etc/security/limits.conf), or give CAP_IPC_LOCK",
        kib = memory.as_u64() >> 10
    )]
    LockLimit {
        /// Guest RAM.
        memory: ByteSize,
        /// The hard limit.
        limit: ByteSize,
    },
    /// A size that the pool's pages do not make up.
    #[error("--hugepages {page}: --memory {memory} is not a multiple of {page}; {below} or {above} is")]
    NotPoolPages {
        /// The pool's pages.
        page: HugePage,
        /// Guest RAM.
        memory: ByteSize,
        /// The next smaller size.
        below: ByteSize,
        /// The next larger size.
        above: ByteSize,
    },
    /// A pool that the host cannot have.
    #[error("--hugepages {page}: this host has no pool of such pages{reason}")]
    NoPool {
        /// The pool's pages.
        page: HugePage,
        /// Why, as far as known.
        reason: &'static str,
    },
    /// A pool with too few pages.
    #[error(
        "--hugepages {page}: the guest needs {needed} pages and {free} of the pool's {total}{place} are free and not promised. Add \
         some: {remedy}"
    )]
    PoolEmpty {
        /// The pool's pages.
        page: HugePage,
        /// Pages that are needed.
        needed: u64,
        /// Pages that can be had.
        free: u64,
        /// Pages of the whole pool.
        total: u64,
        /// A node, where RAM is bound to one.
        place: Place,
        /// The command to give.
        remedy: String,
    },
    /// A control group's limit of a pool's pages.
    #[error(
        "--hugepages {page}: --memory {memory} is more than this process's control group allows: {room} are left of the {limit} in {file}"
    )]
    PoolCgroup {
        /// The pool's pages.
        page: HugePage,
        /// Guest RAM.
        memory: ByteSize,
        /// What is left.
        room: ByteSize,
        /// The limit.
        limit: ByteSize,
        /// Where it is written.
        file: String,
    },
    /// A node that is not there.
    #[error("--numa-node {node}: this host has no such node with memory; it has {nodes}")]
    NoSuchNode {
        /// What was asked for.
        node: u32,
        /// What there is.
        nodes: CpuList,
    },
    /// A node that the cpuset forbids.
    #[error("--numa-node {node}: this process's cpuset allows memory only of {allowed} (cpuset.mems)")]
    NodeForbidden {
        /// What was asked for.
        node: u32,
        /// What is allowed.
        allowed: CpuList,
    },
    /// A node with too little memory.
    #[error(
        "--numa-node {node}: --memory {memory} is more than the node has free: {available}. Ask for less, or for another node"
    )]
    NodeFull {
        /// What was asked for.
        node: u32,
        /// Guest RAM.
        memory: ByteSize,
        /// Free there.
        available: ByteSize,
    },
    /// CPUs of several nodes.
    #[error(
        "--numa-node auto: the vCPUs' CPUs {cpus} lie on the nodes {nodes}. Choose CPUs of one node, or name a node"
    )]
    SeveralNodes {
        /// The CPUs.
        cpus: CpuList,
        /// Their nodes.
        nodes: CpuList,
    },
}

/// The whole host, or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub(super) Option<u32>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |node| write!(f, " on node {node}"))
    }
}

/// All reasons, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

impl std::error::Error for Refusals {}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.0[..] {
            return only.fmt(f);
        }
        write!(f, "this host cannot give the RAM that was asked for:{}", self.lines())
    }
}

impl Refusals {
    /// A line for each, in front of which the line ends.
    pub(super) fn lines(&self) -> String {
        self.0.iter().map(|refusal| format!("\n  - {refusal}")).collect()
    }
}

/// CPUs and RAM, or every reason why not.
pub(super) fn both<A>(
    cores: Result<A, AllocationError>,
    ram: Result<Backing, Refusals>,
) -> Result<(A, Backing), MachineError> {
    match (cores, ram) {
        (Ok(cores), Ok(ram)) => Ok((cores, ram)),
        (Err(cores), Err(ram)) => Err(MachineError::Neither { cores, ram }),
        (Err(cores), Ok(_)) => Err(cores.into()),
        (Ok(_), Err(ram)) => Err(ReserveError::from(ram).into()),
    }
}
