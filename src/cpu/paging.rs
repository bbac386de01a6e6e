//! Identity page tables for the 64-bit entry (Intel SDM vol. 3A, section 4.5).

use crate::layout::{self, PAGE_SIZE};

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;
const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Tables that map guest-virtual [0, `end`) to the same physical addresses, for `layout::BOOT_PML4` on.
///
/// `end` is rounded up to a GiB and at most 4 GiB. The boot protocol asks that kernel, zero page and command line are mapped;
/// mapping no more than needed leaves the host fewer pages to touch.
pub fn identity(end: u64) -> Vec<u8> {
    let directories = end.div_ceil(ENTRIES * LARGE_PAGE_SIZE).clamp(1, layout::BOOT_PD_PAGES);
    let page = PAGE_SIZE as usize;
    let mut bytes = vec![0; page * (2 + directories as usize)];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, layout::BOOT_PDPT | PRESENT_WRITABLE);
    for i in 0..directories {
        put(page + 8 * i as usize, (layout::BOOT_PD + i * PAGE_SIZE) | PRESENT_WRITABLE);
    }
    for i in 0..directories * ENTRIES {
        put(2 * page + 8 * i as usize, (i * LARGE_PAGE_SIZE) | PRESENT_WRITABLE | LARGE_PAGE);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the CPU does.
    fn translate(tables: &[u8], address: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| {
            let at = (table - layout::BOOT_PML4 + index * 8) as usize;
            let value = u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
            (value & 1 == 1).then_some(value)
        };
        let pdpt = entry(layout::BOOT_PML4, address >> 39 & 511)? & !0xfff;
        let pd = entry(pdpt, address >> 30 & 511)? & !0xfff;
        let leaf = entry(pd, address >> 21 & 511)?;
        assert_ne!(leaf & LARGE_PAGE, 0);
        Some((leaf & !(LARGE_PAGE_SIZE - 1)) | (address & (LARGE_PAGE_SIZE - 1)))
    }

    /// Proves that every address below the end maps to itself and nothing above the rounded end is mapped.
    #[test]
    fn maps_to_itself() {
        let tables = identity(3 << 29);
        for address in [0, 0x1234, 0x10_0000, 0x3fff_ffff, 0x4000_0000, 0x7fff_ffff] {
            assert_eq!(translate(&tables, address), Some(address));
        }
        assert_eq!(translate(&tables, 0x8000_0000), None);
        assert_eq!(translate(&identity(u64::MAX), 0xffff_ffff), Some(0xffff_ffff));
    }
}
