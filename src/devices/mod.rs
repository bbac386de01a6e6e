//! Register models of the machine's devices.
