//! The command line: one file a subcommand.

/// Runs the command line and returns the process's exit status.
pub fn main() -> i32 {
    0
}
