//! What a start costs in instructions, from the monitor's exec to the guest's userspace: a start that became slower fails here,
//! however fast or busy the machine is.
//!
//! Test bed 2 with `--icount` counts them: its clock goes by one nanosecond an instruction, so that `ringfence bench boot` in there
//! measures thousands of instructions where it says microseconds. The clock goes on while everything waits, as KVM does for the
//! host's other CPUs when it makes a machine; that counts, too.

#[path = "bed2/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod bed;
#[path = "split/mod.rs"]
mod split;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bed::guest::{TICK, default_kernel};
use bed::{Bed, skip, usable};
use split::{Symbols, Tools};

/// Most instructions, in millions, from exec to userspace by a release build.
const LIMIT: f64 = 28.0;
/// The same by a debug build, whose own part is several times as large.
const DEBUG_LIMIT: f64 = 33.0;
/// Most of it, in millions, between the first KVM_RUN and userspace: the guest's kernel.
const KERNEL_LIMIT: f64 = 11.5;
/// Runs whose median counts: interrupts of the emulated machine come at other moments in each.
const RUNS: &str = "5";

/// The release build, when it is as new as the sources, else what the tests are built with.
fn binary() -> (PathBuf, f64) {
    let debug = PathBuf::from(env!("CARGO_BIN_EXE_ringfence"));
    let release = debug.ancestors().nth(2).map(|dir| dir.join("release/ringfence")).unwrap_or_default();
    let newest = newest(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let built = std::fs::metadata(&release).and_then(|metadata| metadata.modified());
    match built {
        Ok(built) if built >= newest => (release, LIMIT),
        _ => (debug, DEBUG_LIMIT),
    }
}

fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).expect("the sources").flatten();
    let times = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => newest(&entry.path()),
        _ => entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::now()),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Proves that the default kernel comes from the monitor's exec to userspace within the limit, and shows what for.
#[test]
fn the_start_costs_no_more_instructions_than_it_may() {
    if !usable() {
        return;
    }
    let kernel = match default_kernel() {
        Ok(path) => path,
        Err(reason) => return skip(reason),
    };
    let (binary, limit) = binary();
    let job = format!(
        "ringfence bench boot --guest linux --subjects ringfence --runs {RUNS} --slow-runs {RUNS} --kernel /guest/kernel \
         --cmdline {TICK} --json /out/boot.json >/out/boot.txt 2>/out/errors"
    );
    let done = Bed::with(&binary, 1, 2048, 200).counting().file(&kernel, "/guest/kernel").script(&job);
    assert_eq!(done.status, 0, "{done}\n{}", done.text("errors"));
    let said = done.text("boot.txt");
    let report: serde_json::Value = serde_json::from_str(&done.text("boot.json")).expect("a report");
    let subject = &report["groups"][0]["subjects"][0];
    let series = subject["series"].as_array().expect("samples").iter().find(|series| series["measure"] == "bell");
    let millions =
        series.unwrap_or_else(|| panic!("no userspace: {said}"))["summary"]["p50"].as_f64().expect("a median") / 1e3;
    println!("exec to userspace: {millions:.1} million instructions, at most {limit} ({})", binary.display());
    let phases = subject["phases"]["phases"].as_array().expect("phases");
    let kernel = phases.iter().find(|phase| phase["part"] == "kernel").expect("the kernel's phase");
    let kernel = kernel["mean_us"].as_f64().expect("a mean") / 1e3;
    println!("{}", said.split("Phases of").nth(1).and_then(|rest| rest.split("Memory").next()).unwrap_or(&said));
    assert!(millions > 1.0 && millions <= limit, "{millions} million instructions, more than {limit}: {said}");
    assert!(
        kernel > 1.0 && kernel <= KERNEL_LIMIT,
        "the kernel's {kernel} million are more than {KERNEL_LIMIT}: {said}"
    );
}

/// Splits a start into causes of at most two million instructions each, for docs/boot.md:
/// `cargo test --test instructions -- --ignored --nocapture`. Proves that the causes make up the whole.
#[test]
#[ignore = "tells what a start is spent on, for a person to read"]
fn what_a_start_is_spent_on() {
    if !usable() {
        return;
    }
    let kernel = match default_kernel() {
        Ok(path) => path,
        Err(reason) => return skip(reason),
    };
    let map = kernel.with_file_name("System.map");
    let Ok(map) = std::fs::read_to_string(&map) else { return skip(format!("no {}", map.display())) };
    let guest = Symbols::read(&map);
    let end = guest.address("write_port").expect("the kernel has /dev/port");
    let tools = Tools::make();
    let job = "cat /proc/kallsyms >/out/kallsyms; for run in 1 2 3 4 5 6; do \
         /bin/launch /bin/ringfence run --kernel /guest/kernel --cmdline 'quiet nohz=off' -- true || exit; done";
    let (binary, _) = binary();
    let bed = Bed::with(&binary, 1, 2048, 400).counting().file(&kernel, "/guest/kernel");
    let done = bed.file(&tools.launch(), "/bin/launch").plugin(&tools.plugin(end)).script(job);
    assert_eq!(done.status, 0, "{done}");
    let split = tools.counted(&Symbols::read(&done.text("kallsyms")), &guest);
    let (rows, left) = split.rows(2.0, 0.05);
    println!(
        "{:.1} million from exec to userspace, mean of {} runs ({})",
        split.millions(),
        split.runs(),
        binary.display()
    );
    let mut part = "";
    for (of, millions, cause) in rows {
        if of != std::mem::replace(&mut part, of) {
            println!("\n{of}");
        }
        println!("{millions:8.3}  {cause}");
    }
    assert_eq!(split.runs(), 5, "{done}");
    assert!(left.abs() < 0.01, "{left} million are of no cause");
}
