//! How the host's CPUs are arranged: NUMA nodes, cores, threads, and which are set apart.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Root;
use crate::units::CpuList;

/// The online CPUs by node and core (Linux, Documentation/admin-guide/cputopology.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// NUMA nodes that have CPUs, ascending. A host without NUMA is one node.
    pub nodes: Vec<Node>,
    /// CPUs that the scheduler gives to nobody by itself (`isolcpus=`, isolated cpuset partitions).
    pub isolated: CpuList,
    /// CPUs without a timer tick while one task runs (`nohz_full=`).
    pub nohz_full: CpuList,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its cores, ascending by their first CPU.
    pub cores: Vec<Core>,
}

/// A core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// The socket it is in, where the kernel says so.
    pub package: Option<u32>,
    /// Its online threads: the CPUs that share its execution units.
    pub cpus: CpuList,
}

impl Topology {
    /// What sysfs below `root` says. What it does not say is taken as simple: one node, cores of one thread.
    pub fn of(root: &Root) -> Self {
        let cpus = "/sys/devices/system/cpu";
        let list = |path: String| root.read(path).and_then(|text| CpuList::parse(&text)).unwrap_or_default();
        let online = match list(format!("{cpus}/online")) {
            empty if empty.is_empty() => super::cpus::Cpus::of(root).online,
            online => online,
        };
        let node_of: BTreeMap<u32, u32> = root
            .list("/sys/devices/system/node")
            .iter()
            .filter_map(|name| name.strip_prefix("node")?.parse().ok())
            .flat_map(|node: u32| {
                let cpus: Vec<u32> = list(format!("/sys/devices/system/node/node{node}/cpulist")).iter().collect();
                cpus.into_iter().map(move |cpu| (cpu, node))
            })
            .collect();
        let mut nodes: BTreeMap<u32, Vec<Core>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for cpu in online.sorted().iter() {
            if seen.contains(&cpu) {
                continue;
            }
            let siblings = list(format!("{cpus}/cpu{cpu}/topology/thread_siblings_list"));
            // A thread that another core has already, or one that is offline, is not this core's.
            let threads: CpuList =
                [cpu].into_iter().chain(siblings.iter().filter(|s| online.contains(*s) && !seen.contains(s))).collect();
            seen.extend(threads.iter());
            let package = root.read_number(format!("{cpus}/cpu{cpu}/topology/physical_package_id"));
            let core = Core { package: package.and_then(|n| u32::try_from(n).ok()), cpus: threads.sorted() };
            nodes.entry(node_of.get(&cpu).copied().unwrap_or(0)).or_default().push(core);
        }
        Self {
            nodes: nodes.into_iter().map(|(id, cores)| Node { id, cores }).collect(),
            isolated: list(format!("{cpus}/isolated")),
            nohz_full: list(format!("{cpus}/nohz_full")),
        }
    }

    /// Every core.
    pub fn cores(&self) -> impl Iterator<Item = &Core> {
        self.nodes.iter().flat_map(|node| &node.cores)
    }

    /// The other threads of the cores that these CPUs are on.
    pub fn siblings(&self, cpus: &CpuList) -> CpuList {
        let cores = self.cores().filter(|core| core.cpus.iter().any(|cpu| cpus.contains(cpu)));
        let threads: CpuList = cores.flat_map(|core| core.cpus.iter()).collect();
        threads.without(cpus)
    }

    /// Whether a core has more than one thread online.
    pub fn has_smt(&self) -> bool {
        self.cores().any(|core| core.cpus.len() > 1)
    }

    /// The NUMA nodes that these CPUs are on, ascending.
    pub fn nodes_of(&self, cpus: &CpuList) -> Vec<u32> {
        let has = |node: &&Node| node.cores.iter().any(|core| core.cpus.iter().any(|cpu| cpus.contains(cpu)));
        self.nodes.iter().filter(has).map(|node| node.id).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::root::fake;
    use super::*;
    use proptest::prelude::*;

    /// A host of `nodes` nodes, each of `cores` cores of `threads` threads, numbered as x86 firmware does: first one thread of
    /// every core, then the others.
    pub(crate) fn host(nodes: u32, cores: u32, threads: u32, extra: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let all = nodes * cores;
        let mut files = vec![("sys/devices/system/cpu/online".to_owned(), format!("0-{}", all * threads - 1))];
        for cpu in 0..all * threads {
            let siblings: CpuList = (0..threads).map(|t| cpu % all + t * all).collect();
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            files.push((format!("{folder}/thread_siblings_list"), siblings.to_string()));
            files.push((format!("{folder}/physical_package_id"), (cpu % all / cores).to_string()));
        }
        for node in 0..nodes {
            let cpus: CpuList = (0..all * threads).filter(|cpu| cpu % all / cores == node).collect();
            files.push((format!("sys/devices/system/node/node{node}/cpulist"), cpus.to_string()));
        }
        files.extend(extra.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        fake::root(&files)
    }

    /// Proves that nodes, cores and threads are told apart, and that isolated and tickless CPUs are read.
    #[test]
    fn nodes_hold_cores_hold_threads() {
        let (_dir, root) = host(2, 2, 2, &[("sys/devices/system/cpu/isolated", "2-3,6-7\n")]);
        let topology = Topology::of(&root);
        let cores = |node: usize| topology.nodes[node].cores.iter().map(|c| c.cpus.to_string()).collect::<Vec<_>>();
        assert_eq!((cores(0), cores(1)), (vec!["0,4".into(), "1,5".into()], vec!["2,6".into(), "3,7".into()]));
        assert_eq!(topology.nodes[1].cores[0].package, Some(1));
        assert_eq!(topology.isolated.to_string(), "2-3,6-7");
        let cpus = CpuList::parse("0,3").unwrap();
        assert_eq!(topology.siblings(&cpus).to_string(), "4,7");
        assert_eq!(topology.nodes_of(&cpus), [0, 1]);
        assert!(topology.has_smt());
    }

    /// Proves that a host that hides its topology is one node of cores with one thread.
    #[test]
    fn a_host_without_sysfs_is_simple() {
        let (_dir, root) = fake::root(&[("proc/cpuinfo", "processor : 0\n\nprocessor : 1\n")]);
        let topology = Topology::of(&root);
        assert_eq!((topology.nodes.len(), topology.cores().count(), topology.has_smt()), (1, 2, false));
    }

    proptest! {
        /// Proves that whatever the files claim of siblings and nodes, each online CPU is in one core and nothing else is.
        #[test]
        fn each_online_cpu_is_in_one_core(
            siblings in proptest::collection::vec("[0-9,\\-x]{0,6}", 6), nodes in proptest::collection::vec("[0-9,\\-]{0,6}", 2)
        ) {
            let mut files = vec![("sys/devices/system/cpu/online".to_owned(), "0-5".to_owned())];
            for (cpu, text) in siblings.iter().enumerate() {
                files.push((format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), text.clone()));
            }
            for (node, text) in nodes.iter().enumerate() {
                files.push((format!("sys/devices/system/node/node{node}/cpulist"), text.clone()));
            }
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let (_dir, root) = fake::root(&files);
            let mut cpus: Vec<u32> = Topology::of(&root).cores().flat_map(|core| core.cpus.iter()).collect();
            cpus.sort_unstable();
            prop_assert_eq!(cpus, vec![0, 1, 2, 3, 4, 5]);
        }
    }
}
