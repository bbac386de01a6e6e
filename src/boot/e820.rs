//! The guest's memory map, as the kernel is told it (Linux x86 boot protocol, "e820 table").

use std::ops::Range;

use crate::layout;

/// What a range of guest-physical memory may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RAM the kernel may use.
    Usable = 1,
    /// RAM that holds the firmware tables; the kernel leaves it alone.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Guest-physical range.
    pub range: Range<u64>,
    /// Its use.
    pub kind: Kind,
}

/// The map of RAM at `ranges`: every byte of RAM is in exactly one entry, ascending.
///
/// [640 KiB, 1 MiB) is reserved: Linux never uses it as RAM, whatever it is told, and the MP and ACPI tables lie there.
pub fn map(ranges: &[Range<u64>]) -> Vec<Entry> {
    let cuts = [(0, Kind::Usable), (layout::LOW_RAM_END, Kind::Reserved), (layout::HIGH_RAM_START, Kind::Usable)];
    let ends = [layout::LOW_RAM_END, layout::HIGH_RAM_START, u64::MAX];
    let mut entries = Vec::new();
    for range in ranges {
        for ((from, kind), to) in cuts.into_iter().zip(ends) {
            let part = range.start.max(from)..range.end.min(to);
            if part.start < part.end {
                entries.push(Entry { range: part, kind });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the map covers RAM exactly once, with the BIOS area reserved and all else usable.
    #[test]
    fn covers_ram_exactly() {
        let ranges = [0..layout::MMIO_HOLE_START, layout::HIGH_RAM_64_START..layout::HIGH_RAM_64_START + (1 << 30)];
        let map = map(&ranges);
        let total: u64 = map.iter().map(|e| e.range.end - e.range.start).sum();
        assert_eq!(total, ranges.iter().map(|r| r.end - r.start).sum::<u64>());
        assert!(map.windows(2).all(|w| w[0].range.end <= w[1].range.start));
        let reserved: Vec<_> = map.iter().filter(|e| e.kind == Kind::Reserved).map(|e| e.range.clone()).collect();
        assert_eq!(reserved, vec![layout::LOW_RAM_END..layout::HIGH_RAM_START]);
    }
}
