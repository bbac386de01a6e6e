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

mod statistics;
mod subjects;
mod trace;

use std::io::Write;
use std::time::Duration;

use statistics::Sample;
use subjects::Subject;

/// What one subject's runs gave, in seconds.
#[derive(Default)]
struct Measured {
    first_run: Sample,
    own_share: Sample,
    whole: Sample,
}

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

fn main() {
    let runs: usize = argument("--runs").unwrap_or(20);
    let kernel = subjects::trivial_kernel();
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
                }
            }
        }
        eprint!("\rrun {turn} of {runs}");
        let _ = std::io::stderr().flush();
    }
    eprintln!();
    print_table(&subjects, &measured);
    if let Some(path) = argument::<String>("--json") {
        write_json(&path, &subjects, &measured);
    }
}

fn print_table(subjects: &[Subject], measured: &[Measured]) {
    type Column = fn(&Measured) -> &Sample;
    let columns: [(&str, Column); 3] =
        [("exec to KVM_RUN", |m| &m.first_run), ("own share", |m| &m.own_share), ("exec to exit", |m| &m.whole)];
    for (title, column) in columns {
        let base = column(&measured[0]);
        if base.is_empty() {
            continue;
        }
        println!("\n{title}, ms, {} runs   median    min    p90    max   ratio to {}", base.len(), subjects[0].name);
        for (subject, m) in subjects.iter().zip(measured) {
            let sample = column(m);
            let (ratio, low, high) = sample.ratio_to(base);
            let ms = |seconds: f64| seconds * 1e3;
            println!(
                "{:<28}{:>8.2}{:>7.2}{:>7.2}{:>7.2}   {ratio:.2} [{low:.2}, {high:.2}]",
                subject.name,
                ms(sample.quantile(0.5)),
                ms(sample.quantile(0.0)),
                ms(sample.quantile(0.9)),
                ms(sample.quantile(1.0)),
            );
        }
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
                "exec_to_exit_s": m.whole.values(),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&rows).expect("numbers and text are JSON") + "\n";
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {path}: {e}"));
}

/// No subject takes longer for a guest of a few instructions; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(20);
