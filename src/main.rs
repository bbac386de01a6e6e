//! Parse, call, exit code.

fn main() {
    std::process::exit(ringfence::cli::main());
}
