//! `ringfence compare`, end to end on this machine: what it says, what it writes, and that nothing of it is left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn skipped(reason: &str) {
    println!("skipped: {reason}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has it: {reason}");
}

fn ringfence() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringfence"))
}

/// Names of the folders and groups that the comparison with this process id has left.
fn left_behind(temporary: &Path, pid: u32) -> Vec<String> {
    let mut places = vec![temporary.to_owned()];
    places.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    let names = places.iter().flat_map(fs::read_dir).flatten().flatten().map(|e| e.file_name().into_string().unwrap());
    let group = format!("ringfence-bench-{pid}");
    names.filter(|name| name.starts_with("ringfence-compare-") || *name == group).collect()
}

/// Whether a guest can run here; if not, why.
fn ready() -> Result<(), String> {
    let check = ringfence().args(["check", "--json"]).output().map_err(|e| e.to_string())?;
    let report: Value = serde_json::from_slice(&check.stdout).map_err(|e| e.to_string())?;
    if report["can_run"] == true { Ok(()) } else { Err("no usable KVM here (`ringfence check` tells why)".to_owned()) }
}

/// Proves of a subject's measurement that every sample is kept with the slice it is from, that the neighbour had no CPU while it was
/// stopped and had some while it ran, and that the pieces' place in time is known.
fn assert_paired(subject: &Value, runs: usize) {
    let slices = subject["slices"].as_array().unwrap();
    assert!(slices.len() >= 2 && slices.len().is_multiple_of(2), "{slices:?}");
    for (company, cpus) in [("alone", 0.0..=0.001), ("beside", 0.05..=64.0)] {
        let of = || slices.iter().filter(|slice| slice["company"] == company);
        let pieces: u64 = of().map(|slice| slice["pieces"].as_u64().unwrap()).sum();
        let kept = subject[company].as_array().unwrap();
        assert_eq!((of().count(), kept.len() as u64), (slices.len() / 2, pieces), "{company}");
        assert!(kept.len() >= runs && kept.iter().all(|us| us.as_f64().unwrap() > 1.0));
        assert!(of().all(|slice| cpus.contains(&slice["neighbour_cpus"].as_f64().unwrap())), "{company}: {slices:?}");
        assert!(of().all(|slice| slice["seconds"].as_f64().unwrap() >= 0.1));
        assert!(subject["figures"][company]["p50"].as_f64().unwrap() > 1.0);
    }
    for ratio in ["p99_ratio", "p99_ratio_by_pairs"] {
        let ratio = &subject["figures"][ratio];
        let number = |value: &Value| value.as_f64().unwrap();
        assert!(
            number(&ratio["interval"]["low"]) <= number(&ratio["interval"]["high"]) && number(&ratio["value"]) > 0.0
        );
    }
    let uncertainty = subject["clock_uncertainty_us"].as_f64().unwrap();
    assert!(0.0 < uncertainty && uncertainty < 20_000.0 && subject["dropped"].as_u64().unwrap() > 0, "{uncertainty}");
}

/// Proves that a small comparison measures the guest in every respect (and runc where it is installed), says so within 80 columns,
/// keeps every sample, writes a page that needs nothing else, and leaves nothing behind.
#[test]
fn a_small_comparison_is_whole() {
    if let Err(reason) = ready() {
        return skipped(&reason);
    }
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("report.json"), dir.path().join("page"));
    let temporary = dir.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let output = ringfence()
        .args(["compare", "--runs", "200", "--rounds", "1", "--memory", "128M", "--json"])
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = output.id();
    let output = output.wait_with_output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    println!("{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80 || !line.trim().contains(' '), "longer than 80 columns: {line}");
    }
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let named = |list: &str, name: &str| report[list].as_array().unwrap().iter().find(|s| s["name"] == name).cloned();
    if let Some(absent) = named("not_run", "guest") {
        return skipped(absent["reason"].as_str().unwrap());
    }
    let guest = named("isolation", "guest").expect("the guest's isolation");
    assert!(guest["view"]["facts"].as_array().unwrap().iter().all(|fact| fact["of_the_host"] == false), "{guest}");
    assert!(report["panic"]["said"].as_str().unwrap().contains("Kernel panic"));
    for name in ["guest, unpinned", "guest, pinned, reserved"] {
        assert_paired(&named("neighbours", name).expect(name), 200);
    }
    let memory = named("memory", "guest").expect("the guest's memory");
    let held = |when: &str| memory[when]["processes"][0]["pss_bytes"].as_u64().unwrap();
    assert!(held("working") > 64 << 20 && held("working") > held("idle"), "{memory}");
    if named("not_run", "runc").is_none() {
        let runc = named("isolation", "runc").unwrap();
        assert!(runc["view"]["facts"].as_array().unwrap().iter().any(|fact| fact["of_the_host"] == true));
        assert_paired(&named("neighbours", "runc, CPU shares").expect("runc beside a neighbour"), 200);
        assert!(named("memory", "runc").is_some());
    }
    let page = fs::read_to_string(html.join("index.html")).unwrap();
    assert!(["src=", "href=", "url(", "<script"].iter().all(|word| !page.contains(word)));
    assert!(html.join("neighbour-beside.svg").exists() && page.contains("Kernel panic"));
    assert_eq!(left_behind(&temporary, pid), [""; 0]);
}

/// Proves that a comparison that the user stops ends soon, says so by its status, and leaves nothing behind.
#[test]
fn a_stopped_comparison_leaves_nothing() {
    if let Err(reason) = ready() {
        return skipped(&reason);
    }
    let dir = tempfile::tempdir().unwrap();
    for after in [300, 400, 500, 700, 4000] {
        let mut command = ringfence();
        command.args(["compare", "--runs", "200"]).env("TMPDIR", dir.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after));
        let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let asked = Instant::now();
        let status = child.wait().unwrap();
        assert!(interrupted.success() && asked.elapsed() < Duration::from_secs(30));
        assert_eq!(status.code(), Some(130), "stopped after {after} ms");
        assert_eq!(left_behind(dir.path(), child.id()), [""; 0], "stopped after {after} ms");
    }
}
