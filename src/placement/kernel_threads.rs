//! KVM's own threads of a machine. They are the kernel's, so they are found by name and moved with root's rights only.
//!
//! | thread | what | when |
//! | --- | --- | --- |
//! | `kvm-pit/PID` | injects the PIT's interrupts | with `--irqchip kernel` |
//! | `kvm-nx-lpage-recovery-TID` | splits and joins huge pages of the guest (iTLB multihit) | Linux before 6.13; later it is one of this process's own threads |

use super::scheduler;
use crate::host::Root;
use crate::units::CpuList;

/// What KVM names a machine's threads by.
pub(super) struct Owner {
    /// The process.
    pub(super) pid: u32,
    /// The thread that made the machine in KVM.
    pub(super) maker: i32,
    /// Whether the machine has a PIT in KVM.
    pub(super) pit: bool,
}

impl Owner {
    fn owns(&self, name: &str) -> bool {
        name == format!("kvm-pit/{}", self.pid)
            || name.strip_prefix("kvm-nx-lpage-recovery-").is_some_and(|maker| maker == self.maker.to_string())
    }
}

/// The kernel's threads of a machine: number and name.
pub(super) fn of(owner: &Owner, root: &Root) -> Vec<(i32, String)> {
    let mut numbers: Vec<i32> = root.list("/proc").iter().filter_map(|name| name.parse().ok()).collect();
    // Those that came after this process, first: there are few, and what is looked for is among them unless the kernel has
    // begun to count anew.
    numbers.sort_unstable_by_key(|number| (*number < owner.maker, *number));
    let mut found = Vec::new();
    for number in numbers {
        if number < owner.maker && (!found.is_empty() || !owner.pit) {
            break;
        }
        let name = root.read(format!("/proc/{number}/comm")).unwrap_or_default();
        if owner.owns(&name) {
            found.push((number, name));
        }
    }
    found
}

/// Moves the kernel's threads of a machine to `cpus`. Says which could not be moved, and why.
pub(super) fn move_to(cpus: &CpuList, owner: &Owner) -> Vec<String> {
    let found = of(owner, &Root::default());
    let mut said: Vec<String> = found
        .iter()
        .filter(|(thread, _)| scheduler::affinity(*thread).is_ok_and(|now| !now.without(cpus).is_empty()))
        .filter_map(|(thread, name)| {
            let error = scheduler::set_affinity(*thread, cpus).err()?;
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM) => "; run ringfence as root (CAP_SYS_NICE), or do with --irqchip split",
                Some(libc::ESRCH) => return None,
                _ => "; do with --irqchip split",
            };
            Some(format!("KVM's thread {name} may run on the vCPUs' CPUs, and cannot be moved: {error}{remedy}"))
        })
        .collect();
    if owner.pit && !found.iter().any(|(_, name)| name.starts_with("kvm-pit/")) {
        let hint = "it may run on the vCPUs' CPUs; do with --irqchip split";
        said.push(format!("KVM's thread for the timer is not seen from here (in a container, perhaps), so {hint}"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a machine's own threads are found by their whole name, whichever side of the process's number they are on,
    /// and no other machine's.
    #[test]
    fn threads_are_found_by_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let thread = |number: u32, name: &str| {
            let folder = dir.path().join(format!("proc/{number}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
        };
        thread(20, "kvm-pit/100");
        thread(100, "ringfence");
        thread(102, "kvm-nx-lpage-recovery-101");
        thread(103, "kvm-nx-lpage-recovery-1011");
        thread(104, "kvm-pit/1001");
        let root = Root::new(dir.path());
        let numbers = |pit, pid| -> Vec<i32> {
            of(&Owner { pid, maker: 101, pit }, &root).into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(false, 100), [102]);
        std::fs::rename(dir.path().join("proc/20"), dir.path().join("proc/120")).unwrap();
        assert_eq!(numbers(true, 100), [102, 120]);
        std::fs::remove_dir_all(dir.path().join("proc/102")).unwrap();
        std::fs::rename(dir.path().join("proc/120"), dir.path().join("proc/20")).unwrap();
        assert_eq!(numbers(true, 100), [20]);
    }
}
