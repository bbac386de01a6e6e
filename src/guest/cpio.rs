//! The newc archive format.
