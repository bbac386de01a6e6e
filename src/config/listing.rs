//! How a machine is listed among those that run now.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest name in bytes: it is a host name too, and Linux takes no longer one (HOST_NAME_MAX).
const LONGEST: usize = 64;

/// A machine's name: 1 to 64 letters, digits, `-`, `_` and `.`, of which the first is a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineName(String);

/// Why a name cannot be a machine's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{}\" cannot be a machine's name: use 1 to {LONGEST} letters, digits, \"-\", \"_\" and \".\", a letter or digit first",
    .0.escape_debug()
)]
pub struct ParseNameError(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= LONGEST && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseNameError(text.chars().take(2 * LONGEST).collect()))
        }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a machine is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Folder of the list; made when it is missing.
    pub folder: PathBuf,
    /// The name asked for; none: one is made up, and a machine that cannot be listed runs all the same.
    pub name: Option<MachineName>,
    /// Where the console goes, as typed.
    pub console: String,
    /// The command that runs in the guest, as far as it is text; empty for its shell.
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a name is safe as a file's name, a host name and a word on a terminal.
    #[test]
    fn names_are_plain_words() {
        for good in ["a", "web-1", "0", "A.b_c", &"x".repeat(64)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ü", "a\n", "\u{1b}[0m", &"x".repeat(65)] {
            let error = bad.parse::<MachineName>().unwrap_err().to_string();
            assert!(error.contains("cannot be a machine's name") && !error.contains(char::is_control), "{error}");
        }
    }
}
