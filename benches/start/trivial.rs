//! The guest that the benchmarks of a monitor's start boot.

use std::io::Write;

/// 1 MiB above the start of high memory, where no monitor keeps tables of its own.
const ENTRY: u64 = 0x20_0000;

/// The guest: `mov al, 0xfe; out 0x64, al; hlt; jmp` to the hlt. These bytes mean the same in 32-bit and 64-bit mode, so that
/// every monitor may enter as it likes.
pub const CODE: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// An ELF file of one page with the guest and a PVH note (type 18, owner "Xen").
pub fn kernel() -> tempfile::NamedTempFile {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (value, size) in [(2, 2), (62, 2), (1, 4), (ENTRY, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)] {
        file.extend_from_slice(&u64::to_le_bytes(value)[..size]);
    }
    file.resize(64, 0);
    let (code_at, note_at) = (0x1000, 0x200);
    for (kind, offset, address, size) in [(1u32, code_at, ENTRY, CODE.len() as u64), (4, note_at, 0, 24)] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for value in [offset, address, address, size, size, 4] {
            file.extend_from_slice(&value.to_le_bytes());
        }
    }
    file.resize(note_at as usize, 0);
    for value in [4u32, 8, 18] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&ENTRY.to_le_bytes());
    file.resize(code_at as usize, 0);
    file.extend_from_slice(&CODE);
    let mut out = tempfile::NamedTempFile::new().expect("a temporary file");
    out.write_all(&file).expect("room for a page");
    out
}
