//! Where every thread of the process is, once all are there.

use std::fs;
use std::process;
use std::sync::atomic::Ordering;

use super::allocation::Allocation;
use super::error::AllocationError;
use super::kernel_threads::{self, Owner};
use super::scheduler;
use crate::units::CpuList;

impl Allocation {
    /// Moves every thread that is no vCPU's to the CPUs of those, gives the vCPUs' threads their priority, and reads back what
    /// each thread of the process has. KVM's own threads are moved too, the PIT's with `pit`; says what could not be.
    ///
    /// To be called when every thread is there, before the guest runs.
    ///
    /// # Errors
    /// A thread that has not what it should have.
    pub fn settle(&self, pit: bool) -> Result<Vec<String>, AllocationError> {
        let vcpus: Vec<i32> = self.threads.iter().map(|thread| thread.load(Ordering::Acquire)).collect();
        let threads = threads()?;
        if let Some(id) = vcpus.iter().position(|thread| !threads.contains(thread)) {
            return Err(AllocationError::NoThread(id as u32));
        }
        for thread in threads.iter().filter(|thread| !vcpus.contains(thread)) {
            self.move_away(*thread)?;
        }
        for (thread, cpus) in vcpus.iter().zip(&self.granted.vcpus) {
            verify(*thread, cpus)?;
            self.schedule(*thread)?;
        }
        if self.core_scheduling {
            verify_cookies(&vcpus)?;
        }
        Ok(kernel_threads::move_to(&self.granted.vmm, &Owner { pid: process::id(), maker: vcpus[0], pit }))
    }

    /// Sees to it that a thread that is no vCPU's is where those are. KVM starts one that inherits a vCPU's place.
    fn move_away(&self, thread: i32) -> Result<(), AllocationError> {
        let vmm = &self.granted.vmm;
        if scheduler::affinity(thread).is_ok_and(|found| found == *vmm) {
            return Ok(());
        }
        match scheduler::set_affinity(thread, vmm) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(source) => {
                let attempted = format!("move the thread {thread} ({}) to the CPUs {vmm}", name(thread));
                return Err(AllocationError::Refused { attempted, source });
            }
            Ok(()) => {}
        }
        verify(thread, vmm)
    }

    /// Gives a vCPU's thread its priority, and reads it back.
    fn schedule(&self, thread: i32) -> Result<(), AllocationError> {
        let Some(priority) = self.granted.realtime.map(|priority| priority.get()) else { return Ok(()) };
        scheduler::set_policy(thread, libc::SCHED_FIFO, priority)
            .map_err(|source| AllocationError::RealtimeRefused { priority, source })?;
        let found = scheduler::policy(thread).map_err(AllocationError::refused("read a vCPU's priority back"))?;
        if found == (libc::SCHED_FIFO, priority) { Ok(()) } else { Err(AllocationError::NotRealtime { thread, found }) }
    }
}

fn verify(thread: i32, expected: &CpuList) -> Result<(), AllocationError> {
    let found = scheduler::affinity(thread)
        .map_err(AllocationError::refused(format!("ask where the thread {thread} may run")))?;
    if found == *expected {
        return Ok(());
    }
    Err(AllocationError::Elsewhere { thread, name: name(thread), expected: expected.clone(), found })
}

/// The vCPUs must share a cookie that no other thread of the process has.
fn verify_cookies(vcpus: &[i32]) -> Result<(), AllocationError> {
    let read = |thread| {
        scheduler::core_cookie(thread).map_err(AllocationError::refused("read a vCPU's core scheduling cookie back"))
    };
    let own = read(scheduler::SELF)?;
    let first = read(vcpus[0])?;
    for (id, thread) in vcpus.iter().enumerate() {
        let cookie = read(*thread)?;
        if cookie == 0 || cookie == own || cookie != first {
            return Err(AllocationError::NoCookie(id as u32));
        }
    }
    Ok(())
}

/// The process's threads.
fn threads() -> Result<Vec<i32>, AllocationError> {
    let failed = || AllocationError::refused("list this process's threads in /proc/self/task");
    let entries = fs::read_dir("/proc/self/task").map_err(failed())?;
    let mut threads = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        threads.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// A thread's name, for messages.
fn name(thread: i32) -> String {
    let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}
