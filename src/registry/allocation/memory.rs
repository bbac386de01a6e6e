//! The memory asked for and found.

use super::{Allocation, Section, rounded};
use crate::host::process::Memory;
use crate::registry::{Asked, RamAsked};
use crate::units::ByteSize;

pub(super) fn compare(found: &Allocation, asked: &Asked) -> Section {
    let mut section = Section::new("Memory");
    let size = ByteSize::bytes(asked.memory_bytes);
    let Some(ram) = &found.guest_ram else {
        section.hidden("guest RAM", Some(size.to_string()), "/proc/PID/smaps is not shown to this user");
        return section;
    };
    section.compared("guest RAM", size.to_string(), rounded(ram.mapped), ram.mapped == asked.memory_bytes);
    let there = rounded(ram.resident);
    if asked.ram.prefault {
        section.compared("resident", "all of it", there, ram.resident >= asked.memory_bytes);
    } else {
        section.told("resident", there);
    }
    stays(&mut section, ram, &asked.ram);
    pages(&mut section, ram, &asked.ram);
    match asked.ram.node {
        Some(node) => {
            let elsewhere = ram.nodes.iter().any(|(found, bytes)| *found != node && *bytes > 0);
            section.compared("NUMA nodes", format!("node {node}"), nodes(ram), !elsewhere);
        }
        None => section.told("NUMA nodes", nodes(ram)),
    }
    let merging = if ram.mergeable > 0 { "allowed (KSM)" } else { "none" };
    if asked.ram.never_merge {
        section.compared("merging", "none", merging, ram.mergeable == 0);
    } else {
        section.told("merging", merging);
    }
    if let Some(all) = &found.process_memory {
        let beside = all.proportional.saturating_sub(ram.proportional);
        section.told("beside guest RAM", format!("{} (PSS)", rounded(beside)));
    }
    section
}

/// Whether pages that are there stay there.
fn stays(section: &mut Section, ram: &Memory, asked: &RamAsked) {
    let locked = rounded(ram.locked);
    match (asked.lock, asked.pool_page_bytes) {
        // The kernel marks no mapping of a pool as locked, and never swaps one.
        (true, Some(_)) => section.compared("locked", "all that is there", "pages of a pool stay", ram.swapped == 0),
        (true, None) => section.compared("locked", "all that is there", locked, ram.locked >= ram.resident),
        (false, _) => section.told("locked", locked),
    }
    if ram.swapped > 0 {
        section.told("swapped out", rounded(ram.swapped));
    }
}

fn pages(section: &mut Section, ram: &Memory, asked: &RamAsked) {
    let found = page_sizes(ram);
    match asked.pool_page_bytes {
        Some(page) => {
            let same = ram.page_sizes.keys().all(|size| *size == page) && ram.pooled_huge == ram.mapped;
            section.compared("page sizes", format!("pages of {}", rounded(page)), found, same);
        }
        None if asked.no_huge_pages => {
            section.compared("page sizes", "no huge pages", found, ram.transparent_huge == 0);
        }
        None => section.told("page sizes", found),
    }
}

fn page_sizes(ram: &Memory) -> String {
    let part = |(size, bytes): (&u64, &u64)| format!("{} in pages of {}", rounded(*bytes), rounded(*size));
    let mut parts: Vec<String> = ram.page_sizes.iter().map(part).collect();
    if ram.transparent_huge > 0 {
        parts.push(format!("{} of it in transparent huge pages", rounded(ram.transparent_huge)));
    }
    parts.join(", ")
}

fn nodes(ram: &Memory) -> String {
    let part = |(node, bytes): (&u32, &u64)| format!("{} on node {node}", rounded(*bytes));
    let parts: Vec<String> = ram.nodes.iter().map(part).collect();
    if parts.is_empty() { "nothing is there yet, or not told".to_owned() } else { parts.join(", ") }
}
