//! Which of the host's CPUs the guest gets.

use clap::Args;

use crate::config::{Halt, Pin, Placement, RealtimePriority, Smt};
use crate::units::CpuList;

/// Which of the host's CPUs the guest gets.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cores")]
pub struct CoreArgs {
    /// CPUs for the vCPUs, such as 2-3,6: vCPU 0 runs on the first of the list, vCPU 1 on the next
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<CpuList>,
    /// strict: a CPU of its own for each vCPU, which no other ringfence guest gets; off: a list is shared [default: strict with
    /// --cpuset-cpus or --guarantee, else off]
    ///
    /// strict without --cpuset-cpus chooses CPUs as `ringfence check` proposes them. The machine does not start when a CPU is
    /// offline, not allowed to this process or another guest's, nor when a thread is found elsewhere than it should be.
    #[arg(long, value_name = "HOW")]
    pin: Option<Pin>,
    /// CPUs for every other thread of ringfence [default: those that are not the vCPUs']
    #[arg(long, value_name = "LIST")]
    vmm_cpus: Option<CpuList>,
    /// Other threads of the vCPUs' cores: share (anybody's) or isolate (this guest's)
    ///
    /// isolate costs the other threads of each core: no other ringfence guest gets them, and where the kernel has core
    /// scheduling nothing but this guest's vCPUs runs on them while a vCPU runs. Without it the list must name whole cores.
    #[arg(long, value_name = "WHO", default_value = "share")]
    smt: Smt,
    /// Run the vCPUs with this real-time priority (SCHED_FIFO), 1 to 99
    ///
    /// Needs CAP_SYS_NICE or a limit of real-time priority (ulimit -r). It costs everything else on those CPUs: a guest
    /// that does not rest leaves the kernel's own work there only what the limit of real-time tasks leaves, 5 % by default.
    #[arg(long, value_name = "PRIORITY")]
    realtime: Option<RealtimePriority>,
    /// Who waits when a vCPU has nothing to do: host, host:MICROSECONDS or guest
    ///
    /// host gives the CPU away, and costs a wake-up (microseconds to tens of them) at each interrupt after a rest; KVM polls
    /// for one before, for as long as given or as the host's KVM is set up. guest lets the CPU itself rest in the guest: the
    /// shortest wake-up, and costs the whole CPU at all times, idle or not.
    #[arg(long, value_name = "WHO", default_value = "host")]
    halt: Halt,
}

impl CoreArgs {
    /// What was typed, checked against the number of vCPUs. `name` is told to whoever wants the same CPUs. Strict
    /// pinning is the default with a list, and when it is `guaranteed`.
    ///
    /// # Errors
    /// Wishes that contradict each other.
    pub fn policy(&self, vcpus: u32, name: &str, guaranteed: bool) -> anyhow::Result<Placement> {
        let by_default = if self.cpuset_cpus.is_some() || guaranteed { Pin::Strict } else { Pin::Off };
        let pin = self.pin.unwrap_or(by_default);
        if guaranteed && pin == Pin::Off {
            anyhow::bail!(
                "--guarantee gives each vCPU a CPU of its own: leave out --pin off, or use --reserve without --guarantee"
            );
        }
        let placement = Placement {
            cpus: self.cpuset_cpus.clone(),
            pin,
            vmm_cpus: self.vmm_cpus.clone(),
            smt: self.smt,
            realtime: self.realtime,
            halt: self.halt,
            holder: name.to_owned(),
        };
        placement.check(vcpus)?;
        Ok(placement)
    }
}
