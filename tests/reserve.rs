//! Guest RAM that is reserved, as the kernel's own files show it from outside, and refusals of what this host cannot give.

#[path = "guests/greedy.rs"]
mod greedy;
#[allow(dead_code, reason = "only some of what guests do is done here")]
mod guests;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use greedy::greedy;
use guests::{Guest, Ran, exit, finish, halt, kvm_works, say};
use ringfence::host::Root;
use ringfence::host::process::{Memory, Process, Thread};
use ringfence::units::ByteSize;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};

/// A guest that says that it runs, and waits.
fn waiting() -> Guest {
    Guest::new(|a| {
        say(a, "up\n")?;
        halt(a)
    })
}

/// A machine that runs; killed when dropped.
struct Running {
    child: Option<Child>,
    memory: u64,
}

impl Running {
    /// Starts one and waits until its guest has said a word.
    fn start(guest: &Guest, memory: u64, options: &[&str]) -> Self {
        let size = memory.to_string();
        Self::up(guest.start(&[&["--memory", &size, "--timeout", "60"], options].concat()), memory)
    }

    /// Waits until the guest has said a word.
    fn up(mut child: Child, memory: u64) -> Self {
        let mut word = [0; 3];
        let said = std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word);
        if said.is_err() {
            panic!("the guest did not start: {:?}", finish(child));
        }
        Self { child: Some(child), memory }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What is behind its RAM: the stretch of mappings, one after the other, that is as long as RAM.
    fn ram(&self) -> Memory {
        let smaps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let range = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        };
        let all: Vec<(u64, u64)> = smaps.lines().filter_map(range).collect();
        let found = all.iter().find(|(start, _)| {
            let end = all.iter().skip_while(|(s, _)| s < start).try_fold(*start, |at, (from, to)| {
                if at < start + self.memory && at == *from { Ok(*to) } else { Err(at) }
            });
            end.unwrap_or_else(|end| end) == start + self.memory
        });
        let start = found.unwrap_or_else(|| panic!("no guest RAM of {} bytes: {smaps}", self.memory)).0;
        Process::new(&Root::default(), self.pid()).memory(std::slice::from_ref(&(start..start + self.memory))).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Skips for a reason that a developer's host may have; with CI=true that is a failure.
fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must not skip: {reason}");
    println!("skipped: {reason}");
}

const MEMORY: u64 = 96 << 20;

/// Proves that without a flag RAM comes as it is touched, and that --prefault takes all of it before the guest runs, to the
/// byte, with huge pages and without.
#[test]
fn prefaulted_ram_is_all_there() {
    if !kvm_works() {
        return;
    }
    let lazy = Running::start(&waiting(), MEMORY, &[]).ram();
    assert!(lazy.mapped == MEMORY && lazy.resident < MEMORY / 4, "{lazy:?}");
    for thp in ["always", "never", "host"] {
        let ram = Running::start(&waiting(), MEMORY, &["--prefault", "--thp", thp]).ram();
        assert_eq!((ram.resident, ram.locked), (MEMORY, 0), "{thp}: {ram:?}");
        assert!(thp == "always" || ram.transparent_huge == 0 || thp == "host", "{thp}: {ram:?}");
    }
}

/// Proves that --lock alone locks what is touched and takes no more, and that with --prefault all of RAM is locked.
#[test]
fn locked_ram_stays() {
    if !kvm_works() {
        return;
    }
    let touched = Running::start(&waiting(), MEMORY, &["--lock"]).ram();
    assert!(touched.locked == touched.resident && touched.resident < MEMORY / 4, "{touched:?}");
    let all = Running::start(&waiting(), MEMORY, &["--lock", "--prefault"]).ram();
    assert_eq!((all.resident, all.locked), (MEMORY, MEMORY), "{all:?}");
}

/// Proves that --reserve is the sum: there, locked, on one node, not mergeable; and that the default guest's kernel and initrd,
/// which are otherwise mapped from files, are RAM like any other.
#[test]
fn reserved_ram_is_there_locked_and_local() {
    if !kvm_works() {
        return;
    }
    let machine = Running::start(&waiting(), MEMORY, &["--reserve"]);
    let ram = machine.ram();
    assert_eq!((ram.resident, ram.locked, ram.mergeable), (MEMORY, MEMORY, 0), "{ram:?}");
    assert_eq!(ram.nodes.into_values().collect::<Vec<_>>(), [MEMORY]);
    let maps = fs::read_to_string(format!("/proc/{}/numa_maps", machine.pid())).unwrap();
    assert!(
        maps.lines().any(|line| line.contains(" bind:") && line.contains(&format!("anon={}", MEMORY >> 12))),
        "{maps}"
    );
}

/// Proves that a node that is there is taken, and one that is not is refused with those that are.
#[test]
fn numa_nodes() {
    if !kvm_works() {
        return;
    }
    let ram = Running::start(&waiting(), MEMORY, &["--numa-node", "0", "--prefault"]).ram();
    assert_eq!(ram.nodes.into_iter().collect::<Vec<_>>(), [(0, MEMORY)]);
    let ran = waiting().run(&["--numa-node", "99"]);
    refused(&ran, &["--numa-node 99: this host has no such node with memory; it has 0"]);
}

fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(125), ""), "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "not {word:?}: {}", ran.stderr);
    }
}

/// Starts a machine whose process has no right to lock beyond `limit` bytes, although root.
fn start_with_lock_limit(guest: &Guest, limit: u64, options: &[&str]) -> Ran {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), guest.elf()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--initrd", "none", "--kernel"]).arg(file.path()).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let prepare = move || {
        let limit = Rlimit { current: Some(limit / 2), maximum: Some(limit) };
        setrlimit(Resource::Memlock, limit)?;
        const CAP_IPC_LOCK: i32 = 14;
        // SAFETY: takes a capability from this process and those it becomes; no memory is passed.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: only system calls are made between fork and exec.
    unsafe { command.pre_exec(prepare) };
    finish(command.spawn().unwrap())
}

/// Proves that a limit of locked memory is found out before the start and told with its remedy, and that a soft limit below
/// it is raised.
#[test]
fn the_limit_of_locked_memory() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(|a| exit(a, 7));
    let ran = start_with_lock_limit(&guest, 2 << 20, &["--memory", "64M", "--lock"]);
    refused(&ran, &["this process may lock 2 MiB", "ulimit -l 65536", "LimitMEMLOCK=65536K"]);
    let ran = start_with_lock_limit(&guest, 5 << 20, &["--memory", "4M", "--lock", "--prefault"]);
    assert_eq!(ran.status, Some(7), "{}", ran.stderr);
}

/// Proves that more than the host has is refused before the start, with both figures.
#[test]
fn more_than_there_is() {
    if !kvm_works() {
        return;
    }
    let ran = waiting().run(&["--memory", "64T", "--reserve"]);
    refused(&ran, &["--memory 64 TiB", "more than this host has free"]);
}

/// A control group with a limit of memory, removed when dropped; `None` where none can be made.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("ringfence-test-{}-{limit}", std::process::id());
        let (parent, file) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            (PathBuf::from("/sys/fs/cgroup"), "memory.max")
        } else {
            let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
            (PathBuf::from(format!("/sys/fs/cgroup/memory{own}")), "memory.limit_in_bytes")
        };
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }

    /// Runs a guest inside of it.
    fn run(&self, guest: &Guest, options: &[&str]) -> Ran {
        let file = tempfile::NamedTempFile::new().unwrap();
        finish(self.start(&file, guest, options))
    }

    /// Starts a guest inside of it, from `file`.
    fn start(&self, file: &tempfile::NamedTempFile, guest: &Guest, options: &[&str]) -> Child {
        fs::write(file.path(), guest.elf()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(&self.0);
        command.arg(env!("CARGO_BIN_EXE_ringfence")).args(["run", "--initrd", "none", "--kernel"]).arg(file.path());
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The most that was ever charged to it, in bytes.
    fn peak(&self) -> Option<u64> {
        let read = |file| fs::read_to_string(self.0.join(file)).ok()?.trim().parse().ok();
        read("memory.max_usage_in_bytes").or_else(|| read("memory.peak"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Proves that what a control group would kill the machine for is refused before the start, with both figures, and that what
/// it allows runs inside it, at no more than RAM and the documented overhead.
#[test]
fn a_control_groups_limit() {
    if !kvm_works() {
        return;
    }
    let Some(small) = Group::new(64 << 20) else { return skip("no control group can be made") };
    let guest = Guest::new(|a| exit(a, 7));
    let ran = small.run(&guest, &["--memory", "96M", "--reserve"]);
    refused(&ran, &["--memory 96 MiB", "64 MiB in /sys/fs/cgroup", "control group"]);
    let large = Group::new(512 << 20).expect("one could be made");
    let ran = large.run(&guest, &["--memory", "96M", "--reserve"]);
    assert_eq!(ran.status, Some(7), "{}", ran.stderr);
    let peak = large.peak().expect("the group counts");
    let overhead = ringfence::machine::overhead(ByteSize::bytes(MEMORY)).as_u64();
    println!("96 MiB reserved: {} KiB charged, {} KiB beside RAM", peak >> 10, (peak - MEMORY) >> 10);
    assert!(peak >= MEMORY && peak <= MEMORY + overhead, "{peak}");
}

/// Proves that a signal ends the machine while RAM is taken, soon and with its status, and that one that cannot be caught
/// leaves nothing behind.
#[test]
fn ended_while_ram_is_taken() {
    if !kvm_works() {
        return;
    }
    for (signal, status) in [(Signal::TERM, Some(128 + 15)), (Signal::INT, Some(128 + 2)), (Signal::KILL, None)] {
        let child = waiting().start(&["--memory", "4G", "--reserve", "--thp", "never"]);
        let pid = child.id();
        let start = Instant::now();
        while resident(pid) < 64 << 20 {
            assert!(start.elapsed() < Duration::from_secs(30), "it takes no RAM");
            std::thread::sleep(Duration::from_millis(2));
        }
        let sent = Instant::now();
        kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
        let ran = finish(child);
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""), "{}", ran.stderr);
        assert!(sent.elapsed() < Duration::from_secs(10), "{:?}", sent.elapsed());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

/// Bytes a process has resident; 0 when it is gone.
fn resident(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) << 12
}

/// The pool of 2 MiB pages with more pages in it, given back when dropped. One at a time, over all processes of tests.
struct Pool {
    before: u64,
    _one: fs::File,
}

impl Pool {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn number() -> Option<u64> {
        fs::read_to_string(Self::FILE).ok()?.trim().parse().ok()
    }

    fn add(pages: u64) -> Option<Self> {
        let one = fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("huge-page-pool")).ok()?;
        rustix::fs::flock(&one, rustix::fs::FlockOperation::LockExclusive).ok()?;
        let before = Self::number()?;
        let pool = Self { before, _one: one };
        fs::write(Self::FILE, (before + pages).to_string()).ok()?;
        (Self::number()? == before + pages).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, self.before.to_string());
    }
}

/// Proves that RAM from a pool is all from the pool, and gives it back; and that a pool with too few pages, and a size that
/// its pages do not make up, are refused before the start with what would help.
#[test]
fn ram_from_a_pool_of_huge_pages() {
    if !kvm_works() {
        return;
    }
    let Some(pool) = Pool::add(MEMORY >> 21) else { return skip("the kernel gives no pool of 2 MiB pages") };
    let free = || fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap();
    let before = free();
    for options in [&["--hugepages", "2M"][..], &["--hugepages", "2M", "--reserve"]] {
        let ram = Running::start(&waiting(), MEMORY, options).ram();
        assert_eq!((ram.pooled_huge, ram.resident), (MEMORY, MEMORY), "{ram:?}");
        assert_eq!(ram.page_sizes.into_iter().collect::<Vec<_>>(), [(2 << 20, MEMORY)]);
        assert_eq!(ram.nodes.into_values().collect::<Vec<_>>(), [MEMORY]);
        assert_eq!(free(), before, "a machine that was killed gives its pages back");
    }
    let pages = 1 + (MEMORY >> 21);
    let ran = waiting().run(&["--hugepages", "2M", "--memory", &(pages << 21).to_string()]);
    let remedy = format!("sysctl vm.nr_hugepages={}", pool.before + pages);
    refused(&ran, &[&format!("the guest needs {pages} pages"), &remedy]);
    let ran = waiting().run(&["--hugepages", "2M", "--memory", "65M"]);
    refused(&ran, &["65 MiB is not a multiple of 2M; 64 MiB or 66 MiB is"]);
}

/// Proves that --no-merge takes RAM out of merging that the process inherited from who started it, and that without it RAM
/// would be open to it.
#[test]
fn merging_that_was_inherited_is_undone() {
    if !kvm_works() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), waiting().elf()).unwrap();
    let start = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
        command.args(["run", "--initrd", "none", "--timeout", "60", "--memory", "96M", "--kernel"]).arg(file.path());
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        const PR_SET_MEMORY_MERGE: i32 = 67;
        // SAFETY: sets an attribute of the child between fork and exec, by a system call without memory.
        unsafe {
            command.pre_exec(|| {
                let _ = libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
                Ok(())
            })
        };
        Running::up(command.spawn().unwrap(), MEMORY).ram()
    };
    if start(&[]).mergeable == 0 {
        println!("skipped: this kernel hands no merging on to programs (Linux 6.7 with CONFIG_KSM does)");
        return;
    }
    for options in [&["--no-merge"][..], &["--reserve"]] {
        let ram = start(options);
        assert_eq!((ram.mapped, ram.mergeable), (MEMORY, 0), "{ram:?}");
    }
}

/// Starts a guest with these options, its CPUs locked in a folder of the test's own.
fn start_alone(folder: &tempfile::TempDir, file: &tempfile::NamedTempFile, options: &[&str]) -> Child {
    fs::write(file.path(), waiting().elf()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.env("RINGFENCE_RUNTIME", folder.path()).args(["run", "--initrd", "none", "--timeout", "60", "--kernel"]);
    command.arg(file.path()).args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Proves that --guarantee gives reserved RAM and a CPU of its own to each vCPU, that no thread of ringfence but one may run
/// there where there are CPUs enough, and that CPUs and RAM that the host has not are refused with every reason at once.
#[test]
fn a_guarantee_is_both_or_every_reason() {
    if !kvm_works() {
        return;
    }
    let (folder, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let memory = MEMORY.to_string();
    let machine = Running::up(start_alone(&folder, &file, &["--guarantee", "--memory", &memory]), MEMORY);
    let ram = machine.ram();
    assert_eq!((ram.resident, ram.locked, ram.mergeable), (MEMORY, MEMORY, 0), "{ram:?}");
    assert_eq!(ram.nodes.len(), 1, "{ram:?}");
    let threads = Process::new(&Root::default(), machine.pid()).threads();
    let (vcpus, others): (Vec<_>, Vec<_>) = threads.iter().partition(|thread| thread.name.starts_with("vcpu"));
    assert!(vcpus.len() == 1 && vcpus[0].affinity.len() == 1, "{threads:?}");
    let cpu = vcpus[0].affinity.iter().next().unwrap();
    if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
        // KVM's own threads are the kernel's to place.
        let ours = others.iter().filter(|thread| !thread.name.starts_with("kvm"));
        assert!(ours.clone().count() > 0 && ours.clone().all(|t| !t.affinity.contains(cpu)), "{threads:?}");
    }
    drop(machine);
    let ran = finish(start_alone(&folder, &file, &["--guarantee", "--cpus", "200", "--memory", "64T"]));
    refused(&ran, &["ringfence: this host cannot give what was asked for:\n  - ", "200", "\n  - --memory 64 TiB with"]);
    let ran = finish(start_alone(&folder, &file, &["--guarantee", "--pin", "off"]));
    refused(&ran, &["--guarantee gives each vCPU a CPU of its own"]);
}

/// Proves that a guest that takes all it can get has exactly its RAM and at most its vCPUs' time: by the resident set and the
/// threads' times over seconds, and by a control group whose limit is RAM and the documented overhead, in which nothing fails.
#[test]
fn a_greedy_guest_gets_its_allocation_and_no_more() {
    if !kvm_works() {
        return;
    }
    const CPUS: u32 = 3;
    let bytes = ByteSize::bytes;
    let limit = MEMORY + ringfence::machine::overhead(bytes(MEMORY)).as_u64();
    let (size, cpus) = (MEMORY.to_string(), CPUS.to_string());
    let options = ["--memory", &size, "--cpus", &cpus, "--timeout", "60"];
    let group = Group::new(limit);
    let file = tempfile::NamedTempFile::new().unwrap();
    let child = match &group {
        Some(group) => group.start(&file, &greedy(MEMORY), &options),
        None => greedy(MEMORY).start(&options),
    };
    let machine = Running::up(child, MEMORY);
    let process = Process::new(&Root::default(), machine.pid());
    let times = || -> (u64, u64) {
        let (vcpus, others): (Vec<_>, Vec<_>) = process.threads().into_iter().partition(|t| t.name.starts_with("vcpu"));
        assert_eq!(vcpus.len(), CPUS as usize);
        let sum = |threads: Vec<Thread>| threads.iter().map(|thread| thread.cpu_time_ms).sum();
        (sum(vcpus), sum(others))
    };
    let (before, start) = (times(), Instant::now());
    let mut own = 0;
    while start.elapsed() < Duration::from_secs(3) {
        let ram = machine.ram();
        assert!(ram.mapped == MEMORY && ram.resident == MEMORY, "it has touched it all, and there is no more: {ram:?}");
        own = own.max(process.memory(std::slice::from_ref(&(0..u64::MAX))).unwrap().proportional - ram.proportional);
        std::thread::sleep(Duration::from_millis(100));
    }
    let (after, elapsed) = (times(), start.elapsed().as_millis() as u64);
    let (vcpus, others) = (after.0 - before.0, after.1 - before.1);
    let peak = group.as_ref().and_then(Group::peak).unwrap_or(0);
    println!(
        "{CPUS} vCPUs ran {vcpus} ms and other threads {others} ms in {elapsed} ms; {} KiB beside RAM; {} charged beside it",
        own >> 10,
        ByteSize::bytes(peak.saturating_sub(MEMORY)),
    );
    // A thread's time is counted in ticks of 10 ms.
    assert!(vcpus <= u64::from(CPUS) * (elapsed + 20), "more than {CPUS} vCPUs' time: {vcpus} ms in {elapsed} ms");
    assert!(vcpus >= elapsed / 4, "the guest did not take what it could: {vcpus} ms in {elapsed} ms");
    assert!(others <= elapsed / 10 + 20, "threads beside the vCPUs ran {others} ms in {elapsed} ms");
    assert!(own <= limit - MEMORY, "{own} bytes beside RAM");
    assert!(peak <= limit, "{peak}");
    if group.is_none() {
        skip("no control group can be made: its account is left out");
    }
    drop(machine);
}
