//! The default initial RAM file system.
