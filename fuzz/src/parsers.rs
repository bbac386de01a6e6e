//! Files: kernels, their payloads, initrds, and what is kept in the cache folder.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use ringfence::boot::cache::{self, Record};
use ringfence::boot::elf::{self, Elf, relayout};
use ringfence::boot::initrd::Initrd;
use ringfence::boot::unpack::{Compression, Limit};
use ringfence::boot::{bzimage as bz, image, unpack as packed};
use ringfence::guest::cpio::Archive;
use ringfence::guest::manifest::Manifest;

use super::input::Input;

fn check_elf(elf: &Elf, size: u64) {
    assert!(!elf.segments.is_empty());
    for s in &elf.segments {
        assert!(s.file_offset.checked_add(s.file_size).is_some_and(|end| end <= size));
        assert!(s.file_size <= s.mem_size && s.address.checked_add(s.mem_size).is_some());
    }
    assert!(elf.segments.windows(2).all(|w| w[0].end() <= w[1].address));
    let inside = |address| elf.segments.iter().any(|s| (s.address..s.end()).contains(&address));
    assert!(inside(elf.entry) && elf.pvh.is_none_or(inside));
}

/// ELF kernels: no bytes make the parser panic, what it accepts can be loaded, and laying it out anew keeps it so.
pub fn elf(data: &[u8]) {
    let mut file = data.to_vec();
    // Most inputs start where it becomes interesting, behind the identification; some are left as they are.
    if file.len() >= 64 && file[0] & 3 != 0 {
        file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    }
    let Ok(elf) = elf::parse(&file[..], &file[..file.len().min(4096)]) else { return };
    check_elf(&elf, file.len() as u64);
    // What takes more than this to lay out is right to be large, and slow to check.
    if elf.segments.iter().map(|s| s.file_size).sum::<u64>() > 1 << 20 {
        return;
    }
    let mut anew = Vec::new();
    relayout::write(&file[..], &elf, &mut anew).expect("memory takes all");
    let again = elf::parse(&anew[..], &anew[..anew.len().min(4096)]).expect("what was laid out anew is good");
    assert!(again.segments.iter().all(|s| s.is_mappable()));
    assert_eq!((again.entry, again.pvh, again.segments.len()), (elf.entry, elf.pvh, elf.segments.len()));
}

/// A kernel of two segments with a PVH note.
pub fn elf_seeds() -> Vec<Vec<u8>> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let entry = 0x20_0000_u64;
    for (value, size) in [(2, 2), (62, 2), (1, 4), (entry, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (3, 2)] {
        file.extend_from_slice(&u64::to_le_bytes(value)[..size]);
    }
    for (kind, offset, address, size) in
        [(1u32, 0x100u64, entry, 16u64), (1, 0x110, entry + 0x1000, 16), (4, 0xf0, 0, 24)]
    {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for value in [offset, address, address, size, size, 4] {
            file.extend_from_slice(&value.to_le_bytes());
        }
    }
    file.resize(0x110 + 16, 0x90);
    let mut with_note = file.clone();
    for word in [4u32, 8, 18, u32::from_le_bytes(*b"Xen\0"), entry as u32, 0] {
        with_note.extend_from_slice(&word.to_le_bytes());
    }
    let note_at = (file.len() as u64).to_le_bytes();
    with_note[64 + 2 * 56 + 8..][..8].copy_from_slice(&note_at);
    vec![file, with_note]
}

/// bzImage headers: no bytes make the parser panic, and what it accepts lies inside the file.
pub fn bzimage(data: &[u8]) {
    let mut head = data.to_vec();
    let _ = image::recognise(&head);
    let size = match head.split_last_chunk::<4>() {
        Some((_, size)) => u64::from(u32::from_le_bytes(*size)).max(head.len() as u64),
        None => return,
    };
    // Most inputs start where it becomes interesting, behind the magic; some are left as they are.
    if head.len() >= 0x206 && head[0] & 3 != 0 {
        head[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        head[0x202..0x206].copy_from_slice(b"HdrS");
    }
    head.truncate(4096);
    let Ok(image) = bz::parse(&head, size) else { return };
    assert!(image.payload_offset + image.payload_length <= size);
    assert_eq!(image.protected_offset + image.protected_size, size);
    if let Ok(plan) = image.self_unpacking() {
        assert!(plan.preferred_address.checked_add(plan.room).is_some());
    }
    if let Some(at) = image.kernel_version_offset() {
        let _ = bz::kernel_version(head.get(at as usize..).unwrap_or(&[]));
    }
}

const FORMATS: [(Compression, &[u8]); 7] = [
    (Compression::Gzip, b"\x1f\x8b\x08"),
    (Compression::Bzip2, b"BZh9"),
    (Compression::Xz, b"\xfd7zXZ\0"),
    (Compression::Lzma, b"\x5d\0\0"),
    (Compression::Lz4Legacy, b"\x02\x21\x4c\x18"),
    (Compression::Lz4, b"\x04\x22\x4d\x18"),
    (Compression::Zstd, b"\x28\xb5\x2f\xfd"),
];
const LIMIT: u64 = 1 << 20;

/// Compressed payloads: no bytes make a decoder panic, hang or give more than its limit.
pub fn unpack(data: &[u8]) {
    // A whole file is unpacked by its magic; otherwise the first byte chooses a format and its magic is put in front.
    let Some((&choice, rest)) = data.split_first() else { return };
    let (compression, packed) = match Compression::detect(data) {
        Some(compression) => (compression, data.to_vec()),
        None => {
            let (compression, magic) = FORMATS[usize::from(choice) % FORMATS.len()];
            (compression, [magic, rest].concat())
        }
    };
    let mut output = Vec::new();
    let result = packed::unpack(compression, &packed[..], &mut output, &Limit { bytes: LIMIT, why: String::new() });
    assert!(output.len() as u64 <= LIMIT);
    if let Ok(n) = result {
        assert_eq!(n, output.len() as u64);
    }
}

/// "kernel kernel kernel" and a newline, by gzip 1.12 and by xz 5.4.
pub fn unpack_seeds() -> Vec<Vec<u8>> {
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x4e\x2d\xca\x4b\xcd\x51\xc8\x46\xa2\xb9\0\xf9\xa2\x02\x4b\x15\0\0\0";
    vec![gzip.to_vec()]
}

/// Placing an initrd: wherever kernel, RAM and the kernel's limit end, it is placed wholly inside RAM and above the kernel, or
/// refused.
pub fn initrd(data: &[u8]) {
    let mut input = Input::new(data);
    let (ram_end, kernel_end, limit) = (input.u64() >> input.below(64), input.u64() >> input.below(64), input.u64());
    let overlay = vec![0; usize::from(input.u16())];
    let len = overlay.len() as u64;
    let initrd = Initrd::open(None, overlay).expect("no file is opened");
    assert_eq!(initrd.len(), len);
    let Ok(start) = initrd.place(&(0..ram_end), kernel_end, limit) else { return };
    assert!(start >= kernel_end && start % 4096 == 0);
    assert!(start + len <= ram_end && (len == 0 || start + len - 1 <= limit));
}

fn memory_file(bytes: &[u8]) -> File {
    let fd: OwnedFd = rustix::fs::memfd_create("case", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("memory takes all");
    file
}

/// Kept kernels: no file makes the check panic, and one that passes has the length and hash in its record.
pub fn cache_record(data: &[u8]) {
    let mut bytes = data.to_vec();
    // Every other case gets a record that fits, so that what is behind the record's own check is reached.
    if data.first().is_some_and(|b| b & 1 != 0) {
        let record =
            Record { content: blake3(b"x"), length: data.len() as u64, body: blake3(&data[..data.len() & !3]) };
        bytes.extend(record.to_bytes());
    }
    let file = memory_file(&bytes);
    let metadata = file.metadata().expect("a file in memory has metadata");
    let Ok(record) = cache::check(&file, &metadata) else { return };
    assert_eq!(blake3(&bytes[..record.length as usize]), record.body);
    assert!(bytes.ends_with(&record.to_bytes()));
}

fn blake3(bytes: &[u8]) -> cache::ContentHash {
    cache::hash(bytes).expect("memory can be read")
}

/// A whole kept kernel.
pub fn cache_record_seeds() -> Vec<Vec<u8>> {
    let body = b"\x7eLF and so on".to_vec();
    let record = Record { content: blake3(b"x"), length: body.len() as u64, body: blake3(&body) };
    vec![[body, record.to_bytes()].concat()]
}

/// Manifests of the store: no bytes make the reader panic, and what it takes names a file in its own folder.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data, "manifest.json".as_ref()) else { return };
    assert!(!manifest.image.is_empty() && !manifest.image.contains('/') && manifest.image != "..");
}

/// A manifest with every part.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let text = r#"{"schema":1,"version":"6.1.192","image":"vmlinux","size":3,"blake3":"00","created_unix":1,"cmdline":null,
        "build":{"flavour":"micro","recipe":"aa","source":{"path":"/l.tar.xz","size":1,"modified_ns":2,"blake3":"aa"},
        "config_blake3":"bb","settings_not_taken":[],"patches":["a.patch"],"patches_left_out":[],"compiler":"gcc","steps":1,
        "jobs":2,"seconds":1.5},"imported_from":null}"#;
    vec![text.as_bytes().to_vec(), br#"{"schema":1,"image":"../x","size":0,"blake3":"","created_unix":0}"#.to_vec()]
}

/// Archives: whatever names are asked for, what comes out is a list of whole entries that ends with the trailer.
pub fn cpio(data: &[u8]) {
    let (mut input, mut archive, mut entries) = (Input::new(data), Archive::new(), 0);
    while !input.is_empty() {
        let (kind, mode) = (input.u8(), u32::from(input.u16()));
        let path = String::from_utf8_lossy(input.short()).into_owned();
        let added = match kind % 4 {
            0 => archive.directory(&path, mode),
            1 => archive.file(&path, mode, input.short()),
            2 => archive.symlink(&path, &String::from_utf8_lossy(input.short())),
            _ => archive.character_device(&path, mode, (u32::from(input.u8()), u32::from(input.u8()))),
        };
        entries += usize::from(added.is_ok());
    }
    let bytes = archive.finish();
    let mut rest = &bytes[..];
    loop {
        assert_eq!(&rest[..6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&rest[6 + 8 * index..][..8]).expect("digits are ASCII");
            usize::from_str_radix(digits, 16).expect("digits are hexadecimal")
        };
        let (size, name_size) = (field(6), field(11));
        let name = &rest[110..110 + name_size];
        let body = (110 + name_size).next_multiple_of(4);
        rest = &rest[(body + size).next_multiple_of(4)..];
        if name == b"TRAILER!!!\0" {
            break;
        }
        entries -= 1;
    }
    assert_eq!((entries, rest.iter().any(|b| *b != 0)), (0, false));
}
