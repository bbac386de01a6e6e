//! PVH start of day structure (Xen's x86/HVM direct boot ABI, `hvm_start_info` version 1).

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued;

use super::e820::Entry;
use crate::layout;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with bit 7 of the E set.
const START_MAGIC: u32 = 0x336e_c578;

/// Bytes of `hvm_start_info`, of its module list entry and of a memory map entry.
const START_INFO_SIZE: usize = size_of::<hvm_start_info>();
const MODLIST_SIZE: usize = size_of::<hvm_modlist_entry>();

/// The page at `layout::PVH_START_INFO`: the structure, then the module list, then the memory map.
///
/// `initrd` is guest-physical start and length; `rsdp` a guest-physical address.
pub fn build(memory: &[Entry], initrd: Option<(u64, u64)>, rsdp: Option<u64>) -> Vec<u8> {
    let modlist = layout::PVH_START_INFO + START_INFO_SIZE as u64;
    let memmap = modlist + MODLIST_SIZE as u64;
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { modlist } else { 0 },
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp.unwrap_or(0),
        memmap_paddr: memmap,
        memmap_entries: memory.len() as u32,
        ..Default::default()
    };
    let (start, size) = initrd.unwrap_or_default();
    let module = hvm_modlist_entry { paddr: start, size, ..Default::default() };
    let mut bytes = [info.as_slice(), module.as_slice()].concat();
    for entry in memory {
        let size = entry.range.end - entry.range.start;
        let entry =
            hvm_memmap_table_entry { addr: entry.range.start, size, type_: entry.kind as u32, ..Default::default() };
        bytes.extend_from_slice(entry.as_slice());
    }
    debug_assert!(bytes.len() as u64 <= layout::PAGE_SIZE);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::e820;

    /// Proves that the pointers in the structure lead to the module and the memory map.
    #[test]
    fn pointers_lead_to_their_tables() {
        let memory = e820::map(std::slice::from_ref(&(0..0x800_0000)));
        let bytes = build(&memory, Some((0x700_0000, 0x1234)), Some(0xf0000));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(&bytes[..4], &[0x78, 0xc5, 0x6e, 0x33]);
        let offset = |address: u64| (address - layout::PVH_START_INFO) as usize;
        assert_eq!(u64_at(offset(u64_at(16))), 0x700_0000, "the first module's address");
        assert_eq!(u64_at(24), layout::CMDLINE);
        assert_eq!(u64_at(32), 0xf0000);
        let map = offset(u64_at(40));
        assert_eq!(u64_at(map + 24), layout::LOW_RAM_END, "the second map entry's start");
        assert_eq!(bytes.len(), map + 3 * 24);
    }
}
