//! The recipe: from a configuration to a machine that is ready to run, and its life.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::attach::{Devices, attach};
use super::events::{self, RunOptions};
use super::first::{Begun, HeadStart, Start};
use super::late_ram::{self, LateRam};
use super::listing;
use super::load::{self, LoadError, Loaded};
use super::outcome::Outcome;
use super::posted::Posted;
use super::power::Power;
use super::refusal::{self, Refusals};
use super::report::{ExitCounts, Phase, Report, Timeline};
use super::reserve::{self, ReserveError};
use super::signals::{self, Signals};
use super::threads::{Made, Threads};
use super::vcpu::Shared;
use super::vm::{KvmTime, Vm, VmError};
use super::wake::Wake;
use crate::bus::BusError;
use crate::config::{Granted, Halt, IrqChip, MachineConfig};
use crate::console::{Console, ConsoleError};
use crate::devices::Milestone;
use crate::host::{Flavour, Root};
use crate::memory::{Backing, GuestRam, MemoryError, Region};
use crate::placement::{Allocation, AllocationError};
use crate::registry::{Registration, RegistryError};
use crate::sandbox::{Layers, Sandbox, SandboxError, ThreadKind};
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
    /// Neither CPUs nor RAM: every reason.
    #[error("this host cannot give what was asked for:\n  - {cores}{}", ram.lines())]
    Neither {
        /// Why not the CPUs.
        cores: AllocationError,
        /// Why not the RAM.
        ram: Refusals,
    },
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
    /// The host's CPUs.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The list of running machines.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A thread could not be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
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
    pub(super) halt: Halt,
}

/// A machine that is ready to run.
pub struct Machine {
    // First, so that a machine that is dropped stops its threads before anything else goes.
    threads: Threads,
    shared: Arc<Shared>,
    allocation: Option<Arc<Allocation>>,
    devices: Devices,
    console: Console,
    signals: Signals,
    sandbox: Arc<Sandbox>,
    timeline: Arc<Timeline>,
    vm: Vm,
    /// RAM that KVM is told of when the guest runs, from this slot on.
    late: (usize, Vec<Region>),
    /// Whether the main thread confined itself while the machine was made.
    confined: bool,
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
    /// 1. The host's CPUs are taken, where any were asked for.
    /// 2. Signals are blocked, so that every later thread inherits it and they arrive as events; what all threads' confinement has
    ///    in common is done; the first vCPU's thread starts and makes the machine in KVM. Where a head start fits the machine, all
    ///    of that is done already.
    /// 3. RAM is mapped; nothing is touched. What was asked for it is said to the kernel, after a look at whether it can be had.
    ///    The first vCPU's thread gets its orders: it makes interrupt controllers and its own vCPU. It mostly waits; meanwhile
    /// 4. RAM that is to be there from the start is taken; kernel, initrd and tables are put into it on this thread; RAM that
    ///    was asked for in a special way is read back from the kernel.
    /// 5. The machine is put on the list of those that run, while KVM still works on it; the console's thread starts and confines
    ///    itself.
    /// 6. The first vCPU's thread gives its vCPU what firmware would, tells KVM of the RAM (before the interrupt controllers it
    ///    would take longer; what takes long at all follows in `run`), puts the vCPU at the kernel's entry and confines itself;
    ///    meanwhile
    /// 7. this thread confines itself for good, unless it still has other vCPUs' threads to start or CPUs to share out: whatever
    ///    the caller needs after the machine must be open now. The other vCPUs' threads start and confine themselves, and devices
    ///    are put on the buses.
    pub fn build(
        config: &MachineConfig,
        ahead: HeadStart,
        flavour: Flavour,
        console: Console,
        timeline: Arc<Timeline>,
        taken: &mut dyn FnMut(ByteSize),
    ) -> Result<Self, MachineError> {
        signals::install_kick().map_err(host("install the signal that stops vCPUs"))?;
        let (allocation, backing) = grant(config)?;
        let Begun { signals, sandbox, first } = ahead.fit(Layers::from(config.sandbox), allocation.as_ref())?;
        let ram = Arc::new(GuestRam::new(config.memory, &backing)?);
        let power = Arc::new(Power::new().map_err(host("make an event descriptor"))?);
        let request =
            MachineRequest { cpus: config.cpus, irqchip: config.irqchip, flavour, halt: config.placement.halt };
        let mut threads = Threads::new(first, request, power.clone(), sandbox.clone(), timeline.clone());
        reserve::prefault(&ram, &signals, allocation.as_deref().map(Allocation::granted), taken)?;
        let Loaded { entry, kernel_end, format, mut warnings, notes } = load::load(config, &ram)?;
        reserve::verify(&ram)?;
        warnings.extend(placement_warnings(config, allocation.as_deref(), flavour));
        timeline.reach(Phase::Loaded);
        sandbox.complete(&console.folders())?;
        let (early, late) = late_ram::slots(&ram, flavour, &config.ram_policy, kernel_end);
        let late = (early.len(), late);
        threads.start(Start { entry, ram: early });
        let asked = listing::asked(config, allocation.as_deref(), &ram, &sandbox);
        let registration = listing::register(config, asked, &ram, &mut warnings)?;
        let writer = start_writer(&console, &sandbox)?;
        let input_wanted = Arc::new(Wake::new().map_err(host("make an event descriptor"))?);
        let confined = config.cpus == 1 && allocation.is_none();
        if confined {
            sandbox.confine(ThreadKind::Main, "main")?;
        }
        let Made { vm, write_ring, .. } = threads.made(config.cpus)?;
        let (devices, buses) = attach(&vm, &power, &console, input_wanted)?;
        let posted = Posted::new(vm.fd.clone(), write_ring);
        let late_ram = LateRam::new(ram.clone(), !late.1.is_empty());
        let shared = Arc::new(Shared { buses, posted, power, ram, late_ram, flavour });
        // Where nothing is written there is no thread, and nothing comes.
        writer.recv().unwrap_or(Ok(()))?;
        threads.all_there(config.cpus);
        Ok(Self {
            threads,
            shared,
            allocation,
            devices,
            console,
            signals,
            sandbox,
            timeline,
            vm,
            late,
            confined,
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

    /// How this process confines itself.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The host's CPUs that the machine has, where any were asked for.
    pub fn allocation(&self) -> Option<&Allocation> {
        self.allocation.as_deref()
    }

    /// Which interrupt controllers the machine has.
    pub fn irqchip(&self) -> IrqChip {
        self.vm.irqchip
    }

    /// Runs the machine until it ends, and gives everything back. `notice` is called with lines for the user.
    ///
    /// 1. Every thread is put on the host's CPUs it was given, where any were. The terminal becomes the guest's, and this
    ///    thread confines itself for good if it has not yet: whatever the caller needs after the machine must be open now.
    /// 2. The vCPUs are let into the guest. KVM is told of late RAM.
    /// 3. Core dumps will not hold RAM.
    /// 4. This thread serves console, signals and the time limit until someone turns the power off. When the guest has run for a
    ///    moment, memory that only the start needed is given back, and the host is asked for huge pages.
    /// 5. vCPU threads are kicked out of the guest and joined; writes that KVM still holds are served. KVM takes its machine down,
    ///    at once and before RAM is given back: left to the end of the process, a third fewer machines would start and end side by
    ///    side. The console is flushed and given back.
    pub fn run(
        mut self,
        options: &RunOptions,
        notice: &mut dyn FnMut(&str),
    ) -> Result<(Outcome, Report), MachineError> {
        match self.allocation.as_ref().map(|allocation| allocation.settle(self.vm.irqchip == IrqChip::Kernel)) {
            // A vCPU's thread that could not take its place knows better why.
            Some(Err(error)) => return Err(self.threads.stop().err().unwrap_or_else(|| error.into())),
            Some(Ok(lines)) => lines.iter().for_each(|line| notice(&format!("warning: {line}"))),
            None => {}
        }
        self.console.start()?;
        if !self.confined {
            self.sandbox.confine(ThreadKind::Main, "main")?;
        }
        drop(self.sandbox);
        self.threads.go(&self.shared);
        let told = tell_late(&self.vm, &self.late, &self.shared);
        self.shared.ram.keep_out_of_dumps();
        let served = told.and_then(|()| {
            events::serve(&mut self.console, &self.devices, &self.shared, &self.signals, options, notice)
        });
        self.shared.power.end(Outcome::Quit);
        self.timeline.reach(Phase::Ended);
        let stopped = self.threads.stop();
        self.shared.posted.at_end(&self.shared.buses.ports);
        let outcome = self.shared.power.outcome().cloned().unwrap_or(Outcome::Quit);
        let (milestones, posted) = (self.devices.boot_timer.milestones(), self.shared.posted.served());
        let (ram, time) = (self.shared.ram.clone(), self.vm.time.clone());
        drop((self.devices, self.shared, self.vm));
        drop(ram);
        events::flush(&self.console, &self.signals, drain_limit(&outcome));
        served?;
        let report = report(&self.timeline, &milestones, stopped?, posted, &time);
        Ok((outcome, report))
    }
}

/// Takes the host's CPUs, where any were asked for, and says how RAM is backed, after a look at whether it can be had.
fn grant(config: &MachineConfig) -> Result<(Option<Arc<Allocation>>, Backing), MachineError> {
    let allocation = Allocation::take(&config.placement, config.cpus);
    let granted = allocation.as_ref().ok().and_then(|allocation| allocation.as_ref().map(Allocation::granted));
    let cpus = granted.map(Granted::vcpu_cpus);
    let backing = reserve::plan(&config.ram_policy, config.memory, cpus.as_ref(), &Root::default());
    let (allocation, backing) = refusal::both(allocation, backing)?;
    reserve::raise_lock_limit(&backing);
    Ok((allocation.map(Arc::new), backing))
}

/// What the user should know of the host's CPUs, and of how vCPUs wait on them.
fn placement_warnings(config: &MachineConfig, allocation: Option<&Allocation>, flavour: Flavour) -> Vec<String> {
    let mut warnings = allocation.map(|allocation| allocation.warnings().to_vec()).unwrap_or_default();
    if config.placement.halt == Halt::Guest && flavour.emulates_ring_0() {
        warnings.push("--halt guest changes nothing here: KVM on this host executes hlt itself".to_owned());
    }
    warnings
}

/// Tells KVM of the RAM that it was not told of before the guest ran. That is no part of the start, nor is its time.
fn tell_late(vm: &Vm, (slot, late): &(usize, Vec<Region>), shared: &Shared) -> Result<(), MachineError> {
    if late.is_empty() {
        return Ok(());
    }
    let told = Vm { time: Arc::default(), ..vm.clone() }.map(*slot, late);
    shared.late_ram.is_known();
    Ok(told?)
}

/// Starts the thread that writes the console's output, if anything is written. What comes from it says whether it is confined.
fn start_writer(console: &Console, sandbox: &Arc<Sandbox>) -> Result<Receiver<Result<(), SandboxError>>, MachineError> {
    let (confined, wait) = channel();
    let sandbox = sandbox.clone();
    console.start_writer(move || {
        let result = sandbox.confine(ThreadKind::Console, "console");
        let goes_on = result.is_ok();
        // Nobody listens only when the machine is given up.
        let _ = confined.send(result);
        goes_on
    })?;
    Ok(wait)
}

/// How long what the guest printed may take to be written: without limit when the guest ended by itself, briefly when the
/// user wants it gone.
fn drain_limit(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Signalled(_) | Outcome::TimedOut | Outcome::Quit => Some(Duration::from_millis(500)),
        _ => None,
    }
}

fn report(
    timeline: &Timeline,
    milestones: &[Milestone],
    exits: ExitCounts,
    posted_writes: u64,
    time: &KvmTime,
) -> Report {
    for milestone in milestones {
        match milestone.phase {
            Milestone::USERSPACE => timeline.reached(Phase::Userspace, milestone.at_ns),
            Milestone::PAYLOAD => timeline.reached(Phase::Payload, milestone.at_ns),
            _ => {}
        }
    }
    timeline.reach(Phase::Done);
    let rings = milestones.iter().map(|milestone| (milestone.phase, milestone.at_ns)).collect();
    Report { phases: timeline.phases(), rings, exits, posted_writes, kvm_setup_ns: time.ns() }
}
