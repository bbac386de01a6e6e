//! What the harness costs the subjects: runs by it beside a bare posix_spawn and wait, in turn.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::attempt::{self, Attempt, AttemptError};
use super::payload;
use super::results::Harness;
use crate::bench::child::Stop;
use crate::bench::clock::Instant;
use crate::bench::statistics::Sample;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `program`, a payload, `runs` times each way.
///
/// # Errors
/// [`AttemptError`].
pub fn check(program: &Path, runs: usize, stop: &Stop) -> Result<Harness, AttemptError> {
    let (mut differences, mut ours) = (Sample::default(), Sample::default());
    for turn in 0..=runs {
        let bare = bare(program)?;
        let stamps = attempt::run(&mut Attempt::new(Command::new(program)), payload::LINE.as_bytes(), PATIENCE, stop)?;
        let whole = stamps.end.map_or(0.0, |end| end.since(stamps.start).as_secs_f64()) * 1e6;
        if turn > 0 {
            differences.push(whole - bare);
            ours.push(whole);
        }
    }
    let spread = (ours.quantile(0.75) - ours.quantile(0.25)) / ours.median();
    Ok(Harness { overhead_us: differences.quantile_estimate(0.5), runs, spread })
}

/// Microseconds of a run with nothing around it.
fn bare(program: &Path) -> Result<f64, AttemptError> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| AttemptError::Start(e.to_string()))?;
    child.wait().map_err(AttemptError::Wait)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Proves that the harness adds less than 0.2 ms to a subject. A busy machine may spoil a series, so the best of a few
    /// counts.
    #[test]
    fn the_harness_adds_little() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(payload::NAME);
        std::fs::write(&program, payload::program()).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tries = (0..5).map(|_| check(&program, 60, &Stop::default()).unwrap());
        let best = tries.map(|harness| harness.overhead_us.value).fold(f64::INFINITY, f64::min);
        println!("the harness adds {best:.0} us");
        assert!(best < 200.0, "{best} us");
    }
}
