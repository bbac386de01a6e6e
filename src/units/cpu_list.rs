//! Lists of CPUs and NUMA nodes, as the kernel and container runtimes write them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// CPU or NUMA node numbers, each once, in the order they were written: `0-3,8` as the kernel does, or `6,4` where order matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuList(Vec<u32>);

/// Why a list could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a list of CPUs: write numbers and ranges below 8192, such as 0-3,8")]
pub struct ParseCpuListError(String);

impl CpuList {
    /// Reads the kernel's list format (Linux, Documentation/admin-guide/kernel-parameters.rst, "cpu lists").
    ///
    /// `None` for anything else, and for numbers beyond what Linux can have (8192).
    pub fn parse(text: &str) -> Option<Self> {
        const MOST: u32 = 8192;
        let mut numbers = Vec::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "(null)") {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            if first > last || last >= MOST || numbers.len() > 2 * MOST as usize {
                return None;
            }
            numbers.extend(first..=last);
        }
        Some(numbers.into_iter().collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `number` is one of them.
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(&number)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let others: BTreeSet<u32> = other.iter().collect();
        self.iter().filter(|n| !others.contains(n)).collect()
    }

    /// The same numbers in ascending order, as the kernel writes them.
    #[must_use]
    pub fn sorted(&self) -> Self {
        self.0.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The numbers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CpuList {
    /// Keeps the first of each number.
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut seen = BTreeSet::new();
        Self(numbers.into_iter().filter(|n| seen.insert(*n)).collect())
    }
}

impl FromStr for CpuList {
    type Err = ParseCpuListError;

    /// Reads a list that a user typed: at least one number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).filter(|list| !list.is_empty()).ok_or_else(|| ParseCpuListError(text.to_owned()))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuList {
    type Error = ParseCpuListError;

    /// Reads a list that may be empty.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or(ParseCpuListError(text))
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> Self {
        list.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Proves that the kernel's spellings are read and that lists that make no sense are not.
    #[test]
    fn reads_cpu_lists() {
        for (text, expected) in [
            ("0-3", "0-3"),
            ("0,2,4-5\n", "0,2,4-5"),
            ("", ""),
            ("(null)", ""),
            ("7", "7"),
            ("3,1,2,0", "3,1-2,0"),
            ("0,0-2", "0-2"),
        ] {
            assert_eq!(CpuList::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["a", "3-1", "0-99999999999", "0-4294967295", "-1", "1-"] {
            assert_eq!(CpuList::parse(text), None, "{text}");
        }
    }

    proptest! {
        /// Proves that no text makes the parser panic or take long, and that a printed list reads back.
        #[test]
        fn lists_round_trip(numbers in proptest::collection::vec(0u32..8192, 0..50), text in "[0-9,\\- ]{0,40}") {
            let list: CpuList = numbers.into_iter().collect();
            prop_assert_eq!(CpuList::parse(&list.to_string()), Some(list));
            let _ = CpuList::parse(&text);
        }
    }
}
