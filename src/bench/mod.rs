//! Measuring: guests and containers side by side, on the user's own machine.
//!
//! Nothing here reaches into a machine: `bench` starts `ringfence` itself, container runtimes and other programs as child
//! processes and reads the host's own files about them, so that all of them are timed and counted from the same place.
//!
//! - [`statistics`]: samples kept whole, quantiles, intervals, ratios and tests, each with its source;
//! - [`paired`], [`drift`]: the same where a machine's speed drifts: of slices in turns, of runs one after the other;
//! - [`clock`]: the host's one clock, and the time-stamp counter's rate by it;
//! - [`environment`]: the machine measured on, and what makes its figures doubtful;
//! - [`container`]: a root file system made here, run by runc, crun, youki, podman, docker and nerdctl;
//! - [`child`], [`footprint`], [`cgroup`]: programs started and surely ended, their memory, their control group;
//! - [`seccomp`], [`bpf`]: the system calls that a running thread's filters let through;
//! - [`boot`]: starts of all of them, timed; [`diff`]: two such reports beside each other;
//! - [`table`], [`plot`], [`page`]: results for a terminal, as SVG, and as one HTML file;
//! - [`progress`]: what is being done and how long the rest takes;
//! - [`compare`]: `ringfence compare`.

pub mod boot;
pub mod bpf;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod compare;
pub mod container;
pub mod diff;
pub mod drift;
pub mod environment;
pub mod footprint;
pub mod page;
pub mod paired;
pub mod plot;
pub mod progress;
#[allow(unsafe_code)]
pub mod seccomp;
pub mod statistics;
pub mod table;
