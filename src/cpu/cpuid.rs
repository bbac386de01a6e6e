//! CPUID: what KVM supports, with the guest's own topology (Intel SDM vol. 2A, "CPUID"; AMD APM vol. 3, appendix E).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

use crate::host::Flavour;

/// The guest's CPUs: one package, one core a vCPU, one thread a core. APIC ids are 0, 1, 2 ...
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Number of vCPUs, at least 1.
    pub cpus: u32,
}

/// Why no CPUID table could be made.
#[derive(Debug, thiserror::Error)]
pub enum CpuidError {
    /// More leaves than KVM takes.
    #[error("the CPUID table needs more than KVM's {KVM_MAX_CPUID_ENTRIES} entries")]
    TooManyEntries,
}

/// Leaf 1, ECX.
mod leaf1_ecx {
    pub const CX16: u32 = 1 << 13;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const X2APIC: u32 = 1 << 21;
    pub const HYPERVISOR: u32 = 1 << 31;
}
/// Leaf 1, EDX: more than one logical processor in the package.
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 0x80000001, ECX: AMD's extended topology leaves are there.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Leaf 0x80000001, ECX: legacy multi-core method, HTT in leaf 1 counts cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x40000001, EAX: interrupt messages carry 15-bit destinations.
const MSI_EXT_DEST_ID: u32 = 1 << 15;
/// KVM's time information leaf: EAX is the TSC's frequency in kHz, EBX the APIC bus's.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// Frequency of KVM's emulated APIC bus, in kHz (1 ns a cycle).
const APIC_BUS_KHZ: u32 = 1_000_000;
/// Level types of leaves 0xB and 0x1F.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

impl Topology {
    /// Bits of the APIC id that tell cores of the package apart.
    fn core_bits(self) -> u32 {
        u32::BITS - (self.cpus - 1).leading_zeros()
    }
}

/// What the vCPUs' tables are made of, worked out once.
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    topology: Topology,
}

impl Template {
    /// Adapts what KVM supports to the host's flavour, the guest's topology and the TSC's frequency (0: not known).
    pub fn new(supported: &CpuId, flavour: Flavour, topology: Topology, tsc_khz: u32) -> Self {
        let mut entries: Vec<_> = supported.as_slice().to_vec();
        // Per-level leaves are written anew below.
        entries.retain(|e| !matches!(e.function, 0xb | 0x1f | 0x8000_001e | HYPERVISOR_TIMING));
        for entry in &mut entries {
            adapt(entry, flavour, topology);
        }
        let leaf = |function| kvm_cpuid_entry2 { function, ..Default::default() };
        let max = |base: u32| entries.iter().find(|e| e.function == base).map_or(0, |e| e.eax);
        let (max_basic, max_extended) = (max(0), max(0x8000_0000));
        for function in [0xb, 0x1f] {
            if max_basic >= function {
                entries.extend(levels(function, topology));
            }
        }
        if max_extended >= 0x8000_001e && has_topology_extensions(&entries) {
            entries.push(leaf(0x8000_001e));
        }
        if tsc_khz != 0
            && let Some(base) = entries.iter_mut().find(|e| e.function == 0x4000_0000)
        {
            base.eax = base.eax.max(HYPERVISOR_TIMING);
            entries.push(kvm_cpuid_entry2 { eax: tsc_khz, ebx: APIC_BUS_KHZ, ..leaf(HYPERVISOR_TIMING) });
        }
        Self { entries, topology }
    }

    /// The table of the vCPU with APIC id `id`.
    pub fn for_vcpu(&self, id: u32) -> Result<CpuId, CpuidError> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.function {
                1 => entry.ebx = entry.ebx & 0x00ff_ffff | (id & 0xff) << 24,
                0xb | 0x1f => entry.edx = id,
                0x8000_001e => {
                    entry.eax = id;
                    entry.ebx = id & 0xff;
                }
                _ => {}
            }
        }
        debug_assert!(id < self.topology.cpus);
        CpuId::from_entries(&entries).map_err(|_| CpuidError::TooManyEntries)
    }
}

fn has_topology_extensions(entries: &[kvm_cpuid_entry2]) -> bool {
    entries.iter().any(|e| e.function == 0x8000_0001 && e.ecx & TOPOLOGY_EXTENSIONS != 0)
}

/// Changes one leaf of what KVM supports.
fn adapt(entry: &mut kvm_cpuid_entry2, flavour: Flavour, topology: Topology) {
    let cores = topology.cpus;
    match entry.function {
        1 => {
            entry.ecx |= leaf1_ecx::TSC_DEADLINE | leaf1_ecx::X2APIC | leaf1_ecx::HYPERVISOR;
            if flavour == Flavour::PageTable {
                // Its emulator has no cmpxchg16b, which kernels use when this bit is set.
                entry.ecx &= !leaf1_ecx::CX16;
            }
            let addressable = cores.next_power_of_two().min(0x80);
            entry.ebx = entry.ebx & 0xff00_ffff | addressable << 16;
            entry.edx = if cores > 1 { entry.edx | LEAF1_EDX_HTT } else { entry.edx & !LEAF1_EDX_HTT };
        }
        // No performance counters: they tell of the host, and a kernel that finds none sets none up.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // KVM's features: our I/O APIC takes 15-bit destinations (KVM documentation, "x86 CPUID", KVM_FEATURE_MSI_EXT_DEST_ID),
        // without which a kernel does not use APIC ids from 255 on.
        0x4000_0001 if cores > 255 => entry.eax |= MSI_EXT_DEST_ID,
        // Intel's deterministic cache parameters: EAX[31:26] cores in the package, EAX[25:14] threads sharing the cache.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let ids = cores.next_power_of_two();
            let sharing = if level >= 3 { ids.min(1 << 12) } else { 1 };
            entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | (ids.min(64) - 1) << 26;
        }
        0x8000_0001 => {
            entry.ecx = if cores > 1 { entry.ecx | CMP_LEGACY } else { entry.ecx & !CMP_LEGACY };
        }
        // AMD: ECX[7:0] threads - 1, ECX[15:12] APIC id bits.
        0x8000_0008 => {
            entry.ecx = if cores > 1 { topology.core_bits() << 12 | (cores - 1).min(0xff) } else { 0 };
        }
        // AMD's cache topology: EAX[25:14] threads sharing the cache - 1.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cores.min(1 << 12) } else { 1 };
            entry.eax = entry.eax & !(0xfff << 14) | (sharing - 1) << 14;
        }
        _ => {}
    }
}

/// Extended topology: an SMT level of one thread, a core level of all vCPUs, and the level that ends the list.
fn levels(function: u32, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        ..Default::default()
    };
    [level(0, 0, 1, LEVEL_SMT), level(1, topology.core_bits(), topology.cpus, LEVEL_CORE), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax| kvm_cpuid_entry2 { function, eax, ecx: u32::MAX, ..Default::default() };
        let cache = |function, index, level: u32| kvm_cpuid_entry2 {
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..leaf(function, 1 | level << 5)
        };
        CpuId::from_entries(&[
            leaf(0, 0x1f),
            leaf(1, 0),
            cache(4, 0, 1),
            cache(4, 3, 3),
            leaf(0xb, 77),
            leaf(0x4000_0000, 0x4000_0001),
            leaf(0x8000_0000, 0x8000_001e),
            leaf(0x8000_0001, 0),
            leaf(0x8000_0008, 0),
            cache(0x8000_001d, 3, 3),
        ])
        .unwrap()
    }

    fn find(id: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = id.as_slice().iter().filter(|e| e.function == function && e.index == index);
        let entry = *found.next().unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"));
        assert!(found.next().is_none(), "leaf {function:#x}.{index} is there twice");
        entry
    }

    /// Proves that every leaf that tells topology agrees on the number of vCPUs and on this vCPU's APIC id.
    #[test]
    fn topology_leaves_agree() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (300, 9)] {
            let template = Template::new(&supported(), Flavour::Vmx, Topology { cpus }, 2_000_000);
            let id = template.for_vcpu(cpus - 1).unwrap();
            assert_eq!(find(&id, 1, 0).ebx >> 24, (cpus - 1) & 0xff);
            for function in [0xb, 0x1f] {
                assert_eq!(find(&id, function, 1).eax, bits);
                assert_eq!(find(&id, function, 1).ebx, cpus);
                assert_eq!(find(&id, function, 0).edx, cpus - 1);
                assert_eq!(find(&id, function, 2).ecx, 2, "the last level has type 0");
            }
            assert_eq!(find(&id, 0x8000_001e, 0).eax, cpus - 1);
            assert_eq!(find(&id, 4, 0).eax >> 14 & 0xfff, 0, "the first level cache is one CPU's own");
            assert_eq!(find(&id, 0x8000_001d, 3).eax >> 14 & 0xfff, cpus - 1);
            assert_eq!(find(&id, 1, 0).edx & LEAF1_EDX_HTT != 0, cpus > 1);
            assert_eq!(find(&id, HYPERVISOR_TIMING, 0).eax, 2_000_000);
            assert_eq!(find(&id, 0x4000_0000, 0).eax, HYPERVISOR_TIMING);
        }
    }

    /// Proves that cmpxchg16b is hidden just where KVM cannot emulate it.
    #[test]
    fn hides_what_the_emulator_lacks() {
        for (flavour, there) in [(Flavour::PageTable, false), (Flavour::Vmx, true), (Flavour::Svm, true)] {
            let id = Template::new(&supported(), flavour, Topology { cpus: 1 }, 0).for_vcpu(0).unwrap();
            assert_eq!(find(&id, 1, 0).ecx & leaf1_ecx::CX16 != 0, there, "{flavour:?}");
        }
    }
}
