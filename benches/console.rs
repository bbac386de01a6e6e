//! What the console's output costs the guest: `cargo bench --bench console`.
//!
//! Each row pushes bytes as the UART does, one at a time, to /dev/null, a pipe and a pseudoterminal that are read as fast as
//! they can be: 10 MB without a pause ("full flow"), and 1 MB with a pause of 1 us after each, as a guest makes whose every
//! byte is an exit. The median of five runs.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringfence::config::console::ConsoleSpec;
use ringfence::console::Console;

const FULL_FLOW: usize = 10_000_000;
const APART: usize = 1_000_000;
const RUNS: usize = 5;

/// The median's time in push alone and in all, and the write calls of that run.
struct Row {
    total: usize,
    pushing: Duration,
    all: Duration,
    writes: u64,
}

fn run(path: PathBuf, apart: Option<Duration>) -> Row {
    let total = if apart.is_some() { APART } else { FULL_FLOW };
    let mut console = Console::open(&ConsoleSpec::File(path)).expect("the console opens");
    let output = console.output();
    let (sender, room) = mpsc::channel();
    output.on_room(move || {
        let _ = sender.send(());
    });
    console.start().expect("the console starts");
    let start = Instant::now();
    let mut pushing = Duration::ZERO;
    match apart {
        None => {
            for i in 0..total {
                while !output.push(i as u8) {
                    room.recv().expect("room is announced");
                }
            }
            pushing = start.elapsed();
        }
        Some(apart) => {
            let mut next = Instant::now();
            for i in 0..total {
                while Instant::now() < next {
                    std::hint::spin_loop();
                }
                let before = Instant::now();
                while !output.push(i as u8) {
                    room.recv().expect("room is announced");
                }
                let after = Instant::now();
                pushing += after - before;
                next = after + apart;
            }
        }
    }
    assert!(output.flush(None));
    let all = start.elapsed();
    let statistics = output.statistics();
    assert_eq!(statistics.written as usize, total);
    Row { total, pushing, all, writes: statistics.writes }
}

fn discard(mut file: File) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while matches!(file.read(&mut buffer), Ok(count) if count > 0) {}
    })
}

fn measure(name: &str, apart: Option<Duration>, target: impl Fn() -> (PathBuf, Vec<OwnedFd>)) {
    let mut rows: Vec<Row> = (0..RUNS)
        .map(|_| {
            let (path, _kept) = target();
            run(path, apart)
        })
        .collect();
    rows.sort_by_key(|row| row.all);
    let row = &rows[RUNS / 2];
    println!(
        "{name:<28} {:>7.1} ns a push {:>9.1} MB/s {:>8} writes",
        row.pushing.as_nanos() as f64 / row.total as f64,
        row.total as f64 / row.all.as_secs_f64() / 1e6,
        row.writes
    );
}

fn main() {
    let null = || (PathBuf::from("/dev/null"), Vec::new());
    let pipe = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        discard(File::from(OwnedFd::from(reader)));
        let writer = OwnedFd::from(writer);
        (PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd())), vec![writer])
    };
    let pty = || {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a pseudoterminal");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("ASCII");
        discard(File::from(master));
        (PathBuf::from(name), Vec::new())
    };
    for (flow, apart) in [("full flow", None), ("1 us apart", Some(Duration::from_micros(1)))] {
        measure(&format!("/dev/null, {flow}"), apart, null);
        measure(&format!("pipe, {flow}"), apart, pipe);
        measure(&format!("pseudoterminal, {flow}"), apart, pty);
    }
    // What reading the clock twice adds to each push of the "apart" rows.
    let start = Instant::now();
    for _ in 0..1_000_000 {
        std::hint::black_box(Instant::now());
    }
    println!("(reading the clock: {:.1} ns, in the rows apart once a push)", start.elapsed().as_nanos() as f64 / 1e6);
}
