//! What is being done and how long the rest takes, on standard error: one changing line on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clock::Instant;

/// The line is drawn at least this often, so that the clock goes on.
const TICK: Duration = Duration::from_millis(250);
/// Away from a terminal, lines come no closer than this.
const QUIET: Duration = Duration::from_secs(2);

/// Work in steps whose expected times are known roughly, so that the time left can be told from the start.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Expected seconds of every step.
    total: f64,
    /// Of the steps done, expected.
    done: f64,
    began: Instant,
    said: Cell<Option<Instant>>,
}

impl Progress {
    /// Work that is expected to take `total` seconds.
    pub fn new(total: f64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("[{bar:20}] {percent:>3}%  {prefix:>6} left  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, total: total.max(1e-9), done: 0.0, began: Instant::now(), said: Cell::new(None) }
    }

    /// A step begins.
    pub fn step(&self, what: &str) {
        let left = clock(self.left());
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(left);
                bar.set_message(what.to_owned());
            }
            None if self.said.get().is_some_and(|said| said.elapsed() < QUIET) => {}
            None => {
                self.said.set(Some(Instant::now()));
                eprintln!("ringfence: {what} ({left} left)");
            }
        }
    }

    /// A step that was expected to take `seconds` is done.
    pub fn done(&mut self, seconds: f64) {
        self.done += seconds;
        if let Some(bar) = &self.bar {
            bar.set_position((1000.0 * self.done / self.total) as u64);
            bar.set_prefix(clock(self.left()));
        }
    }

    /// Writes a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("ringfence: {line}")),
            None => eprintln!("ringfence: {line}"),
        }
    }

    /// The rest, at the pace so far.
    fn left(&self) -> Duration {
        let pace = if self.done > 0.0 { self.began.elapsed().as_secs_f64() / self.done } else { 1.0 };
        Duration::from_secs_f64(((self.total - self.done) * pace).clamp(0.0, 1e6))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A time as minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the time left is what was expected at first, then goes by the pace, and is never negative.
    #[test]
    fn the_rest_goes_by_the_pace() {
        let mut progress = Progress::new(10.0);
        assert_eq!(progress.left(), Duration::from_secs(10));
        progress.done(5.0);
        assert!(progress.left() < Duration::from_secs(5));
        progress.done(50.0);
        assert_eq!(progress.left(), Duration::ZERO);
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
    }
}
