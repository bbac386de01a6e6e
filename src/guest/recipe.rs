//! How the default kernels are built.
