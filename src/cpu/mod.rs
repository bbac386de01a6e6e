//! CPUID, MSRs, registers, page tables and the local APIC.
