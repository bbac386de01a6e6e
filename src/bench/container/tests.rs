use super::*;

/// Proves that the configuration is `runc spec`'s in what isolates, and has our limits.
#[test]
fn the_oci_configuration_is_runc_specs_with_our_limits() {
    let limits = Limits { cpu_shares: Some(512), cpuset: CpuList::parse("1,3"), memory: Some(64 << 20) };
    let config = oci::config("/root/fs", "c1", &["/work", "time"], &limits);
    assert_eq!(config["process"]["args"], serde_json::json!(["/work", "time"]));
    assert_eq!(config["linux"]["resources"]["cpu"], serde_json::json!({"shares": 512, "cpus": "1,3"}));
    assert_eq!(config["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(config["linux"]["cgroupsPath"], format!("/ringfence-bench-{}/c1", std::process::id()));
    let plain = oci::config("/root/fs", "c1", &["/work"], &Limits::default());
    assert!(plain["linux"]["resources"].get("cpu").is_none() && plain["linux"].get("seccomp").is_none());
}

/// Proves that what we call "as `runc spec` sets it up" is what the installed runc's `spec` writes.
#[test]
fn the_installed_runcs_own_defaults_are_ours() {
    let dir = empty();
    if !Command::new("runc").arg("spec").current_dir(dir.path()).status().is_ok_and(|status| status.success()) {
        return skipped("runc is not installed");
    }
    let theirs: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let ours = oci::config("rootfs", "c1", &["sh"], &Limits::default());
    for field in ["capabilities", "noNewPrivileges", "rlimits", "user"] {
        let (ours, mut theirs) = (&ours["process"][field], theirs["process"][field].clone());
        if field == "capabilities" {
            // Ambient and inheritable sets are the same three in some versions, absent in others.
            theirs.as_object_mut().unwrap().retain(|set, _| ours.get(set).is_some());
        }
        assert_eq!(ours, &theirs, "{field}");
    }
    for field in ["maskedPaths", "readonlyPaths"] {
        let list = |config: &serde_json::Value| {
            let mut list: Vec<_> = config["linux"][field].as_array().unwrap().iter().map(ToString::to_string).collect();
            list.sort();
            list
        };
        let (ours, theirs) = (list(&ours), list(&theirs));
        // /proc/scsi came and went between versions.
        assert!(ours.iter().all(|path| theirs.contains(path)), "{field}: {ours:?} {theirs:?}");
    }
    assert_eq!(theirs["linux"].get("seccomp"), None);
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn skipped(reason: &str) {
    println!("skipped: {reason}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has it: {reason}");
}

/// Proves, with every runtime that works here, that a container runs our program, tells its process, and is deleted.
#[test]
fn containers_run_and_are_deleted() {
    let dir = empty();
    let rootfs = RootFs::make(&dir.path().join("rootfs"), &[("hello", b"#!/bin/sh\necho hello $1\n")]).unwrap();
    let work = dir.path().join("work");
    let stop = Stop::default();
    let (runtimes, absent) = find(&rootfs, &work, &stop).unwrap();
    for not_run in &absent {
        println!("not run: {}: {} ({})", not_run.name, not_run.reason, not_run.remedy);
        assert!(!not_run.reason.is_empty() && not_run.remedy.ends_with('.'));
    }
    if runtimes.is_empty() {
        return skipped("no container runtime works here");
    }
    for runtime in &runtimes {
        let id = format!("rf-test-{}", std::process::id());
        let mut container = runtime.container(&id, &["/hello", "you"], &Limits::default()).unwrap();
        let done = child::run(container.command(), PATIENCE, &stop).unwrap().success().unwrap();
        assert_eq!(done.stdout, b"hello you\n", "{}", runtime.name);
        drop(container);
        let limits = Limits { cpu_shares: Some(512), cpuset: CpuList::parse("0"), memory: None };
        let mut container = runtime.container(&id, &["/bin/sh", "-c", "echo up; sleep 60"], &limits).unwrap();
        let mut running = child::Child::spawn(container.command()).unwrap();
        running.wait_for(b"up", PATIENCE, &stop).unwrap();
        let pid = container.pid(&stop).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        drop(container);
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}/status")).exists(), "{}: the process is left", runtime.name);
    }
}

/// Proves that known complaints get a remedy of their own.
#[test]
fn remedies_fit_the_complaint() {
    assert!(remedy("docker", "x: Cannot connect to the Docker daemon at unix:///").contains("systemctl"));
    let built_without = "v1 error: v1 cgroup feature is required, but was not enabled during compile time";
    assert!(remedy("youki", built_without).contains("--features v1,v2"));
    assert!(remedy("crun", "cgroups in hybrid mode not supported").contains("mount -t cgroup2"));
    assert!(remedy("crun", "setrlimit (RLIM_MEMLOCK): Operation not permitted").contains("CAP_SYS_RESOURCE"));
    assert!(remedy("podman", "something else").contains("podman run"));
}
