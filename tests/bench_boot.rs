//! `ringfence bench boot` and `bench compare` from end to end, with real subjects.
//!
//! What needs /dev/kvm prints "skipped: reason" without it; with CI=true that is a failure.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn ringfence(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfence")).args(arguments).output().expect("ringfence starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_kvm() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has /dev/kvm: {error}");
        println!("skipped: /dev/kvm: {error}");
    }
    opened.is_ok()
}

/// Runs the benchmark into a folder; its report and what it printed.
fn measure(dir: &Path, more: &[&str]) -> (Value, String) {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (json, csv, html) = (path("boot.json"), path("boot.csv"), path("page"));
    let mut arguments = vec!["bench", "boot", "--runs", "3", "--json", &json, "--csv", &csv, "--html", &html];
    arguments.extend(more);
    let output = ringfence(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = std::fs::read_to_string(&json).expect("the report is written");
    (serde_json::from_str(&report).expect("it is JSON"), text(&output.stdout))
}

fn samples(report: &Value, subject: &str, measure: &str) -> Vec<f64> {
    let subjects = report["groups"].as_array().unwrap().iter().flat_map(|group| group["subjects"].as_array().unwrap());
    let subject =
        subjects.into_iter().find(|s| s["name"] == subject).unwrap_or_else(|| panic!("no {subject}: {report}"));
    let series = subject["series"].as_array().unwrap().iter().find(|series| series["measure"] == measure);
    let series = series.unwrap_or_else(|| panic!("no {measure}: {subject}"));
    series["us"].as_array().unwrap().iter().map(|us| us.as_f64().unwrap()).collect()
}

/// Proves that a monitor is measured from exec to payload and exit, alone, several at once and over sizes, with its phases adding
/// up, its way to the first KVM_RUN told with nothing traced, and its memory counted; that samples are kept raw; that what is not installed is named; that the table fits a terminal
/// and the page needs nothing else.
#[test]
fn a_trivial_guest_is_measured() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let only = "ringfence,cloud-hypervisor";
    let more = ["--guest", "trivial", "--subjects", only, "--parallel", "1,2", "--sweep", "memory=64M..128M,cpus=1..2"];
    let (report, printed) = measure(dir.path(), &more);
    let (userspace, exit) = (samples(&report, "ringfence", "userspace"), samples(&report, "ringfence", "exit"));
    assert_eq!((userspace.len(), exit.len()), (3, 3));
    assert!(userspace.iter().zip(&exit).all(|(line, end)| *line > 100.0 && line <= end), "{report}");
    assert_eq!(samples(&report, "ringfence", "bell").len(), 3);
    let [whole, own] = ["first_run_reported", "own_share_reported"].map(|key| samples(&report, "ringfence", key));
    assert_eq!((whole.len(), own.len()), (3, 3));
    assert!(whole.iter().zip(&own).all(|(whole, own)| 0.0 < *own && own < whole), "{whole:?} {own:?}");
    let subject = &report["groups"][0]["subjects"][0];
    let phases = &subject["phases"];
    let sum: f64 = phases["phases"].as_array().unwrap().iter().map(|p| p["mean_us"].as_f64().unwrap()).sum();
    assert!((sum - phases["whole_us"].as_f64().unwrap()).abs() < 1.0, "{phases}");
    assert!(phases["phases"].as_array().unwrap().len() > 8, "{phases}");
    let ram = subject["memory"]["guest_ram_bytes"].as_u64().unwrap();
    assert!(ram > 0 && ram < 64 << 20, "{subject}");
    let loads: Vec<_> = report["loads"].as_array().unwrap().iter().map(|load| load["failures"].to_string()).collect();
    assert_eq!(loads, ["[]", "[]"]);
    assert_eq!(report["growths"].as_array().unwrap().len(), 2, "{}", report["growths"]);
    if !printed.contains("cloud-hypervisor  ") {
        assert!(printed.contains("not run: cloud-hypervisor: not installed."), "{printed}");
    }
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
    let csv = std::fs::read_to_string(dir.path().join("boot.csv")).unwrap();
    assert!(csv.lines().filter(|line| line.starts_with("trivial,ringfence,exit,")).count() >= 3, "{csv}");
    let page = std::fs::read_to_string(dir.path().join("page/index.html")).unwrap();
    for word in ["not installed", "Phases of ringfence", "How to reproduce it", "starts a second"] {
        assert!(page.contains(word), "{word}");
    }
    assert!(dir.path().join("page/trivial-userspace.svg").exists() && !page.contains("src="));
}

/// Proves that a plain process is measured where there is nothing else, by few bytes of a harness around it, and that an
/// unknown subject is refused.
#[test]
fn a_process_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (report, printed) = measure(dir.path(), &["--guest", "linux", "--subjects", "process,namespaces"]);
    assert_eq!(samples(&report, "process", "exit").len(), 3);
    assert!(printed.contains("The harness adds"), "{printed}");
    let refused = ringfence(&["bench", "boot", "--subjects", "lxc"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("there is no subject \"lxc\""), "{}", text(&refused.stderr));
}

/// Proves that a report compared with itself shows no change, that a real one is found and sets the status, and that a file
/// that is no report is refused.
#[test]
fn reports_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, us: f64| {
        let samples: Vec<f64> = (0..20).map(|i| us + f64::from(i)).collect();
        let series = serde_json::json!([{"measure": "exit", "us": samples}]);
        let report = serde_json::json!({
            "schema": 1, "program": "ringfence bench boot", "environment": {"kvm": "svm", "cpus": {}},
            "groups": [{"name": "linux", "subjects": [{"name": "runc", "series": series}]}],
        });
        let path = dir.path().join(name);
        std::fs::write(&path, report.to_string()).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (fast, slow) = (write("a.json", 1000.0), write("b.json", 1100.0));
    let compare = |a: &str, b: &str| {
        let output = ringfence(&["bench", "compare", a, b]);
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().unwrap(), said.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let (status, said) = compare(&fast, &slow);
    assert!(status == 1 && said.contains("is slower by 9.9 %") && said.contains("that is real"), "{status} {said}");
    let (status, said) = compare(&slow, &fast);
    assert!(status == 0 && said.contains("is faster by"), "{status} {said}");
    let (status, said) = compare(&fast, &fast);
    assert!(status == 0 && said.contains("no difference that chance does not explain"), "{status} {said}");
    let output = ringfence(&["bench", "compare", "--reference", "crun", &fast, &slow]);
    assert!(output.status.code() == Some(125) && text(&output.stderr).contains("the subject \"crun\""), "{output:?}");
    let (status, said) = compare(&fast, "/dev/null");
    assert!(status == 125 && said.contains("/dev/null is no report"), "{status} {said}");
}
