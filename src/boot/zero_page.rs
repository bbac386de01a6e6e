//! The zero page, `struct boot_params` (Linux x86 boot protocol, "The Real-Mode Kernel Header" and "64-bit Boot Protocol").

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::e820::Entry;
use crate::layout;

/// `boot_flag`: the signature of a boot sector.
const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader`: a boot loader without an assigned id.
const LOADER_UNDEFINED: u8 = 0xff;
/// `loadflags`: the kernel is loaded at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `version`: the protocol that brought `pref_address` and the 64-bit entry.
const PROTOCOL_2_12: u16 = 0x020c;

/// What goes into a zero page.
pub struct ZeroPage<'a> {
    /// The bzImage's own header, when the kernel came from one.
    pub header: Option<&'a setup_header>,
    /// The memory map; at most 128 entries fit, which two regions of RAM never fill.
    pub memory: &'a [Entry],
    /// Bytes of the command line at `layout::CMDLINE`, without its NUL.
    pub cmdline_len: usize,
    /// Guest-physical start and length of the initrd.
    pub initrd: Option<(u64, u64)>,
    /// Guest-physical address of the RSDP.
    pub rsdp: Option<u64>,
}

impl ZeroPage<'_> {
    /// The page's bytes.
    pub fn build(&self) -> Box<[u8]> {
        let mut params = boot_params { hdr: self.header.copied().unwrap_or_default(), ..Default::default() };
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER_MAGIC;
        if params.hdr.version == 0 {
            params.hdr.version = PROTOCOL_2_12;
        }
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        params.hdr.loadflags |= LOADED_HIGH;
        params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
        params.hdr.cmdline_size = self.cmdline_len as u32;
        if let Some((start, len)) = self.initrd {
            params.hdr.ramdisk_image = start as u32;
            params.ext_ramdisk_image = (start >> 32) as u32;
            params.hdr.ramdisk_size = len as u32;
            params.ext_ramdisk_size = (len >> 32) as u32;
        }
        params.acpi_rsdp_addr = self.rsdp.unwrap_or(0);
        params.e820_entries = self.memory.len() as u8;
        for (slot, entry) in params.e820_table.iter_mut().zip(self.memory) {
            *slot = boot_e820_entry {
                addr: entry.range.start,
                size: entry.range.end - entry.range.start,
                r#type: entry.kind as u32,
            };
        }
        params.as_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::e820;

    /// Proves the offsets that the boot protocol fixes, by reading the page's bytes.
    #[test]
    fn fields_lie_where_the_protocol_says() {
        let memory = e820::map(std::slice::from_ref(&(0..0x800_0000)));
        let page = ZeroPage {
            header: None,
            memory: &memory,
            cmdline_len: 5,
            initrd: Some((0x700_0000, 0x1234)),
            rsdp: Some(0xf0000),
        }
        .build();
        let u32_at = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(u32_at(0x218), 0x700_0000, "ramdisk_image");
        assert_eq!(u32_at(0x21c), 0x1234, "ramdisk_size");
        assert_eq!(u32_at(0x228), 0x20000, "cmd_line_ptr");
        assert_eq!(u32_at(0x070), 0xf0000, "acpi_rsdp_addr");
        assert_eq!(page[0x1e8], 3, "e820_entries");
        assert_eq!(u32_at(0x2d0 + 20), 0xa0000, "start of the second e820 entry");
        assert_eq!(u32_at(0x2d0 + 36), 2, "type of the second e820 entry");
    }
}
