//! ELF kernels.
//!
//! ELF-64 Object File Format, version 1.5; System V ABI, AMD64 supplement; Xen's PVH note
//! (`XEN_ELFNOTE_PHYS32_ENTRY`, include/public/elfnote.h). Only what loading needs is read: the file header, the
//! program headers and the notes, a few KiB however large the file is.

pub mod relayout;
#[cfg(test)]
mod tests;

use std::io;

use super::source::{Source, u16_at, u32_at, u64_at};

/// A stretch of a file and where it goes in guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the bytes are in the file.
    pub file_offset: u64,
    /// Guest-physical address (GPA) of the first byte.
    pub address: u64,
    /// Bytes that come from the file; never more than `mem_size`.
    pub file_size: u64,
    /// Bytes in memory; those after `file_size` must read as zero.
    pub mem_size: u64,
}

impl Segment {
    /// First GPA after the segment. The parser has checked that it does not overflow.
    pub fn end(&self) -> u64 {
        self.address + self.mem_size
    }

    /// Whether the bytes can be mapped into guest memory page by page: file offset and GPA agree modulo 4096.
    pub fn is_mappable(&self) -> bool {
        self.file_offset % 4096 == self.address % 4096
    }
}

/// What an ELF file says about loading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Loadable segments in ascending order of address; none is empty and none overlaps another.
    pub segments: Vec<Segment>,
    /// GPA of the 64-bit entry, inside a segment.
    pub entry: u64,
    /// GPA of the PVH (32-bit) entry, inside a segment.
    pub pvh: Option<u64>,
    /// Oddities that do not keep the file from being loaded.
    pub warnings: Vec<String>,
}

/// Why an ELF file cannot be loaded as a kernel.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be read.
    #[error("reading {length} bytes at file offset {offset:#x} failed; check the disk and the file's permissions")]
    Read {
        /// Where in the file.
        offset: u64,
        /// How many bytes were wanted.
        length: usize,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file ends inside one of its headers.
    #[error(
        "its {what} ({length:#x} bytes at file offset {offset:#x}) ends past the end of the file ({size:#x} bytes): \
         the file is truncated; copy it again"
    )]
    TruncatedHeader {
        /// Which header.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// How long it is.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// Not an ELF file.
    #[error("the file does not start with the ELF magic 7f 45 4c 46")]
    NoMagic,
    /// A 32-bit or big-endian file.
    #[error(
        "it is {what} (byte {value} at file offset {offset:#x}), but a 64-bit little-endian x86-64 kernel is needed; \
         give a kernel built for x86_64"
    )]
    WrongClass {
        /// In words.
        what: &'static str,
        /// The byte that says so.
        value: u8,
        /// Where it is.
        offset: u64,
    },
    /// Built for another processor.
    #[error(
        "it is built for {name} (machine {machine} at file offset 0x12), but only x86-64 (62) runs here; \
         give a kernel built for x86_64"
    )]
    WrongMachine {
        /// The processor.
        name: &'static str,
        /// `e_machine`.
        machine: u16,
    },
    /// An object file, a core dump and the like.
    #[error("it is {what} (type {kind} at file offset 0x10) and not an executable kernel; {remedy}")]
    WrongType {
        /// In words.
        what: &'static str,
        /// `e_type`.
        kind: u16,
        /// What to give instead.
        remedy: &'static str,
    },
    /// A field of the file header that no kernel has.
    #[error(
        "its ELF header is damaged: {what} is {value:#x} (file offset {offset:#x}), {expected}; copy the file again"
    )]
    BadHeader {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Where it is.
        offset: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// A program for an operating system, with a dynamic loader.
    #[error(
        "it is a dynamically linked program (program header {index} names an interpreter) and not a kernel; \
         give a vmlinux or a bzImage"
    )]
    Program {
        /// Which program header.
        index: usize,
    },
    /// No segment to load.
    #[error("it has no segment to load (no PT_LOAD among its {count} program headers); give a vmlinux or a bzImage")]
    NothingToLoad {
        /// How many program headers there are.
        count: u16,
    },
    /// A segment outside the file.
    #[error(
        "segment {index} (file offset {offset:#x}, {length:#x} bytes) ends past the end of the file ({size:#x} bytes): \
         the file is truncated; copy it again"
    )]
    SegmentPastEnd {
        /// Which program header.
        index: usize,
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// More bytes in the file than in memory.
    #[error(
        "segment {index} has {file_size:#x} bytes in the file but only {mem_size:#x} bytes in memory \
         (program header at file offset {header:#x}): the file is damaged; copy it again"
    )]
    FileLargerThanMemory {
        /// Which program header.
        index: usize,
        /// `p_filesz`.
        file_size: u64,
        /// `p_memsz`.
        mem_size: u64,
        /// Where the program header is.
        header: u64,
    },
    /// Address and size of a segment do not fit 64 bits.
    #[error(
        "segment {index} (address {address:#x}, {mem_size:#x} bytes in memory; program header at file offset \
         {header:#x}) ends past the end of the address space: the file is damaged; copy it again"
    )]
    AddressOverflow {
        /// Which program header.
        index: usize,
        /// `p_paddr`.
        address: u64,
        /// `p_memsz`.
        mem_size: u64,
        /// Where the program header is.
        header: u64,
    },
    /// Two segments want the same memory.
    #[error(
        "segments {first} ({first_start:#x}..{first_end:#x}) and {second} ({second_start:#x}..{second_end:#x}) lie over \
         each other in memory: the file is damaged or not a kernel; copy it again"
    )]
    Overlap {
        /// Program header of the lower segment.
        first: usize,
        /// Its first GPA.
        first_start: u64,
        /// The GPA after it.
        first_end: u64,
        /// Program header of the other segment.
        second: usize,
        /// Its first GPA.
        second_start: u64,
        /// The GPA after it.
        second_end: u64,
    },
    /// An entry point where nothing is loaded.
    #[error(
        "its {which} entry point {address:#x} ({place}) lies in no segment: the file is damaged or not a kernel; copy it again"
    )]
    EntryOutside {
        /// Which of the entries.
        which: &'static str,
        /// Where it points.
        address: u64,
        /// Where in the file it is written.
        place: String,
    },
}

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// A vmlinux has 5; more than this is no kernel, and the bound keeps the work small.
const MAX_PROGRAM_HEADERS: u16 = 128;
/// Notes of a vmlinux take under 1 KiB.
const MAX_NOTES_SIZE: u64 = 64 * 1024;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_TLS: u32 = 7;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// One program header (`Elf64_Phdr`) and where it is in the file.
struct ProgramHeader {
    at: u64,
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    mem_size: u64,
    align: u64,
}

/// Reads what loading needs. `head` is the file's first bytes, read beforehand to recognise it (one read serves both).
///
/// # Errors
/// [`ElfError`] when the file is not an x86-64 executable whose segments lie inside the file and apart in memory.
pub fn parse<S: Source + ?Sized>(source: &S, head: &[u8]) -> Result<Elf, ElfError> {
    check_header(head, source.size())?;
    let headers = program_headers(source, head)?;
    let mut warnings = Vec::new();
    let loads = loads(&headers, source.size())?;
    if let Some(index) = headers.iter().position(|h| h.kind == PT_INTERP) {
        return Err(ElfError::Program { index });
    }
    if headers.iter().any(|h| h.kind == PT_TLS) {
        warnings.push(
            "the ELF file has thread-local storage, like a program for an operating system: \
                       if nothing boots, check that it is a kernel"
                .to_owned(),
        );
    }
    let entry = physical_entry(u64_at(head, 24), &headers)?;
    let pvh = pvh_entry(source, &headers, &mut warnings)?;
    if let Some((address, at)) = pvh
        && !inside(&loads, address)
    {
        let place = format!("PVH note at file offset {at:#x}");
        return Err(ElfError::EntryOutside { which: "PVH", address, place });
    }
    Ok(Elf { segments: loads, entry, pvh: pvh.map(|(address, _)| address), warnings })
}

fn inside(segments: &[Segment], address: u64) -> bool {
    segments.iter().any(|s| (s.address..s.end()).contains(&address))
}

fn check_header(head: &[u8], size: u64) -> Result<(), ElfError> {
    if head.len() < 4 || head[..4] != *b"\x7fELF" {
        return Err(ElfError::NoMagic);
    }
    if head.len() < HEADER_SIZE {
        return Err(ElfError::TruncatedHeader { what: "ELF header", offset: 0, length: HEADER_SIZE as u64, size });
    }
    if head[4] != 2 {
        let what = if head[4] == 1 { "a 32-bit ELF file" } else { "an ELF file of no known class" };
        return Err(ElfError::WrongClass { what, value: head[4], offset: 4 });
    }
    if head[5] != 1 {
        let what = if head[5] == 2 { "a big-endian ELF file" } else { "an ELF file of no known byte order" };
        return Err(ElfError::WrongClass { what, value: head[5], offset: 5 });
    }
    let machine = u16_at(head, 18);
    if machine != 62 {
        return Err(ElfError::WrongMachine { name: machine_name(machine), machine });
    }
    let kind = u16_at(head, 16);
    let (what, remedy) = match kind {
        2 | 3 => return Ok(()),
        1 => ("an object file or a kernel module", "give the vmlinux or bzImage it belongs to"),
        4 => ("a core dump", "give a vmlinux or a bzImage"),
        _ => ("an ELF file of no known type", "the file is damaged: copy it again"),
    };
    Err(ElfError::WrongType { what, kind, remedy })
}

fn machine_name(machine: u16) -> &'static str {
    match machine {
        3 => "32-bit x86",
        8 => "MIPS",
        20 => "32-bit PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        43 => "SPARC",
        183 => "64-bit ARM",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another processor",
    }
}

fn program_headers<S: Source + ?Sized>(source: &S, head: &[u8]) -> Result<Vec<ProgramHeader>, ElfError> {
    let (offset, entry_size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(entry_size) != PROGRAM_HEADER_SIZE {
        let (what, expected) = ("the size of a program header", "but must be 0x38");
        return Err(ElfError::BadHeader { what, value: entry_size.into(), offset: 54, expected });
    }
    if count > MAX_PROGRAM_HEADERS {
        let (what, expected) = ("the number of program headers", "but at most 0x80 are taken");
        return Err(ElfError::BadHeader { what, value: count.into(), offset: 56, expected });
    }
    let length = usize::from(count) * PROGRAM_HEADER_SIZE;
    let truncated = ElfError::TruncatedHeader {
        what: "table of program headers",
        offset,
        length: length as u64,
        size: source.size(),
    };
    let Some(end) = offset.checked_add(length as u64) else { return Err(truncated) };
    let mut far = Vec::new();
    let table = match usize::try_from(end) {
        Ok(end) if end <= head.len() => &head[end - length..end],
        _ if end > source.size() => return Err(truncated),
        _ => {
            far.resize(length, 0);
            read(source, offset, &mut far, truncated)?;
            &far
        }
    };
    Ok(table
        .chunks_exact(PROGRAM_HEADER_SIZE)
        .zip((offset..).step_by(PROGRAM_HEADER_SIZE))
        .map(|(h, at)| ProgramHeader {
            at,
            kind: u32_at(h, 0),
            offset: u64_at(h, 8),
            virtual_address: u64_at(h, 16),
            physical_address: u64_at(h, 24),
            file_size: u64_at(h, 32),
            mem_size: u64_at(h, 40),
            align: u64_at(h, 48),
        })
        .collect())
}

/// Fills `buffer` from `offset`, or gives `truncated` when the file has become shorter than it was.
fn read<S: Source + ?Sized>(source: &S, offset: u64, buffer: &mut [u8], truncated: ElfError) -> Result<(), ElfError> {
    match source.read_full_at(buffer, offset) {
        Ok(n) if n == buffer.len() => Ok(()),
        Ok(_) => Err(truncated),
        Err(error) => Err(ElfError::Read { offset, length: buffer.len(), source: error }),
    }
}

/// The segments to load, each checked by itself and against the others, in ascending order of address.
fn loads(headers: &[ProgramHeader], size: u64) -> Result<Vec<Segment>, ElfError> {
    let mut loads = Vec::new();
    for (index, h) in headers.iter().enumerate().filter(|(_, h)| h.kind == PT_LOAD && h.mem_size | h.file_size != 0) {
        if h.offset.checked_add(h.file_size).is_none_or(|end| end > size) {
            return Err(ElfError::SegmentPastEnd { index, offset: h.offset, length: h.file_size, size });
        }
        if h.file_size > h.mem_size {
            let (file_size, mem_size, header) = (h.file_size, h.mem_size, h.at);
            return Err(ElfError::FileLargerThanMemory { index, file_size, mem_size, header });
        }
        let address = h.physical_address;
        if address.checked_add(h.mem_size).is_none() {
            return Err(ElfError::AddressOverflow { index, address, mem_size: h.mem_size, header: h.at });
        }
        let segment = Segment { file_offset: h.offset, address, file_size: h.file_size, mem_size: h.mem_size };
        loads.push((index, segment));
    }
    if loads.is_empty() {
        return Err(ElfError::NothingToLoad { count: headers.len() as u16 });
    }
    loads.sort_by_key(|(_, s)| s.address);
    for pair in loads.windows(2) {
        let ((first, a), (second, b)) = (pair[0], pair[1]);
        if b.address < a.end() {
            return Err(ElfError::Overlap {
                first,
                first_start: a.address,
                first_end: a.end(),
                second,
                second_start: b.address,
                second_end: b.end(),
            });
        }
    }
    Ok(loads.into_iter().map(|(_, segment)| segment).collect())
}

/// The entry as a physical address: as it is when it lies in a segment, otherwise taken from virtual to physical.
///
/// Linux writes the physical address (`phys_startup_64`); other kernels write the virtual one.
fn physical_entry(entry: u64, headers: &[ProgramHeader]) -> Result<u64, ElfError> {
    let within = |start: u64, h: &ProgramHeader| h.kind == PT_LOAD && entry >= start && entry - start < h.mem_size;
    if headers.iter().any(|h| within(h.physical_address, h)) {
        return Ok(entry);
    }
    headers
        .iter()
        .find(|h| within(h.virtual_address, h))
        .map(|h| entry - h.virtual_address + h.physical_address)
        .ok_or_else(|| ElfError::EntryOutside { which: "64-bit", address: entry, place: "file offset 0x18".to_owned() })
}

/// The PVH note's entry and the note's file offset.
fn pvh_entry<S: Source + ?Sized>(
    source: &S,
    headers: &[ProgramHeader],
    warnings: &mut Vec<String>,
) -> Result<Option<(u64, u64)>, ElfError> {
    for h in headers.iter().filter(|h| h.kind == PT_NOTE && h.file_size != 0) {
        let (offset, length, size) = (h.offset, h.file_size, source.size());
        if length > MAX_NOTES_SIZE {
            warnings.push(format!(
                "notes of {length:#x} bytes at file offset {offset:#x} were not searched for a PVH entry \
                 (more than {MAX_NOTES_SIZE:#x} bytes)"
            ));
            continue;
        }
        let truncated = ElfError::TruncatedHeader { what: "table of notes", offset, length, size };
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(truncated);
        }
        let mut notes = vec![0; length as usize];
        read(source, offset, &mut notes, truncated)?;
        // Only notes with 8-byte alignment pad to 8 (gABI, "Note Section"); every other value in use means 4.
        let align = if h.align == 8 { 8 } else { 4 };
        match find_pvh(&notes, align) {
            Ok(None) => {}
            Ok(Some((entry, at))) => return Ok(Some((entry, offset + at as u64))),
            Err(at) => warnings.push(format!(
                "the note at file offset {:#x} is damaged; notes after it were not read",
                offset + at as u64
            )),
        }
    }
    Ok(None)
}

/// Walks notes (name size, description size, type, name, description). `Err` is where a damaged one starts.
fn find_pvh(notes: &[u8], align: usize) -> Result<Option<(u64, usize)>, usize> {
    let mut at = 0;
    while at + 12 <= notes.len() {
        let (name_size, desc_size) = (u32_at(notes, at) as usize, u32_at(notes, at + 4) as usize);
        let name = at + 12;
        // The sizes have 32 bits each and usize 64, so that sums cannot overflow.
        let desc = at + (12 + name_size).next_multiple_of(align);
        if desc + desc_size > notes.len() {
            return Err(at);
        }
        if u32_at(notes, at + 8) == XEN_ELFNOTE_PHYS32_ENTRY && notes[name..name + name_size] == *b"Xen\0" {
            return match desc_size {
                4 => Ok(Some((u32_at(notes, desc).into(), at))),
                8 => Ok(Some((u64_at(notes, desc), at))),
                _ => Err(at),
            };
        }
        at = desc + desc_size.next_multiple_of(align);
    }
    Ok(None)
}
