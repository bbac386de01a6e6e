use proptest::prelude::*;

use super::super::fixture::{TinyElf, put};
use super::super::source::FileSource;
use super::*;

fn parse_bytes(bytes: &[u8]) -> Result<Elf, ElfError> {
    parse(bytes, &bytes[..bytes.len().min(4096)])
}

/// The error's text after a change to a good file.
fn message(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut file = TinyElf::default().build();
    change(&mut file);
    parse_bytes(&file).unwrap_err().to_string()
}

/// File offset of program header `index`'s field at `field`.
fn field(index: usize, field: usize) -> usize {
    64 + index * 56 + field
}

/// Proves that each way a file can be wrong is named with its place and the remedy.
#[test]
fn says_what_is_wrong_and_where() {
    let set = |at: usize, bytes: &'static [u8]| message(move |f| put(f, at, bytes));
    let expected: [(String, &[&str]); 14] = [
        (
            message(|f| f.truncate(0x2000)),
            &["segment 0 (file offset 0x1000, 0x1800 bytes) ends past", "(0x2000 bytes)", "copy it again"],
        ),
        (message(|f| f.truncate(100)), &["table of program headers (0xa8 bytes at file offset 0x40)", "truncated"]),
        (set(4, &[1]), &["a 32-bit ELF file (byte 1 at file offset 0x4)", "x86_64"]),
        (set(5, &[2]), &["a big-endian ELF file", "0x5"]),
        (set(18, &[183]), &["64-bit ARM (machine 183 at file offset 0x12)"]),
        (set(16, &[1]), &["an object file or a kernel module", "vmlinux or bzImage it belongs to"]),
        (set(16, &[4]), &["a core dump"]),
        (set(54, &[32]), &["size of a program header is 0x20 (file offset 0x36)", "must be 0x38"]),
        (set(56, &[0xff, 0xff]), &["number of program headers is 0xffff (file offset 0x38)"]),
        (set(56, &[0, 0]), &["no PT_LOAD among its 0 program headers"]),
        (set(field(0, 0), &[3]), &["program header 0 names an interpreter", "not a kernel"]),
        (set(field(0, 40), &[0, 8]), &["segment 0 has 0x1800 bytes in the file but only 0x800 bytes in memory"]),
        (set(field(1, 24), &[0, 0x10, 0x10]), &["segments 0 (0x100000..0x102000) and 1 (0x101000..0x102000) lie over"]),
        (set(24, &[0, 0, 0x50]), &["64-bit entry point 0x500000 (file offset 0x18) lies in no segment"]),
    ];
    for (message, texts) in &expected {
        assert!(texts.iter().all(|text| message.contains(text)), "{message} lacks one of {texts:?}");
    }
    let overflow = message(|f| {
        put(f, field(1, 24), &u64::MAX.to_le_bytes());
    });
    assert!(overflow.contains("segment 1 (address 0xffffffffffffffff, 0x1000 bytes in memory"), "{overflow}");
    let outside = TinyElf { pvh: Some(0x30_0000), ..TinyElf::default() }.build();
    let outside = parse_bytes(&outside).unwrap_err().to_string();
    assert!(outside.contains("PVH entry point 0x300000 (PVH note at file offset 0x3234)"), "{outside}");
    assert!(
        message(|f| put(f, field(0, 8), &u64::MAX.to_le_bytes())).contains("segment 0 (file offset 0xffffffffffffffff")
    );
}

/// Proves that a 4-byte PVH note is read as well as an 8-byte one, that a note of another owner is passed over, and
/// that a damaged one is a warning.
#[test]
fn reads_pvh_notes() {
    let note = |name: &[u8], kind: u32, desc: &[u8], align: usize| {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, desc.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes.extend(desc);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes
    };
    for align in [4, 8] {
        let mut notes = note(b"GNU\0", 18, b"decoy...", align);
        notes.extend(note(b"Xen\0", 17, b"other", align));
        let at = notes.len();
        notes.extend(note(b"Xen\0", 18, &[0x50, 8, 0, 1], align));
        assert_eq!(find_pvh(&notes, align), Ok(Some((0x0100_0850, at))));
        assert_eq!(find_pvh(&notes[..at], align), Ok(None));
        assert_eq!(find_pvh(&notes[..at + 17], align), Err(at));
    }
    let mut file = TinyElf::default().build();
    put(&mut file, 0x3234 + 4, &[9]);
    let elf = parse_bytes(&file).unwrap();
    assert_eq!(elf.pvh, None);
    assert!(elf.warnings[0].contains("note at file offset 0x3234 is damaged"), "{:?}", elf.warnings);
}

/// Proves that a virtual entry address is taken to its physical one.
#[test]
fn a_virtual_entry_is_translated() {
    let mut file = TinyElf { pvh: None, ..TinyElf::default() }.build();
    put(&mut file, field(0, 16), &0xffff_ffff_8100_0000_u64.to_le_bytes());
    put(&mut file, 24, &0xffff_ffff_8100_0040_u64.to_le_bytes());
    assert_eq!(parse_bytes(&file).unwrap().entry, 0x10_0040);
}

/// Proves that program headers past the first page are read too.
#[test]
fn far_program_headers_are_read() {
    let mut file = TinyElf::default().build();
    let near = parse_bytes(&file).unwrap();
    let table = file[64..64 + 3 * 56].to_vec();
    let at = file.len() as u64;
    file.extend(table);
    put(&mut file, 32, &at.to_le_bytes());
    put(&mut file, 64, &[0xff; 3 * 56]);
    assert_eq!(parse_bytes(&file).unwrap(), near);
}

/// Proves that a file laid out anew loads the same bytes at the same addresses, now page by page.
#[test]
fn relayout_keeps_what_is_loaded() {
    let elf = TinyElf { skew: 0x10, ..TinyElf::default() };
    let file = elf.build();
    let old = parse_bytes(&file).unwrap();
    assert!(!old.segments.iter().any(Segment::is_mappable));
    let mut anew = Vec::new();
    assert_eq!(relayout::write(&file[..], &old, &mut anew).unwrap(), anew.len() as u64);
    let new = parse_bytes(&anew).unwrap();
    assert!(new.segments.iter().all(Segment::is_mappable));
    assert_eq!((new.entry, new.pvh), (old.entry, old.pvh));
    for (old, new) in old.segments.iter().zip(&new.segments) {
        let bytes = |f: &[u8], s: &Segment| f[s.file_offset as usize..][..s.file_size as usize].to_vec();
        assert_eq!(bytes(&file, old), bytes(&anew, new));
        assert_eq!((old.address, old.mem_size), (new.address, new.mem_size));
    }
}

/// What every accepted file must keep.
fn check_invariants(elf: &Elf, size: u64) {
    assert!(!elf.segments.is_empty());
    for s in &elf.segments {
        assert!(s.file_offset.checked_add(s.file_size).unwrap() <= size);
        assert!(s.file_size <= s.mem_size && s.address.checked_add(s.mem_size).is_some() && s.mem_size > 0);
    }
    assert!(elf.segments.windows(2).all(|w| w[0].end() <= w[1].address));
    assert!(elf.segments.iter().any(|s| (s.address..s.end()).contains(&elf.entry)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Proves that no bytes make the parser panic, and that what it accepts can be loaded.
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), whole in any::<bool>()) {
        if whole && bytes.len() >= 64 {
            put(&mut bytes, 0, &TinyElf::default().build()[..24]);
        }
        if let Ok(elf) = parse_bytes(&bytes) {
            check_invariants(&elf, bytes.len() as u64);
        }
    }

    /// Proves the same of good files with bytes of the headers, notes or length changed.
    #[test]
    fn mutated_files_never_panic(
        changes in proptest::collection::vec((0_usize..300, any::<u8>()), 1..8),
        cut in proptest::option::of(0_usize..0x3400),
    ) {
        let mut file = TinyElf::default().build();
        for (at, byte) in changes {
            // The last 40 places stand for the note at the end.
            let at = if at < 260 { at } else { file.len() - 40 + (at - 260) };
            file[at] = byte;
        }
        file.truncate(cut.unwrap_or(file.len()));
        if let Ok(elf) = parse_bytes(&file) {
            check_invariants(&elf, file.len() as u64);
        }
    }
}

/// Proves that a file which became shorter after it was opened is an error and not a panic.
#[test]
fn a_file_that_shrinks_is_an_error() {
    let mut bytes = TinyElf::default().build();
    let full = bytes.len() as u64;
    let head = bytes[..4096].to_vec();
    bytes.truncate(4096);
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    let error = parse(&FileSource::new(&file, full), &head).unwrap_err();
    assert!(matches!(error, ElfError::TruncatedHeader { what: "table of notes", .. }), "{error}");
}
