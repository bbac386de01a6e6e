//! Who runs where: the CPU that is set apart, and those left to the neighbour.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use super::CompareError;
use crate::host::Root;
use crate::units::CpuList;

/// The CPUs of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Places {
    /// All that this process may use.
    pub all: CpuList,
    /// The one for a subject that gets its own.
    pub own: CpuList,
    /// The rest, without those that share a core with it.
    pub rest: CpuList,
}

impl Places {
    /// The last of `allowed` is set apart: interrupts and a host's own work are commonly on the first. `None` with fewer than two
    /// cores.
    pub fn of(allowed: &CpuList, root: &Root) -> Option<Self> {
        let own = allowed.iter().last()?;
        let siblings = root.read(format!("/sys/devices/system/cpu/cpu{own}/topology/thread_siblings_list"));
        let siblings = siblings.and_then(|text| CpuList::parse(&text)).unwrap_or_default();
        let rest: CpuList = allowed.iter().filter(|cpu| *cpu != own && !siblings.contains(*cpu)).collect();
        (!rest.is_empty()).then(|| Self { all: allowed.clone(), own: [own].into_iter().collect(), rest })
    }
}

/// Does `work` on a thread that may use only `cpus`, as may the programs it starts.
///
/// # Errors
/// [`CompareError::Affinity`], or what `work` gives.
pub fn on<T: Send>(cpus: &CpuList, work: impl FnOnce() -> Result<T, CompareError> + Send) -> Result<T, CompareError> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(cpu as usize));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sched_setaffinity(None, &set).map_err(|e| CompareError::Affinity(cpus.clone(), io::Error::from(e)))?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(allowed: &str, siblings: &str) -> Option<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sys/devices/system/cpu/cpu3/topology");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("thread_siblings_list"), siblings).unwrap();
        let places = Places::of(&CpuList::parse(allowed).unwrap(), &Root::new(dir.path()))?;
        Some((places.own.to_string(), places.rest.to_string()))
    }

    /// Proves that a CPU's sibling is nobody's, and that a host with one core has no place to set apart.
    #[test]
    fn siblings_are_left_out() {
        let some = |own: &str, rest: &str| Some((own.to_owned(), rest.to_owned()));
        assert_eq!(places("0-3", "3"), some("3", "0-2"));
        assert_eq!(places("0-3", "1,3"), some("3", "0,2"));
        assert_eq!(places("1,3", "3"), some("3", "1"));
        assert_eq!(places("1,3", "1,3"), None);
        assert_eq!(places("3", "3"), None);
    }
}
