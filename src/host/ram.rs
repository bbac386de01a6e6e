//! The host's memory: how much, huge page pools, transparent huge pages, NUMA nodes.

use super::Root;
use crate::units::CpuList;
use serde::Serialize;

/// A pool of huge pages of one size (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HugePagePool {
    /// Size of a page in bytes.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages not in use.
    pub free: u64,
    /// Pages promised to mappings that have not touched them yet; not told for a node.
    pub reserved: Option<u64>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuList,
    /// Its memory in bytes.
    pub total_bytes: u64,
    /// Memory nobody uses, in bytes.
    pub free_bytes: u64,
    /// Its share of the huge page pools.
    pub huge_pages: Vec<HugePagePool>,
}

/// The host's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ram {
    /// All of it, in bytes (MemTotal).
    pub total_bytes: u64,
    /// What can be had without swapping, in bytes (MemAvailable).
    pub available_bytes: u64,
    /// Huge page pools, smallest pages first.
    pub huge_pages: Vec<HugePagePool>,
    /// Setting of transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// NUMA nodes.
    pub nodes: Vec<NumaNode>,
}

impl Ram {
    /// What the files below `root` say; parts that can't be read stay empty.
    pub fn of(root: &Root) -> Self {
        let (total_bytes, available_bytes) = amounts(root);
        Self {
            total_bytes,
            available_bytes,
            huge_pages: pools(root, "/sys/kernel/mm/hugepages"),
            transparent_huge_pages: root
                .read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| chosen(&text).map(str::to_owned)),
            nodes: nodes(root),
        }
    }
}

/// The host's memory and what can be had of it without swapping, in bytes; zeros where procfs can't be read.
///
/// Cheaper than [`Ram::of`]: one file.
pub fn amounts(root: &Root) -> (u64, u64) {
    let meminfo = root.read("/proc/meminfo").unwrap_or_default();
    (meminfo_bytes(&meminfo, "MemTotal:"), meminfo_bytes(&meminfo, "MemAvailable:"))
}

/// What a pool of huge pages can still promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRoom {
    /// Pages in the pool.
    pub total: u64,
    /// Pages not in use.
    pub free: u64,
    /// Free pages that are promised already.
    pub reserved: u64,
    /// Pages that the host may add to the pool on demand (nr_overcommit_hugepages), as far as it has not.
    pub extra: u64,
}

impl PoolRoom {
    /// The pool of pages of `page_bytes`; `None` where the host has no such pool.
    pub fn of(root: &Root, page_bytes: u64) -> Option<Self> {
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10);
        let number = |file: &str| root.read_number(format!("{dir}/{file}"));
        Some(Self {
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
            reserved: number("resv_hugepages").unwrap_or(0),
            extra: number("nr_overcommit_hugepages")
                .unwrap_or(0)
                .saturating_sub(number("surplus_hugepages").unwrap_or(0)),
        })
    }

    /// Pages that can be had.
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved).saturating_add(self.extra)
    }
}

/// Nodes that have memory, ascending; node 0 where the host tells of none.
pub fn nodes_with_memory(root: &Root) -> CpuList {
    let list =
        root.read("/sys/devices/system/node/has_memory").or_else(|| root.read("/sys/devices/system/node/online"));
    list.and_then(|text| CpuList::parse(&text))
        .filter(|list| !list.is_empty())
        .unwrap_or_else(|| [0].into_iter().collect())
}

/// Nodes that this process may take memory from (its cpuset); `None` where the kernel does not tell.
pub fn allowed_nodes(root: &Root) -> Option<CpuList> {
    let status = root.read("/proc/self/status")?;
    status.lines().find_map(|line| CpuList::parse(line.strip_prefix("Mems_allowed_list:")?))
}

/// What node `id` can give without swapping, in bytes: what nobody uses, and the page cache's clean files, by its own meminfo.
/// `None` where the host tells of no such node.
pub fn node_available(root: &Root, id: u32) -> Option<u64> {
    let meminfo = root.read(format!("/sys/devices/system/node/node{id}/meminfo"))?;
    let bytes = |key| meminfo_bytes(&meminfo, key);
    let files = bytes("Active(file):").saturating_add(bytes("Inactive(file):")).saturating_sub(bytes("Dirty:"));
    Some(bytes("MemFree:").saturating_add(files))
}

/// Pages of `page_bytes` that node `id` has in its pool and nobody uses.
pub fn node_pool_free(root: &Root, id: u32, page_bytes: u64) -> Option<u64> {
    let kib = page_bytes >> 10;
    root.read_number(format!("/sys/devices/system/node/node{id}/hugepages/hugepages-{kib}kB/free_hugepages"))
}

/// A line `...key   123 kB` in bytes; 0 when there is none. Node files have `Node 0 ` in front.
fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.split_once(key).map(|(_, rest)| rest));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word)
}

fn pools(root: &Root, dir: &str) -> Vec<HugePagePool> {
    let mut pools: Vec<_> = root.list(dir).iter().filter_map(|name| pool(root, dir, name)).collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

fn pool(root: &Root, dir: &str, name: &str) -> Option<HugePagePool> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let number = |file: &str| root.read_number(format!("{dir}/{name}/{file}"));
    Some(HugePagePool {
        page_bytes: kib.checked_mul(1024)?,
        total: number("nr_hugepages")?,
        free: number("free_hugepages").unwrap_or(0),
        reserved: number("resv_hugepages"),
    })
}

fn nodes(root: &Root) -> Vec<NumaNode> {
    const DIR: &str = "/sys/devices/system/node";
    let mut nodes: Vec<_> = root
        .list(DIR)
        .iter()
        .filter_map(|name| {
            let id = name.strip_prefix("node")?.parse().ok()?;
            let meminfo = root.read(format!("{DIR}/{name}/meminfo")).unwrap_or_default();
            Some(NumaNode {
                id,
                cpus: root.read(format!("{DIR}/{name}/cpulist")).and_then(|t| CpuList::parse(&t)).unwrap_or_default(),
                total_bytes: meminfo_bytes(&meminfo, "MemTotal:"),
                free_bytes: meminfo_bytes(&meminfo, "MemFree:"),
                huge_pages: pools(root, &format!("{DIR}/{name}/hugepages")),
            })
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    /// Proves that amounts, pools, the THP setting and nodes are read from the kernel's files.
    #[test]
    fn reads_the_kernels_files() {
        let (_dir, root) = fake::root(&[
            ("proc/meminfo", "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:   500 kB\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "6\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "2\n"),
            ("sys/kernel/mm/hugepages/unrelated/nr_hugepages", "8\n"),
            ("sys/devices/system/node/node10/meminfo", "Node 10 MemTotal: 7 kB\nNode 10 MemFree: 3 kB\n"),
            ("sys/devices/system/node/node2/cpulist", "0-1\n"),
            ("sys/devices/system/node/node2/hugepages/hugepages-2048kB/nr_hugepages", "4\n"),
            ("sys/devices/system/node/power/x", ""),
        ]);
        let ram = Ram::of(&root);
        assert_eq!((ram.total_bytes, ram.available_bytes), (1000 << 10, 500 << 10));
        assert_eq!(ram.transparent_huge_pages.as_deref(), Some("madvise"));
        assert_eq!(
            ram.huge_pages,
            [
                HugePagePool { page_bytes: 2 << 20, total: 8, free: 6, reserved: Some(2) },
                HugePagePool { page_bytes: 1 << 30, total: 1, free: 0, reserved: None },
            ]
        );
        assert_eq!(ram.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [2, 10]);
        assert_eq!((ram.nodes[1].total_bytes, ram.nodes[1].free_bytes), (7 << 10, 3 << 10));
        assert_eq!((ram.nodes[0].cpus.len(), ram.nodes[0].huge_pages[0].total), (2, 4));
    }

    /// Proves that a host that shows nothing, or nonsense, gives zeros and no panic.
    #[test]
    fn nothing_and_nonsense_are_harmless() {
        let (_dir, root) = fake::root(&[]);
        assert_eq!(Ram::of(&root), Ram::default());
        let (_dir, root) = fake::root(&[
            ("proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemAvailable: 18446744073709551615 kB\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "]["),
            ("sys/kernel/mm/hugepages/hugepages-18446744073709551615kB/nr_hugepages", "1"),
        ]);
        let ram = Ram::of(&root);
        assert_eq!((ram.total_bytes, ram.available_bytes), (0, u64::MAX));
        assert!(ram.huge_pages.is_empty() && ram.transparent_huge_pages.is_none());
    }

    /// Proves that what is promised already is not promised again, and that a node's own figures are read.
    #[test]
    fn room_in_pools_and_nodes() {
        let (_dir, root) = fake::root(&[
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "6\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "5\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages", "4\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages", "1\n"),
            ("sys/devices/system/node/has_memory", "0,2\n"),
            ("sys/devices/system/node/node2/hugepages/hugepages-2048kB/free_hugepages", "3\n"),
            (
                "sys/devices/system/node/node2/meminfo",
                "Node 2 MemFree: 7 kB\nNode 2 Dirty: 1 kB\nNode 2 Active(file): 2 kB\nNode 2 Inactive(file): 3 kB\n",
            ),
            ("proc/self/status", "Mems_allowed:\t5\nMems_allowed_list:\t0,2\n"),
        ]);
        let room = PoolRoom::of(&root, 2 << 20).unwrap();
        assert_eq!((room, room.available()), (PoolRoom { total: 8, free: 6, reserved: 5, extra: 3 }, 4));
        assert_eq!(PoolRoom::of(&root, 1 << 30), None);
        assert_eq!(nodes_with_memory(&root).to_string(), "0,2");
        assert_eq!(allowed_nodes(&root).unwrap().to_string(), "0,2");
        assert_eq!((node_available(&root, 2), node_available(&root, 0)), (Some(11 << 10), None));
        assert_eq!((node_pool_free(&root, 2, 2 << 20), node_pool_free(&root, 2, 1 << 30)), (Some(3), None));
        let (_dir, bare) = fake::root(&[]);
        assert_eq!((nodes_with_memory(&bare).to_string().as_str(), allowed_nodes(&bare)), ("0", None));
    }
}
