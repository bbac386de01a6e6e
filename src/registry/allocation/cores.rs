//! The CPUs asked for and found.

use super::{Allocation, Section, ThreadKind, label};
use crate::config::{Granted, Halt, Smt};
use crate::host::process::Thread;
use crate::registry::Asked;
use crate::units::CpuList;

pub(super) fn compare(found: &Allocation, pid: u32, asked: &Asked) -> Section {
    let mut section = Section::new("Cores");
    let vcpus = found.vcpus(pid);
    let (wanted, threads) = (asked.vcpus as usize, vcpus.len());
    section.compared("vCPUs", wanted.to_string(), format!("{threads} threads"), wanted == threads);
    for (id, thread) in vcpus {
        match asked.placement.as_ref().and_then(|granted| Some((granted, granted.vcpus.get(id as usize)?))) {
            Some((granted, cpus)) => vcpu(&mut section, thread, label(pid, thread), granted, cpus),
            None => section.told(label(pid, thread), running_on(thread)),
        }
    }
    for thread in &found.threads {
        match (ThreadKind::of(pid, thread.tid, &thread.name), &asked.placement) {
            (ThreadKind::Vcpu(_), _) => {}
            // KVM's own threads are moved where the kernel allows it, and the machine has said where it does not.
            (ThreadKind::Kvm, _) | (_, None) => section.told(label(pid, thread), running_on(thread)),
            (_, Some(granted)) => {
                let same = thread.affinity.sorted() == granted.vmm.sorted();
                section.compared(label(pid, thread), format!("CPUs {}", granted.vmm), running_on(thread), same);
            }
        }
    }
    if let Some(granted) = &asked.placement {
        if granted.smt == Smt::Isolate {
            section.hidden("--smt", Some("isolate".to_owned()), "core scheduling cookies stand in no file");
        }
        if granted.halt != Halt::Default {
            section.hidden("--halt", Some(granted.halt.to_string()), "KVM shows it in no file");
        }
    }
    section
}

/// A vCPU's thread: where it may run, and with what priority. Both were in place before the guest ran.
fn vcpu(section: &mut Section, thread: &Thread, label: String, granted: &Granted, cpus: &CpuList) {
    let (policy, priority) = match granted.realtime {
        Some(priority) => ("SCHED_FIFO", u32::from(priority.get())),
        None => ("SCHED_OTHER", 0),
    };
    let ran_there = thread.cpu_time_ms == 0 || cpus.contains(thread.last_cpu);
    // Without a priority of ours, the one that the user gave the whole process is kept.
    let scheduled = granted.realtime.is_none() || (thread.policy, thread.realtime_priority) == (policy, priority);
    let same = thread.affinity.sorted() == cpus.sorted() && ran_there && scheduled;
    let wanted = match granted.realtime {
        Some(_) => format!("CPUs {cpus}, {policy} {priority}"),
        None => format!("CPUs {cpus}"),
    };
    section.compared(label, wanted, running_on(thread), same);
}

fn running_on(thread: &Thread) -> String {
    let priority = match thread.realtime_priority {
        0 => String::new(),
        n => format!(" {n}"),
    };
    format!(
        "thread {} on CPU {} of {}, {}{priority}, {}.{:03} s CPU",
        thread.tid,
        thread.last_cpu,
        thread.affinity,
        thread.policy,
        thread.cpu_time_ms / 1000,
        thread.cpu_time_ms % 1000
    )
}
