//! What was typed, made valid once; immutable after.

pub mod console;
