use super::super::root::fake;
use super::*;
use proptest::prelude::*;

/// Every address.
const ALL: Range<u64> = 0..u64::MAX;

const STATUS: &str = "Name:\tx\nUid:\t7\t8\t8\t8\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\n\
    CapEff:\t0000000000000004\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nCpus_allowed_list:\t2-3\n";

/// A stat line: `name`, a state, 1.50 s of user and 0.25 s of kernel time, started at tick 500, CPU 3, FIFO 40.
fn stat(name: &str) -> String {
    let mut fields = vec!["0".to_owned(); 50];
    for (at, value) in [(0, "S"), (11, "150"), (12, "25"), (19, "500"), (36, "3"), (37, "40"), (38, "1")] {
        fields[at] = value.to_owned();
    }
    format!("9 ({name}) {}", fields.join(" "))
}

/// Proves that every figure is taken from its own field, also with a name made to look like the fields behind it.
#[test]
fn reads_a_process_and_its_threads() {
    let hostile = ") R 1 (";
    let (_dir, root) = fake::root(&[
        ("proc/uptime", "12.50 40.00\n"),
        ("proc/9/stat", &stat(hostile)),
        ("proc/9/status", STATUS),
        ("proc/9/cgroup", "1:cpu:/a\n0::/b\n"),
        ("proc/9/task/9/stat", &stat(hostile)),
        ("proc/9/task/9/status", STATUS),
        ("proc/9/task/9/comm", ") R 1 (\n"),
        ("proc/9/task/11/stat", "gone"),
    ]);
    let process = Process::new(&root, 9);
    assert_eq!(process.user(), Some(8));
    assert_eq!(process.uptime(), Some(Duration::from_millis(7500)));
    assert_eq!(process.control_groups(), ["1:cpu:/a", "0::/b"]);
    let threads = process.threads();
    let [thread] = threads.as_slice() else { panic!("{threads:?}") };
    assert_eq!((thread.tid, thread.name.as_str(), thread.state), (9, hostile, 'S'));
    assert_eq!((thread.affinity.to_string().as_str(), thread.last_cpu), ("2-3", 3));
    assert_eq!((thread.policy, thread.realtime_priority, thread.cpu_time_ms), ("SCHED_FIFO", 40, 1750));
    let confinement = Confinement {
        no_new_privileges: Some(true),
        seccomp_mode: Some(2),
        seccomp_filters: Some(3),
        capabilities: Some(7),
    };
    assert_eq!(thread.confinement, confinement);
    let gone = Process::new(&root, 10);
    assert_eq!((gone.stat(), gone.user(), gone.descriptors()), (None, None, None));
}

/// Proves that only the mappings that start in the range count, and that pages of a huge page pool are counted once.
#[test]
fn adds_up_the_mappings_of_a_range() {
    let smaps = "1000-2000 rw-p 0 0:0 0\nRss: 4 kB\nVmFlags: rd wr mg\n\
        200000-400000 rw-p 0 0:0 0\nKernelPageSize: 4 kB\nRss: 2048 kB\nPss: 1024 kB\nAnonymous: 16 kB\nLocked: 8 kB\nAnonHugePages: 2048 kB\n\
        VmFlags: rd wr mg \n\
        400000-800000 rw-p 0 0:0 0 /huge-ab\nKernelPageSize: 2048 kB\nRss: 0 kB\nPss: 0 kB\nPrivate_Hugetlb: 4096 kB\nVmFlags: rd\n";
    let maps = "1000 default N0=1 kernelpagesize_kB=4\n200000 bind:1 anon=512 N1=500 N0=12 kernelpagesize_kB=4\n\
        400000 default huge N1=2 kernelpagesize_kB=2048\n";
    let (_dir, root) = fake::root(&[("proc/9/smaps", smaps), ("proc/9/numa_maps", maps)]);
    let memory = Process::new(&root, 9).memory(&[0x20_0000..0x30_0000, 0x30_0000..0x80_0000]).unwrap();
    assert_eq!(memory.mapped, 6 << 20);
    assert_eq!((memory.resident, memory.proportional), (6 << 20, 5 << 20));
    assert_eq!((memory.locked, memory.transparent_huge, memory.pooled_huge), (8 << 10, 2 << 20, 4 << 20));
    assert_eq!((memory.anonymous, memory.mergeable), (16 << 10, 2 << 20));
    assert_eq!(memory.page_sizes, [(4 << 10, 2 << 20), (2 << 20, 4 << 20)].into());
    assert_eq!(memory.nodes, [(0, 12 << 12), (1, (500 << 12) + (4 << 20))].into());
}

/// Proves that this very process can be read on this host's kernel.
#[test]
fn reads_this_process() {
    let this = Process::this();
    let stat = this.stat().unwrap();
    assert!(stat.start_ticks > 0 && this.uptime().is_some());
    assert_eq!(this.user(), Some(rustix::process::geteuid().as_raw()));
    assert!(this.threads().iter().any(|t| !t.affinity.is_empty() && t.confinement.capabilities.is_some()));
    assert!(this.descriptors().unwrap().len() >= 3);
    let here = std::ptr::from_ref(&stat) as u64;
    assert_eq!(this.memory(std::slice::from_ref(&(here..here))).unwrap(), Memory::default());
    assert!(this.memory(std::slice::from_ref(&ALL)).unwrap().resident > 0);
}

proptest! {
    /// Proves that no text of these files makes the readers panic.
    #[test]
    fn any_text_is_safe(text in "[ -~\\n]{0,300}", line in "[0-9a-f]{1,16}-[0-9a-f]{1,17} x\\nRss: [0-9]{1,20} kB\\n") {
        let _ = Stat::parse(&text);
        let _ = Confinement::parse(&text);
        let mut memory = Memory::of_smaps(&text, std::slice::from_ref(&ALL));
        memory.add_nodes(&text, std::slice::from_ref(&ALL));
        let _ = Memory::of_smaps(&line, std::slice::from_ref(&ALL));
    }
}
