//! Why a machine does not get its CPUs.

use std::io;

use super::choice::Shortage;
use super::locks::LockError;
use crate::units::CpuList;

/// Why a machine does not get its CPUs.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    /// CPUs that the host does not have.
    #[error("{option} {asked}: this host has no CPU {missing}; it has {online}")]
    NoSuchCpu {
        /// The option.
        option: &'static str,
        /// Its value.
        asked: CpuList,
        /// Those that are not there.
        missing: CpuList,
        /// Those that run.
        online: CpuList,
    },
    /// CPUs that are switched off.
    #[error(
        "{option} {asked}: CPU {missing} is offline; choose of {online}, or switch it on: \
         echo 1 | sudo tee /sys/devices/system/cpu/cpu{first}/online",
        first = .missing.iter().next().unwrap_or_default()
    )]
    Offline {
        /// The option.
        option: &'static str,
        /// Its value.
        asked: CpuList,
        /// Those that are offline.
        missing: CpuList,
        /// Those that run.
        online: CpuList,
    },
    /// CPUs that this process may not use.
    #[error(
        "{option} {asked}: this process may not run on CPU {missing}, its affinity and cpuset allow {allowed}; choose of \
         those, or widen the affinity (taskset) or the control group's cpuset.cpus"
    )]
    NotAllowed {
        /// The option.
        option: &'static str,
        /// Its value.
        asked: CpuList,
        /// Those that are not allowed.
        missing: CpuList,
        /// Those that are.
        allowed: CpuList,
    },
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Too few CPUs are free.
    #[error("--pin strict: {0}")]
    Shortage(#[from] Shortage),
    /// The kernel refused.
    #[error("cannot {attempted}: {source}")]
    Refused {
        /// What was attempted, on what.
        attempted: String,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// A thread is not where it should be.
    #[error(
        "the thread {thread} ({name}) may run on CPUs {found}, and should only on {expected}: another program has moved it \
         (a daemon that tunes affinities, or a change of the control group's cpuset.cpus); stop that and try again"
    )]
    Elsewhere {
        /// The thread's number.
        thread: i32,
        /// Its name.
        name: String,
        /// Where it should be.
        expected: CpuList,
        /// Where it is.
        found: CpuList,
    },
    /// No right to a real-time priority.
    #[error(
        "--realtime {priority} needs root or CAP_SYS_NICE (sudo setcap cap_sys_nice+ep ringfence), or a limit of real-time \
         priorities that high (ulimit -r, \"rtprio\" in /etc/security/limits.conf): this process may have {highest}"
    )]
    NoRealtime {
        /// What was asked for.
        priority: u8,
        /// What this process may have; 0 is none.
        highest: u8,
    },
    /// The vCPUs would keep ringfence's own threads from running.
    #[error(
        "--realtime: ringfence's own threads would have to run on the vCPUs' CPUs {0} and might never get to; leave a CPU for \
         them, or name one with --vmm-cpus"
    )]
    RealtimeStarves(CpuList),
    /// The kernel refused a real-time priority all the same.
    #[error(
        "--realtime {priority}: the kernel refuses: {source}; where control groups share out real-time (cgroup v1), this \
         process's group needs some in cpu.rt_runtime_us"
    )]
    RealtimeRefused {
        /// What was asked for.
        priority: u8,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// A vCPU without its priority.
    #[error("the vCPU's thread {thread} is scheduled by policy {} with priority {} after it was given SCHED_FIFO", .found.0, .found.1)]
    NotRealtime {
        /// The thread's number.
        thread: i32,
        /// What it has: policy and priority.
        found: (i32, u8),
    },
    /// Cores that are not wholly in the list.
    #[error(
        "--smt isolate: this kernel has no core scheduling (CONFIG_SCHED_CORE), so the list must have whole cores: \
         {asked} lacks {missing}"
    )]
    PartOfCores {
        /// The list.
        asked: CpuList,
        /// The threads of its cores that it lacks.
        missing: CpuList,
    },
    /// Ringfence's own threads on the vCPUs' cores.
    #[error("--smt isolate: --vmm-cpus {asked} has {shared}, which is on the vCPUs' cores; name others")]
    VmmOnCores {
        /// What was asked for.
        asked: CpuList,
        /// Those on the vCPUs' cores.
        shared: CpuList,
    },
    /// A vCPU without its cookie.
    #[error(
        "vCPU {0} has no core scheduling cookie after it was given one; report this with the output of `ringfence check`"
    )]
    NoCookie(u32),
    /// A vCPU's thread is not there.
    #[error(
        "the thread of vCPU {0} is not among this process's threads; report this with the output of `ringfence check`"
    )]
    NoThread(u32),
}

impl AllocationError {
    pub(super) fn refused(attempted: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempted = attempted.into();
        move |source| Self::Refused { attempted, source }
    }
}
