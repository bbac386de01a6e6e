//! KVM's capabilities, and what each is for here.

use kvm_bindings as kb;
use kvm_ioctls::Kvm;
use serde::Serialize;

/// How much ringfence depends on a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// No machine can be built without it.
    Required,
    /// A machine can be built without it, slower or with less.
    Useful,
}

/// How the number that KVM_CHECK_EXTENSION gives is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Present or not.
    Flag,
    /// A count; the unit is in the text.
    Count(&'static str),
    /// Bits with names, from bit 0 up.
    Bits(&'static [&'static str]),
}

/// One of KVM's capabilities (Linux, Documentation/virt/kvm/api.rst).
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its number for KVM_CHECK_EXTENSION.
    pub number: u32,
    /// Its name in `linux/kvm.h`.
    pub name: &'static str,
    /// What ringfence uses it for, or its user gets from it.
    pub purpose: &'static str,
    /// Whether ringfence can do without.
    pub need: Need,
    reading: Reading,
}

macro_rules! capability {
    ($name:ident, $need:ident, $reading:expr, $purpose:literal) => {
        Capability {
            number: kb::$name,
            name: stringify!($name),
            purpose: $purpose,
            need: Need::$need,
            reading: $reading,
        }
    };
}

use Reading::{Bits, Count, Flag};

/// The capabilities ringfence asks about, the required first.
pub const CAPABILITIES: &[Capability] = &[
    capability!(KVM_CAP_USER_MEMORY, Required, Flag, "guest RAM is the monitor's own memory"),
    capability!(KVM_CAP_EXT_CPUID, Required, Flag, "the monitor decides what CPUID says"),
    capability!(KVM_CAP_IRQCHIP, Required, Flag, "local APICs in the kernel"),
    capability!(KVM_CAP_MP_STATE, Required, Flag, "further vCPUs wait for INIT/SIPI"),
    capability!(KVM_CAP_IMMEDIATE_EXIT, Required, Flag, "a vCPU can be stopped with no race"),
    capability!(KVM_CAP_NR_MEMSLOTS, Required, Count("slots"), "pieces of guest memory"),
    capability!(KVM_CAP_SPLIT_IRQCHIP, Useful, Flag, "our own I/O APIC: VMs made and gone faster"),
    capability!(KVM_CAP_SIGNAL_MSI, Useful, Flag, "interrupts from our I/O APIC in one call"),
    capability!(KVM_CAP_IRQ_ROUTING, Useful, Flag, "level interrupts: KVM tells of their EOI"),
    capability!(KVM_CAP_PIT2, Useful, Flag, "`--irqchip kernel`: PIT in the kernel"),
    capability!(KVM_CAP_IRQFD, Useful, Flag, "devices interrupt with no system call from the vCPU"),
    capability!(KVM_CAP_IOEVENTFD, Useful, Flag, "virtio queues are rung with no exit to the monitor"),
    capability!(KVM_CAP_COALESCED_PIO, Useful, Flag, "console output gathered, fewer exits"),
    capability!(KVM_CAP_SET_TSS_ADDR, Useful, Flag, "real mode on older Intel CPUs"),
    capability!(KVM_CAP_SET_IDENTITY_MAP_ADDR, Useful, Flag, "real mode on older Intel CPUs"),
    capability!(KVM_CAP_TSC_CONTROL, Useful, Flag, "the guest's TSC can run at another frequency"),
    capability!(KVM_CAP_GET_TSC_KHZ, Useful, Flag, "the guest is told its TSC's frequency"),
    capability!(KVM_CAP_TSC_DEADLINE_TIMER, Useful, Flag, "the guest's cheapest timer"),
    capability!(
        KVM_CAP_ADJUST_CLOCK,
        Useful,
        Bits(&["", "TSC stable", "realtime", "host TSC"]),
        "kvmclock can be read and set"
    ),
    capability!(KVM_CAP_KVMCLOCK_CTRL, Useful, Flag, "a paused guest sees no lockup"),
    capability!(KVM_CAP_STEAL_TIME, Useful, Flag, "the guest sees time taken by the host"),
    capability!(
        KVM_CAP_X86_DISABLE_EXITS,
        Useful,
        Bits(&["MWAIT", "HLT", "PAUSE", "CSTATE", "APERFMPERF"]),
        "a pinned guest idles with no exit"
    ),
    capability!(KVM_CAP_HALT_POLL, Useful, Flag, "halt polling is set for each VM"),
    capability!(KVM_CAP_SYNC_REGS, Useful, Bits(&["regs", "sregs", "events"]), "registers come along with an exit"),
    capability!(KVM_CAP_X86_MSR_FILTER, Useful, Flag, "MSRs can be kept from the guest"),
    capability!(KVM_CAP_X86_USER_SPACE_MSR, Useful, Flag, "unknown MSRs come to the monitor"),
    capability!(KVM_CAP_EXIT_ON_EMULATION_FAILURE, Useful, Flag, "the instruction KVM gave up on is told"),
    capability!(KVM_CAP_X86_TRIPLE_FAULT_EVENT, Useful, Flag, "a pending triple fault can be saved"),
    capability!(KVM_CAP_DIRTY_LOG_RING, Useful, Count("bytes"), "changed pages are found in a ring"),
    capability!(KVM_CAP_PRE_FAULT_MEMORY, Useful, Flag, "guest memory mapped before the guest asks"),
    capability!(KVM_CAP_READONLY_MEM, Useful, Flag, "ROM"),
    capability!(KVM_CAP_XSAVE2, Useful, Count("bytes"), "state of large vector registers"),
    capability!(KVM_CAP_NESTED_STATE, Useful, Count("bytes"), "guests may run guests"),
    capability!(KVM_CAP_GUEST_MEMFD, Useful, Flag, "memory the host cannot map"),
    capability!(KVM_CAP_BINARY_STATS_FD, Useful, Flag, "exit counts from KVM itself"),
];

impl Capability {
    /// What a value of KVM_CHECK_EXTENSION says: `yes`, `no`, `509 slots`, `HLT, PAUSE`.
    pub fn read(&self, value: i32) -> String {
        if value <= 0 {
            return "no".to_owned();
        }
        match self.reading {
            Flag => "yes".to_owned(),
            Count(unit) => format!("{value} {unit}"),
            Bits(names) => {
                let named = names.iter().enumerate().filter(|(bit, name)| value >> bit & 1 == 1 && !name.is_empty());
                let text = named.map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
                if text.is_empty() { "yes".to_owned() } else { text }
            }
        }
    }
}

/// What KVM answered for one capability.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Name in `linux/kvm.h`.
    pub name: &'static str,
    /// Number for KVM_CHECK_EXTENSION.
    pub number: u32,
    /// What KVM_CHECK_EXTENSION gave; 0: the capability is not there.
    pub value: i32,
    /// The value in words.
    pub reading: String,
    /// What it is for.
    pub purpose: &'static str,
    /// Whether ringfence can do without.
    pub need: Need,
}

impl Answer {
    fn new(capability: &Capability, value: i32) -> Self {
        Self {
            name: capability.name,
            number: capability.number,
            value,
            reading: capability.read(value),
            purpose: capability.purpose,
            need: capability.need,
        }
    }

    /// Whether KVM has the capability.
    pub fn is_there(&self) -> bool {
        self.value > 0
    }
}

/// What a KVM can do.
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    /// Most vCPUs a VM may have (KVM_CAP_MAX_VCPUS).
    pub max_vcpus: u32,
    /// vCPUs KVM recommends at most (KVM_CAP_NR_VCPUS), usually the host's CPUs.
    pub recommended_vcpus: u32,
    /// Number of APIC ids (KVM_CAP_MAX_VCPU_ID): each is below it.
    pub max_vcpu_id: u32,
    /// Every entry of [`CAPABILITIES`] with KVM's answer.
    #[serde(rename = "capabilities")]
    pub answers: Vec<Answer>,
}

impl Capabilities {
    /// Asks `kvm` about every entry of [`CAPABILITIES`].
    ///
    /// One ioctl each: for telling the user, not for the path to the first KVM_RUN.
    pub fn of(kvm: &Kvm) -> Self {
        Self::from_answers(|number| kvm.check_extension_raw(number.into()))
    }

    /// The same from any source of answers.
    pub(crate) fn from_answers(mut ask: impl FnMut(u32) -> i32) -> Self {
        let (max_vcpus, recommended_vcpus, max_vcpu_id) = vcpu_limits(&mut ask);
        let answers = CAPABILITIES.iter().map(|capability| Answer::new(capability, ask(capability.number))).collect();
        Self { max_vcpus, recommended_vcpus, max_vcpu_id, answers }
    }

    /// The required capabilities that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.need == Need::Required && !answer.is_there())
    }

    /// KVM's answer for a capability by its number; 0 for one that is not in [`CAPABILITIES`].
    pub fn value(&self, number: u32) -> i32 {
        self.answers.iter().find(|answer| answer.number == number).map_or(0, |answer| answer.value)
    }
}

/// Most vCPUs, recommended vCPUs and number of APIC ids, with the fallbacks api.rst gives (section 4.7): 4 recommended
/// when not told, the most is the recommended number, and as many APIC ids as vCPUs.
fn vcpu_limits(ask: &mut impl FnMut(u32) -> i32) -> (u32, u32, u32) {
    let mut positive = |number| u32::try_from(ask(number)).ok().filter(|n| *n > 0);
    let recommended = positive(kb::KVM_CAP_NR_VCPUS).unwrap_or(4);
    let most = positive(kb::KVM_CAP_MAX_VCPUS).unwrap_or(recommended);
    let ids = positive(kb::KVM_CAP_MAX_VCPU_ID).unwrap_or(most);
    (most, recommended, ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that no capability is asked for twice and that the required ones come first.
    #[test]
    fn the_table_is_in_order() {
        let mut numbers: Vec<u32> = CAPABILITIES.iter().map(|c| c.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), CAPABILITIES.len());
        assert!(CAPABILITIES.is_sorted_by_key(|c| c.need == Need::Useful));
    }

    /// Proves that values are put into words according to their kind, errors counting as absent.
    #[test]
    fn values_become_words() {
        let named = |name: &str| CAPABILITIES.iter().find(|c| c.name == name).unwrap();
        assert_eq!(named("KVM_CAP_IRQFD").read(1), "yes");
        assert_eq!(named("KVM_CAP_IRQFD").read(0), "no");
        assert_eq!(named("KVM_CAP_IRQFD").read(-1), "no");
        assert_eq!(named("KVM_CAP_NR_MEMSLOTS").read(509), "509 slots");
        assert_eq!(named("KVM_CAP_X86_DISABLE_EXITS").read(0b110), "HLT, PAUSE");
        assert_eq!(named("KVM_CAP_X86_DISABLE_EXITS").read(1 << 20), "yes");
    }

    /// Proves that a KVM with nothing is seen to lack exactly the required entries, with the documented fallbacks.
    #[test]
    fn a_kvm_with_nothing_lacks_what_is_required() {
        let nothing = Capabilities::from_answers(|_| 0);
        assert_eq!((nothing.max_vcpus, nothing.recommended_vcpus, nothing.max_vcpu_id), (4, 4, 4));
        let required = CAPABILITIES.iter().filter(|c| c.need == Need::Required).count();
        assert_eq!(nothing.missing().count(), required);
        let everything = Capabilities::from_answers(|number| number as i32 + 1);
        assert_eq!(everything.missing().count(), 0);
        assert_eq!(everything.value(kb::KVM_CAP_IRQFD), kb::KVM_CAP_IRQFD as i32 + 1);
        assert_eq!(everything.value(u32::MAX), 0);
    }
}
