//! Guest RAM as it was asked for: whether the host can give it, taking it, and reading back that it is so.

use std::ops::ControlFlow;
use std::time::Duration;

use super::build::MachineError;
use super::refusal::{Place, Refusal, Refusals};
use super::signals::Signals;
use crate::config::{Granted, HugePage, NodeChoice, RamPolicy, Transparent};
use crate::host::Root;
use crate::host::cgroup::Ceiling;
use crate::host::cpus::Cpus;
use crate::host::limits::{self, Limits};
use crate::host::process::{Memory, Process};
use crate::host::ram;
use crate::memory::{Advice, Backing, GuestRam, PrefaultError};
use crate::units::{ByteSize, CpuList};

/// How often it is looked at what the host has left, while RAM is taken.
const LOOK_EVERY: u64 = 128 << 20;

/// Why RAM is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The host cannot give it; nothing was taken.
    #[error(transparent)]
    Refused(#[from] Refusals),
    /// The host ran out of it on the way.
    #[error("{source}; this host has {available} free now")]
    Prefault {
        /// How far it came.
        #[source]
        source: PrefaultError,
        /// MemAvailable.
        available: ByteSize,
    },
    /// Something else on the host takes memory at the same time.
    #[error(
        "{done} of {size} of guest RAM are taken, and this host has only {available} left for the rest: something else takes \
         memory at the same time. Ask for less, or stop what does"
    )]
    RunningOut {
        /// What is there.
        done: ByteSize,
        /// What was asked for.
        size: ByteSize,
        /// MemAvailable.
        available: ByteSize,
    },
    /// The kernel's own account differs.
    #[error("guest RAM is not as it was asked for, by {file}: {differences}. The machine is not started")]
    NotSo {
        /// Where it was read.
        file: &'static str,
        /// What differs, in words.
        differences: String,
    },
}

/// What a guest with `memory` of RAM costs the host besides, at most, when all of its RAM is there: ringfence itself, its page
/// tables and KVM's (docs/allocation.md tells how it was measured).
pub fn overhead(memory: ByteSize) -> ByteSize {
    ByteSize::bytes((8 << 20) + memory.as_u64() / 128)
}

/// How RAM is to be had, once it is found that the host can give it so: every reason why not, otherwise. Costs nothing when
/// nothing special was asked for. `cpus` are the vCPUs', where they are pinned.
pub(super) fn plan(
    policy: &RamPolicy,
    memory: ByteSize,
    cpus: Option<&CpuList>,
    root: &Root,
) -> Result<Backing, Refusals> {
    let mut refusals = Vec::new();
    let node = match policy.node {
        NodeChoice::Any => None,
        choice => choose_node(choice, cpus, root, &mut refusals),
    };
    match policy.pool {
        Some(page) => check_pool(page, memory, node, root, &mut refusals),
        None if policy.prefault => check_ordinary(memory, node, root, &mut refusals),
        None => {}
    }
    if policy.lock && policy.pool.is_none() {
        refusals.extend(check_lock_limit(memory, root));
    }
    if refusals.is_empty() { Ok(backing(policy, node)) } else { Err(Refusals(refusals)) }
}

fn backing(policy: &RamPolicy, node: Option<u32>) -> Backing {
    Backing {
        pool_page: policy.pool.map(|page| page.size().as_u64()),
        transparent: match policy.transparent {
            Transparent::Always => Advice::Prefer,
            Transparent::Never => Advice::Avoid,
            Transparent::Host => Advice::None,
        },
        node,
        lock: policy.lock,
        prefault: policy.is_there_from_the_start(),
        never_merge: policy.no_merge,
    }
}

/// The node to take RAM from; `None` on a kernel without nodes, where all memory is node 0's.
fn choose_node(choice: NodeChoice, cpus: Option<&CpuList>, root: &Root, refusals: &mut Vec<Refusal>) -> Option<u32> {
    let nodes = ram::nodes_with_memory(root);
    let allowed = ram::allowed_nodes(root);
    let is_allowed = |node: u32| allowed.as_ref().is_none_or(|allowed| allowed.contains(node));
    let node = match choice {
        NodeChoice::Number(node) => node,
        NodeChoice::Any | NodeChoice::Auto => {
            let may_run_on = Cpus::of(root).allowed;
            let near = nodes_of(cpus.unwrap_or(&may_run_on), &nodes, root);
            if let (Some(cpus), true) = (cpus, near.len() > 1) {
                refusals.push(Refusal::SeveralNodes { cpus: cpus.clone(), nodes: near });
                return None;
            }
            let most_free = || {
                let free = |node: &u32| (ram::node_available(root, *node), std::cmp::Reverse(*node));
                nodes.iter().filter(|node| is_allowed(*node)).max_by_key(free)
            };
            near.iter().next().filter(|_| near.len() == 1).or_else(most_free)?
        }
    };
    if !nodes.contains(node) {
        refusals.push(Refusal::NoSuchNode { node, nodes });
        return None;
    }
    if !is_allowed(node) {
        refusals.push(Refusal::NodeForbidden { node, allowed: allowed.unwrap_or_default() });
        return None;
    }
    root.has("/sys/devices/system/node").then_some(node)
}

/// Those of `nodes` that `cpus` lie on.
fn nodes_of(cpus: &CpuList, nodes: &CpuList, root: &Root) -> CpuList {
    let holds_one = |node: &u32| {
        let local = root.read(format!("/sys/devices/system/node/node{node}/cpulist"));
        let local = local.and_then(|text| CpuList::parse(&text)).unwrap_or_default();
        cpus.iter().any(|cpu| local.contains(cpu))
    };
    nodes.iter().filter(holds_one).collect()
}

fn check_pool(page: HugePage, memory: ByteSize, node: Option<u32>, root: &Root, refusals: &mut Vec<Refusal>) {
    let size = page.size().as_u64();
    if !memory.as_u64().is_multiple_of(size) {
        let below = (memory.as_u64() / size * size).max(size);
        let (below, above) = (ByteSize::bytes(below), ByteSize::bytes(below.saturating_add(size)));
        refusals.push(Refusal::NotPoolPages { page, memory, below, above });
    }
    let needed = memory.as_u64().div_ceil(size);
    let Some(pool) = ram::PoolRoom::of(root, size) else {
        let reason = match page {
            HugePage::Mib2 => ": its kernel was built without CONFIG_HUGETLBFS",
            HugePage::Gib1 => ": its CPU has none (pdpe1gb), or its kernel was built without CONFIG_HUGETLBFS",
        };
        refusals.push(Refusal::NoPool { page, reason });
        return;
    };
    let there = node.and_then(|node| ram::node_pool_free(root, node, size));
    let free = pool.available().min(there.map_or(u64::MAX, |free| free.saturating_add(pool.extra)));
    if free < needed {
        let place = Place(node.filter(|_| there.is_some()));
        let remedy = pool_remedy(page, pool.total + (needed - free), needed - free, place, root);
        refusals.push(Refusal::PoolEmpty { page, needed, free, total: pool.total, place, remedy });
    }
    for Ceiling { file, limit, used } in Ceiling::of_pool(root, size) {
        let room = limit.saturating_sub(used);
        if room < memory.as_u64() {
            let (room, limit) = (ByteSize::bytes(room), ByteSize::bytes(limit));
            refusals.push(Refusal::PoolCgroup { page, memory, room, limit, file });
        }
    }
}

/// The command that makes the pool large enough: `total` pages on the host, or `more` than a node has.
fn pool_remedy(page: HugePage, total: u64, more: u64, place: Place, root: &Root) -> String {
    let kib = page.size().as_u64() >> 10;
    let file = format!("hugepages/hugepages-{kib}kB/nr_hugepages");
    match (place.0, page) {
        (Some(node), _) => {
            let file = format!("/sys/devices/system/node/node{node}/{file}");
            let total = root.read_number(&file).unwrap_or(0) + more;
            format!("echo {total} > {file}")
        }
        (None, HugePage::Mib2) => format!("sysctl vm.nr_hugepages={total}"),
        (None, HugePage::Gib1) => format!(
            "echo {total} > /sys/kernel/mm/{file} (or hugepagesz=1G hugepages={total} on the host kernel's command line)"
        ),
    }
}

fn check_ordinary(memory: ByteSize, node: Option<u32>, root: &Root, refusals: &mut Vec<Refusal>) {
    let overhead = overhead(memory);
    let needed = memory.as_u64().saturating_add(overhead.as_u64());
    let (total, available) = ram::amounts(root);
    if available < needed {
        let (available, total) = (ByteSize::bytes(available), ByteSize::bytes(total));
        refusals.push(Refusal::MoreThanFree { memory, overhead, available, total });
    }
    for ceiling in Ceiling::of_memory(root).into_iter().filter(|ceiling| ceiling.room() < needed) {
        let (room, limit) = (ByteSize::bytes(ceiling.room()), ByteSize::bytes(ceiling.limit));
        refusals.push(Refusal::Cgroup { memory, overhead, room, limit, file: ceiling.file });
    }
    if let Some(node) = node
        && let Some(available) = ram::node_available(root, node).filter(|available| *available < needed)
    {
        refusals.push(Refusal::NodeFull { node, memory, available: ByteSize::bytes(available) });
    }
}

fn check_lock_limit(memory: ByteSize, root: &Root) -> Option<Refusal> {
    let hard = Limits::of(root).memlock_bytes?.hard?;
    let refused = hard < memory.as_u64() && !limits::locks_without_limit(root);
    refused.then_some(Refusal::LockLimit { memory, limit: ByteSize::bytes(hard) })
}

/// Raises the limit of locked memory that is in force, up to what the process may raise it to.
pub(super) fn raise_lock_limit(backing: &Backing) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    if backing.lock {
        let mut limit = getrlimit(Resource::Memlock);
        limit.current = limit.maximum;
        // Where it cannot be raised, locking says so.
        let _ = setrlimit(Resource::Memlock, limit);
    }
}

/// Keeps this thread, and those it starts, to the machine's own CPUs, so that taking RAM disturbs no other guest on its. Where
/// each thread goes for good is settled later.
fn keep_to(granted: &Granted) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    let cpus = granted.vcpu_cpus().iter().chain(granted.vmm.iter()).collect::<CpuList>();
    cpus.iter().filter(|cpu| (*cpu as usize) < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu as usize));
    if set.count() > 0 {
        // Where this thread cannot be moved it takes RAM from where it is.
        let _ = sched_setaffinity(None, &set);
    }
}

/// Takes all of RAM, where it is to be there from the start. A signal that ends the machine ends this, too. `progress` is told
/// how much is there.
pub(super) fn prefault(
    ram: &GuestRam,
    signals: &Signals,
    granted: Option<&Granted>,
    progress: &mut dyn FnMut(ByteSize),
) -> Result<(), MachineError> {
    if !ram.backing().prefault {
        return Ok(());
    }
    if let Some(granted) = granted {
        keep_to(granted);
    }
    let root = Root::default();
    let size = ram.size();
    let (mut next_look, mut signalled, mut short) = (LOOK_EVERY, None, None);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut look = |done: ByteSize| {
        progress(done);
        signalled = signals.next_end();
        if done.as_u64() >= next_look && ram.backing().pool_page.is_none() {
            next_look = done.as_u64() + LOOK_EVERY;
            let available = ram::amounts(&root).1;
            short = (available < size.as_u64() - done.as_u64()).then_some((done, ByteSize::bytes(available)));
        }
        if signalled.is_some() || short.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let result = ram.prefault(threads, &mut look);
    if let Some(signal) = signalled {
        return Err(MachineError::Signalled(signal));
    }
    if let Some((done, available)) = short {
        return Err(ReserveError::RunningOut { done, size, available }.into());
    }
    let available = |source| ReserveError::Prefault { source, available: ByteSize::bytes(ram::amounts(&root).1) };
    Ok(result.map_err(available)?)
}

/// Reads back from the kernel that RAM is as it was asked for. To be done when all that the monitor writes to it is written.
pub(super) fn verify(ram: &GuestRam) -> Result<(), ReserveError> {
    /// Pages that the kernel is just moving, to put huge ones together, are there by smaps and on no node by numa_maps.
    const LOOKS: u32 = 20;
    const BETWEEN: Duration = Duration::from_millis(5);
    if *ram.backing() == (Backing { transparent: ram.backing().transparent, ..Backing::default() }) {
        return Ok(());
    }
    let file = "/proc/self/smaps and numa_maps";
    let mut looks = 0;
    loop {
        let Some(found) = Process::this().memory(std::slice::from_ref(&ram.host_addresses())) else {
            return Err(ReserveError::NotSo { file, differences: "it cannot be read; mount /proc".to_owned() });
        };
        let differences = differences(ram.backing(), ram.size().as_u64(), &found);
        looks += 1;
        match differences.is_empty() {
            true => return Ok(()),
            false if looks < LOOKS => std::thread::sleep(BETWEEN),
            false => return Err(ReserveError::NotSo { file, differences: differences.join("; ") }),
        }
    }
}

/// What is not as `wanted`, in words.
fn differences(wanted: &Backing, size: u64, found: &Memory) -> Vec<String> {
    let mut all = Vec::new();
    let mut same = |what: &str, found: u64, expected: u64| {
        if found != expected {
            all.push(format!("{what} {}, not {}", ByteSize::bytes(found), ByteSize::bytes(expected)));
        }
    };
    same("mapped are", found.mapped, size);
    if wanted.prefault {
        same("there from the start are", found.resident, size);
    }
    match wanted.pool_page {
        Some(page) => {
            same("from the pool are", found.pooled_huge, size);
            same("in the pool's pages are", found.page_sizes.get(&page).copied().unwrap_or(0), size);
        }
        // Pages of a pool stay without being locked, and the kernel calls none of them locked.
        None if wanted.lock => same("locked are", found.locked, found.resident),
        None => {}
    }
    if let Some(node) = wanted.node {
        same(&format!("on node {node} are"), found.nodes.get(&node).copied().unwrap_or(0), found.resident);
    }
    if wanted.never_merge && found.mergeable != 0 {
        same("open to merging with equal pages of other processes are", found.mergeable, 0);
    }
    all
}

#[cfg(test)]
#[path = "reserve_tests.rs"]
mod tests;
