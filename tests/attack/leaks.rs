//! A thousand machines: nothing is left of them, neither in a process that makes one after the other nor on the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iced_x86::code_asm::{al, dx};
use ringfence::config::{
    BootEntry, ConsoleSpec, IrqChip, KernelFile, Listing, MachineConfig, Placement, RamPolicy, SandboxPolicy,
};
use ringfence::console::Console;
use ringfence::host::process::Process;
use ringfence::host::{self, Root};
use ringfence::machine::{HeadStart, Machine, Outcome, RunOptions, Timeline};
use ringfence::units::ByteSize;
use tempfile::TempDir;

use crate::guests::{Guest, exit, finish, kvm_works, say};

/// Machines in all, and those after which everything that is made once has been made.
const MACHINES: usize = 1000;
const WARM: usize = 100;
/// How many run at once, of those that have a process each.
const AT_ONCE: usize = 4;
/// The kernel's own memory on the host that may have come besides, in KiB: two pages a machine. Other tests take and give, too, so it
/// may take a while until so little is seen.
const KERNELS_OWN: i64 = 8 << 10;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Memory that a process may have gained between the hundredth and the last machine, in bytes: noise of the allocator.
const GROWTH: u64 = 512 << 10;

/// A guest that touches each device and ends.
fn guest() -> Guest {
    Guest::new(|a| {
        say(a, "x")?;
        for port in [0x60, 0x64, 0x600, 0x618] {
            a.mov(dx, port)?;
            a.in_(al, dx)?;
        }
        exit(a, 7)
    })
}

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    written: u64,
    mapped: u64,
}

fn held() -> Held {
    let this = Process::new(&Root::default(), std::process::id());
    let every = 0..u64::MAX;
    let memory = this.memory(std::slice::from_ref(&every)).expect("it is this process's");
    Held {
        descriptors: this.descriptors().expect("they are this process's").len(),
        threads: this.threads().len(),
        written: memory.anonymous,
        mapped: memory.mapped,
    }
}

/// The host's memory, in KiB: what can be had, and the kernel's own.
fn host_memory() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/meminfo").expect("it is there");
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    let wanted =
        rows.filter(|(name, _)| ["MemAvailable", "Slab", "SUnreclaim", "KernelStack", "PageTables"].contains(name));
    wanted.filter_map(|(name, rest)| Some((name.to_owned(), rest.trim().split(' ').next()?.parse().ok()?))).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

/// Proves that a process that makes, runs and drops a thousand machines holds no more after the last than after the hundredth:
/// descriptors, threads, memory and address space; and that no file is left in the folders that a machine writes to.
#[test]
fn a_thousand_machines_in_one_process() {
    if !kvm_works() {
        return;
    }
    // A process of its own: what other tests hold does not count.
    let done = Command::new(std::env::current_exe().expect("it has a path"))
        .args(["--exact", "leaks::machine_after_machine", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{}", said.lines().filter(|l| l.contains("after ")).collect::<Vec<_>>().join("\n"));
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

/// What `a_thousand_machines_in_one_process` runs.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn machine_after_machine() {
    let folder = TempDir::new().expect("a folder");
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::empty()).expect("memory");
    rustix::io::write(&file, &guest().elf()).expect("memory");
    let kernel = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut warm = None;
    for number in 1..=MACHINES {
        run_one(&kernel, folder.path(), host::kvm::open().expect("it was there before").into());
        if number == WARM || number == MACHINES {
            // A thread that was joined is shown until the kernel has buried it.
            std::thread::sleep(Duration::from_millis(50));
            let now = held();
            println!("after {number}: {now:?}");
            let first = warm.get_or_insert_with(|| now.clone());
            assert_eq!((now.descriptors, now.threads), (first.descriptors, first.threads), "{first:?}");
            assert!(now.written <= first.written + GROWTH, "{first:?}");
            assert!(now.mapped <= first.mapped + GROWTH, "{first:?}");
        }
    }
    assert!(files(&folder.path().join("run")).len() <= 1, "at most the last machine's, for the next to remove");
    assert!(files(&folder.path().join("cache")).is_empty());
}

/// Proves that a machine which a head start does not fit is made anew, as it was asked for.
#[test]
fn a_head_start_that_does_not_fit() {
    if !kvm_works() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let kernel = folder.path().join("guest");
    fs::write(&kernel, guest().elf()).expect("a folder takes it");
    let path = kernel.display().to_string();
    // In a thread of its own, which begins as for a confined machine; the one that is wanted is not confined.
    std::thread::spawn(move || {
        let ahead = HeadStart::begin(host::kvm::open().expect("it was there before")).expect("the host has a thread");
        run_one(&path, folder.path(), ahead);
        // Nothing keeps this thread from opening files afterwards.
        fs::read(&path).expect("it is not confined");
    })
    .join()
    .expect("the machine ran");
}

fn run_one(kernel: &str, folder: &Path, ahead: HeadStart) {
    let config = MachineConfig {
        cpus: 2,
        memory: ByteSize::mib(16),
        kernel: KernelFile { path: kernel.into(), immutable: false },
        initrd: None,
        initrd_immutable: false,
        initrd_overlay: Vec::new(),
        cmdline: String::new(),
        irqchip: IrqChip::Split,
        entry: BootEntry::Auto,
        cache: Some(folder.join("cache")),
        placement: Placement::default(),
        ram_policy: RamPolicy::default(),
        // It would confine this thread for good; the machines of `a_thousand_starts_and_stops` have theirs.
        sandbox: SandboxPolicy::Off,
        listing: Some(Listing {
            folder: folder.join("run"),
            name: None,
            console: "none".to_owned(),
            command: Vec::new(),
        }),
    };
    let console = Console::open(&ConsoleSpec::None).expect("it needs nothing");
    let machine = Machine::build(&config, ahead, host::flavour(), console, Arc::new(Timeline::default()), &mut |_| {});
    let machine = machine.unwrap_or_else(|error| panic!("{error}"));
    assert!(machine.name().is_some_and(|name| name.starts_with("vm-")));
    let options = RunOptions { timeout: Some(Duration::from_secs(20)), ..RunOptions::default() };
    let (outcome, _) = machine.run(&options, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(outcome, Outcome::Exited(7)), "{outcome:?}");
}

/// Proves that a thousand starts and stops of the binary, four at once, all end as they should and leave no file, no process and no
/// memory of the host's kernel.
#[test]
fn a_thousand_starts_and_stops() {
    if !kvm_works() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (run, cache) = (folder.path().join("run"), folder.path().join("cache"));
    let guest = guest();
    let start = || {
        let variables = [("RINGFENCE_RUNTIME", run.as_os_str()), ("RINGFENCE_CACHE", cache.as_os_str())];
        let ran = finish(guest.start_with(&["--memory", "16M", "--timeout", "20"], &variables));
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (Some(7), "x", ""));
    };
    start();
    let (before, began, cached) = (host_memory(), Instant::now(), files(&cache));
    let started = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while started.fetch_add(1, Ordering::Relaxed) < MACHINES {
                    start();
                }
            });
        }
    });
    println!("{MACHINES} starts and stops in {:?}", began.elapsed());
    let ended = Instant::now();
    let gained = |name: &str| host_memory()[name] as i64 - before[name] as i64;
    let kernels_own = || ["SUnreclaim", "KernelStack", "PageTables"].map(gained).iter().sum::<i64>();
    while kernels_own() > KERNELS_OWN && ended.elapsed() < SETTLED_WITHIN {
        std::thread::sleep(Duration::from_millis(200));
    }
    before.iter().for_each(|(name, kib)| println!("{name}: {kib} KiB before, {:+} KiB after", gained(name)));
    assert!(kernels_own() <= KERNELS_OWN, "the kernel keeps {} KiB more", kernels_own());
    let machines = run.join("machines");
    let left = files(&machines);
    assert!(left.len() <= AT_ONCE, "at most those of the last machines, for the next to remove: {left:?}");
    assert_eq!(files(&cache), cached);
    assert!(ringfence::registry::list(std::slice::from_ref(&machines)).machines.is_empty());
    assert!(files(&machines).is_empty(), "a reader has removed them: {:?}", files(&machines));
    assert_eq!(files(&run), [machines]);
}
