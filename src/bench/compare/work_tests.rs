use super::*;
use proptest::prelude::*;
use std::process::Command;

#[allow(dead_code, reason = "the program's own source, of which the tests use a part")]
#[path = "../../../kernels/work/record.rs"]
mod record;

fn written(stamps: &[u64], begun: u64, ended: u64) -> Vec<u8> {
    let mut output = vec![0xff; record::size_max(stamps.len())];
    let ends = (stamps[0], stamps[stamps.len() - 1]);
    let length = record::write(&mut output, stamps, 7, (ends.0, begun), (ends.1, ended));
    output.truncate(length);
    output
}

proptest! {
    /// Proves that what the program writes is what is read here, whatever the times are.
    #[test]
    fn records_round_trip(times in proptest::collection::vec(1u64..1 << 40, 1..200), first in 0u64..1 << 60) {
        let mut stamps = vec![first];
        stamps.extend(times.iter().scan(first, |at, time| { *at += time; Some(*at) }));
        // A clock of 1 GHz: counts are nanoseconds.
        let total: u64 = times.iter().sum();
        let mut bytes = b"some text\r\n".to_vec();
        bytes.extend(written(&stamps, 5, 5 + total));
        bytes.extend(b"more");
        let read = read(&bytes).unwrap();
        prop_assert_eq!(read.us.len(), times.len());
        for (us, time) in read.us.values().iter().zip(&times) {
            prop_assert!((us - *time as f64 / 1e3).abs() <= 1e-6 * us);
        }
    }

    /// Proves that no bytes make the reader panic, and that a changed record is not taken for a whole one.
    #[test]
    fn damage_is_seen(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 60usize..90, flip in 1u8..255) {
        let mut forged = MAGIC.to_vec();
        forged.extend(&bytes);
        prop_assert!(read(&forged).is_err());
        let mut damaged = written(&(0..50).map(|i| i * i * 1000 + 1).collect::<Vec<_>>(), 1, 1_000_000);
        let at = at.min(damaged.len() - 1);
        damaged[at] ^= flip;
        prop_assert!(read(&damaged).is_err());
    }
}

/// Proves that the program times what it is asked to, on this host, by a counter whose rate its clock confirms.
#[test]
fn the_program_times_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("work");
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&program).args(["time", "500", "5000"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let times = read(&output.stdout).unwrap();
    assert_eq!(times.us.len(), 500);
    assert!((1e8..1e10).contains(&times.counts_per_second), "{}", times.counts_per_second);
    let sum: f64 = times.us.values().iter().sum();
    assert!((0.9..=1.0).contains(&(sum / 1e6 / times.seconds)), "{sum} {}", times.seconds);
    for wrong in [&["time"][..], &["time", "0", "1"], &["time", "x", "1"], &["hold", "99999999999999999999"], &[]] {
        let output = Command::new(&program).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stderr.starts_with(b"usage: "));
    }
}
