//! The vCPUs' threads, from their start to their end.
//!
//! The first one makes the machine in KVM ([`super::first`]), where most of the time goes into waiting, while the calling thread
//! fills guest RAM. Each then waits at a gate until the machine is complete.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;

use super::build::MachineError;
use super::first::{FirstThread, Orders, Start};
use super::outcome::Outcome;
use super::power::Power;
use super::report::{ExitCounts, Timeline};
use super::vcpu::{self, Shared};
use super::vm::{self, Vm};
use super::write_ring::WriteRing;
use super::{MachineRequest, signals};
use crate::cpu::cpuid::Template;
use crate::placement::{self, Allocation};
use crate::sandbox::{Sandbox, ThreadKind};

/// A vCPU thread's stack: room for a message that decodes an instruction, in a debug build too. The usual 2 MiB would be
/// one transparent huge page where the host gives those unasked, which takes longer to clear than the rest of the thread's start.
pub(super) const STACK: usize = 256 * 1024;

/// What a vCPU thread comes back with: `None` when its gate was never opened.
pub(super) type Ended = Result<Option<ExitCounts>, MachineError>;

/// What a vCPU is given at the gate.
#[derive(Clone)]
pub(super) struct Go {
    pub(super) shared: Arc<Shared>,
}

/// A machine in KVM, and what its vCPUs' CPUID is made of.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) vm: Vm,
    pub(super) template: Arc<Template>,
    pub(super) write_ring: Option<Arc<WriteRing>>,
}

/// The vCPUs' threads.
pub(super) struct Threads {
    handles: Vec<JoinHandle<Ended>>,
    gates: Vec<Sender<Go>>,
    /// To the first vCPU: how the guest starts.
    start: Option<Sender<Start>>,
    made: Receiver<Made>,
    ready: Receiver<()>,
    ready_in: Sender<()>,
    power: Arc<Power>,
    /// Until the guest runs: then every thread is confined, and the last one closes what it took.
    sandbox: Option<Arc<Sandbox>>,
    allocation: Option<Arc<Allocation>>,
}

impl Threads {
    /// Gives the first vCPU's thread its orders.
    pub(super) fn new(
        first: FirstThread,
        request: MachineRequest,
        power: Arc<Power>,
        sandbox: Arc<Sandbox>,
        timeline: Arc<Timeline>,
    ) -> Self {
        let FirstThread { handle, orders, allocation } = first;
        let (made_in, made) = channel();
        let (ready_in, ready) = channel();
        let (start_in, start) = channel();
        let (gate_in, gate) = channel();
        let given =
            Orders { request, power: power.clone(), sandbox: sandbox.clone(), timeline, made: made_in, start, gate };
        // It waits for them, whatever came of its work so far.
        let _ = orders.send(given);
        Self {
            handles: vec![handle],
            gates: vec![gate_in],
            start: Some(start_in),
            made,
            ready,
            ready_in,
            power,
            sandbox: Some(sandbox),
            allocation,
        }
    }

    /// Tells the first vCPU how the guest starts. Its thread tells KVM of the RAM and confines itself then, beside what is left to
    /// be done here; the sandbox must be complete.
    pub(super) fn start(&mut self, how: Start) {
        if let Some(start) = self.start.take() {
            // A thread that is gone has failed, and its error is told when it is joined.
            let _ = start.send(how);
        }
    }

    /// Waits for the machine, and starts the threads of the other vCPUs.
    pub(super) fn made(&mut self, cpus: u32) -> Result<Made, MachineError> {
        let Ok(made) = self.made.recv() else {
            // The first thread ended without a machine: it knows why.
            self.close();
            return Err(self.join().err().unwrap_or(MachineError::NoMachine));
        };
        for id in 1..cpus {
            let Made { vm, template, .. } = made.clone();
            let (ready, sandbox, allocation) = (self.ready_in.clone(), self.sandbox.clone(), self.allocation.clone());
            self.spawn(id, move |gate| {
                let placed = placement::apply(allocation.as_deref(), id).map_err(MachineError::from);
                let prepared = placed.and_then(|()| {
                    let vcpu = vm.create_vcpu(id)?;
                    vm::prepare(&vcpu, id, &template, &vm.time)?;
                    Ok(vcpu)
                });
                let prepared = prepared.and_then(|vcpu| confine(sandbox, id).map(|()| vcpu));
                // One that failed does not keep the others waiting. Nobody listens when the machine is given up.
                let _ = ready.send(());
                let vcpu: VcpuFd = prepared?;
                let Ok(go) = gate.recv() else { return Ok(None) };
                Ok(Some(vcpu::run(vcpu, id, &go.shared)))
            })?;
        }
        Ok(made)
    }

    /// Returns when every one of `cpus` vCPUs is there: an INIT that the guest sends to one that is not would be lost.
    pub(super) fn all_there(&self, cpus: u32) {
        self.ready.iter().take(cpus as usize - 1).for_each(drop);
    }

    /// Starts a thread. One that fails ends the machine.
    fn spawn(
        &mut self,
        id: u32,
        body: impl FnOnce(Receiver<Go>) -> Ended + Send + 'static,
    ) -> Result<(), MachineError> {
        let (gate, wait) = channel();
        let power = self.power.clone();
        let body = move || body(wait).inspect_err(|_| power.end(Outcome::Quit));
        let thread = thread::Builder::new().name(format!("vcpu{id}")).stack_size(STACK).spawn(body);
        let failed = |source| MachineError::Host { attempted: "start a vCPU's thread", source };
        self.handles.push(thread.map_err(failed)?);
        self.gates.push(gate);
        Ok(())
    }

    /// Lets the vCPUs into the guest.
    pub(super) fn go(&mut self, shared: &Arc<Shared>) {
        self.sandbox = None;
        for gate in self.gates.drain(..) {
            // A thread that is gone has failed, and its error is told when it is joined.
            let _ = gate.send(Go { shared: shared.clone() });
        }
    }

    /// Kicks the vCPUs out of the guest and waits for their threads. The machine's power must be off.
    pub(super) fn stop(mut self) -> Result<ExitCounts, MachineError> {
        self.close();
        self.handles.iter().for_each(signals::kick);
        self.join()
    }

    /// Nobody waits at a gate any longer.
    fn close(&mut self) {
        self.start = None;
        self.gates.clear();
    }

    fn join(&mut self) -> Result<ExitCounts, MachineError> {
        let mut counts = ExitCounts::default();
        let mut failed = None;
        for handle in self.handles.drain(..) {
            match handle.join() {
                Ok(Ok(ended)) => counts.add(&ended.unwrap_or_default()),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failed.map_or(Ok(counts), Err)
    }
}

/// Confines a vCPU's thread. It gives up its share of the sandbox first, whose descriptors it needs no more.
pub(super) fn confine(sandbox: Option<Arc<Sandbox>>, id: u32) -> Result<(), MachineError> {
    sandbox.map_or(Ok(()), |sandbox| Ok(sandbox.confine(ThreadKind::Vcpu, &format!("vcpu{id}"))?))
}

impl Drop for Threads {
    /// A machine that is given up before it runs leaves no thread behind.
    fn drop(&mut self) {
        self.close();
        self.power.end(Outcome::Quit);
        self.handles.iter().for_each(signals::kick);
        self.handles.drain(..).for_each(|handle| drop(handle.join()));
    }
}
