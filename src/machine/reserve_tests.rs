//! What is refused on hosts that lack this or that, and how RAM is compared with what was asked for.

use super::*;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A host of two nodes with 4 CPUs, 8 GiB of RAM of which 6 are available (4 and 2), a pool of 512 pages of 2 MiB (128 free on
/// node 0, 256 on node 1, 100 of them promised), and a process that may lock 1 GiB; with `more` files in front of those.
fn host(more: &[(&str, &str)]) -> (TempDir, Root) {
    let dir = TempDir::new().unwrap();
    let root = Root::new(dir.path());
    let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let node = "sys/devices/system/node/node";
    let files = [
        ("proc/meminfo".to_owned(), "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"),
        ("proc/self/status".to_owned(), "CapEff:\t0\nCpus_allowed_list:\t0-3\nMems_allowed_list:\t0-1\n"),
        ("proc/self/limits".to_owned(), "Max locked memory  65536  1073741824  bytes\n"),
        ("sys/devices/system/node/has_memory".to_owned(), "0-1\n"),
        (format!("{node}0/cpulist"), "0-1\n"),
        (format!("{node}1/cpulist"), "2-3\n"),
        (format!("{node}0/meminfo"), "Node 0 MemFree: 4194304 kB\n"),
        (format!("{node}1/meminfo"), "Node 1 MemFree: 2097152 kB\n"),
        (format!("{node}0/hugepages/hugepages-2048kB/free_hugepages"), "128\n"),
        (format!("{node}1/hugepages/hugepages-2048kB/free_hugepages"), "256\n"),
        (format!("{node}1/hugepages/hugepages-2048kB/nr_hugepages"), "300\n"),
        (format!("{pool}/nr_hugepages"), "512\n"),
        (format!("{pool}/free_hugepages"), "384\n"),
        (format!("{pool}/resv_hugepages"), "100\n"),
    ];
    let files = files.iter().map(|(path, text)| (path.as_str(), *text)).chain(more.iter().copied());
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    (dir, root)
}

fn words(policy: RamPolicy, gib: u64, root: &Root) -> String {
    plan(&policy, ByteSize::gib(gib), None, root).map(|_| ()).unwrap_err().to_string()
}

/// Proves that nothing is asked and nothing read where nothing was asked for.
#[test]
fn the_default_asks_nothing() {
    let root = Root::new("/nonexistent");
    assert_eq!(plan(&RamPolicy::default(), ByteSize::gib(1 << 20), None, &root), Ok(Backing::default()));
}

/// Proves that what the host can give is planned as asked, and that what it can't is refused with every reason at once.
#[test]
fn every_reason_is_told() {
    let (_dir, root) = host(&[]);
    let reserve = RamPolicy::default().reserve();
    let planned = plan(&reserve, ByteSize::gib(1), None, &root).unwrap();
    assert_eq!(planned.node, Some(0), "the CPUs lie on both, and node 0 has more");
    assert!(planned.prefault && planned.lock && planned.never_merge);

    let text = words(reserve, 7, &root);
    for part in [
        "cannot give the RAM",
        "\n  - --memory 7 GiB with the 64 MiB that",
        "has free: 6 GiB of 8 GiB",
        "\n  - --numa-node 0: --memory 7 GiB is more than the node has free: 4 GiB",
        "\n  - --lock: this process may lock 1 GiB",
        "ulimit -l 7340032",
    ] {
        assert!(text.contains(part), "not {part:?}: {text}");
    }
    let (_dir, privileged) = host(&[("proc/self/status", "CapEff:\t0000000000004000\n")]);
    assert!(!words(reserve, 7, &privileged).contains("--lock"));
}

/// Proves that a control group's limit is told with its file and what is left, also of one above the own group.
#[test]
fn control_groups_are_obeyed() {
    let (_dir, root) = host(&[
        ("proc/self/cgroup", "0::/a/b\n"),
        ("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("sys/fs/cgroup/a/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
        ("sys/fs/cgroup/a/b/hugetlb.2MB.max", "104857600\n"),
    ]);
    let prefault = RamPolicy { prefault: true, ..RamPolicy::default() };
    let text = words(prefault, 1, &root);
    assert!(text.contains("1 GiB are left of the 2 GiB in /sys/fs/cgroup/a/memory.max"), "{text}");
    assert!(plan(&prefault, ByteSize::mib(900), None, &root).is_ok());
    let pool = RamPolicy { pool: Some(HugePage::Mib2), ..RamPolicy::default() };
    let error = plan(&pool, ByteSize::mib(200), None, &root).unwrap_err().to_string();
    assert!(error.contains("100 MiB are left of the 100 MiB in /sys/fs/cgroup/a/b/hugetlb.2MB.max"), "{error}");
    assert!(plan(&pool, ByteSize::mib(100), None, &root).is_ok());
}

/// Proves that a pool's promised pages do not count, that a node's share counts where RAM is bound to it, and that the remedy
/// is the command that makes room.
#[test]
fn pools_and_their_remedies() {
    let (_dir, root) = host(&[]);
    let pool = |page, node| RamPolicy { pool: Some(page), node, ..RamPolicy::default() };
    let any = pool(HugePage::Mib2, NodeChoice::Any);
    assert_eq!(plan(&any, ByteSize::mib(2 * 284), None, &root).unwrap().pool_page, Some(2 << 20));
    let error = plan(&any, ByteSize::mib(2 * 285), None, &root).unwrap_err().to_string();
    assert!(error.contains("needs 285 pages and 284 of the pool's 512 are free"), "{error}");
    assert!(error.ends_with("sysctl vm.nr_hugepages=513"), "{error}");
    let near = pool(HugePage::Mib2, NodeChoice::Number(1));
    let error = plan(&near, ByteSize::mib(2 * 260), None, &root).unwrap_err().to_string();
    assert!(error.contains("256 of the pool's 512 on node 1"), "{error}");
    assert!(
        error.ends_with("echo 304 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"),
        "{error}"
    );
    let error = plan(&any, ByteSize::kib(2050), None, &root).unwrap_err().to_string();
    assert!(error.contains("2050 KiB is not a multiple of 2M; 2 MiB or 4 MiB is"), "{error}");
    let none = pool(HugePage::Gib1, NodeChoice::Any);
    assert!(words(none, 1, &root).contains("no pool of such pages"));
}

/// Proves that a node is chosen by the vCPUs' CPUs, that CPUs of two nodes are refused, and that a cpuset is obeyed.
#[test]
fn nodes_are_chosen_and_refused() {
    let (_dir, root) = host(&[]);
    let policy = |node| RamPolicy { node, ..RamPolicy::default() };
    let chosen = |node, cpus: &str, root| {
        plan(&policy(node), ByteSize::gib(1), CpuList::parse(cpus).as_ref().filter(|list| !list.is_empty()), root)
    };
    assert_eq!(chosen(NodeChoice::Auto, "2,3", &root).unwrap().node, Some(1));
    assert_eq!(chosen(NodeChoice::Number(1), "0", &root).unwrap().node, Some(1));
    let error = chosen(NodeChoice::Auto, "1-2", &root).unwrap_err().to_string();
    assert!(error.contains("CPUs 1-2 lie on the nodes 0-1"), "{error}");
    let error = chosen(NodeChoice::Number(2), "", &root).unwrap_err().to_string();
    assert!(error.contains("no such node with memory; it has 0-1"), "{error}");
    let (_dir, bound) = host(&[("proc/self/status", "Cpus_allowed_list:\t0-3\nMems_allowed_list:\t1\n")]);
    assert_eq!(chosen(NodeChoice::Auto, "", &bound).unwrap().node, Some(1));
    let error = chosen(NodeChoice::Number(0), "", &bound).unwrap_err().to_string();
    assert!(error.contains("cpuset allows memory only of 1"), "{error}");
    let (_dir, one) = (TempDir::new().unwrap(), Root::new("/nonexistent"));
    assert_eq!(chosen(NodeChoice::Number(0), "", &one).unwrap().node, None, "a kernel without nodes has node 0");
}

/// Proves that each way in which the kernel's account can differ is seen, and told with both figures.
#[test]
fn differences_are_told() {
    let wanted = Backing { prefault: true, lock: true, never_merge: true, node: Some(1), ..Backing::default() };
    let good = Memory {
        mapped: GIB,
        resident: GIB,
        locked: GIB,
        page_sizes: [(4096, GIB)].into(),
        nodes: [(1, GIB)].into(),
        ..Memory::default()
    };
    assert_eq!(differences(&wanted, GIB, &good), Vec::<String>::new());
    let half = GIB / 2;
    for (found, words) in [
        (Memory { mapped: half, ..good.clone() }, "mapped are 512 MiB, not 1 GiB"),
        (Memory { resident: half, ..good.clone() }, "there from the start are 512 MiB, not 1 GiB"),
        (Memory { locked: half, ..good.clone() }, "locked are 512 MiB, not 1 GiB"),
        (Memory { nodes: [(0, half), (1, half)].into(), ..good.clone() }, "on node 1 are 512 MiB, not 1 GiB"),
        (Memory { mergeable: GIB, ..good.clone() }, "merging"),
    ] {
        let told = differences(&wanted, GIB, &found).join("; ");
        assert!(told.contains(words), "{told}");
    }
    let pool = Backing { pool_page: Some(2 << 20), prefault: true, ..Backing::default() };
    let told = differences(&pool, GIB, &good).join("; ");
    assert!(
        told.contains("from the pool are 0 bytes, not 1 GiB") && told.contains("in the pool's pages are 0"),
        "{told}"
    );
}
