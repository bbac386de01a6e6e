//! The initial RAM disk.
