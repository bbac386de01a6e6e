use proptest::prelude::*;

use super::super::fixture::{PAYLOAD_OFFSET, bzimage, put};
use super::*;

fn parse_bytes(bytes: &[u8]) -> Result<BzImage, BzImageError> {
    parse(&bytes[..bytes.len().min(4096)], bytes.len() as u64)
}

fn message(at: usize, bytes: &[u8]) -> String {
    let mut file = bzimage(b"\x1f\x8bpayload.");
    put(&mut file, at, bytes);
    match parse_bytes(&file) {
        Ok(image) => image.self_unpacking().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

/// Proves that the header's fields are read from their offsets.
#[test]
fn reads_the_header() {
    let file = bzimage(b"\x1f\x8bpayload.");
    let image = parse_bytes(&file).unwrap();
    assert_eq!((image.protocol, image.protected_offset), (0x20f, 0x400));
    assert_eq!((image.payload_offset, image.payload_length), (PAYLOAD_OFFSET as u64, 10));
    assert_eq!(image.protected_size, file.len() as u64 - 0x400);
    assert_eq!(image.kernel_version_offset(), Some(0x300));
    assert_eq!(kernel_version(&file[0x300..0x400]).as_deref(), Some(super::super::fixture::VERSION));
    let plan = image.self_unpacking().unwrap();
    assert_eq!(plan, SelfUnpacking { preferred_address: 0x100_0000, room: 0x10_0000, alignment: Some(0x20_0000) });
}

/// Proves that fields past the header's own end are not taken for fields, and that 0 setup sectors mean 4.
#[test]
fn older_headers_end_earlier() {
    let mut file = bzimage(b"\x1f\x8bpayload.");
    // Ends at 0x250: payload fields are there (2.08), pref_address and init_size are not (2.10).
    file[HEADER_LENGTH] = 0x4e;
    put(&mut file, VERSION, &[0x08, 0x02]);
    file[SETUP_HEADER_OFFSET] = 0;
    file.resize(0xa00 + 0x40 + 10, 0);
    let image = parse_bytes(&file).unwrap();
    assert_eq!({ image.header.init_size }, 0);
    assert_eq!({ image.header.payload_length }, 10);
    assert_eq!(image.protected_offset, 5 * 512);
}

/// Proves that each way a header can be wrong is named with its place and the remedy.
#[test]
fn says_what_is_wrong_and_where() {
    for (message, texts) in [
        (message(0x202, b"HdrX"), &["no Linux setup header"][..]),
        (message(VERSION, &[7, 2]), &["boot protocol 2.07 (file offset 0x206)", "newer kernel"]),
        (message(0x211, &[0]), &["zImage", "0x211"]),
        (
            message(0x24c, &[0xff, 0xff]),
            &["payload (file offset 0x440, 0xffff bytes", "end of the file (0x44a bytes)", "copy it again"],
        ),
        (message(0x248, &[0xff; 4]), &["payload (file offset 0x1000003ff"]),
        (message(0x24c, &[3]), &["its payload has only 3 bytes"]),
        (message(0x236, &[0]), &["no 64-bit entry", "boot protocol 2.15", "x86_64"]),
        (message(0x230, &[1, 1]), &["its alignment is 0x200101 (file offset 0x230)", "power of two"]),
        (message(0x258, &[0xff; 8]), &["its preferred address is 0xffffffffffffffff (file offset 0x258)"]),
    ] {
        assert!(texts.iter().all(|text| message.contains(text)), "{message} lacks one of {texts:?}");
    }
    let file = bzimage(b"");
    assert!(matches!(parse_bytes(&file[..0x280]), Err(BzImageError::TruncatedHeader { size: 0x280 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Proves that no change to a header makes the parser panic, and that what it accepts lies inside the file.
    #[test]
    fn mutated_headers_never_panic(
        changes in proptest::collection::vec((0x1f0_usize..0x270, any::<u8>()), 0..8),
        length in 0_usize..0x500,
    ) {
        let mut file = bzimage(&[0x5a; 0x100]);
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(length);
        if let Ok(image) = parse_bytes(&file) {
            prop_assert!(image.payload_offset + image.payload_length <= file.len() as u64);
            prop_assert!(image.protected_offset + image.protected_size == file.len() as u64);
            if let Ok(plan) = image.self_unpacking() {
                prop_assert!(plan.preferred_address.checked_add(plan.room).is_some());
            }
        }
    }
}
