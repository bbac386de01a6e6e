//! Sizes with their unit in the type.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Why a size could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseSizeError {
    /// No digits at the front.
    #[error("\"{0}\" is not a size: write a whole number and a unit, such as 256M or 4G")]
    NotANumber(String),
    /// A point or comma in the number.
    #[error("\"{0}\" is not a whole number: take a smaller unit, such as 1536M for 1.5G")]
    Fraction(String),
    /// A unit that is not one of K, M, G, T.
    #[error("\"{0}\" has the unknown unit \"{1}\": use K, M, G or T (powers of 1024)")]
    UnknownUnit(String, String),
    /// More than 2^64 - 1 bytes.
    #[error("\"{0}\" is more bytes than 64 bits can count")]
    TooLarge(String),
}

impl ByteSize {
    /// A size given in bytes.
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// A size given in KiB. Overflow is a programming error and panics in const evaluation.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// A size given in MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// A size given in GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }

    /// The size in bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// In the largest unit that leaves a number of at least 1, KiB the smallest, with one digit after the point where it is
    /// not whole: `256 MiB`, `41.3 MiB`.
    pub fn rounded(self) -> String {
        let (shift, unit) = match self.0 {
            n if n >> 40 > 0 => (40, "TiB"),
            n if n >> 30 > 0 => (30, "GiB"),
            n if n >> 20 > 0 => (20, "MiB"),
            _ => (10, "KiB"),
        };
        let tenths = (u128::from(self.0) * 10) >> shift;
        match tenths % 10 {
            0 => format!("{} {unit}", tenths / 10),
            tenth => format!("{}.{tenth} {unit}", tenths / 10),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    /// Parses what container users type for `--memory`: `268435456`, `256M`, `256m`, `256MiB`, `4G`; units are powers of 1024.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits_end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        if digits.is_empty() {
            return Err(ParseSizeError::NotANumber(text.to_owned()));
        }
        let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            unit if unit.starts_with(['.', ',']) => return Err(ParseSizeError::Fraction(text.to_owned())),
            _ => return Err(ParseSizeError::UnknownUnit(text.to_owned(), unit.trim().to_owned())),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| ParseSizeError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that divides the size: `256 MiB`, `1 GiB`, `4097 bytes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Proves that every spelling container users know is read, in powers of 1024.
    #[test]
    fn reads_the_usual_spellings() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("256M", 256 << 20),
            ("256m", 256 << 20),
            (" 1 GiB ", 1 << 30),
            ("2T", 2 << 40),
            ("4kb", 4096),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::bytes(bytes)), "{text}");
        }
    }

    /// Proves that each kind of wrong text gets its own error.
    #[test]
    fn says_what_is_wrong() {
        assert!(matches!("M".parse::<ByteSize>(), Err(ParseSizeError::NotANumber(_))));
        assert!(matches!("-1M".parse::<ByteSize>(), Err(ParseSizeError::NotANumber(_))));
        assert!(matches!("1.5G".parse::<ByteSize>(), Err(ParseSizeError::Fraction(_))));
        assert!(matches!("15Q".parse::<ByteSize>(), Err(ParseSizeError::UnknownUnit(..))));
        assert!(matches!("16777216T".parse::<ByteSize>(), Err(ParseSizeError::TooLarge(_))));
    }

    proptest! {
        /// Proves that no text makes the parser panic.
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = text.parse::<ByteSize>();
        }

        /// Proves that a printed size parses back to itself.
        #[test]
        fn display_round_trips(n in any::<u64>()) {
            let size = ByteSize::bytes(n);
            prop_assert_eq!(size.to_string().replace("bytes", "b").parse::<ByteSize>(), Ok(size));
        }
    }
}
