//! How the times travel: a line of text, then a few bytes each.
//!
//!     RFWORK2 COUNT TURNS GRAIN START CLOCK CLOCK RING RING LENGTH CHECK\n
//!
//! START is the time-stamp counter when the first piece began, in grains of two to the power of GRAIN counts. Each CLOCK and RING is three numbers: the counter, what it counted
//! until it was read again, and what was told or done between the two readings. For CLOCK that is CLOCK_MONOTONIC in nanoseconds
//! shortly before the first piece and shortly after the last; for RING the byte that rang the monitor's bell then, all three 0
//! where nothing rang. LENGTH is the bytes that follow, CHECK their FNV-1a of 32 bits. The bytes are COUNT numbers: each piece's
//! time in grains less the time of the piece before, sign in the lowest bit, seven bits a byte, low first, the eighth set on all
//! but the last. It is when pieces began and ended that is rounded to grains, so that errors do not add up.
//!
//! Pure logic: the harness includes this file in its tests and reads what is written here.

/// First word of the line.
pub const MAGIC: &[u8] = b"RFWORK2";
/// Numbers in the line.
const FIELDS: usize = 18;
/// A line of numbers of 20 digits at most.
const LINE_MAX: usize = 8 + FIELDS * 21;
/// A number of 64 bits, seven in each byte.
const NUMBER_MAX: usize = 10;

/// A grain is 32 counts, about 15 ns: a serial console brings one byte in the time of many pieces, and most take one byte so.
const GRAIN: u32 = 5;

/// Something told or done at one moment of the counter.
#[derive(Clone, Copy, Default)]
pub struct Anchor {
    /// The counter before.
    pub before: u64,
    /// What it counted until it was read again.
    pub took: u64,
    /// What was told or done in between.
    pub told: u64,
}

/// The clocks before the first piece, or after the last.
#[derive(Clone, Copy, Default)]
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub clock: Anchor,
    /// The monitor's bell.
    pub ring: Anchor,
}

/// Bytes that a record of `count` pieces takes at most.
pub const fn size_max(count: usize) -> usize {
    LINE_MAX + count * NUMBER_MAX
}

/// Writes the record of the pieces between `stamps`, one fewer than those, and returns its length. `output` has [`size_max`].
pub fn write(output: &mut [u8], stamps: &[u64], turns: usize, begun: &Moment, ended: &Moment) -> usize {
    // The numbers first, behind room for the line, whose length is known only then.
    let mut end = LINE_MAX;
    let mut before = 0i64;
    for pair in stamps.windows(2) {
        let time = (pair[1] >> GRAIN).wrapping_sub(pair[0] >> GRAIN) as i64;
        end += number(&mut output[end..], time.wrapping_sub(before));
        before = time;
    }
    let length = end - LINE_MAX;
    let check = fnv(&output[LINE_MAX..end]);
    let count = stamps.len().saturating_sub(1) as u64;
    let anchors = [begun.clock, ended.clock, begun.ring, ended.ring];
    let anchors = anchors.iter().flat_map(|anchor| [anchor.before, anchor.took, anchor.told]);
    let first = [count, turns as u64, u64::from(GRAIN), stamps.first().copied().unwrap_or(0) >> GRAIN];
    let mut at = MAGIC.len();
    output[..at].copy_from_slice(MAGIC);
    for field in first.into_iter().chain(anchors).chain([length as u64, u64::from(check)]) {
        output[at] = b' ';
        at += 1 + decimal(&mut output[at + 1..], field);
    }
    output[at] = b'\n';
    output.copy_within(LINE_MAX..end, at + 1);
    at + 1 + length
}

fn number(output: &mut [u8], value: i64) -> usize {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    let mut length = 0;
    loop {
        let more = rest > 0x7f;
        output[length] = rest as u8 & 0x7f | u8::from(more) << 7;
        length += 1;
        rest >>= 7;
        if !more {
            return length;
        }
    }
}

fn decimal(output: &mut [u8], value: u64) -> usize {
    let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = value;
    for slot in output[..digits].iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// FNV-1a (Fowler, Noll and Vo), 32 bits.
pub fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
