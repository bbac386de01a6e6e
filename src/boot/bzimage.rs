//! bzImage files (Linux x86 boot protocol).
//!
//! Field offsets and meanings: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

#[cfg(test)]
mod tests;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::source::u16_at;

/// Where the setup header starts in the file.
pub const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// First version that names the compressed payload (`payload_offset`, `payload_length`).
pub const FIRST_VERSION_WITH_PAYLOAD: u16 = 0x208;
/// First version with `xloadflags`, which says whether there is a 64-bit entry.
const FIRST_VERSION_WITH_XLOADFLAGS: u16 = 0x20c;
/// First version with `pref_address` and `init_size`.
const FIRST_VERSION_WITH_PREF_ADDRESS: u16 = 0x20a;

const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
/// The byte that, added to 0x202, gives the end of the setup header.
const HEADER_LENGTH: usize = 0x201;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry from the start of the protected-mode kernel.
const ENTRY_64_OFFSET: u64 = 0x200;
/// First bytes of the file that hold the whole setup header, whatever its version.
const HEAD_NEEDED: usize = 0x202 + 0xff;
/// Longest version text taken from the image, its NUL included.
pub const MAX_KERNEL_VERSION: usize = 256;

/// What a bzImage says about itself.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// The setup header; fields that its version does not have are zero.
    pub header: setup_header,
    /// Boot protocol version, such as 0x20f for 2.15.
    pub protocol: u16,
    /// File offset of the protected-mode kernel.
    pub protected_offset: u64,
    /// Bytes of the protected-mode kernel in the file.
    pub protected_size: u64,
    /// File offset of the compressed payload.
    pub payload_offset: u64,
    /// Bytes of the compressed payload, the size of what it unpacks to (four bytes) included.
    pub payload_length: u64,
}

/// How the image is loaded when it unpacks itself (64-bit boot protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfUnpacking {
    /// Where the kernel asks to be loaded.
    pub preferred_address: u64,
    /// Bytes from there that it uses before it has read a memory map.
    pub room: u64,
    /// Alignment of another address it could be loaded at; `None` when it runs only at the preferred one.
    pub alignment: Option<u64>,
}

impl SelfUnpacking {
    /// The 64-bit entry when the protected-mode kernel is loaded at `address`.
    pub fn entry(address: u64) -> u64 {
        address + ENTRY_64_OFFSET
    }
}

/// Why a bzImage cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BzImageError {
    /// No boot flag or no "HdrS".
    #[error("the file has no Linux setup header (0xaa55 at file offset 0x1fe and \"HdrS\" at 0x202)")]
    NoMagic,
    /// The file ends inside the setup header.
    #[error("its setup header ends past the end of the file ({size:#x} bytes): the file is truncated; copy it again")]
    TruncatedHeader {
        /// The file's size.
        size: u64,
    },
    /// Before 2.08.
    #[error(
        "it speaks boot protocol {}.{:02} (file offset 0x206), but 2.08 (Linux 2.6.26) is the first that says where its \
         payload is; give a newer kernel or its vmlinux",
        protocol >> 8, protocol & 0xff
    )]
    OldProtocol {
        /// The version.
        protocol: u16,
    },
    /// A zImage.
    #[error("it is a zImage, loaded below 1 MiB (bit 0 of the byte at file offset 0x211 is clear); give a bzImage")]
    LoadedLow,
    /// The payload is outside the file.
    #[error(
        "its payload (file offset {offset:#x}, {length:#x} bytes, as the fields at 0x248 and 0x24c say) ends past the end \
         of the file ({size:#x} bytes): the file is truncated; copy it again"
    )]
    PayloadPastEnd {
        /// Where it starts.
        offset: u64,
        /// How long it is said to be.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// No payload worth the name.
    #[error("its payload has only {length} bytes (file offset 0x24c): the file is damaged; copy it again")]
    NoPayload {
        /// How long it is said to be.
        length: u64,
    },
    /// No 64-bit entry.
    #[error(
        "it has no 64-bit entry (XLF_KERNEL_64 is clear at file offset 0x236, boot protocol {}.{:02}): it is a 32-bit \
         kernel; give one built for x86_64",
        protocol >> 8, protocol & 0xff
    )]
    No64BitEntry {
        /// The version.
        protocol: u16,
    },
    /// Alignment, room or address that cannot be.
    #[error("its {what} is {value:#x} (file offset {offset:#x}), {expected}: the file is damaged; copy it again")]
    BadField {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Where it is.
        offset: usize,
        /// What it may be.
        expected: &'static str,
    },
}

/// Whether `head`, a file's first bytes, are those of a bzImage.
pub fn is_bzimage(head: &[u8]) -> bool {
    head.len() >= MAGIC + 4 && u16_at(head, BOOT_FLAG) == 0xaa55 && head[MAGIC..MAGIC + 4] == *b"HdrS"
}

/// Reads the setup header from `head`, the first bytes (a page, or all when there are fewer) of a file of `size` bytes.
///
/// # Errors
/// [`BzImageError`] when it is no bzImage of boot protocol 2.08 or later, or its payload is not inside the file.
pub fn parse(head: &[u8], size: u64) -> Result<BzImage, BzImageError> {
    if !is_bzimage(head) {
        return Err(BzImageError::NoMagic);
    }
    if head.len() < HEAD_NEEDED {
        return Err(BzImageError::TruncatedHeader { size });
    }
    let header = setup_header_of(head);
    let protocol = u16_at(head, VERSION);
    if protocol < FIRST_VERSION_WITH_PAYLOAD {
        return Err(BzImageError::OldProtocol { protocol });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BzImageError::LoadedLow);
    }
    // "If the setup_sects field contains 0, the real value is 4."
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let protected_offset = (sectors + 1) * 512;
    let payload_offset = protected_offset + u64::from(header.payload_offset);
    let payload_length = u64::from(header.payload_length);
    if payload_offset + payload_length > size {
        return Err(BzImageError::PayloadPastEnd { offset: payload_offset, length: payload_length, size });
    }
    if payload_length < 8 {
        return Err(BzImageError::NoPayload { length: payload_length });
    }
    Ok(BzImage {
        header,
        protocol,
        protected_offset,
        protected_size: size - protected_offset,
        payload_offset,
        payload_length,
    })
}

/// The setup header as its own length byte bounds it; what lies beyond is code, not fields.
fn setup_header_of(head: &[u8]) -> setup_header {
    let mut header = setup_header::default();
    let end = (MAGIC + usize::from(head[HEADER_LENGTH])).min(SETUP_HEADER_OFFSET + size_of::<setup_header>());
    let bytes = &head[SETUP_HEADER_OFFSET..end.max(MAGIC)];
    header.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    header
}

/// The kernel version in `bytes`, read at [`BzImage::kernel_version_offset`]: printable, ended by NUL.
pub fn kernel_version(bytes: &[u8]) -> Option<String> {
    let text = &bytes[..bytes.iter().take(MAX_KERNEL_VERSION).position(|&b| b == 0)?];
    (!text.is_empty() && text.iter().all(|b| (0x20..0x7f).contains(b)))
        .then(|| String::from_utf8_lossy(text).into_owned())
}

impl BzImage {
    /// File offset of the kernel version text, when the header names one; it may lie past the first page.
    pub fn kernel_version_offset(&self) -> Option<u64> {
        let pointer = self.header.kernel_version;
        (pointer != 0 && u64::from(pointer) + 0x200 < self.protected_offset).then(|| u64::from(pointer) + 0x200)
    }

    /// Size the payload says it unpacks to: its last four bytes (the kernel's build appends them for every compression).
    pub fn declared_size(tail: [u8; 4]) -> u64 {
        u32::from_le_bytes(tail).into()
    }

    /// How to load the image for its own 64-bit entry.
    ///
    /// # Errors
    /// [`BzImageError::No64BitEntry`] for a 32-bit kernel, [`BzImageError::BadField`] for impossible values.
    pub fn self_unpacking(&self) -> Result<SelfUnpacking, BzImageError> {
        let h = &self.header;
        if self.protocol < FIRST_VERSION_WITH_XLOADFLAGS || h.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BzImageError::No64BitEntry { protocol: self.protocol });
        }
        const _: () = assert!(FIRST_VERSION_WITH_PREF_ADDRESS < FIRST_VERSION_WITH_XLOADFLAGS);
        let (preferred_address, room) = (h.pref_address, u64::from(h.init_size));
        if preferred_address.checked_add(room.max(self.protected_size)).is_none() {
            let (what, expected) = ("preferred address", "which is past the end of the address space");
            return Err(BzImageError::BadField { what, value: preferred_address, offset: 0x258, expected });
        }
        let alignment = u64::from(h.kernel_alignment);
        if h.relocatable_kernel != 0 && !alignment.is_power_of_two() {
            let (what, expected) = ("alignment", "but must be a power of two");
            return Err(BzImageError::BadField { what, value: alignment, offset: 0x230, expected });
        }
        Ok(SelfUnpacking {
            preferred_address,
            room: room.max(self.protected_size),
            alignment: (h.relocatable_kernel != 0).then_some(alignment),
        })
    }
}
