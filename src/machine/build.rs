//! The recipe: from a configuration to a machine that is ready to run.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd};

use super::interrupts::{KernelLine, Messages};
use super::load::{self, LoadError, Loaded};
use super::outcome::Outcome;
use super::power::Power;
use super::report::{ExitCounts, Phase, Report, now_ns};
use super::signals::{self, Signals};
use super::vcpu::{self, Shared};
use super::vm::{self, Start, Vm, VmError};
use super::wake::Wake;
use super::{Limits, events};
use crate::bus::{Bus, BusError, Device, InterruptLine, PowerSwitch};
use crate::config::{IrqChip, MachineConfig};
use crate::console::{Console, ConsoleError, Output};
use crate::cpu::cpuid::Template;
use crate::devices::{
    AcpiPower, BootTimer, ByteSink, ExitPort, I8042, IoApic, Milestone, SerialEvents, SerialPort, WindowSize,
};
use crate::host::Flavour;
use crate::layout;

/// Why a machine could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Kernel, initrd or guest RAM.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// KVM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
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

/// A machine that is ready to run.
pub struct Machine {
    shared: Arc<Shared>,
    vcpus: Vec<VcpuFd>,
    template: Arc<Template>,
    start: Start,
    time: Arc<vm::KvmTime>,
    pub(super) devices: Devices,
    pub(super) console: Console,
    signals: Signals,
    report: Report,
    irqchip: IrqChip,
    format: String,
    warnings: Vec<String>,
}

/// The devices that the event loop speaks to.
pub(super) struct Devices {
    pub(super) serial: Arc<SerialPort>,
    pub(super) boot_timer: Arc<BootTimer>,
    pub(super) window_size: Arc<WindowSize>,
    pub(super) input_wanted: Arc<Wake>,
}

/// Lets the UART push into the console.
struct Sink(Arc<Output>);

impl ByteSink for Sink {
    fn push(&self, byte: u8) -> bool {
        self.0.push(byte)
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }
}

/// Wakes the event loop when the UART can take input.
struct InputWanted(Arc<Wake>);

impl SerialEvents for InputWanted {
    fn input_wanted(&self) {
        self.0.wake();
    }
}

fn host(attempted: &'static str) -> impl FnOnce(std::io::Error) -> MachineError {
    move |source| MachineError::Host { attempted, source }
}

impl Machine {
    /// Makes the machine. The guest does not run yet.
    ///
    /// 1. Signals are blocked, so that every later thread inherits it and they arrive as events.
    /// 2. KVM makes the machine, its interrupt controllers and vCPUs, while
    /// 3. kernel, initrd and boot tables are put into guest RAM on another thread: KVM spends its time waiting.
    /// 4. KVM is told of the RAM: after the interrupt controllers, which it makes more slowly once there is RAM.
    /// 5. Devices are made and put on the buses.
    pub fn build(
        config: &MachineConfig,
        kvm: &Kvm,
        flavour: Flavour,
        console: Console,
        mut report: Report,
    ) -> Result<Self, MachineError> {
        let signals = Signals::new().map_err(host("take signals as events"))?;
        signals::install_kick().map_err(host("install the signal that stops vCPUs"))?;
        let (vm, loaded) = std::thread::scope(|scope| {
            let loading = std::thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, || (load::load(config), now_ns()))
                .map_err(host("start the loading thread"))?;
            let vm = Vm::create(kvm, config.cpus, config.irqchip, flavour);
            report.reach(Phase::VmCreated);
            let (loaded, at) = loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            report.phases.push((Phase::Loaded, at));
            // A bad kernel is the likelier fault, and the one the user can mend: it is told first.
            let loaded = loaded?;
            Ok::<_, MachineError>((vm?, loaded))
        })?;
        vm.map(&loaded.ram)?;
        report.reach(Phase::MemoryMapped);
        let Loaded { ram, start, format, warnings } = loaded;
        let power = Arc::new(Power::new().map_err(host("make an event descriptor"))?);
        let (devices, ports, mmio, ioapic) = attach_devices(&vm, &power, &console)?;
        let shared = Arc::new(Shared { ports, mmio, ioapic, power, ram, flavour: vm.flavour });
        let Vm { irqchip, vcpus, template, time, .. } = vm;
        Ok(Self { shared, vcpus, template, start, time, devices, console, signals, report, irqchip, format, warnings })
    }

    /// What the kernel was recognised as.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// What the user should know of the kernel.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Which interrupt controllers the machine has.
    pub fn irqchip(&self) -> IrqChip {
        self.irqchip
    }

    /// Runs the machine until it ends, and gives everything back. `notice` is called with lines for the user.
    ///
    /// 1. vCPU threads start; each prepares its vCPU and enters the guest.
    /// 2. The console starts beside them.
    /// 3. This thread serves console, signals and the time limit until someone turns the power off.
    /// 4. vCPU threads are kicked out of the guest and joined; the console is flushed and given back.
    pub fn run(mut self, limits: &Limits, notice: &mut dyn FnMut(&str)) -> Result<(Outcome, Report), MachineError> {
        let first_run = Arc::new(std::sync::OnceLock::new());
        let mut threads = Vec::with_capacity(self.vcpus.len());
        for (id, vcpu) in std::mem::take(&mut self.vcpus).into_iter().enumerate() {
            let (shared, template, time) = (self.shared.clone(), self.template.clone(), self.time.clone());
            let start = (id == 0).then_some(self.start);
            let first_run = first_run.clone();
            let body = move || -> Result<ExitCounts, VmError> {
                let prepared = vm::prepare(&vcpu, id as u32, &template, start, &time);
                if prepared.is_err() {
                    shared.power.end(Outcome::Quit);
                }
                prepared?;
                if id == 0 {
                    let _ = first_run.set((now_ns(), time.ns()));
                }
                Ok(vcpu::run(vcpu, id as u32, &shared))
            };
            let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(body);
            threads.push(
                thread.map_err(host("start a vCPU thread")).inspect_err(|_| self.shared.power.end(Outcome::Quit))?,
            );
        }
        let served = self.console.start().map_err(MachineError::from).and_then(|()| {
            events::serve(&mut self.console, &self.devices, &self.shared.power, &self.signals, limits, notice)
        });
        if served.is_err() {
            self.shared.power.end(Outcome::Quit);
        }
        self.report.reach(Phase::Ended);
        let counts = stop(threads);
        self.finish_report(first_run.get().copied());
        let drain = self.drain_limit();
        events::flush(&mut self.console, &self.signals, drain);
        served?;
        for count in counts {
            self.report.exits.add(&count?);
        }
        let outcome = self.shared.power.outcome().cloned().unwrap_or(Outcome::Quit);
        Ok((outcome, self.report))
    }

    /// How long what the guest printed may take to be written: without limit when the guest ended by itself, briefly when
    /// the user wants it gone.
    fn drain_limit(&self) -> Option<Duration> {
        match self.shared.power.outcome() {
            Some(Outcome::Signalled(_) | Outcome::TimedOut | Outcome::Quit) => Some(Duration::from_millis(500)),
            _ => None,
        }
    }

    fn finish_report(&mut self, first_run: Option<(u64, u64)>) {
        if let Some((at, kvm_setup_ns)) = first_run {
            self.report.phases.push((Phase::FirstRun, at));
            self.report.kvm_setup_ns = kvm_setup_ns;
        }
        for milestone in self.devices.boot_timer.milestones() {
            let phase = match milestone.phase {
                Milestone::USERSPACE => Phase::Userspace,
                Milestone::PAYLOAD => Phase::Payload,
                _ => continue,
            };
            self.report.phases.push((phase, milestone.at_ns));
        }
        self.report.phases.sort_by_key(|(_, at)| *at);
    }
}

/// Kicks the vCPUs out of the guest and waits for their threads.
fn stop(threads: Vec<std::thread::JoinHandle<Result<ExitCounts, VmError>>>) -> Vec<Result<ExitCounts, VmError>> {
    threads.iter().for_each(signals::kick);
    threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
}

type Attached = (Devices, Bus, Bus, Option<Arc<IoApic>>);

/// Makes the devices and puts them at their addresses.
fn attach_devices(vm: &Vm, power: &Arc<Power>, console: &Console) -> Result<Attached, MachineError> {
    let (mut ports, mut mmio) = (Bus::new(), Bus::new());
    let (ioapic, com1_line): (_, Arc<dyn InterruptLine>) = match vm.irqchip {
        IrqChip::Split => {
            let ioapic = IoApic::new(Arc::new(Messages::new(vm.fd.clone())));
            mmio.insert(layout::IOAPIC, layout::IOAPIC_SIZE, ioapic.clone())?;
            let line = ioapic.line(layout::COM1_GSI);
            (Some(ioapic), line)
        }
        IrqChip::Kernel => (None, Arc::new(KernelLine::new(vm.fd.clone(), layout::COM1_GSI))),
    };
    let switch: Arc<dyn PowerSwitch> = power.clone();
    let input_wanted = Arc::new(Wake::new().map_err(host("make an event descriptor"))?);
    let events = Arc::new(InputWanted(input_wanted.clone()));
    let serial = Arc::new(SerialPort::new(com1_line, Arc::new(Sink(console.output())), events));
    let waiting = serial.clone();
    console.output().on_room(move || waiting.sink_has_room());
    let boot_timer = Arc::new(BootTimer::new(now_ns));
    let window_size = Arc::new(WindowSize::new());
    let i8042 = Arc::new(I8042::new(switch.clone()));
    let table: [(u16, u16, Arc<dyn Device>); 6] = [
        (layout::I8042_DATA_PORT, I8042::PORT_COUNT, i8042),
        (layout::COM1_PORT, layout::COM1_PORT_COUNT, serial.clone()),
        (layout::ACPI_SLEEP_CONTROL_PORT, AcpiPower::PORT_COUNT, Arc::new(AcpiPower::new(switch.clone()))),
        (layout::BOOT_TIMER_PORT, 1, boot_timer.clone()),
        (layout::EXIT_PORT, layout::EXIT_PORT_COUNT, Arc::new(ExitPort::new(switch))),
        (layout::WINDOW_SIZE_PORT, layout::WINDOW_SIZE_PORT_COUNT, window_size.clone()),
    ];
    for (port, count, device) in table {
        ports.insert(u64::from(port), u64::from(count), device)?;
    }
    Ok((Devices { serial, boot_timer, window_size, input_wanted }, ports, mmio, ioapic))
}
