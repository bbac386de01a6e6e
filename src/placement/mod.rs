//! Which threads run on which of the host's CPUs, and how: affinity, locks, scheduling.
//!
//! 1. [`Allocation::take`], on the calling thread, first: finds the CPUs and locks them.
//! 2. [`apply`], on each vCPU's thread, first of all: affinity, core scheduling cookie.
//! 3. [`Allocation::settle`], on the calling thread, when every thread is there and before the guest's first instruction:
//!    moves all others off the vCPUs' CPUs (until then they may use them, to fill RAM), also those that KVM has started, gives
//!    the vCPUs their priority, and reads back where each thread may run. Threads that are started later inherit it.
//!
//! While the guest runs no call is made here. The locks are files that stay open; they go with the process.

mod allocation;
mod choice;
mod error;
mod kernel_threads;
mod locks;
mod one_cpu;
mod realtime;
#[allow(unsafe_code)]
mod scheduler;
mod settle;

pub use allocation::{Allocation, apply};
pub use choice::{Choice, Shortage, choose};
pub use error::AllocationError;
pub use locks::{Holder, LockError, holders};
pub use one_cpu::{SteppedBack, step_back};
