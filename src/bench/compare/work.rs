//! The work that is timed: the program `kernels/work`, and the record of times it writes.

use thiserror::Error;

/// The program, compiled by `build.rs`.
pub const PROGRAM: &[u8] = include_bytes!(env!("RINGFENCE_WORK"));
/// Steps of one piece of work: about 100 microseconds.
pub const TURNS: u64 = 20_000;
/// What it says when it begins.
pub const BEGIN: &[u8] = b"RFBEGIN";
/// First word of a record: what it says when it is done.
pub const MAGIC: &[u8] = b"RFWORK2 ";
/// Most pieces in one run of the program.
pub const COUNT_MAX: usize = 1_000_000;

/// Longest first line of a record, in bytes.
const LINE_MAX: usize = 512;
/// Numbers in that line.
const FIELDS: usize = 18;
/// A grain is two to the power of this many counts at most.
const GRAIN_MAX: u64 = 16;

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

/// Something told or done between two readings of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The counter before.
    pub before: u64,
    /// What it counted until it was read again.
    pub took: u64,
    /// What was told (a time in nanoseconds) or done (a byte that rang the monitor's bell).
    pub told: u64,
}

/// The record of one run of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The time-stamp counter when each piece began, and when the last ended.
    pub stamps: Vec<u64>,
    /// CLOCK_MONOTONIC of the kernel that the work ran under, before the first piece and after the last.
    pub clocks: [Anchor; 2],
    /// The monitor's bell then; `None` where nothing rang.
    pub rings: Option<[Anchor; 2]>,
}

/// Reads the record in what the work wrote. A console may have put other text before it.
///
/// # Errors
/// [`RecordError`]; the record comes from inside a guest, and nothing in it is trusted.
pub fn read(written: &[u8]) -> Result<Record, RecordError> {
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
    let fields: Option<[u64; FIELDS]> = fields.and_then(|fields| fields.try_into().ok());
    let fields = fields.ok_or(damaged(MAGIC.len(), "its first line does not hold 18 numbers"))?;
    let [count, _turns, grain, first] = [fields[0], fields[1], fields[2], fields[3]];
    let [length, check] = [fields[16], fields[17]];
    let anchor = |at: usize| Anchor { before: fields[at], took: fields[at + 1], told: fields[at + 2] };
    let body = &record[line_end + 1..];
    let body = usize::try_from(length).ok().and_then(|length| body.get(..length));
    let body = body.ok_or(damaged(line_end + 1, "it is cut short"))?;
    if u64::from(fnv(body)) != check {
        return Err(damaged(line_end + 1, "its bytes do not fit their checksum"));
    }
    let times =
        numbers(body, count).map_err(|offset| damaged(line_end + 1 + offset, "a number is missing or too long"))?;
    let stamps = stamps(first, &times, grain).ok_or(damaged(MAGIC.len(), "its times do not add up"))?;
    let (clocks, rings) = ([anchor(4), anchor(7)], [anchor(10), anchor(13)]);
    let around = [&clocks, &rings].into_iter().filter(|pair| pair[0].told != 0);
    let fits = |[begun, ended]: &[Anchor; 2]| {
        let begun = begun.before.checked_add(begun.took).is_some_and(|end| end >> grain <= stamps[0] >> grain);
        let last = stamps[stamps.len() - 1];
        begun && last >> grain <= ended.before >> grain && ended.before.checked_add(ended.took).is_some()
    };
    if clocks[0].told == 0 || !around.into_iter().all(fits) {
        return Err(damaged(MAGIC.len(), "its pieces do not lie between the readings of its clocks"));
    }
    Ok(Record { stamps, clocks, rings: (rings[0].told != 0).then_some(rings) })
}

/// The counter at each piece's begin and at the end of the last; `None` when a piece took no time, or the counter ran over.
fn stamps(first: u64, times: &[i64], grain: u64) -> Option<Vec<u64>> {
    let most = u64::MAX.checked_shr(u32::try_from(grain.min(GRAIN_MAX)).ok()?)?;
    let mut at = Some(first).filter(|first| *first <= most && grain <= GRAIN_MAX)?;
    let mut stamps = vec![at << grain];
    for time in times {
        at = u64::try_from(*time).ok().filter(|time| *time > 0)?.checked_add(at).filter(|at| *at <= most)?;
        stamps.push(at << grain);
    }
    (!times.is_empty()).then_some(stamps)
}

/// Reads `count` differences, seven bits a byte, and adds them up to times in grains; the offset where that fails.
fn numbers(body: &[u8], count: u64) -> Result<Vec<i64>, usize> {
    let mut times = Vec::new();
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
            times.push(before);
            (value, shift) = (0, 0);
        }
    }
    if shift == 0 && times.len() as u64 == count { Ok(times) } else { Err(body.len()) }
}

/// FNV-1a (Fowler, Noll and Vo), 32 bits.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
