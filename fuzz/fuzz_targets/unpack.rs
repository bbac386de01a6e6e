//! Compressed payloads: no bytes make a decoder panic, hang or give more than its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence::boot::unpack::{Compression, Limit, unpack};

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

fuzz_target!(|data: &[u8]| {
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
    let result = unpack(compression, &packed[..], &mut output, &Limit { bytes: LIMIT, why: String::new() });
    assert!(output.len() as u64 <= LIMIT);
    if let Ok(n) = result {
        assert_eq!(n, output.len() as u64);
    }
});
