//! bzImage files (Linux x86 boot protocol).
