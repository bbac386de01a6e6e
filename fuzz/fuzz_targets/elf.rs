//! ELF kernels: no bytes make the parser panic, what it accepts can be loaded, and laying it out anew keeps it so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence::boot::elf::{self, Elf, relayout};

fn check(elf: &Elf, size: u64) {
    assert!(!elf.segments.is_empty());
    for s in &elf.segments {
        assert!(s.file_offset.checked_add(s.file_size).is_some_and(|end| end <= size));
        assert!(s.file_size <= s.mem_size && s.address.checked_add(s.mem_size).is_some());
    }
    assert!(elf.segments.windows(2).all(|w| w[0].end() <= w[1].address));
    let inside = |address| elf.segments.iter().any(|s| (s.address..s.end()).contains(&address));
    assert!(inside(elf.entry) && elf.pvh.is_none_or(inside));
}

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    // Most inputs start where it becomes interesting, behind the identification; some are left as they are.
    if file.len() >= 64 && file[0] & 3 != 0 {
        file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    }
    let Ok(elf) = elf::parse(&file[..], &file[..file.len().min(4096)]) else { return };
    check(&elf, file.len() as u64);
    let mut anew = Vec::new();
    relayout::write(&file[..], &elf, &mut anew).expect("memory takes all");
    let again = elf::parse(&anew[..], &anew[..anew.len().min(4096)]).expect("what was laid out anew is good");
    assert!(again.segments.iter().all(|s| s.is_mappable()));
    assert_eq!((again.entry, again.pvh, again.segments.len()), (elf.entry, elf.pvh, elf.segments.len()));
});
