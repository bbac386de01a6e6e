//! Devices, and where they are put on the buses.

use std::sync::Arc;

use super::build::MachineError;
use super::interrupts::{KernelLine, Messages};
use super::posted::Flow;
use super::power::Power;
use super::report::now_ns;
use super::vm::Vm;
use super::wake::Wake;
use crate::bus::{Bus, Device, InterruptLine, PowerSwitch};
use crate::config::IrqChip;
use crate::console::{Console, Output};
use crate::devices::{AcpiPower, BootTimer, ByteSink, ExitPort, I8042, IoApic, SerialEvents, SerialPort, WindowSize};
use crate::layout;

/// The devices that the event loop speaks to.
pub(super) struct Devices {
    pub(super) serial: Arc<SerialPort>,
    pub(super) boot_timer: Arc<BootTimer>,
    pub(super) window_size: Arc<WindowSize>,
    pub(super) input_wanted: Arc<Wake>,
    pub(super) flow: Arc<Flow>,
}

/// The address spaces with their devices.
pub(super) struct Buses {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    /// Ours, when KVM has none.
    pub(super) ioapic: Option<Arc<IoApic>>,
}

/// Lets the UART push into the console.
struct Sink {
    output: Arc<Output>,
    flow: Arc<Flow>,
}

impl ByteSink for Sink {
    fn push(&self, byte: u8) -> bool {
        self.flow.byte();
        self.output.push(byte)
    }

    fn has_room(&self) -> bool {
        self.output.has_room()
    }
}

/// Wakes the event loop when the UART can take input.
struct InputWanted(Arc<Wake>);

impl SerialEvents for InputWanted {
    fn input_wanted(&self) {
        self.0.wake();
    }
}

/// Makes the devices and puts them at their addresses. `input_wanted` becomes readable when the UART can take input.
pub(super) fn attach(
    vm: &Vm,
    power: &Arc<Power>,
    console: &Console,
    input_wanted: Arc<Wake>,
) -> Result<(Devices, Buses), MachineError> {
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
    let events = Arc::new(InputWanted(input_wanted.clone()));
    let flow = Arc::new(Flow::new(input_wanted.clone()));
    let serial =
        Arc::new(SerialPort::new(com1_line, Arc::new(Sink { output: console.output(), flow: flow.clone() }), events));
    // Not owned: the port owns the output, and a circle of owners would outlive the machine.
    let waiting = Arc::downgrade(&serial);
    console.output().on_room(move || {
        if let Some(serial) = waiting.upgrade() {
            serial.sink_has_room();
        }
    });
    let rung = input_wanted.clone();
    // The event loop looks whether the input that it holds back may go now.
    let boot_timer = Arc::new(BootTimer::new(now_ns, move || rung.wake()));
    let window_size = Arc::new(WindowSize::new());
    let table: [(u16, u16, Arc<dyn Device>); 6] = [
        (layout::I8042_DATA_PORT, I8042::PORT_COUNT, Arc::new(I8042::new(switch.clone()))),
        (layout::COM1_PORT, layout::COM1_PORT_COUNT, serial.clone()),
        (layout::ACPI_SLEEP_CONTROL_PORT, AcpiPower::PORT_COUNT, Arc::new(AcpiPower::new(switch.clone()))),
        (layout::BOOT_TIMER_PORT, 1, boot_timer.clone()),
        (layout::EXIT_PORT, layout::EXIT_PORT_COUNT, Arc::new(ExitPort::new(switch))),
        (layout::WINDOW_SIZE_PORT, layout::WINDOW_SIZE_PORT_COUNT, window_size.clone()),
    ];
    for (port, count, device) in table {
        ports.insert(u64::from(port), u64::from(count), device)?;
    }
    Ok((Devices { serial, boot_timer, window_size, input_wanted, flow }, Buses { ports, mmio, ioapic }))
}
