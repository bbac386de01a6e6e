//! The host's CPUs drawn, with who has them, and a proposal for the next guest.

use serde::Serialize;

use crate::cli::table::{Mark, Section};
use crate::config::Smt;
use crate::host::cpus::Cpus;
use crate::host::topology::{Core, Node, Topology};
use crate::placement::{Choice, Holder, Shortage, choose};
use crate::units::CpuList;

/// Letters that stand for guests in the drawing; those beyond share the last mark.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*";

/// The host's CPUs, who has them, and which a guest could have.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CpuMap {
    #[serde(flatten)]
    topology: Topology,
    /// CPUs that this process may use.
    allowed: CpuList,
    /// CPUs that guests have.
    taken: Vec<Holder>,
    proposal: Proposal,
}

/// CPUs for a guest of so many vCPUs.
#[derive(Clone, Debug, Serialize)]
struct Proposal {
    /// `--cpus`.
    cpus: u32,
    /// `--cpuset-cpus`; none when too few are free.
    cpuset_cpus: Option<CpuList>,
    /// The NUMA nodes they are on.
    nodes: Vec<u32>,
    /// Why there is no list.
    shortage: Option<String>,
}

impl Proposal {
    fn new(cpus: u32, found: Result<Choice, Shortage>) -> Self {
        match found {
            Ok(Choice { vcpus, nodes }) => Self { cpus, cpuset_cpus: Some(vcpus), nodes, shortage: None },
            Err(shortage) => Self { cpus, cpuset_cpus: None, nodes: Vec::new(), shortage: Some(shortage.to_string()) },
        }
    }
}

impl CpuMap {
    /// Puts together what the host says and proposes CPUs for a guest of `vcpus` vCPUs.
    pub(super) fn new(topology: Topology, cpus: &Cpus, taken: Vec<Holder>, vcpus: u32) -> Self {
        // A host that does not tell what is allowed allows everything.
        let allowed = if cpus.allowed.is_empty() { cpus.online.clone() } else { cpus.allowed.clone() };
        let found = choose(&topology, &allowed, &taken, vcpus, Smt::Share);
        Self { topology, allowed, taken, proposal: Proposal::new(vcpus, found) }
    }

    /// The drawing: a row for each node and socket, a word for each core, its threads with a `/` between them.
    pub(super) fn section(&self) -> Section {
        let mut section = Section::new("CPUs: nodes, cores, threads");
        if self.topology.nodes.is_empty() {
            section.row(Mark::Absent, "not told", "");
            return section;
        }
        let guests = self.guests();
        for node in &self.topology.nodes {
            for (name, cores) in sockets(node) {
                let words: Vec<String> = cores.iter().map(|core| self.core(core, &guests)).collect();
                section.row(Mark::None, name, words.join(" "));
            }
        }
        self.legend(&mut section, &guests);
        self.propose(&mut section);
        section
    }

    /// Each guest once, in the order of its first CPU, with its letter.
    fn guests(&self) -> Vec<(char, &Holder)> {
        let mut guests: Vec<(char, &Holder)> = Vec::new();
        for holder in &self.taken {
            if guests.iter().all(|(_, known)| (known.pid, &known.name) != (holder.pid, &holder.name)) {
                let letter = LETTERS[guests.len().min(LETTERS.len() - 1)];
                guests.push((char::from(letter), holder));
            }
        }
        guests
    }

    fn core(&self, core: &Core, guests: &[(char, &Holder)]) -> String {
        let threads: Vec<String> = core.cpus.iter().map(|cpu| self.thread(cpu, guests)).collect();
        threads.join("/")
    }

    fn thread(&self, cpu: u32, guests: &[(char, &Holder)]) -> String {
        let mut text = cpu.to_string();
        let same = |a: &Holder, b: &Holder| (a.pid, &a.name) == (b.pid, &b.name);
        let holder = self.taken.iter().find(|holder| holder.cpu == cpu);
        let letter = holder.and_then(|holder| guests.iter().find(|(_, guest)| same(guest, holder)));
        text.extend(letter.map(|(letter, _)| *letter));
        let marks = [
            (self.topology.isolated.contains(cpu), 'i'),
            (self.topology.nohz_full.contains(cpu), 'n'),
            (!self.allowed.contains(cpu), 'x'),
        ];
        text.extend(marks.iter().filter(|(applies, _)| *applies).map(|(_, mark)| *mark));
        text
    }

    /// What the marks that were used mean.
    fn legend(&self, section: &mut Section, guests: &[(char, &Holder)]) {
        for (letter, holder) in guests {
            let how = if holder.exclusive { "" } else { ", shared" };
            section.row(Mark::None, letter.to_string(), format!("given to {holder}{how}"));
        }
        let online: CpuList = self.topology.cores().flat_map(|core| core.cpus.iter()).collect();
        let any = |list: &CpuList| list.iter().any(|cpu| online.contains(cpu));
        let marks = [
            (any(&self.topology.isolated), "i", "isolated: the scheduler puts nothing there by itself (isolcpus=)"),
            (any(&self.topology.nohz_full), "n", "no timer tick while one task runs (nohz_full=)"),
            (!online.without(&self.allowed).is_empty(), "x", "not allowed to this process (affinity or cpuset)"),
            (self.topology.has_smt(), "/", "between threads of one core"),
        ];
        for (_, name, text) in marks.iter().filter(|(used, _, _)| *used) {
            section.row(Mark::None, *name, *text);
        }
    }

    fn propose(&self, section: &mut Section) {
        let Proposal { cpus, cpuset_cpus, nodes, shortage } = &self.proposal;
        let name = format!("--cpus {cpus}");
        match (cpuset_cpus, shortage) {
            (Some(list), _) => {
                let mut text = format!("--cpuset-cpus {list}");
                if nodes.len() > 1 {
                    text.push_str(": on more than one node, as none has so many free");
                } else if self.topology.nodes.len() > 1 {
                    text.push_str(&format!(": all on node {}", nodes.first().copied().unwrap_or(0)));
                }
                section.row(Mark::Ok, name, text)
            }
            (None, shortage) => section.row(Mark::Absent, name, shortage.as_deref().unwrap_or("no CPUs are free")),
        };
    }
}

/// A node's cores by socket, with a name for each row.
fn sockets(node: &Node) -> Vec<(String, Vec<&Core>)> {
    let mut rows: Vec<(Option<u32>, Vec<&Core>)> = Vec::new();
    for core in &node.cores {
        match rows.iter_mut().find(|(package, _)| *package == core.package) {
            Some((_, cores)) => cores.push(core),
            None => rows.push((core.package, vec![core])),
        }
    }
    let name = |package: Option<u32>| match package {
        Some(package) => format!("node {}, socket {package}", node.id),
        None => format!("node {}", node.id),
    };
    rows.into_iter().map(|(package, cores)| (name(package), cores)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::table::Style;
    use proptest::prelude::*;

    fn list(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    fn holder(cpu: u32, name: Option<&str>, pid: u32) -> Holder {
        Holder { cpu, pid: Some(pid), name: name.map(str::to_owned), exclusive: true }
    }

    /// `nodes` nodes of one socket each with `cores` cores of two threads.
    fn topology(nodes: u32, cores: u32) -> Topology {
        let core = |n: u32| Core { package: Some(n / cores), cpus: [n, n + nodes * cores].into_iter().collect() };
        let node = |id: u32| Node { id, cores: (id * cores..(id + 1) * cores).map(core).collect() };
        Topology { nodes: (0..nodes).map(node).collect(), isolated: list("6-7"), nohz_full: list("7") }
    }

    /// The map of the host in the pictures of `check`.
    pub(in crate::cli::check) fn example(cpus: &Cpus) -> CpuMap {
        CpuMap::new(topology(2, 2), cpus, vec![holder(1, Some("web"), 4321)], 2)
    }

    fn drawn(map: &CpuMap) -> String {
        map.section().render(Style { width: 80, colour: false })
    }

    /// Proves that each mark is drawn at its CPU and explained, and that a mark that is not used is not.
    #[test]
    fn marks_are_drawn_and_explained() {
        let cpus = Cpus { online: list("0-7"), allowed: list("0-6"), ..Cpus::default() };
        let taken = vec![holder(1, Some("web"), 11), holder(5, Some("web"), 11), holder(2, None, 12)];
        let text = drawn(&CpuMap::new(topology(2, 2), &cpus, taken, 1));
        for line in ["0/4 1A/5A", "2B/6i 3/7inx", "given to guest \"web\" (pid 11)", "given to the process 12"] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(text.contains("isolated") && text.contains("nohz_full") && text.contains("not allowed"), "{text}");
        let plain = Topology { isolated: CpuList::default(), nohz_full: CpuList::default(), ..topology(1, 2) };
        let cpus = Cpus { online: list("0-3"), allowed: list("0-3"), ..Cpus::default() };
        let text = drawn(&CpuMap::new(plain, &cpus, Vec::new(), 2));
        assert!(!text.contains("isolated") && !text.contains("not allowed"), "{text}");
        assert!(text.contains("--cpuset-cpus 1,3"), "{text}");
    }

    /// Proves that too few free CPUs are told with the reason instead of a list.
    #[test]
    fn a_shortage_is_told() {
        let cpus = Cpus { online: list("0-7"), allowed: list("0-7"), ..Cpus::default() };
        let text = drawn(&CpuMap::new(topology(2, 2), &cpus, vec![holder(0, Some("web"), 9)], 8));
        assert!(text.contains("8 wanted") && !text.contains("--cpuset-cpus"), "{text}");
    }

    proptest! {
        /// Proves that hosts of any size, with any names of guests, fit the width, and that every online CPU is drawn once.
        #[test]
        fn every_cpu_is_drawn_in_80_columns(nodes in 1u32..9, cores in 1u32..65, names in proptest::collection::vec("[a-z0-9.-]{0,40}", 0..40)) {
            let topology = topology(nodes, cores);
            let all: CpuList = (0..nodes * cores * 2).collect();
            let taken = names.iter().enumerate().map(|(i, name)| holder(i as u32, Some(name), i as u32)).collect();
            let cpus = Cpus { online: all.clone(), allowed: all.clone(), ..Cpus::default() };
            let map = CpuMap::new(topology, &cpus, taken, 1);
            let guests = map.guests();
            let drawing: Vec<String> = map.topology.cores().map(|core| map.core(core, &guests)).collect();
            let drawn: CpuList = drawing
                .iter()
                .flat_map(|core| core.split('/'))
                .map(|thread| thread.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap())
                .collect();
            prop_assert_eq!(drawn.sorted(), all);
            let text = map.section().render(Style { width: 80, colour: false });
            for line in text.lines() {
                prop_assert!(line.chars().count() <= 80, "{}", line);
            }
        }
    }
}
