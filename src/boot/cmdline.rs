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

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the longest line passes and that one byte more, or a NUL, is refused with its place.
    #[test]
    fn refuses_what_a_kernel_would_cut() {
        assert_eq!(encode("quiet").unwrap(), b"quiet\0");
        assert_eq!(encode(&"x".repeat(LINUX_MAX)).unwrap().len(), LINUX_MAX + 1);
        assert_eq!(encode(&"x".repeat(LINUX_MAX + 1)), Err(CmdlineError::TooLong(LINUX_MAX + 1)));
        assert_eq!(encode("a\0b"), Err(CmdlineError::Nul(1)));
    }
}
