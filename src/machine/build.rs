//! The recipe: from a configuration to a machine that is ready to run, and its life.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::Kvm;

use super::attach::{Devices, attach};
use super::events::{self, RunOptions};
use super::load::{self, LoadError, Loaded};
use super::outcome::Outcome;
use super::posted::Posted;
use super::power::Power;
use super::report::{ExitCounts, Phase, Report, Timeline};
use super::reserve::{self, ReserveError};
use super::signals::{self, Signals};
use super::threads::{Made, Threads};
use super::trim;
use super::vcpu::Shared;
use super::vm::{KvmTime, Start, VmError};
use crate::bus::BusError;
use crate::config::{IrqChip, MachineConfig};
use crate::console::{Console, ConsoleError};
use crate::devices::Milestone;
use crate::host::{Flavour, Root};
use crate::memory::{GuestRam, MemoryError};
use crate::registry::{RamPiece, Registration, RegistryError};
use crate::units::ByteSize;

/// Why a machine could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Guest RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Guest RAM, as it was asked for.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// A signal that ends the machine came before it ran.
    #[error("ended by signal {0} before the guest started")]
    Signalled(i32),
    /// Kernel, initrd or tables.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// KVM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// KVM's thread went away without an error.
    #[error("the thread that makes the machine ended early; report this with the output of `ringfence check`")]
    NoMachine,
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The list of running machines.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The host refused a thread or a descriptor.
    #[error("cannot {attempted}: {source}; raise the limits of open files and processes (ulimit -n, ulimit -u)")]
    Host {
        /// What was attempted.
        attempted: &'static str,
        /// The host's words.
        #[source]
        source: std::io::Error,
    },
}

/// What the machine is in KVM.
#[derive(Clone, Copy, Debug)]
pub struct MachineRequest {
    pub(super) cpus: u32,
    pub(super) irqchip: IrqChip,
    pub(super) flavour: Flavour,
}

/// A machine that is ready to run.
pub struct Machine {
    // First, so that a machine that is dropped stops its threads before anything else goes.
    threads: Threads,
    shared: Arc<Shared>,
    start: Start,
    devices: Devices,
    console: Console,
    signals: Signals,
    timeline: Arc<Timeline>,
    time: Arc<KvmTime>,
    irqchip: IrqChip,
    format: String,
    warnings: Vec<String>,
    notes: Vec<String>,
    registration: Option<Registration>,
}

fn host(attempted: &'static str) -> impl FnOnce(std::io::Error) -> MachineError {
    move |source| MachineError::Host { attempted, source }
}

impl Machine {
    /// Makes the machine. The guest does not run yet. `taken` is told how much RAM is there, while it is taken.
    ///
    /// 1. Signals are blocked, so that every later thread inherits it and they arrive as events.
    /// 2. RAM is mapped; nothing is touched. What was asked for it is said to the kernel, after a look at whether it can be had.
    /// 3. The first vCPU's thread starts: it makes the machine in KVM, its interrupt controllers, its own vCPU, and tells KVM
    ///    of the RAM, which KVM does more slowly before the interrupt controllers. It mostly waits; meanwhile
    /// 4. RAM that is to be there from the start is taken; kernel, initrd and tables are put into it on this thread; RAM that
    ///    was asked for in a special way is read back from the kernel.
    /// 5. The machine is put on the list of those that run, while KVM still works on it.
    /// 6. Devices are put on the buses; the other vCPUs' threads start.
    pub fn build(
        config: &MachineConfig,
        kvm: Kvm,
        flavour: Flavour,
        console: Console,
        timeline: Arc<Timeline>,
        taken: &mut dyn FnMut(ByteSize),
    ) -> Result<Self, MachineError> {
        let signals = Signals::new().map_err(host("take signals as events"))?;
        signals::install_kick().map_err(host("install the signal that stops vCPUs"))?;
        let backing = reserve::plan(config, &Root::default()).map_err(ReserveError::from)?;
        reserve::raise_lock_limit(&backing);
        let ram = Arc::new(GuestRam::new(config.memory, &backing)?);
        let power = Arc::new(Power::new().map_err(host("make an event descriptor"))?);
        let request = MachineRequest { cpus: config.cpus, irqchip: config.irqchip, flavour };
        let mut threads = Threads::start(kvm, request, ram.clone(), power.clone(), timeline.clone())?;
        reserve::prefault(&ram, &signals, taken)?;
        let Loaded { start, format, mut warnings, notes } = load::load(config, &ram)?;
        reserve::verify(&ram)?;
        timeline.reach(Phase::Loaded);
        let registration = register(config, &ram, &mut warnings)?;
        let Made { vm, write_ring, .. } = threads.made(config.cpus)?;
        let (devices, buses) = attach(&vm, &power, &console)?;
        let posted = Posted::new(vm.fd.clone(), write_ring);
        let shared = Arc::new(Shared { buses, posted, power, ram, flavour });
        let (time, irqchip) = (vm.time, vm.irqchip);
        Ok(Self {
            threads,
            shared,
            start,
            devices,
            console,
            signals,
            timeline,
            time,
            irqchip,
            format,
            warnings,
            notes,
            registration,
        })
    }

    /// Its name on the list of running machines; none when it is not on it.
    pub fn name(&self) -> Option<&str> {
        self.registration.as_ref().map(Registration::name)
    }

    /// What the kernel was recognised as.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// What the user should know of the kernel.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What a user who asks for it is told of the kernel.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Which interrupt controllers the machine has.
    pub fn irqchip(&self) -> IrqChip {
        self.irqchip
    }

    /// Runs the machine until it ends, and gives everything back. `notice` is called with lines for the user.
    ///
    /// 1. The vCPUs are let into the guest.
    /// 2. The console starts beside them, and memory that only the start needed is given back, and
    ///    the host is asked for huge pages: before, the few pages of the tables would each have taken a huge one.
    /// 3. This thread serves console, signals and the time limit until someone turns the power off.
    /// 4. vCPU threads are kicked out of the guest and joined; writes that KVM still holds are served; the console is flushed
    ///    and given back.
    pub fn run(
        mut self,
        options: &RunOptions,
        notice: &mut dyn FnMut(&str),
    ) -> Result<(Outcome, Report), MachineError> {
        self.threads.go(&self.shared, self.start);
        let served = self.console.start().map_err(MachineError::from).and_then(|()| {
            trim::drop_start_pages();
            self.shared.ram.prefer_huge_pages();
            events::serve(&mut self.console, &self.devices, &self.shared, &self.signals, options, notice)
        });
        self.shared.power.end(Outcome::Quit);
        self.timeline.reach(Phase::Ended);
        let stopped = self.threads.stop();
        self.shared.posted.at_end(&self.shared.buses.ports);
        let outcome = self.shared.power.outcome().cloned().unwrap_or(Outcome::Quit);
        events::flush(&self.console, &self.signals, drain_limit(&outcome));
        served?;
        let report = report(&self.timeline, &self.devices, stopped?, self.shared.posted.served(), &self.time);
        Ok((outcome, report))
    }
}

/// Puts the machine on the list. A machine that nobody gave a name runs without it where there can be no list.
fn register(
    config: &MachineConfig,
    ram: &GuestRam,
    warnings: &mut Vec<String>,
) -> Result<Option<Registration>, MachineError> {
    let Some(listing) = &config.listing else { return Ok(None) };
    let pieces = ram
        .regions()
        .map(|r| RamPiece { guest_address: r.start, bytes: r.len, host_address: r.host_address })
        .collect();
    match Registration::new(listing, config, pieces) {
        Ok(registration) => Ok(Some(registration)),
        Err(error) if listing.name.is_none() => {
            warnings.push(format!("`ringfence ps` will not show this machine: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// How long what the guest printed may take to be written: without limit when the guest ended by itself, briefly when the
/// user wants it gone.
fn drain_limit(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Signalled(_) | Outcome::TimedOut | Outcome::Quit => Some(Duration::from_millis(500)),
        _ => None,
    }
}

fn report(timeline: &Timeline, devices: &Devices, exits: ExitCounts, posted_writes: u64, time: &KvmTime) -> Report {
    for milestone in devices.boot_timer.milestones() {
        match milestone.phase {
            Milestone::USERSPACE => timeline.reached(Phase::Userspace, milestone.at_ns),
            Milestone::PAYLOAD => timeline.reached(Phase::Payload, milestone.at_ns),
            _ => {}
        }
    }
    timeline.reach(Phase::Done);
    Report { phases: timeline.phases(), exits, posted_writes, kvm_setup_ns: time.ns() }
}
