//! How the process confines itself, asked for and found.

use super::{Allocation, Section, ThreadKind, label};
use crate::host::process::{Confinement, Thread};
use crate::registry::Asked;

pub(super) fn compare(found: &Allocation, pid: u32, asked: &Asked) -> Section {
    let mut section = Section::new("Isolation");
    // KVM's threads run no code of the process.
    let own = |t: &&Thread| ThreadKind::of(pid, t.tid, &t.name) != ThreadKind::Kvm;
    for thread in found.threads.iter().filter(own) {
        let (name, found) = (label(pid, thread), confined(&thread.confinement));
        if asked.confined {
            let wanted = "seccomp filters, no new privileges, no capabilities";
            section.compared(name, wanted, found, is_confined(&thread.confinement));
        } else {
            section.told(name, found);
        }
    }
    match asked.landlock {
        Some(true) => section.hidden("landlock", Some("no path".to_owned()), "the kernel shows it in no file"),
        Some(false) => section.told("landlock", "this host's kernel has none"),
        None => {}
    }
    match &found.descriptors {
        Some(all) => section.told("descriptors", format!("{}: {}", all.len(), counted(all))),
        None => section.hidden("descriptors", None, "/proc/PID/fd is not shown to this user"),
    }
    let own: Vec<&str> = found.control_groups.iter().map(String::as_str).filter(|g| !g.ends_with(":/")).collect();
    let shown = if own.is_empty() { "the root of each hierarchy".to_owned() } else { own.join(", ") };
    section.told("control groups", shown);
    section
}

/// All that can be seen from outside is in force. What the kernel does not tell is no difference.
fn is_confined(confinement: &Confinement) -> bool {
    confinement.seccomp_mode == Some(2)
        && confinement.seccomp_filters.is_none_or(|count| count > 0)
        && confinement.no_new_privileges.unwrap_or(true)
        && confinement.capabilities.is_none_or(|set| set == 0)
}

fn confined(confinement: &Confinement) -> String {
    let seccomp = match (confinement.seccomp_mode, confinement.seccomp_filters) {
        (Some(0), _) => "no seccomp".to_owned(),
        (Some(1), _) => "seccomp strict".to_owned(),
        (Some(2), Some(1)) => "1 seccomp filter".to_owned(),
        (Some(2), Some(count)) => format!("{count} seccomp filters"),
        (Some(2), None) => "seccomp filters".to_owned(),
        _ => "seccomp not told".to_owned(),
    };
    let privileges = match confinement.no_new_privileges {
        Some(true) => "no new privileges",
        Some(false) => "new privileges allowed",
        None => "new privileges not told",
    };
    let capabilities = match confinement.capabilities {
        Some(0) => "no capabilities".to_owned(),
        Some(set) => format!("{} capabilities", set.count_ones()),
        None => "capabilities not told".to_owned(),
    };
    format!("{seccomp}, {privileges}, {capabilities}")
}

/// Each kind of descriptor once, with how many there are of it.
fn counted(all: &[String]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for target in all {
        // A pipe's or socket's number tells a person nothing.
        let kind = match target.split_once(":[") {
            Some((kind @ ("pipe" | "socket"), _)) => kind,
            _ => target.as_str(),
        };
        match kinds.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let shown = |(name, count): (&str, usize)| if count == 1 { name.to_owned() } else { format!("{count} {name}") };
    kinds.into_iter().map(shown).collect::<Vec<_>>().join(", ")
}
