//! Where all threads share one CPU: who goes first.
//!
//! A thread that mostly waits for the kernel should get to its wait first, and the one that computes should fill the time. The
//! scheduler does not know which is which: it lets the one go on that started the other, and then nothing is left to be done
//! beside the wait.

use rustix::thread::{CpuSet, sched_getaffinity};

use super::scheduler::{self, SELF};

/// While it lives, the calling thread does not take the CPU from one that wakes it (SCHED_BATCH, sched(7)).
pub struct SteppedBack(());

/// Steps back, where this thread has one CPU only and is scheduled in the ordinary way; else nobody need wait for anybody.
pub fn step_back() -> Option<SteppedBack> {
    let one = sched_getaffinity(None).is_ok_and(|cpus: CpuSet| cpus.count() == 1);
    let ordinary = || scheduler::policy(SELF).is_ok_and(|(policy, _)| policy == libc::SCHED_OTHER);
    (one && ordinary() && scheduler::set_policy(SELF, libc::SCHED_BATCH, 0).is_ok()).then_some(SteppedBack(()))
}

impl Drop for SteppedBack {
    fn drop(&mut self) {
        // What was allowed one way is allowed the other.
        let _ = scheduler::set_policy(SELF, libc::SCHED_OTHER, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::CpuList;

    /// Proves that only a thread with a single CPU steps back, and is scheduled as before afterwards.
    #[test]
    fn steps_back_on_one_cpu() {
        std::thread::spawn(|| {
            let all = scheduler::affinity(SELF).unwrap();
            let first = all.iter().next().unwrap();
            if all.iter().count() > 1 {
                assert!(step_back().is_none());
            }
            scheduler::set_affinity(SELF, &[first].into_iter().collect::<CpuList>()).unwrap();
            let back = step_back().expect("it has one CPU");
            assert_eq!(scheduler::policy(SELF).unwrap().0, libc::SCHED_BATCH);
            drop(back);
            assert_eq!(scheduler::policy(SELF).unwrap().0, libc::SCHED_OTHER);
        })
        .join()
        .unwrap();
    }
}
