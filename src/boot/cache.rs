//! Unpacked kernels on disk, by content hash.
