use proptest::prelude::*;

use super::super::fixture::compress;
use super::*;

const KNOWN: [Compression; 7] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Xz,
    Compression::Lzma,
    Compression::Lz4Legacy,
    Compression::Lz4,
    Compression::Zstd,
];

fn limit(bytes: u64) -> Limit {
    Limit { bytes, why: "more than the test allows".to_owned() }
}

fn unpacked(compression: Compression, packed: &[u8], most: u64) -> (Vec<u8>, Result<u64, UnpackError>) {
    let mut output = Vec::new();
    let result = unpack(compression, packed, &mut output, &limit(most));
    (output, result)
}

/// Something like code and tables: compressible, but not one long run.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i / 7) as u8).wrapping_mul(31) ^ (i % 5) as u8).collect()
}

/// Proves that each format is recognised by its magic and gives back what went in, also across LZ4's 8 MiB blocks.
#[test]
fn every_format_gives_back_what_went_in() {
    for length in [1, 300_000, (8 << 20) - 1, 8 << 20, (8 << 20) + 1] {
        let data = sample(length);
        for compression in KNOWN {
            // The two slow ones need no more than the block sizes below theirs.
            if length > 1 << 20 && matches!(compression, Compression::Bzip2 | Compression::Lzma | Compression::Xz) {
                continue;
            }
            let packed = compress(compression, &data);
            assert_eq!(Compression::detect(&packed), Some(compression));
            let (output, result) = unpacked(compression, &packed, data.len() as u64);
            assert_eq!(result.unwrap_or_else(|e| panic!("{compression}: {e:?}")), length as u64);
            assert!(output == data, "{compression} of {length} bytes");
        }
    }
}

/// Proves that a bomb is stopped at the limit, having written no more, and says how far it may go.
#[test]
fn bombs_stop_at_the_limit() {
    let zeros = vec![0; 2 << 20];
    for compression in KNOWN {
        let packed = compress(compression, &zeros);
        let (output, result) = unpacked(compression, &packed, 1 << 20);
        assert!(output.len() <= 1 << 20, "{compression}");
        let error = result.unwrap_err().to_string();
        assert!(error.contains("unpacks to more than 0x100000 bytes: more than the test allows"), "{error}");
    }
}

/// Proves that a stream cut short is an error that says where, for every format.
#[test]
fn a_cut_stream_is_damaged() {
    let data = sample(400_000);
    for compression in KNOWN {
        let packed = compress(compression, &data);
        let (_, result) = unpacked(compression, &packed[..packed.len() / 2], u64::MAX);
        let error = result.unwrap_err();
        assert!(matches!(error, UnpackError::Damaged { .. }), "{compression}: {error}");
        assert!(error.to_string().starts_with(&format!("its {compression} data is damaged near byte 0x")), "{error}");
    }
}

/// Proves that a window larger than any kernel's is refused before memory is taken for it.
#[test]
fn huge_windows_are_refused() {
    // .lzma: properties, dictionary of 4 GiB - 1, size unknown.
    let mut lzma = vec![0x5d];
    lzma.extend([0xff; 4]);
    lzma.extend([0xff; 8]);
    lzma.extend([0; 32]);
    assert!(matches!(unpacked(Compression::Lzma, &lzma, u64::MAX).1, Err(UnpackError::Damaged { .. })));
    // zstd: frame header with a window descriptor of 2^(10+31) bytes (RFC 8878, section 3.1.1.1.2).
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 31 << 3, 0x01, 0, 0];
    assert!(matches!(unpacked(Compression::Zstd, &zstd, u64::MAX).1, Err(UnpackError::Damaged { .. })));
    // LZ4 legacy: a block of 4 GiB - 1.
    let lz4 = b"\x02\x21\x4c\x18\xff\xff\xff\xff\0\0\0\0";
    let error = unpacked(Compression::Lz4Legacy, lz4, u64::MAX).1.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("a block of 0xffffffff bytes"));
}

/// Proves that the window of Linux's own `zstd -22 --ultra`, 128 MiB, is taken.
#[test]
fn the_largest_window_linux_uses_is_taken() {
    let data = sample(100_000);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(WINDOW_LOG_MAX).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&data).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(unpacked(Compression::Zstd, &packed, u64::MAX).0 == data);
}

/// Proves that an output that refuses is told apart from damaged input.
#[test]
fn a_full_disk_is_not_damage() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let packed = compress(Compression::Gzip, &sample(1000));
    let error = unpack(Compression::Gzip, &packed[..], &mut Full, &limit(u64::MAX)).unwrap_err();
    assert!(matches!(error, UnpackError::Store { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Proves that damaged streams of every format end, without a panic and within the limit.
    #[test]
    fn damaged_streams_are_bounded(
        which in 0..KNOWN.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        length in 0_usize..70_000,
    ) {
        let mut packed = compress(KNOWN[which], &sample(length));
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        packed.truncate(cut.index(packed.len() * 2).max(1).min(packed.len()));
        let (output, result) = unpacked(KNOWN[which], &packed, 100_000);
        prop_assert!(output.len() <= 100_000);
        if let Ok(n) = result {
            prop_assert_eq!(n, output.len() as u64);
        }
    }

    /// Proves the same of bytes that never were a stream, behind the magic or not.
    #[test]
    fn arbitrary_bytes_are_bounded(which in 0..KNOWN.len(), magic in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut packed = compress(KNOWN[which], b"");
        packed.truncate(if magic { 6 } else { 0 });
        packed.extend(bytes);
        let (output, _) = unpacked(KNOWN[which], &packed, 100_000);
        prop_assert!(output.len() <= 100_000);
    }
}
