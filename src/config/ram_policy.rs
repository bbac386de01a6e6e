//! How guest RAM is backed: from which pages, how early, and whether it stays.

/// How guest RAM is backed: from which pages, how early, and whether it stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RamPolicy {}
