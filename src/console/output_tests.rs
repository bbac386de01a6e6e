//! Tests of the output with real pipes and threads.

use super::*;
use crate::console::drain::Descriptor;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), writer.into())
}

fn to(fd: OwnedFd) -> Arc<Output> {
    Output::new(Box::new(Descriptor::Owned(fd)))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Pushes as the UART does: what is refused waits for the room callback.
fn push_all(output: &Arc<Output>, bytes: &[u8]) -> usize {
    let (called, room) = mpsc::channel();
    output.on_room(move || {
        let _ = called.send(());
    });
    let mut refusals = 0;
    for &byte in bytes {
        while !output.push(byte) {
            refusals += 1;
            room.recv_timeout(Duration::from_secs(20)).expect("a refused push is followed by the room callback");
        }
    }
    refusals
}

/// 4 MB through a pipe whose reader is slow at first: all arrives, in order, and refusals ended by the callback.
#[test]
fn nothing_is_lost_and_room_is_announced() {
    let (mut reader, writer) = pipe();
    let output = to(writer);
    output.start().unwrap();
    let bytes = pattern(4_000_000);
    let expected = bytes.clone();
    let reading = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        let mut all = vec![0; expected.len()];
        reader.read_exact(&mut all).unwrap();
        assert!(all == expected);
    });
    let refusals = push_all(&output, &bytes);
    assert!(refusals > 0, "the ring was never full, the test proves nothing");
    assert!(output.flush(Some(Instant::now() + Duration::from_secs(20))));
    reading.join().unwrap();
    assert_eq!(output.statistics().written, 4_000_000);
    output.stop();
}

/// Bytes pushed before the thread runs are kept, and a flush starts it.
#[test]
fn early_bytes_are_kept() {
    let (mut reader, writer) = pipe();
    let output = to(writer);
    for &byte in b"early" {
        assert!(output.push(byte));
    }
    assert!(output.flush(None));
    let mut got = [0; 5];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    output.stop();
}

/// A byte pushed while the writer sleeps goes out at once, again and again: no wake-up is lost.
#[test]
fn no_wake_up_is_lost() {
    let (mut reader, writer) = pipe();
    let output = to(writer);
    output.start().unwrap();
    for i in 0..300u32 {
        assert!(output.push(i as u8));
        let mut got = [0; 1];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got[0], i as u8);
        if i % 3 == 0 {
            thread::sleep(Duration::from_micros(u64::from(i) * 7));
        }
    }
    output.stop();
}

/// A reader that never reads never blocks a push: it is refused, at once.
#[test]
fn a_stuck_reader_never_blocks_a_push() {
    let (reader, writer) = pipe();
    let output = to(writer);
    output.start().unwrap();
    let start = Instant::now();
    let mut accepted = 0;
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 1000 {
        if output.push(b'x') {
            (accepted, refused_in_a_row) = (accepted + 1, 0);
        } else {
            refused_in_a_row += 1;
            if refused_in_a_row == 500 {
                thread::sleep(Duration::from_millis(50)); // the writer fills the pipe meanwhile
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    // The ring and what the pipe holds, no more.
    assert!((CAPACITY..=CAPACITY + 2 * 65536).contains(&accepted), "{accepted}");
    assert!(!output.has_room());
    // A flush against it ends at its deadline and says so.
    let start = Instant::now();
    assert!(!output.flush(Some(start + Duration::from_millis(60))));
    assert!((Duration::from_millis(55)..Duration::from_secs(5)).contains(&start.elapsed()));
    drop(reader);
    // With the reader gone the output is discarded and who waited is called.
    assert!(output.flush(Some(Instant::now() + Duration::from_secs(10))));
    assert!(output.push(b'y') && output.has_room());
    assert_eq!(output.fault().unwrap().raw_os_error(), Some(libc::EPIPE));
}

/// The reader leaves: later output is discarded and counted, the reason remembered, the guest called when it waits.
#[test]
fn a_dead_reader_discards() {
    let (reader, writer) = pipe();
    let output = to(writer);
    drop(reader);
    output.start().unwrap();
    let bytes = pattern(1_000_000);
    push_all(&output, &bytes);
    assert!(output.flush(None));
    let statistics = output.statistics();
    assert_eq!((statistics.written, statistics.discarded), (0, 1_000_000));
    assert_eq!(output.fault().unwrap().raw_os_error(), Some(libc::EPIPE));
}

/// Standard output may be non-blocking because another process made it so: nothing is lost all the same.
#[test]
fn a_non_blocking_descriptor_loses_nothing() {
    let (mut reader, writer) = pipe();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let output = to(writer);
    output.start().unwrap();
    let bytes = pattern(500_000);
    let expected = bytes.clone();
    let reading = thread::spawn(move || {
        let mut all = vec![0; expected.len()];
        for chunk in all.chunks_mut(50_000) {
            thread::sleep(Duration::from_millis(5));
            reader.read_exact(chunk).unwrap();
        }
        assert!(all == expected);
    });
    push_all(&output, &bytes);
    assert!(output.flush(None));
    reading.join().unwrap();
    output.stop();
}

/// A guest in full flow costs few write calls: bytes are gathered, not written one by one.
#[test]
fn writes_are_gathered() {
    let output = to(File::create("/dev/null").unwrap().into());
    output.start().unwrap();
    let mut pushed = 0u64;
    for _ in 0..200 {
        for _ in 0..50 {
            assert!(output.push(b'.'));
            pushed += 1;
        }
        thread::sleep(Duration::from_micros(20));
    }
    assert!(output.flush(None));
    let statistics = output.statistics();
    assert_eq!(statistics.written, pushed);
    assert!(statistics.writes < pushed / 20, "{} writes for {pushed} bytes", statistics.writes);
    output.stop();
}

/// The callback may push, as the UART does that empties its FIFO then.
#[test]
fn the_callback_may_push() {
    let (mut reader, writer) = pipe();
    let output = to(writer);
    let weak = Arc::downgrade(&output);
    output.on_room(move || {
        if let Some(output) = weak.upgrade() {
            assert!(output.push(b'!'));
        }
    });
    let mut accepted = 0;
    while output.push(b'.') {
        accepted += 1;
    }
    assert_eq!(accepted, CAPACITY, "nothing is written before the start");
    output.start().unwrap();
    let mut all = vec![0; CAPACITY + 1];
    reader.read_exact(&mut all).unwrap();
    assert_eq!(all.iter().filter(|&&b| b == b'!').count(), 1);
    assert_eq!(all[CAPACITY], b'!');
    output.stop();
}

/// An output nobody reads takes all and keeps nothing.
#[test]
fn nowhere_takes_all() {
    let output = Output::nowhere();
    assert!(output.has_room());
    assert!((0..100_000).all(|_| output.push(0)));
    output.start().unwrap();
    assert!(output.flush(None));
    assert_eq!(output.statistics(), OutputStatistics { written: 0, discarded: 100_000, writes: 0 });
    assert!(output.fault().is_none());
}
