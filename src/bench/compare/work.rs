//! The work that is timed: the program `kernels/work`, and the record of times it writes.

use serde::Serialize;
use thiserror::Error;

use crate::bench::statistics::Sample;

/// The program, compiled by `build.rs`.
pub const PROGRAM: &[u8] = include_bytes!(env!("RINGFENCE_WORK"));
/// Steps of one piece of work: about 100 microseconds.
pub const TURNS: u64 = 20_000;

const MAGIC: &[u8] = b"RFWORK1 ";
/// Longest first line of a record, in bytes.
const LINE_MAX: usize = 256;
/// The pieces lie between the two readings of the clocks, but for rounding.
const ROUNDING: f64 = 1e-9;

/// Why there are no times.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// The program wrote something else.
    #[error("the work wrote no record of times; it said: {0}")]
    None(String),
    /// Bytes were lost or changed on the way.
    #[error("the record of times is damaged at byte {offset}: {what}; run it again")]
    Damaged {
        /// Where, from the record's start.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The times of one run of the work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Each piece's time in microseconds, in their order.
    pub us: Sample,
    /// Counts of the time-stamp counter in a second, by the clock of the kernel that the work ran under.
    pub counts_per_second: f64,
    /// From the first piece to the last by that clock, in seconds.
    pub seconds: f64,
}

/// Reads the record in what the work wrote. A console may have put other text before it.
///
/// # Errors
/// [`RecordError`]; the record comes from inside a guest, and nothing in it is trusted.
pub fn read(written: &[u8]) -> Result<Times, RecordError> {
    let none = || {
        let tail = &written[written.len().saturating_sub(200)..];
        RecordError::None(String::from_utf8_lossy(tail).chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    };
    let start = written.windows(MAGIC.len()).position(|window| window == MAGIC).ok_or_else(none)?;
    let record = &written[start..];
    let damaged = |offset, what| RecordError::Damaged { offset, what };
    let line_end = record.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
    let line_end = line_end.ok_or(damaged(0, "its first line has no end"))?;
    let line =
        std::str::from_utf8(&record[MAGIC.len()..line_end]).map_err(|_| damaged(0, "its first line is not text"))?;
    let fields: Option<Vec<u64>> = line.split(' ').map(|field| field.parse().ok()).collect();
    let Some(&[count, _turns, first, last, begun, ended, length, check]) = fields.as_deref() else {
        return Err(damaged(MAGIC.len(), "its first line does not hold eight numbers"));
    };
    let body = &record[line_end + 1..];
    let body = usize::try_from(length).ok().and_then(|length| body.get(..length));
    let body = body.ok_or(damaged(line_end + 1, "it is cut short"))?;
    if u64::from(fnv(body)) != check {
        return Err(damaged(line_end + 1, "its bytes do not fit their checksum"));
    }
    let counts =
        numbers(body, count).map_err(|offset| damaged(line_end + 1 + offset, "a number is missing or too long"))?;
    let seconds = ended.saturating_sub(begun) as f64 / 1e9;
    let total = last.wrapping_sub(first) as f64;
    let sum: f64 = counts.iter().sum();
    if seconds <= 0.0 || counts.iter().any(|count| *count <= 0.0) || sum > total * (1.0 + ROUNDING) {
        return Err(damaged(MAGIC.len(), "its times do not add up"));
    }
    let counts_per_second = total / seconds;
    let us = counts.into_iter().map(|count| count / counts_per_second * 1e6).collect();
    Ok(Times { us: Sample::new(us), counts_per_second, seconds })
}

/// Reads `count` differences, seven bits a byte, and adds them up to counts; the offset where that fails.
fn numbers(body: &[u8], count: u64) -> Result<Vec<f64>, usize> {
    let mut counts = Vec::new();
    let mut before = 0i64;
    let (mut value, mut shift) = (0u64, 0);
    for (offset, byte) in body.iter().enumerate() {
        if shift > 63 {
            return Err(offset);
        }
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            before = before.wrapping_add((value >> 1) as i64 ^ -((value & 1) as i64));
            counts.push(before as f64);
            (value, shift) = (0, 0);
        }
    }
    if shift == 0 && counts.len() as u64 == count { Ok(counts) } else { Err(body.len()) }
}

/// FNV-1a (Fowler, Noll and Vo), 32 bits.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
