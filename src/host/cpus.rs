//! The host's CPUs: how many, how they are arranged, which are set apart.

use super::Root;
use crate::units::CpuList;
use serde::Serialize;
use std::collections::BTreeSet;

/// The host's CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// The CPU's own name.
    pub model: Option<String>,
    /// CPUs that run.
    pub online: CpuList,
    /// Sockets with CPUs that run.
    pub sockets: usize,
    /// Cores that run, of all sockets.
    pub cores: usize,
    /// Whether any core has more than one thread.
    pub smt: bool,
    /// CPUs the scheduler leaves alone (`isolcpus=`).
    pub isolated: CpuList,
    /// CPUs without a timer tick while one task runs (`nohz_full=`).
    pub nohz_full: CpuList,
    /// CPUs this process may run on, from its affinity and cpuset.
    pub allowed: CpuList,
}

impl Cpus {
    /// What the files below `root` say; parts that can't be read stay empty.
    pub fn of(root: &Root) -> Self {
        let list = |name: &str| {
            let text = root.read(format!("/sys/devices/system/cpu/{name}"))?;
            CpuList::parse(&text)
        };
        let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
        let online = list("online").unwrap_or_else(|| processors(&cpuinfo));
        let topology = |cpu: u32, name: &str| root.read(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}"));
        let cores: BTreeSet<_> =
            online.iter().map(|cpu| topology(cpu, "thread_siblings_list").unwrap_or_else(|| cpu.to_string())).collect();
        let sockets: BTreeSet<_> = online.iter().filter_map(|cpu| topology(cpu, "physical_package_id")).collect();
        let status = root.read("/proc/self/status").unwrap_or_default();
        Self {
            model: cpuinfo_field(&cpuinfo, "model name").map(str::to_owned),
            sockets: sockets.len().max(usize::from(!online.is_empty())),
            smt: cores.iter().any(|siblings| CpuList::parse(siblings).is_some_and(|list| list.len() > 1)),
            cores: cores.len(),
            isolated: list("isolated").unwrap_or_default(),
            nohz_full: list("nohz_full").unwrap_or_default(),
            allowed: cpuinfo_field(&status, "Cpus_allowed_list").and_then(CpuList::parse).unwrap_or_default(),
            online,
        }
    }
}

/// The processors `/proc/cpuinfo` lists, for hosts that hide sysfs.
fn processors(cpuinfo: &str) -> CpuList {
    let numbers = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "processor").then(|| value.trim().parse().ok())?
    });
    numbers.collect()
}

/// The first value of a `key : value` file such as `/proc/cpuinfo`.
pub(super) fn cpuinfo_field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    /// Proves that sockets, cores and threads are counted apart.
    #[test]
    fn counts_sockets_cores_and_threads() {
        let mut files = vec![
            ("sys/devices/system/cpu/online".to_owned(), "0-7".to_owned()),
            ("sys/devices/system/cpu/isolated".to_owned(), "2-3\n".to_owned()),
            ("proc/self/status".to_owned(), "Name:\tx\nCpus_allowed_list:\t0-1\n".to_owned()),
            ("proc/cpuinfo".to_owned(), "processor\t: 0\nmodel name\t: A CPU\n".to_owned()),
        ];
        for cpu in 0..8u32 {
            let dir = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            files.push((format!("{dir}/thread_siblings_list"), format!("{}-{}", cpu & !1, cpu | 1)));
            files.push((format!("{dir}/physical_package_id"), (cpu / 4).to_string()));
        }
        let files: Vec<_> = files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
        let (_dir, root) = fake::root(&files);
        let cpus = Cpus::of(&root);
        assert_eq!((cpus.sockets, cpus.cores, cpus.online.len(), cpus.smt), (2, 4, 8, true));
        assert_eq!((cpus.isolated.to_string(), cpus.allowed.to_string()), ("2-3".to_owned(), "0-1".to_owned()));
        assert_eq!(cpus.model.as_deref(), Some("A CPU"));
    }

    /// Proves that a host without sysfs still has its CPUs counted.
    #[test]
    fn falls_back_on_cpuinfo() {
        let (_dir, root) = fake::root(&[("proc/cpuinfo", "processor : 0\n\nprocessor : 1\n")]);
        let cpus = Cpus::of(&root);
        assert_eq!((cpus.online.len(), cpus.cores, cpus.sockets, cpus.smt), (2, 2, 1, false));
    }
}
