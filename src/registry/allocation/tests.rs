use super::*;
use crate::config::{Granted, Halt, Pin, Smt};
use crate::host::process::Confinement;
use crate::registry::RamAsked;

const PID: u32 = 100;
const MIB: u64 = 1 << 20;

fn list(text: &str) -> CpuList {
    CpuList::parse(text).unwrap()
}

fn thread(tid: u32, name: &str, affinity: &str, last_cpu: u32) -> Thread {
    let confinement = Confinement {
        no_new_privileges: Some(true),
        seccomp_mode: Some(2),
        seccomp_filters: Some(1),
        capabilities: Some(0),
    };
    Thread {
        tid,
        name: name.to_owned(),
        state: 'S',
        affinity: list(affinity),
        last_cpu,
        policy: "SCHED_FIFO",
        realtime_priority: 5,
        cpu_time_ms: 1250,
        confinement,
    }
}

/// A machine that has all that [`asked`] asks for.
fn found() -> Allocation {
    let ram = Memory {
        mapped: 64 * MIB,
        resident: 64 * MIB,
        proportional: 64 * MIB,
        locked: 64 * MIB,
        page_sizes: [(4096, 64 * MIB)].into(),
        nodes: [(1, 64 * MIB)].into(),
        ..Memory::default()
    };
    Allocation {
        uptime_seconds: Some(1.0),
        threads: vec![
            thread(PID, "ringfence", "0,3", 0),
            thread(101, "vcpu0", "2", 2),
            thread(102, "vcpu1", "1", 1),
            thread(103, "console", "0,3", 3),
            thread(104, "kvm-nx-lpage-re", "0-3", 1),
        ],
        process_memory: Some(Memory { proportional: 65 * MIB, ..ram.clone() }),
        guest_ram: Some(ram),
        descriptors: Some(["pipe:[1]", "pipe:[2]", "/dev/kvm", "anon_inode:[eventfd]"].map(str::to_owned).into()),
        control_groups: vec!["0::/user".to_owned()],
    }
}

fn asked() -> Asked {
    let granted = Granted {
        vcpus: vec![list("2"), list("1")],
        vmm: list("0,3"),
        pin: Pin::Strict,
        smt: Smt::Isolate,
        realtime: "5".parse().ok(),
        halt: Halt::Guest,
    };
    let ram = RamAsked { node: Some(1), lock: true, prefault: true, never_merge: true, ..RamAsked::default() };
    Asked {
        vcpus: 2,
        memory_bytes: 64 * MIB,
        placement: Some(granted),
        ram: RamAsked { no_huge_pages: true, ..ram },
        confined: true,
        landlock: Some(true),
    }
}

/// The lines that differ, by name.
fn differing(found: &Allocation, asked: &Asked) -> Vec<String> {
    let sections = found.compare(PID, asked);
    let lines = sections.iter().flat_map(|section| &section.lines);
    lines.filter(|line| line.verdict == Verdict::Differs).map(|line| line.name.clone()).collect()
}

/// Proves that a machine that has what was asked for differs in nothing, that every line that can be compared is, and that what
/// no file shows is said to be hidden.
#[test]
fn what_was_asked_for_is_found() {
    let sections = found().compare(PID, &asked());
    let verdicts = |verdict| {
        let lines = sections.iter().flat_map(|section| &section.lines);
        lines.filter(|line| line.verdict == verdict).map(|line| line.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(Verdict::Differs), [""; 0]);
    assert_eq!(verdicts(Verdict::Hidden), ["--smt", "--halt", "landlock"]);
    let confined = ["main thread", "vCPU 0", "vCPU 1", "console thread"];
    let cores = ["vCPUs", "vCPU 0", "vCPU 1", "main thread", "console thread"];
    let memory = ["guest RAM", "resident", "locked", "page sizes", "NUMA nodes", "merging"];
    assert_eq!(verdicts(Verdict::Ok), [&cores[..], &memory, &confined].concat());
    assert_eq!(found().pinned(PID), Some(list("2,1")), "vCPU 0 first");
}

/// Proves that each thing that can be less than was asked for is found out, alone and by name.
#[test]
fn each_difference_is_found() {
    type Change = fn(&mut Allocation);
    fn ram(found: &mut Allocation) -> &mut Memory {
        found.guest_ram.as_mut().unwrap()
    }
    let changes: [(&[&str], Change); 16] = [
        (&["vCPUs"], |f| drop(f.threads.remove(2))),
        (&["vCPU 0"], |f| f.threads[1].affinity = list("2-3")),
        (&["vCPU 1"], |f| f.threads[2].last_cpu = 0),
        (&["vCPU 1"], |f| f.threads[2].policy = "SCHED_OTHER"),
        (&["vCPU 0"], |f| f.threads[1].realtime_priority = 4),
        (&["main thread"], |f| f.threads[0].affinity = list("0-3")),
        (&["console thread"], |f| f.threads[3].affinity = list("1")),
        (&["guest RAM"], |f| ram(f).mapped -= 4096),
        (&["resident"], |f| (ram(f).resident, ram(f).locked) = (MIB, MIB)),
        (&["locked"], |f| ram(f).locked = 0),
        (&["page sizes"], |f| ram(f).transparent_huge = 2 * MIB),
        (&["NUMA nodes"], |f| ram(f).nodes = [(0, 4096), (1, 4096)].into()),
        (&["merging"], |f| ram(f).mergeable = 4096),
        (&["vCPU 0"], |f| f.threads[1].confinement.seccomp_mode = Some(0)),
        (&["main thread"], |f| f.threads[0].confinement.capabilities = Some(1)),
        (&["console thread"], |f| f.threads[3].confinement.no_new_privileges = Some(false)),
    ];
    for (number, (names, change)) in changes.into_iter().enumerate() {
        let mut found = found();
        change(&mut found);
        assert_eq!(differing(&found, &asked()), names, "change {number}");
    }
    let pooled = Asked { ram: RamAsked { pool_page_bytes: Some(2 * MIB), ..asked().ram }, ..asked() };
    assert_eq!(differing(&found(), &pooled), ["page sizes"]);
}

/// Proves that what was not asked for is only told, and that what this user may not see is no difference.
#[test]
fn nothing_asked_nothing_differs() {
    let least = Asked { vcpus: 2, memory_bytes: 64 * MIB, ..Asked::default() };
    assert_eq!(differing(&found(), &least), [""; 0]);
    let hidden = Allocation { guest_ram: None, process_memory: None, descriptors: None, ..found() };
    assert_eq!(differing(&hidden, &asked()), [""; 0]);
    let kinds = [(PID, "x"), (1, "vcpu7"), (2, "console"), (3, "kvm-pit/1"), (4, "vcpux")];
    let expected = [ThreadKind::Main, ThreadKind::Vcpu(7), ThreadKind::Console, ThreadKind::Kvm, ThreadKind::Other];
    assert_eq!(kinds.map(|(tid, name)| ThreadKind::of(PID, tid, name)), expected);
}
