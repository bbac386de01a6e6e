//! Measuring: guests and containers side by side, on the user's own machine.
//!
//! Nothing here reaches into a machine: `bench` starts `ringfence` itself, container runtimes and other programs as child
//! processes and reads the host's own files about them, so that all of them are timed and counted from the same place.
//!
//! - [`statistics`]: samples kept whole, quantiles, intervals, ratios and tests, each with its source;
//! - [`clock`]: the host's one clock, and the time-stamp counter's rate by it;

pub mod clock;
pub mod statistics;
