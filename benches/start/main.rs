//! How long a monitor takes from exec to the guest's first instruction, and to its own exit, beside other monitors.
//!
//! `cargo bench --bench start -- [--runs N] [--json FILE]`, as root (for the kernel's tracing) on a machine with /dev/kvm.
//!
//! Every subject boots the same file: an ELF kernel of a few bytes with a PVH note, which resets the machine. The subjects
//! take turns, run by run, so that a machine whose speed drifts treats all alike; a first turn is not counted. Two things are
//! measured, in turns of their own:
//!
//! - with the kernel's tracing on: from the child's execve to its first KVM_RUN, and the same without the time in which any of
//!   its threads was inside one of KVM's ioctls: the monitor's own share;
//! - with tracing off: from just before the child is made until it has been waited for.
//!
//! Subjects of 8 GiB stand beside those of 128 MiB, and a program that makes nothing but KVM's calls beside the monitors: what
//! more RAM costs it, KVM costs. That part is a column of its own, KVM_SET_USER_MEMORY_REGION.

mod bare;
mod statistics;
mod subjects;
mod trace;
mod trivial;

use std::io::Write;
use std::time::Duration;

use statistics::Sample;
use subjects::Subject;

/// What one subject's runs gave, in seconds.
#[derive(Default)]
struct Measured {
    first_run: Sample,
    own_share: Sample,
    taking_ram: Sample,
    whole: Sample,
}

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, bare::WORD, mib] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return bare::run(mib.parse().expect("MiB of RAM"), &trivial::CODE);
    }
    let runs: usize = argument("--runs").unwrap_or(20);
    let kernel = trivial::kernel();
    let (subjects, absent) = subjects::all(kernel.path());
    for (name, reason) in &absent {
        println!("not run: {name}: {reason}");
    }
    let tracer = trace::Tracer::new();
    if let Err(reason) = &tracer {
        println!("not measured: exec to first KVM_RUN: {reason}");
    }
    let mut measured: Vec<Measured> = subjects.iter().map(|_| Measured::default()).collect();
    for turn in 0..=runs {
        for (subject, into) in subjects.iter().zip(&mut measured) {
            let traced = tracer.as_ref().ok().and_then(|tracer| tracer.start(subject));
            let whole = subject.run();
            if turn > 0 {
                into.whole.push(whole.as_secs_f64());
                if let Some(start) = traced {
                    into.first_run.push(start.first_run.as_secs_f64());
                    into.own_share.push(start.own_share.as_secs_f64());
                    into.taking_ram.push(start.taking_ram.as_secs_f64());
                }
            }
        }
        eprint!("\rrun {turn} of {runs}");
        let _ = std::io::stderr().flush();
    }
    eprintln!();
    print_tables(&subjects, &measured);
    if let Some(path) = argument::<String>("--json") {
        write_json(&path, &subjects, &measured);
    }
}

fn print_tables(subjects: &[Subject], measured: &[Measured]) {
    type Column = fn(&Measured) -> &Sample;
    let columns: [(&str, Column); 4] = [
        ("exec to first KVM_RUN", |m| &m.first_run),
        ("own share of it", |m| &m.own_share),
        ("KVM_SET_USER_MEMORY_REGION", |m| &m.taking_ram),
        ("exec to exit", |m| &m.whole),
    ];
    for (title, column) in columns {
        let rows: Vec<_> = subjects.iter().zip(measured).map(|(s, m)| (s.name, column(m))).collect();
        statistics::print_table(title, "ms", &rows);
    }
    println!("\nratio: median of the ratios run by run, with their quartiles");
}

fn write_json(path: &str, subjects: &[Subject], measured: &[Measured]) {
    let rows: Vec<_> = subjects
        .iter()
        .zip(measured)
        .map(|(subject, m)| {
            serde_json::json!({
                "subject": subject.name,
                "command": subject.command_line(),
                "exec_to_first_run_s": m.first_run.values(),
                "own_share_s": m.own_share.values(),
                "taking_ram_s": m.taking_ram.values(),
                "exec_to_exit_s": m.whole.values(),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&rows).expect("numbers and text are JSON") + "\n";
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {path}: {e}"));
}

/// No subject takes longer for a guest of a few instructions; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(20);
