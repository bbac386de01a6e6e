//! Which CPUs a machine had best be given.

use std::cmp::Reverse;

use super::locks::Holder;
use crate::config::Smt;
use crate::host::topology::{Core, Node, Topology};
use crate::units::CpuList;

/// CPUs for a machine's vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// One for each vCPU.
    pub vcpus: CpuList,
    /// The NUMA nodes they are on: one, unless no node has enough.
    pub nodes: Vec<u32>,
}

/// Too few CPUs are free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too few CPUs are free: {wanted} wanted, and of {allowed}, which this process may use, {free}{taken}; ask for fewer vCPUs, \
     end a guest, or allow more CPUs"
)]
pub struct Shortage {
    wanted: u32,
    free: String,
    allowed: CpuList,
    taken: String,
}

/// A core's usable threads, and what speaks for it.
struct Candidate<'a> {
    core: &'a Core,
    usable: CpuList,
    isolated: bool,
}

impl Candidate<'_> {
    /// Smaller is better: isolated, whole, without the CPU that the host's own work likes best, in ascending order.
    fn rank(&self) -> (Reverse<bool>, Reverse<bool>, bool, u32) {
        let first = self.core.cpus.iter().next().unwrap_or_default();
        let whole = self.usable.len() == self.core.cpus.len();
        (Reverse(self.isolated), Reverse(whole), self.core.cpus.contains(0), first)
    }
}

/// Chooses CPUs for `vcpus` vCPUs of those that are `allowed` and that nobody has: whole cores of one node, isolated ones
/// first, CPU 0 last. With [`Smt::Isolate`] cores that are not wholly free are left out.
///
/// # Errors
/// Too few are free.
pub fn choose(
    topology: &Topology,
    allowed: &CpuList,
    taken: &[Holder],
    vcpus: u32,
    smt: Smt,
) -> Result<Choice, Shortage> {
    let held: CpuList = taken.iter().map(|holder| holder.cpu).collect();
    let free = allowed.without(&held);
    let nodes: Vec<Vec<Candidate>> = topology.nodes.iter().map(|node| candidates(node, topology, &free, smt)).collect();
    let one_node = nodes.iter().filter_map(|cores| fill(cores.iter(), vcpus)).min_by_key(|chosen| {
        let apart = chosen.iter().filter(|cpu| topology.isolated.contains(*cpu)).count();
        let broken = topology.siblings(chosen).len();
        (Reverse(apart), chosen.contains(0), broken, chosen.iter().min())
    });
    let chosen = one_node.or_else(|| {
        let mut all: Vec<&Candidate> = nodes.iter().flatten().collect();
        all.sort_by_key(|candidate| candidate.rank());
        fill(all.into_iter(), vcpus)
    });
    chosen
        .map(|vcpus| Choice { nodes: topology.nodes_of(&vcpus), vcpus })
        .ok_or_else(|| shortage(&nodes, allowed, taken, vcpus, smt))
}

fn candidates<'a>(node: &'a Node, topology: &Topology, free: &CpuList, smt: Smt) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate> = node
        .cores
        .iter()
        .map(|core| {
            let usable: CpuList = core.cpus.iter().filter(|cpu| free.contains(*cpu)).collect();
            let isolated = usable.iter().all(|cpu| topology.isolated.contains(cpu));
            Candidate { core, usable, isolated }
        })
        .filter(|candidate| !candidate.usable.is_empty())
        .filter(|candidate| smt == Smt::Share || candidate.usable.len() == candidate.core.cpus.len())
        .collect();
    found.sort_by_key(Candidate::rank);
    found
}

/// Takes CPUs core by core. A core that is taken in part is the last.
fn fill<'a>(cores: impl Iterator<Item = &'a Candidate<'a>>, vcpus: u32) -> Option<CpuList> {
    let chosen: CpuList = cores.flat_map(|candidate| candidate.usable.iter()).take(vcpus as usize).collect();
    (chosen.len() == vcpus as usize).then_some(chosen)
}

fn shortage(nodes: &[Vec<Candidate>], allowed: &CpuList, taken: &[Holder], wanted: u32, smt: Smt) -> Shortage {
    let usable: CpuList = nodes.iter().flatten().flat_map(|candidate| candidate.usable.iter()).collect();
    let free = match (usable.is_empty(), smt) {
        (true, Smt::Share) => "none".to_owned(),
        (true, Smt::Isolate) => "none with its whole core".to_owned(),
        (false, Smt::Share) => format!("only {}", usable.sorted()),
        (false, Smt::Isolate) => format!("only {} with their whole core", usable.sorted()),
    };
    let mut names: Vec<String> = taken
        .iter()
        .filter(|holder| allowed.contains(holder.cpu))
        .map(|holder| format!("CPU {} is given to {holder}", holder.cpu))
        .collect();
    names.truncate(8);
    let taken = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    Shortage { wanted, free, allowed: allowed.clone(), taken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A host of `nodes` nodes, each of `cores` cores of `threads` threads; first one thread of every core, then the others.
    fn host(nodes: u32, cores: u32, threads: u32, isolated: &str) -> Topology {
        let all = nodes * cores;
        let core = |n: u32| Core { package: None, cpus: (0..threads).map(|t| n + t * all).collect() };
        let node = |id: u32| Node { id, cores: (id * cores..(id + 1) * cores).map(core).collect() };
        Topology { nodes: (0..nodes).map(node).collect(), isolated: list(isolated), nohz_full: CpuList::default() }
    }

    fn list(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    fn held(cpus: &str) -> Vec<Holder> {
        let holder = |cpu| Holder { cpu, pid: Some(7), name: Some("web".to_owned()), exclusive: true };
        list(cpus).iter().map(holder).collect()
    }

    fn chosen(topology: &Topology, taken: &str, vcpus: u32) -> String {
        let allowed: CpuList = topology.cores().flat_map(|core| core.cpus.iter()).collect();
        choose(topology, &allowed, &held(taken), vcpus, Smt::Share).unwrap().vcpus.to_string()
    }

    /// Proves the order of preference: isolated, one node, whole cores, not CPU 0, not another's.
    #[test]
    fn the_best_are_isolated_whole_and_near() {
        let plain = host(2, 4, 2, "");
        assert_eq!(chosen(&plain, "", 2), "1,9");
        assert_eq!(chosen(&plain, "1", 2), "2,10", "a core that another guest is on is not whole");
        assert_eq!(chosen(&plain, "", 8), "4,12,5,13,6,14,7,15", "the node without CPU 0");
        assert_eq!(chosen(&plain, "1-3,9-11", 4), "4,12,5,13", "rather another node than CPU 0's core");
        assert_eq!(chosen(&host(2, 4, 2, "6-7,14-15"), "", 2), "6,14");
        assert_eq!(chosen(&host(1, 4, 1, ""), "", 4), "1-3,0");
        assert_eq!(choose(&plain, &list("0-15"), &[], 10, Smt::Share).unwrap().nodes, [0, 1], "more than a node has");
    }

    /// Proves that a want that cannot be met is told with who is in the way.
    #[test]
    fn a_shortage_names_the_holders() {
        let plain = host(1, 2, 2, "");
        let error = choose(&plain, &list("0-2"), &held("1"), 3, Smt::Share).unwrap_err().to_string();
        assert!(error.contains("3 wanted, and of 0-2") && error.contains("only 0,2"), "{error}");
        assert!(error.contains("CPU 1 is given to guest \"web\" (pid 7)"), "{error}");
        let error = choose(&plain, &list("0-2"), &held("0"), 1, Smt::Isolate).unwrap_err().to_string();
        assert!(error.contains("none with its whole core"), "{error}");
    }

    proptest! {
        /// Proves that every choice is of CPUs that are allowed and nobody's, one for each vCPU, and that a shortage is only
        /// told where there is one.
        #[test]
        fn choices_are_free_and_enough(
            nodes in 1u32..3, cores in 1u32..5, threads in 1u32..3, vcpus in 1u32..20,
            allowed in proptest::collection::btree_set(0u32..16, 0..16),
            taken in proptest::collection::btree_set(0u32..16, 0..8),
            isolated in proptest::collection::btree_set(0u32..16, 0..8),
            isolate: bool,
        ) {
            let topology = host(nodes, cores, threads, &isolated.iter().copied().collect::<CpuList>().to_string());
            let allowed: CpuList = allowed.into_iter().collect();
            let taken: CpuList = taken.into_iter().collect();
            let smt = if isolate { Smt::Isolate } else { Smt::Share };
            let online: CpuList = topology.cores().flat_map(|core| core.cpus.iter()).collect();
            let free = |cpu: u32| allowed.contains(cpu) && !taken.contains(cpu);
            let whole = |cpu: u32| topology.siblings(&[cpu].into_iter().collect()).iter().all(free);
            let usable = online.iter().filter(|cpu| free(*cpu) && (!isolate || whole(*cpu))).count();
            match choose(&topology, &allowed, &held(&taken.to_string()), vcpus, smt) {
                Ok(choice) => {
                    prop_assert_eq!(choice.vcpus.len(), vcpus as usize);
                    prop_assert!(choice.vcpus.iter().all(|cpu| free(cpu) && (!isolate || whole(cpu))));
                }
                Err(error) => prop_assert!(usable < vcpus as usize, "{} with {} usable", error, usable),
            }
        }
    }
}
