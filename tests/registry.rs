//! `ringfence ps` and `ringfence inspect`, with guests that run.

#[allow(dead_code, reason = "not all of it is used here")]
mod guests;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guests::{Guest, finish, halt, kvm_works, say};
use serde_json::Value;
use tempfile::TempDir;

/// Runs ringfence with a list of machines of its own.
fn ringfence(runtime: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(args).env("RINGFENCE_RUNTIME", runtime).stdin(Stdio::null());
    command.output().expect("ringfence starts")
}

/// A guest that says a word, and then halts with interrupts off, or spins.
fn start(runtime: &Path, options: &[&str], spin: bool) -> Child {
    let guest = Guest::new(|a| {
        say(a, "up")?;
        if spin {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            return a.jmp(again);
        }
        halt(a)
    });
    let mut child = guest.start_with(options, &[("RINGFENCE_RUNTIME", runtime.as_os_str())]);
    let mut word = [0; 2];
    std::io::Read::read_exact(child.stdout.as_mut().expect("it is piped"), &mut word).expect("the guest speaks");
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it is there");
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The list, once `settled` is true of it: states take a moment to be reached.
fn machines(runtime: &Path, settled: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let list = json(&ringfence(runtime, &["ps", "--json"]))["machines"].as_array().expect("a list").clone();
        if settled(&list) {
            return list;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{list:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Proves that machines are listed while they run, with what they were given and what they do; that a name is taken while its
/// machine runs, however that ends; and that a table says the same.
#[test]
fn running_machines_are_listed() {
    if !kvm_works() {
        return;
    }
    let runtime = TempDir::new().expect("a folder");
    let runtime = runtime.path();
    let idle = start(runtime, &["--name", "sleepy", "--memory", "64M"], false);
    let mut busy = start(runtime, &["--cpus", "2", "--memory", "100M"], true);
    let made_up = format!("vm-{}", busy.id());
    let states = |list: &[Value]| list.iter().map(|m| m["state"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>();
    let list = machines(runtime, |list| states(list) == ["idle", "running"]);
    for (machine, name, pid, vcpus, mib) in
        [(&list[0], "sleepy", idle.id(), 1, 64), (&list[1], made_up.as_str(), busy.id(), 2, 100)]
    {
        assert_eq!((machine["name"].as_str(), machine["pid"].as_u64()), (Some(name), Some(pid.into())));
        assert_eq!((machine["vcpus"].as_u64(), machine["memory_bytes"].as_u64()), (Some(vcpus), Some(mib << 20)));
        let resident = machine["resident_bytes"].as_u64().expect("it is shown");
        assert!(resident > 0 && resident <= mib << 20, "{machine}");
        assert!(machine["uptime_seconds"].as_f64() < Some(60.0), "{machine}");
    }
    let table = String::from_utf8(ringfence(runtime, &["ps"]).stdout).expect("text");
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "PID", "CPUS", "MEMORY", "RESIDENT", "UPTIME", "STATE"]);
    assert_eq!((words[1][0], *words[1].last().expect("a word")), ("sleepy", "idle"), "{table}");
    let taken = Guest::new(halt).start_with(&["--name", "sleepy"], &[("RINGFENCE_RUNTIME", runtime.as_os_str())]);
    let taken = finish(taken);
    assert_eq!(taken.status, Some(125));
    assert!(taken.stderr.contains(&format!("runs already, as process {}", idle.id())), "{}", taken.stderr);
    signal(&busy, rustix::process::Signal::STOP);
    machines(runtime, |list| states(list) == ["idle", "stopped"]);
    // Killed, it has no chance to say so.
    busy.kill().expect("it is there");
    busy.wait().expect("it ends");
    assert_eq!(machines(runtime, |list| list.len() == 1)[0]["name"], "sleepy");
    signal(&idle, rustix::process::Signal::TERM);
    assert_eq!(finish(idle).status, Some(143));
    assert!(machines(runtime, <[Value]>::is_empty).is_empty());
    let left = std::fs::read_dir(runtime.join("machines")).expect("it is there");
    assert_eq!(left.count(), 0, "no file is left");
}

/// Proves that `inspect` finds by name and by process the threads, the RAM and the confinement that there are, each from the
/// kernel's files, that what was asked for and found is marked so, and that the exit status says it.
#[test]
fn a_machine_is_inspected() {
    if !kvm_works() {
        return;
    }
    let runtime = TempDir::new().expect("a folder");
    let runtime = runtime.path();
    let options =
        ["--name", "seen", "--cpus", "2", "--memory", "3200M", "--no-merge", "--cpuset-cpus", "0", "--pin", "off"];
    let child = start(runtime, &options, true);
    let output = ringfence(runtime, &["inspect", "--json", "seen"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    assert_eq!(report["same"], true);
    assert_eq!(report["machine"]["ram"].as_array().map(Vec::len), Some(2), "below and above the 32-bit hole: {report}");
    assert_eq!(report["found"]["guest_ram"]["mapped"].as_u64(), Some(3200 << 20));
    let threads = report["found"]["threads"].as_array().expect("a list");
    for name in ["ringfence", "vcpu0", "vcpu1", "console"] {
        let thread = threads.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
        let status = std::fs::read_to_string(format!("/proc/{}/task/{}/status", child.id(), thread["tid"]));
        let status = status.expect("the thread is there");
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v[1..].trim().to_owned());
        assert_eq!(thread["affinity"].as_str(), field("Cpus_allowed_list").as_deref());
        assert_eq!(thread["seccomp_mode"].to_string(), field("Seccomp").expect("it is told"));
        assert_eq!((thread["policy"].as_str(), thread["seccomp_mode"].as_u64()), (Some("SCHED_OTHER"), Some(2)));
    }
    let output = ringfence(runtime, &["inspect", &child.id().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for part in
        ["  ok    vCPUs", "  ok    guest RAM         3.1 GiB", "vCPU 1", "anon_inode:kvm-vm", "All that was asked for"]
    {
        assert!(text.contains(part), "\"{part}\" is missing from:\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    // A record that asks for more than there is: the difference is shown and is the exit status.
    let path = runtime.join("machines/seen");
    let record = std::fs::read_to_string(&path).expect("the record is there");
    std::fs::write(&path, record.replace("\"vcpus\":2", "\"vcpus\":3")).expect("the record is there");
    let output = ringfence(runtime, &["inspect", "seen"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("DIFFERS: asked 3, found 2 threads"), "{text}");
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(finish(child).status, Some(143));
}
