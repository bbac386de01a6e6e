//! A virtual machine's construction and life.
