//! bzImage headers: no bytes make the parser panic, and what it accepts lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence::boot::{bzimage, image};

fuzz_target!(|data: &[u8]| {
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
    let Ok(image) = bzimage::parse(&head, size) else { return };
    assert!(image.payload_offset + image.payload_length <= size);
    assert_eq!(image.protected_offset + image.protected_size, size);
    if let Ok(plan) = image.self_unpacking() {
        assert!(plan.preferred_address.checked_add(plan.room).is_some());
    }
    if let Some(at) = image.kernel_version_offset() {
        let _ = bzimage::kernel_version(head.get(at as usize..).unwrap_or(&[]));
    }
});
