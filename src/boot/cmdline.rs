//! The kernel command line.

use crate::layout;

/// Longest line Linux x86 keeps (`COMMAND_LINE_SIZE` with its NUL); the rest would be cut off in silence.
pub const LINUX_MAX: usize = 2047;

/// Why a command line cannot be handed to a kernel.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// It holds a NUL, which would end it early.
    #[error("the kernel command line has a NUL byte at offset {0}, which would end it there; remove it")]
    Nul(usize),
    /// More than the kernel keeps.
    #[error("the kernel command line has {0} bytes and Linux keeps {LINUX_MAX}; shorten it by {over}", over = .0 - LINUX_MAX)]
    TooLong(usize),
}

/// The line's bytes with the NUL that ends it, for `layout::CMDLINE`.
pub fn encode(line: &str) -> Result<Vec<u8>, CmdlineError> {
    const { assert!(LINUX_MAX < layout::CMDLINE_MAX_SIZE as usize) };
    if let Some(at) = line.bytes().position(|b| b == 0) {
        return Err(CmdlineError::Nul(at));
    }
    if line.len() > LINUX_MAX {
        return Err(CmdlineError::TooLong(line.len()));
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// The option whose values [`join_clearcpuid`] joins.
const CLEARCPUID: &str = "clearcpuid=";

/// Joins the lists of all `clearcpuid=` into the first one, where there is more than one: Linux x86 acts on the last alone
/// (`cpu_parse_early_param`), which would bring back the features that an earlier one takes away.
pub fn join_clearcpuid(line: &str) -> Option<String> {
    let words = || line.split(|c: char| c.is_ascii_whitespace());
    let mut lists = words().filter_map(|word| word.strip_prefix(CLEARCPUID));
    let mut joined: Vec<&str> = lists.next()?.split(',').collect();
    let others: Vec<&str> = lists.collect();
    if others.is_empty() {
        return None;
    }
    for feature in others.into_iter().flat_map(|list| list.split(',')) {
        if !feature.is_empty() && !joined.contains(&feature) {
            joined.push(feature);
        }
    }
    let first = words().position(|word| word.starts_with(CLEARCPUID))?;
    let mut rest: Vec<&str> = words().filter(|word| !word.starts_with(CLEARCPUID)).collect();
    let option = CLEARCPUID.to_owned() + &joined.join(",");
    rest.insert(first, &option);
    Some(rest.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that lists are joined where the first one is, each feature once, with the rest of the line as it was, and that a
    /// line with one list or none is left alone.
    #[test]
    fn joins_what_the_kernel_takes_the_last_of() {
        for (line, joined) in [
            ("a clearcpuid=x,y b clearcpuid=z,x  c", "a clearcpuid=x,y,z b  c"),
            ("clearcpuid=x clearcpuid=y\tclearcpuid=,z", "clearcpuid=x,y,z"),
            ("q=clearcpuid=1 clearcpuid=2 clearcpuid=3", "q=clearcpuid=1 clearcpuid=2,3"),
        ] {
            assert_eq!(join_clearcpuid(line).as_deref(), Some(joined));
        }
        for line in ["", "quiet", "a clearcpuid=x,y b", "noclearcpuid=1 clearcpuid=2"] {
            assert_eq!(join_clearcpuid(line), None, "{line}");
        }
    }

    /// Proves that the longest line passes and that one byte more, or a NUL, is refused with its place.
    #[test]
    fn refuses_what_a_kernel_would_cut() {
        assert_eq!(encode("quiet").unwrap(), b"quiet\0");
        assert_eq!(encode(&"x".repeat(LINUX_MAX)).unwrap().len(), LINUX_MAX + 1);
        assert_eq!(encode(&"x".repeat(LINUX_MAX + 1)), Err(CmdlineError::TooLong(LINUX_MAX + 1)));
        assert_eq!(encode("a\0b"), Err(CmdlineError::Nul(1)));
    }
}
