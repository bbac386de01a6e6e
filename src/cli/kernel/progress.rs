//! How a build goes: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::guest::build::{Phase, Progress};
use crate::guest::recipe::Flavour;

/// The bar is drawn at least this often, so that the clock goes on when nothing else does.
const TICK: Duration = Duration::from_millis(250);

/// Without a terminal a line is written this often while compiling.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Until then there is too little to judge the rest by.
const ESTIMATE_AFTER: Duration = Duration::from_secs(5);

/// A [`Progress`] on stderr.
pub(super) struct Bar {
    flavour: Flavour,
    bar: Option<ProgressBar>,
    terminal: bool,
    phase: Option<Phase>,
    began: Instant,
    last_line: Instant,
}

impl Bar {
    pub(super) fn new(flavour: Flavour, terminal: bool) -> Self {
        let now = Instant::now();
        Self { flavour, bar: None, terminal, phase: None, began: now, last_line: now }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Progress for Bar {
    fn phase(&mut self, phase: Phase) {
        self.finish();
        (self.phase, self.began, self.last_line) = (Some(phase), Instant::now(), Instant::now());
        if self.terminal {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.set_style(style(false));
            bar.set_prefix(label(phase));
            bar.enable_steady_tick(TICK);
            self.bar = Some(bar);
        } else {
            self.line(&format!("{} kernel: {}", self.flavour, label(phase)));
        }
    }

    fn at(&mut self, done: u64, total: u64) {
        let elapsed = self.began.elapsed();
        let left = remaining(elapsed, done, total);
        let message = |left: Duration| format!("about {} left", clock(left.as_secs()));
        if let Some(bar) = &self.bar {
            if total > 0 && bar.length() != Some(total) {
                bar.set_style(style(true));
                bar.set_length(total);
            }
            bar.set_position(done);
            bar.set_message(left.map(message).unwrap_or_default());
        } else if self.phase == Some(Phase::Compile) && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            let left = left.map(|left| format!(", {}", message(left))).unwrap_or_default();
            self.line(&format!("{} kernel: {done}{of} steps in {}{left}", self.flavour, clock(elapsed.as_secs())));
        }
    }

    fn say(&mut self, text: &str) {
        self.line(&format!("ringfence: {text}"));
    }

    fn warn(&mut self, text: &str) {
        self.line(&format!("ringfence: warning: {text}"));
    }
}

fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Unpack => "1/4 unpacking the source",
        Phase::Configure => "2/4 configuring",
        Phase::Compile => "3/4 compiling",
        Phase::Store => "4/4 storing",
    }
}

fn style(counted: bool) -> ProgressStyle {
    let template = if counted {
        "{prefix:24} [{wide_bar}] {percent:>3}%  {elapsed_precise}  {msg:16}"
    } else {
        "{prefix:24} {spinner}  {elapsed_precise}  {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// How long the rest takes at the speed so far; none while that says little.
fn remaining(elapsed: Duration, done: u64, total: u64) -> Option<Duration> {
    if done == 0 || total < done || elapsed < ESTIMATE_AFTER {
        return None;
    }
    Some(elapsed.mul_f64((total - done) as f64 / done as f64))
}

/// Seconds as minutes and seconds.
pub(super) fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the estimate is the rest at the speed so far, and that there is none without a base.
    #[test]
    fn estimates_the_rest() {
        let ten = Duration::from_secs(10);
        assert_eq!(remaining(ten, 25, 100), Some(Duration::from_secs(30)));
        assert_eq!(remaining(ten, 100, 100), Some(Duration::ZERO));
        assert_eq!(remaining(ten, 0, 100), None);
        assert_eq!(remaining(ten, 5, 0), None);
        assert_eq!(remaining(Duration::from_secs(1), 25, 100), None);
    }

    /// Proves that times read as clocks do.
    #[test]
    fn clocks() {
        assert_eq!([clock(0), clock(65), clock(3600)], ["0:00", "1:05", "60:00"]);
    }

    /// Proves that both templates are ones indicatif understands, which it tells only at run time.
    #[test]
    fn templates_parse() {
        for template in [style(true), style(false)] {
            let bar = ProgressBar::hidden().with_style(template);
            bar.set_position(1);
        }
    }
}
