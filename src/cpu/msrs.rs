//! Model specific registers that a kernel expects a BIOS to have set (Intel SDM vol. 4).

use kvm_bindings::kvm_msr_entry;

/// IA32_MISC_ENABLE.
const MISC_ENABLE: u32 = 0x1a0;
/// Fast string operation.
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// IA32_MTRR_DEF_TYPE (Intel SDM vol. 3A, section 12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, fixed-range MTRRs off, default type write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// The registers and their values; all others keep their reset state.
pub fn entries() -> [kvm_msr_entry; 2] {
    [(MISC_ENABLE, MISC_ENABLE_FAST_STRING), (MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK)]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() })
}
