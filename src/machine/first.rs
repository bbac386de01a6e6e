//! The first vCPU's thread, and the head start it can be given.
//!
//! What a start waits for longest is KVM making the machine, and that asks for nothing that the command line says. So the thread
//! may be started before the command line is read, and gets its orders when it is known what machine is wanted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use kvm_ioctls::{Kvm, VmFd};

use super::MachineRequest;
use super::build::MachineError;
use super::outcome::Outcome;
use super::power::Power;
use super::report::{Phase, Timeline};
use super::signals::Signals;
use super::threads::{Ended, Go, Made, STACK, confine};
use super::vcpu;
use super::vm::{self, Entry, KvmTime, Vm, VmError};
use crate::console;
use crate::memory::Region;
use crate::placement::{self, Allocation};
use crate::sandbox::{Layers, Sandbox};

/// What the first vCPU's thread is told once RAM is filled: where the kernel is entered, and which RAM it is entered with. The
/// mapping must outlive the machine.
pub(super) struct Start {
    pub(super) entry: Entry,
    pub(super) ram: Vec<Region>,
}

/// What the first vCPU's thread is told once it is known what machine is wanted.
pub(super) struct Orders {
    pub(super) request: MachineRequest,
    pub(super) power: Arc<Power>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) made: Sender<Made>,
    pub(super) start: Receiver<Start>,
    pub(super) gate: Receiver<Go>,
}

/// The thread, which makes the machine in KVM and then waits for its orders. Without any it ends.
pub(super) struct FirstThread {
    pub(super) handle: JoinHandle<Ended>,
    pub(super) orders: Sender<Orders>,
    pub(super) allocation: Option<Arc<Allocation>>,
}

/// What is done before there is a thread, and the thread.
pub(super) struct Begun {
    pub(super) signals: Signals,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) first: FirstThread,
}

/// A machine that is perhaps being made already, before it is known what it will be.
pub struct HeadStart {
    kvm: Arc<Kvm>,
    begun: Option<Begun>,
}

impl From<Kvm> for HeadStart {
    /// None: the machine is made when it is known what it will be.
    fn from(kvm: Kvm) -> Self {
        Self { kvm: Arc::new(kvm), begun: None }
    }
}

impl HeadStart {
    /// Blocks the signals that end a machine, which it will answer, confines this process as far as all its threads have in
    /// common, and lets a thread of its own make the machine. Good for a machine that is confined and has no CPUs of its own;
    /// any other is made anew.
    ///
    /// # Errors
    /// The host refuses a thread or a descriptor.
    pub fn begin(kvm: Kvm) -> Result<Self, MachineError> {
        let kvm = Arc::new(kvm);
        let begun = Some(begin(&kvm, Layers::ALL, None)?);
        Ok(Self { kvm, begun })
    }

    /// KVM, to ask what it can do.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The thread that makes a machine with these `layers` on the CPUs of `allocation`.
    pub(super) fn fit(self, layers: Layers, allocation: Option<&Arc<Allocation>>) -> Result<Begun, MachineError> {
        match self.begun {
            Some(begun) if layers == Layers::ALL && allocation.is_none() => Ok(begun),
            // The other thread's orders never come, and it ends.
            _ => begin(&self.kvm, layers, allocation.cloned()),
        }
    }
}

fn begin(kvm: &Arc<Kvm>, layers: Layers, allocation: Option<Arc<Allocation>>) -> Result<Begun, MachineError> {
    let host = |attempted| move |source| MachineError::Host { attempted, source };
    let signals = Signals::new().map_err(host("take signals as events"))?;
    let sandbox = Arc::new(Sandbox::prepare(layers, console::give_back)?);
    let (kvm, given) = (kvm.clone(), allocation.clone());
    let (orders, wait) = channel();
    let (begun_in, begun) = channel();
    let life = move || life(&kvm, given.as_deref(), begun_in, &wait);
    let thread = thread::Builder::new().name("vcpu0".to_owned()).stack_size(STACK).spawn(life);
    let handle = thread.map_err(host("start a vCPU's thread"))?;
    if let Some(_back) = placement::step_back() {
        // The first vCPU's thread gets to where KVM waits, and the calling one goes on meanwhile.
        let _: Result<Infallible, _> = begun.recv();
    }
    Ok(Begun { signals, sandbox, first: FirstThread { handle, orders, allocation } })
}

/// The thread's life. `begun` is let go of right before the first long wait.
fn life(kvm: &Kvm, allocation: Option<&Allocation>, begun: Sender<Infallible>, orders: &Receiver<Orders>) -> Ended {
    let placed = placement::apply(allocation, 0);
    drop(begun);
    let time = Arc::new(KvmTime::default());
    let made = placed.map_err(MachineError::from).map(|()| Vm::begin(kvm, &time));
    let Ok(orders) = orders.recv() else { return Ok(None) };
    let power = orders.power.clone();
    made.and_then(|fd| orders.carry_out(kvm, fd, time, allocation.is_some())).inspect_err(|_| power.end(Outcome::Quit))
}

impl Orders {
    /// Completes the machine, makes its first vCPU and runs it.
    fn carry_out(self, kvm: &Kvm, fd: Result<VmFd, VmError>, time: Arc<KvmTime>, is_placed: bool) -> Ended {
        let request = self.request;
        let vm = Vm::complete(fd?, time, &request)?;
        let mut vcpu = vm.create_vcpu(0)?;
        if is_placed {
            vm.start_kvms_threads(&mut vcpu)?;
        }
        let template = Arc::new(vm.cpuid(kvm, &vcpu, request.flavour, request.cpus)?);
        let write_ring = vm.write_ring(&vcpu);
        self.timeline.reach(Phase::VmCreated);
        // Nobody listens any more when the kernel could not be loaded, and then the gate stays shut, too.
        let _ = self.made.send(Made { vm: vm.clone(), template: template.clone(), write_ring });
        vm::prepare(&vcpu, 0, &template, &vm.time)?;
        let Ok(Start { entry, ram }) = self.start.recv() else { return Ok(None) };
        vm.map(0, &ram)?;
        self.timeline.reach(Phase::MemoryMapped);
        vm::enter_kernel(&vcpu, entry, &vm.time)?;
        confine(Some(self.sandbox), 0)?;
        let Ok(go) = self.gate.recv() else { return Ok(None) };
        self.timeline.reach(Phase::FirstRun);
        Ok(Some(vcpu::run(vcpu, 0, &go.shared)))
    }
}
