//! ELF kernels.
