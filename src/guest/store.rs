//! Built kernels on disk.
