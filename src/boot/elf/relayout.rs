//! An ELF file whose segments can be mapped into guest memory page by page.

use std::io::{self, Read, Write};

use super::super::source::{Source, Stretch};
use super::{Elf, HEADER_SIZE, PROGRAM_HEADER_SIZE, PT_LOAD, PT_NOTE, Segment, XEN_ELFNOTE_PHYS32_ENTRY};

const PAGE: u64 = 4096;
const NOTE_SIZE: u64 = 24;

/// Writes `elf`, whose segments lie in `source`, anew: only what loading needs, each segment at a file offset that
/// agrees with its address modulo 4096. Bytes between segments are zero. Returns the bytes written.
///
/// # Errors
/// What the operating system says about reading and writing.
pub fn write<S: Source + ?Sized>(source: &S, elf: &Elf, output: &mut impl Write) -> io::Result<u64> {
    let count = elf.segments.len() + usize::from(elf.pvh.is_some());
    let note = (HEADER_SIZE + count * PROGRAM_HEADER_SIZE) as u64;
    let mut end = note + if elf.pvh.is_some() { NOTE_SIZE } else { 0 };
    let mut placed = Vec::new();
    for s in &elf.segments {
        let offset = end + (s.address % PAGE + PAGE - end % PAGE) % PAGE;
        placed.push((s, Segment { file_offset: offset, ..*s }));
        end = offset + s.file_size;
    }
    let mut head = file_header(elf.entry, count as u16);
    for (_, s) in &placed {
        head.extend(program_header(PT_LOAD, s.file_offset, s.address, s.file_size, s.mem_size));
    }
    if let Some(entry) = elf.pvh {
        head.extend(program_header(PT_NOTE, note, 0, NOTE_SIZE, NOTE_SIZE));
        for word in [4, 8, XEN_ELFNOTE_PHYS32_ENTRY] {
            head.extend(word.to_le_bytes());
        }
        head.extend(b"Xen\0");
        head.extend(entry.to_le_bytes());
    }
    output.write_all(&head)?;
    let mut at = head.len() as u64;
    for (old, new) in placed {
        io::copy(&mut io::repeat(0).take(new.file_offset - at), output)?;
        let copied = io::copy(&mut Stretch::new(source, old.file_offset, old.file_size), output)?;
        if copied != old.file_size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        at = new.file_offset + new.file_size;
    }
    Ok(at)
}

fn file_header(entry: u64, program_headers: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, EV_CURRENT.
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [entry, HEADER_SIZE as u64, 0] {
        header.extend(word.to_le_bytes());
    }
    header.extend([0; 4]);
    for half in [HEADER_SIZE as u16, PROGRAM_HEADER_SIZE as u16, program_headers, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, offset: u64, address: u64, file_size: u64, mem_size: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    // Readable, writable, executable.
    header.extend(7_u32.to_le_bytes());
    let align = if kind == PT_LOAD { PAGE } else { 4 };
    for word in [offset, address, address, file_size, mem_size, align] {
        header.extend(word.to_le_bytes());
    }
    header
}
