//! Guests on CPUs of their own, on this host's KVM: what the kernel says of their threads from outside while they run.

#[allow(dead_code)]
mod guests;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use guests::{Guest, halt, kvm_works, say};
use tempfile::TempDir;

/// A folder with a guest in it, and for the locks of the CPUs, so that tests don't stand in each other's way.
struct Place {
    folder: TempDir,
}

/// A guest that runs until it is dropped.
struct Running {
    child: Child,
    stderr: ChildStderr,
}

impl Place {
    /// With a guest that says "up" and then halts for good.
    fn new() -> Self {
        Self::with(&Guest::new(|a| {
            say(a, "up\n")?;
            halt(a)
        }))
    }

    fn with(guest: &Guest) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("guest"), guest.elf()).unwrap();
        Self { folder }
    }

    fn command(&self, options: &[&str]) -> Command {
        let ringfence =
            std::env::var_os("RINGFENCE_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringfence").into());
        let mut command = Command::new(ringfence);
        command.args(["run", "--initrd", "none", "--timeout", "50", "--kernel"]).arg(self.folder.path().join("guest"));
        command.args(options).env("RINGFENCE_RUNTIME", self.folder.path().join("runtime"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the guest; returns when it runs.
    fn start(&self, options: &[&str]) -> Running {
        running(self.command(options))
    }

    /// The message of a run that is refused.
    fn refused(&self, options: &[&str]) -> String {
        refusal(&self.command(options).output().unwrap())
    }
}

fn running(mut command: Command) -> Running {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    if line != "up\n" {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        panic!("the guest did not start: {line:?} {said}");
    }
    Running { child, stderr }
}

fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{said}");
    said
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A field of /proc/PID/task/TID/status for each thread, by the thread's name.
    fn threads(&self, field: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
            let task = task.unwrap().path();
            let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
            let value = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
            let name = format!("{} {}", value("Name:"), task.file_name().unwrap().to_str().unwrap());
            found.insert(name, value(&format!("{field}:")));
        }
        found
    }

    /// Where the thread of vCPU `id` may run.
    fn vcpu(&self, id: u32) -> String {
        let threads = self.threads("Cpus_allowed_list");
        let name = format!("vcpu{id} ");
        threads.iter().find(|(thread, _)| thread.starts_with(&name)).expect("a thread for each vCPU").1.clone()
    }

    /// Where the other threads may run, each once.
    fn others(&self) -> Vec<String> {
        let threads = self.threads("Cpus_allowed_list");
        let mut lists: Vec<_> = threads.into_iter().filter(|(n, _)| !n.starts_with("vcpu")).map(|(_, l)| l).collect();
        assert!(lists.len() >= 2, "the main thread and the console's at least: {lists:?}");
        lists.sort();
        lists.dedup();
        lists
    }

    /// Kills it as the kernel would, and gives what it said.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        said
    }
}

impl Running {
    /// Policy and real-time priority of each thread, by its name (proc_pid_stat(5), fields 41 and 40).
    fn policies(&self) -> BTreeMap<String, (u32, u32)> {
        let stat = |task: &Path| {
            let stat = fs::read_to_string(task.join("stat")).ok()?;
            let after: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some((after[41 - 3].parse().ok()?, after[40 - 3].parse().ok()?))
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks.flatten().filter_map(|t| Some((name_of(&t.path()), stat(&t.path())?))).collect()
    }
}

fn name_of(task: &Path) -> String {
    format!("{} {}", field(task, "Name"), task.file_name().unwrap().to_str().unwrap())
}

/// A field of a `status` file.
fn field(task: &Path, name: &str) -> String {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether KVM works here and the process may use this host's CPUs below `cpus`. Fewer than four are no fault of a machine: what is
/// not shown on them is shown in the nested bed (tests/bed2/placement.rs).
fn usable(cpus: usize) -> bool {
    if !kvm_works() {
        return false;
    }
    let allowed = allowed();
    if (0..cpus).all(|cpu| allowed.contains(&cpu)) {
        return true;
    }
    assert!(cpus > 2 || std::env::var_os("CI").is_none(), "CI must have the CPUs 0 and 1");
    println!("not shown here: this takes the CPUs below {cpus}, and the test may use {allowed:?}");
    false
}

/// SCHED_FIFO.
const FIFO: u32 = 1;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: this test needs root");
    }
    root
}

/// Whether this process may have a real-time priority; tried on a thread that ends.
fn real_time_works() -> bool {
    let set = || {
        let param = libc::sched_param { sched_priority: 1 };
        // SAFETY: the parameter is only read, and the thread is this one.
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const param) == 0 }
    };
    let works = std::thread::spawn(set).join().unwrap();
    if !works {
        println!("skipped: the kernel gives no real-time priority to this process");
    }
    works
}

/// Takes away what lets a process have a real-time priority: the limit, and root's capability.
fn drop_the_right() -> std::io::Result<()> {
    const CAP_SYS_NICE: u32 = 23;
    const VERSION_3: u32 = 0x2008_0522;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let header = [VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: the structures are those of setrlimit(2) and capset(2), version 3: a header of two words, and two times three.
    unsafe {
        libc::setrlimit(libc::RLIMIT_RTPRIO, &none);
        // From the bounding set too: a program that root executes would get it back.
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0);
        if libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) == 0 {
            data[0] &= !(1 << CAP_SYS_NICE);
            data[1] &= !(1 << CAP_SYS_NICE);
            data[2] &= !(1 << CAP_SYS_NICE);
            libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr());
        }
    }
    Ok(())
}

fn allowed() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Proves that vCPU i is on the i-th CPU of the list alone, and every other thread on none of them, while the guest runs.
#[test]
fn each_vcpu_is_on_its_cpu_alone() {
    if !usable(4) {
        return;
    }
    let place = Place::new();
    let guest = place.start(&["--cpus", "3", "--cpuset-cpus", "3,1-2"]);
    assert_eq!([guest.vcpu(0), guest.vcpu(1), guest.vcpu(2)], ["3", "1", "2"]);
    let others = guest.others();
    assert!(others.iter().all(|list| !list.contains(['1', '2', '3', '-'])), "{others:?}");
}

/// Proves that --vmm-cpus is where every other thread is, and that the CPUs of a list beyond the vCPUs stay free.
#[test]
fn the_other_threads_are_where_they_are_told() {
    if !usable(4) {
        return;
    }
    let place = Place::new();
    let guest = place.start(&["--cpuset-cpus", "2-3", "--vmm-cpus", "1,0"]);
    assert_eq!((guest.vcpu(0), guest.others()), ("2".to_owned(), vec!["0-1".to_owned()]));
    let neighbour = place.start(&["--cpuset-cpus", "3"]);
    assert_eq!(neighbour.vcpu(0), "3");
}

/// Proves that a CPU is given once: the second guest is refused with the first one's name and number, whatever it wants the
/// CPU for, and gets it when the first one is killed.
#[test]
fn a_taken_cpu_is_refused_until_its_owner_dies() {
    if !usable(4) {
        return;
    }
    let place = Place::new();
    let first = place.start(&["--name", "web", "--cpuset-cpus", "2"]);
    let who = format!("CPU 2 is given to guest \"web\" (pid {})", first.pid());
    for wish in [
        &["--cpuset-cpus", "1-2", "--cpus", "2"][..],
        &["--cpuset-cpus", "2-3", "--pin", "off"],
        &["--cpuset-cpus", "3", "--vmm-cpus", "2"],
        &["--pin", "strict", "--cpus", "4"],
    ] {
        let said = place.refused(wish);
        assert!(said.contains(&who), "{wish:?}: {said}");
    }
    let beside = place.start(&["--cpuset-cpus", "1", "--cpus", "1"]);
    assert!(
        beside.others().iter().all(|list| !list.contains('2')),
        "not on the neighbour's CPU: {:?}",
        beside.others()
    );
    assert_eq!(first.kill(), "", "a pinned start has nothing to say");
    assert_eq!(place.start(&["--cpuset-cpus", "2", "--name", "next"]).vcpu(0), "2");
}

/// Proves that with --pin off the list bounds the vCPUs and may be shared, but not with a guest that has a CPU alone.
#[test]
fn a_list_that_is_not_pinned_is_shared() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let wish = ["--cpus", "2", "--cpuset-cpus", "1", "--pin", "off", "--name"];
    let loose = |name| place.start(&[&wish[..], &[name]].concat());
    let (one, two) = (loose("loose-1"), loose("loose-2"));
    assert_eq!([one.vcpu(0), one.vcpu(1), two.vcpu(0)], ["1", "1", "1"]);
    let said = place.refused(&["--cpuset-cpus", "1"]);
    assert!(said.contains("CPU 1 is given to guest \"loose-"), "{said}");
}

/// Proves that --pin strict alone finds CPUs, different ones for each guest, and keeps CPU 0 for last.
#[test]
fn strict_without_a_list_chooses() {
    if !usable(4) {
        return;
    }
    let place = Place::new();
    let (one, two) = (place.start(&["--pin", "strict"]), place.start(&["--pin", "strict", "--cpus", "2"]));
    let mut cpus = [one.vcpu(0), two.vcpu(0), two.vcpu(1)];
    cpus.sort();
    assert_eq!(cpus, ["1", "2", "3"]);
}

/// Proves that CPUs that are not there or not this process's are refused, each with the reason, and that nothing stays locked
/// by a refused start.
#[test]
fn cpus_that_cannot_be_had_are_refused() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let said = place.refused(&["--cpuset-cpus", "1,4097"]);
    assert!(said.contains("this host has no CPU 4097"), "{said}");
    let mut narrow = place.command(&["--cpuset-cpus", "0-1", "--cpus", "2"]);
    confine(&mut narrow, &[0]);
    let said = refusal(&narrow.output().unwrap());
    assert!(said.contains("may not run on CPU 1") && said.contains("allow 0"), "{said}");
    let said = place.refused(&["--cpuset-cpus", "0-1", "--cpus", "3"]);
    assert!(said.contains("--cpus 3") && said.contains("names 2"), "{said}");
    assert_eq!(place.start(&["--cpuset-cpus", "0-1", "--cpus", "2"]).vcpu(1), "1");
}

/// Proves that a process with a single CPU still gets a pinned guest, and is warned that its own threads share that CPU.
#[test]
fn a_single_cpu_is_shared_with_a_warning() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let mut narrow = place.command(&["--cpuset-cpus", "1"]);
    confine(&mut narrow, &[1]);
    let guest = running(narrow);
    assert_eq!((guest.vcpu(0), guest.others()), ("1".to_owned(), vec!["1".to_owned()]));
    let said = guest.kill();
    assert!(said.contains("no CPU is left for ringfence's own threads"), "{said}");
}

/// Proves that the vCPUs' threads, and no other, have the real-time priority, and that the user is told what limits it.
#[test]
fn real_time_is_for_vcpus_only() {
    if !usable(2) || !real_time_works() {
        return;
    }
    let place = Place::new();
    let guest = place.start(&["--cpuset-cpus", "1", "--realtime", "7"]);
    for (name, (policy, priority)) in guest.policies() {
        let expected = if name.starts_with("vcpu") { (FIFO, 7) } else { (0, 0) };
        assert_eq!((policy, priority), expected, "{name}");
    }
    assert!(guest.kill().contains("sched_rt_runtime_us"));
}

/// Proves that a priority that the process may not have is refused before anything is made, with what it needs, and so is one
/// that would leave ringfence's own threads no CPU.
#[test]
fn real_time_without_the_right_or_the_room_is_refused() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let mut plain = place.command(&["--cpuset-cpus", "1", "--realtime", "7"]);
    // SAFETY: makes two system calls between fork and exec.
    unsafe { plain.pre_exec(drop_the_right) };
    let said = refusal(&plain.output().unwrap());
    assert!(said.contains("CAP_SYS_NICE") && said.contains("ulimit -r"), "{said}");
    if real_time_works() {
        let mut narrow = place.command(&["--cpuset-cpus", "1", "--realtime", "7"]);
        confine(&mut narrow, &[1]);
        let said = refusal(&narrow.output().unwrap());
        assert!(said.contains("leave a CPU for them"), "{said}");
    }
    let said = place.refused(&["--realtime", "7"]);
    assert!(said.contains("--pin strict"), "{said}");
}

/// Proves that KVM's own thread for the PIT is moved off the vCPU's CPU.
#[test]
fn the_pits_thread_is_moved() {
    if !usable(2) || !is_root() {
        return;
    }
    let place = Place::new();
    let guest = place.start(&["--cpuset-cpus", "1", "--irqchip", "kernel"]);
    let name = format!("kvm-pit/{}", guest.pid());
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim() == name).then(|| field(&entry.path(), "Cpus_allowed_list"))
    });
    let cpus = found.expect("a machine with a PIT in KVM has a thread for it");
    assert!(!cpus.contains('1') && cpus.starts_with('0'), "{cpus}");
}

/// Proves that on a host without SMT isolation changes nothing, and with it takes the siblings, so that one guest a core runs.
#[test]
fn an_isolated_core_is_one_guests() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let siblings = fs::read_to_string("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list").unwrap();
    let alone = siblings.trim() == "1";
    let list = if alone { "1".to_owned() } else { siblings.trim().to_owned() };
    let guest = place.start(&["--cpuset-cpus", &list, "--smt", "isolate"]);
    let locks = fs::read_dir(place.folder.path().join("runtime/cpus")).unwrap().count();
    assert!(list.contains(&guest.vcpu(0)));
    assert_eq!(locks == 1, alone, "{list}: {locks} locks");
}

/// Proves that each way to halt starts a guest that ends as it should; a page-table based KVM is said to have none.
#[test]
fn guests_halt_in_each_way() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    for how in ["host", "host:0", "host:50", "guest"] {
        let said = place.start(&["--cpuset-cpus", "1", "--halt", how]).kill();
        let expected = how == "guest" && guests::ring_0_is_emulated();
        assert_eq!(said.contains("--halt guest changes nothing here"), expected, "{how}: {said}");
    }
}

/// Proves that `check` draws who has a CPU, proposes others, and says the same in JSON.
#[test]
fn check_shows_what_is_taken() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let guest = place.start(&["--name", "web", "--cpuset-cpus", "1"]);
    let check = |arguments: &[&str]| {
        let mut command = Command::new(place.command(&[]).get_program());
        let command = command.arg("check").args(arguments);
        let output = command.env("RINGFENCE_RUNTIME", place.folder.path().join("runtime")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = check(&["--cpus", "1"]);
    assert!(text.contains(&format!("given to guest \"web\" (pid {})", guest.pid())), "{text}");
    assert!(text.contains(" 1A ") || text.contains("1A/"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&check(&["--cpus", "1", "--json"])).unwrap();
    assert_eq!(json["cpu_map"]["taken"][0]["cpu"], 1);
    let list = json["cpu_map"]["proposal"]["cpuset_cpus"].as_str().unwrap();
    assert!(!list.contains('1') && text.contains(&format!("--cpuset-cpus {list}")), "{list}: {text}");
    drop(guest);
    assert!(!check(&[]).contains("given to"), "the kernel lets go of a lock with its process");
}

/// Proves that a guest that asks for no CPUs leaves no lock and is where its parent is.
#[test]
fn nothing_is_asked_nothing_is_done() {
    if !usable(2) {
        return;
    }
    let place = Place::new();
    let guest = place.start(&[]);
    assert_eq!(guest.threads("Cpus_allowed_list").values().collect::<std::collections::BTreeSet<_>>().len(), 1);
    assert!(!Path::new(&place.folder.path().join("runtime/cpus")).exists());
}

/// Lets a command run on these CPUs only.
fn confine(command: &mut Command, cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    // SAFETY: makes one system call between fork and exec.
    unsafe { command.pre_exec(move || Ok(rustix::thread::sched_setaffinity(None, &set)?)) };
}
