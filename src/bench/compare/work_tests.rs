use super::*;
use proptest::prelude::*;
use std::process::Command;

#[allow(dead_code, reason = "the program's own source, of which the tests use a part")]
#[path = "../../../kernels/work/record.rs"]
mod record;

use record::Moment;

fn anchor(before: u64, took: u64, told: u64) -> record::Anchor {
    record::Anchor { before, took, told }
}

/// What the program writes of pieces between `stamps`, with a clock of 1 GHz that shows 5 ns more than the counter.
fn written(stamps: &[u64], ring: bool) -> Vec<u8> {
    let mut output = vec![0xff; record::size_max(stamps.len())];
    let (first, last) = (stamps[0], stamps[stamps.len() - 1]);
    let rung = |before, byte| if ring { anchor(before, 3, byte) } else { record::Anchor::default() };
    let begun = Moment { clock: anchor(first - 20, 8, first - 11), ring: rung(first - 10, 128) };
    let ended = Moment { clock: anchor(last + 40, 8, last + 49), ring: rung(last + 50, 133) };
    let length = record::write(&mut output, stamps, 7, &begun, &ended);
    output.truncate(length);
    output
}

proptest! {
    /// Proves that what the program writes is what is read here, whatever the times are: each stamp to the grain, all clocks.
    #[test]
    fn records_round_trip(
        times in proptest::collection::vec(32u64..1 << 40, 1..200), first in 100u64..1 << 60, ring: bool,
    ) {
        let mut stamps = vec![first];
        stamps.extend(times.iter().scan(first, |at, time| { *at += time; Some(*at) }));
        let mut bytes = b"RFBEGIN\nsome text\r\n".to_vec();
        bytes.extend(written(&stamps, ring));
        bytes.extend(b"more");
        let read = read(&bytes).unwrap();
        prop_assert_eq!(&read.stamps, &stamps.iter().map(|stamp| stamp & !31).collect::<Vec<_>>());
        let last = stamps[times.len()];
        prop_assert_eq!(read.clocks[1], Anchor { before: last + 40, took: 8, told: last + 49 });
        prop_assert_eq!(read.rings.map(|rings| rings[1].told), ring.then_some(133));
    }

    /// Proves that no bytes make the reader panic, and that a changed record is not taken for a whole one.
    #[test]
    fn damage_is_seen(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..40, flip in 1u8..255) {
        let mut forged = MAGIC.to_vec();
        forged.extend(&bytes);
        prop_assert!(read(&forged).is_err());
        let mut damaged = written(&(1..50).map(|i| i * i * 1000).collect::<Vec<_>>(), true);
        let line = damaged.iter().position(|byte| *byte == b'\n').unwrap();
        let at = (line + 1 + at).min(damaged.len() - 1);
        damaged[at] ^= flip;
        prop_assert!(read(&damaged).is_err());
    }
}

/// Proves that numbers which no honest work writes are refused, each with the place: a grain too coarse, a counter that runs over,
/// clocks read in the midst of the work, too many pieces.
#[test]
fn lies_are_refused() {
    let line = |fields: &str| format!("RFWORK2 {fields} 1 {}\n\x04", fnv(&[4])).into_bytes();
    let good = "1 7 5 100 10 1 5 9000 1 6 0 0 0 0 0 0";
    assert_eq!(read(&line(good)).unwrap().stamps, [3200, 3264]);
    for (lie, what) in [
        ("1 7 64 100 10 1 5 9000 1 6 0 0 0 0 0 0", "add up"),
        ("1 7 5 18446744073709551615 10 1 5 9000 1 6 0 0 0 0 0 0", "add up"),
        ("1 7 5 100 9000 1 5 9000 1 6 0 0 0 0 0 0", "lie between"),
        ("1 7 5 100 10 1 5 100 1 6 0 0 0 0 0 0", "lie between"),
        ("1 7 5 100 10 18446744073709551615 5 9000 1 6 0 0 0 0 0 0", "lie between"),
        ("1 7 5 100 10 1 5 9000 1 6 10 1 128 99 1 133", "lie between"),
        ("2 7 5 100 10 1 5 9000 1 6 0 0 0 0 0 0", "missing"),
    ] {
        let error = read(&line(lie)).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("at byte"), "{lie}: {error}");
    }
}

/// Proves that the program times what it is asked to, on this host, by a counter whose rate its clock confirms, and that it takes
/// no arguments but its own.
#[test]
fn the_program_times_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("work");
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&program).args(["time", "500", "5000"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.starts_with(BEGIN));
    let record = read(&output.stdout).unwrap();
    let [begun, ended] = record.clocks;
    assert_eq!((record.stamps.len(), record.rings), (501, None));
    let per_second = (ended.before - begun.before) as f64 / ((ended.told - begun.told) as f64 / 1e9);
    assert!((1e8..1e10).contains(&per_second), "{per_second}");
    for wrong in [
        &["time"][..],
        &["time", "0", "1"],
        &["time", "x", "1"],
        &["time", "1", "1", "70000"],
        &["hold", "1"],
        &["hold", "1", "99999999999999999999"],
        &["burn", "1", "2"],
        &[],
    ] {
        let output = Command::new(&program).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stderr.starts_with(b"usage: "));
    }
}
