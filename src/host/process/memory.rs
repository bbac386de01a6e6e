//! The pages behind a range of a process's addresses.

use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// The memory behind a range of addresses, in bytes, added up over its mappings (`/proc/PID/smaps` and `numa_maps`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Addresses that are mapped.
    pub mapped: u64,
    /// Pages that are there, those from huge page pools included.
    pub resident: u64,
    /// The share of the pages there that is this process's, where pages are shared.
    pub proportional: u64,
    /// The pages there that belong to no file: what was written, this process's alone unless it forked.
    pub anonymous: u64,
    /// Locked pages (mlock): they stay.
    pub locked: u64,
    /// Pages that were swapped out.
    pub swapped: u64,
    /// In transparent huge pages.
    pub transparent_huge: u64,
    /// In pages of a huge page pool.
    pub pooled_huge: u64,
    /// Mappings whose pages the host may merge with equal ones (VmFlags `mg`).
    pub mergeable: u64,
    /// Size of a page by the mapping (KernelPageSize), and the bytes mapped with it.
    pub page_sizes: BTreeMap<u64, u64>,
    /// Pages there by NUMA node.
    pub nodes: BTreeMap<u32, u64>,
}

impl Memory {
    /// Adds up the mappings of smaps that start in one of `ranges`.
    pub(super) fn of_smaps(smaps: &str, ranges: &[Range<u64>]) -> Self {
        let mut sum = Self::default();
        let mut size = None;
        for line in smaps.lines() {
            if let Some(mapping) = addresses(line) {
                size = any(ranges, mapping.start).then(|| mapping.end.saturating_sub(mapping.start));
                sum.mapped += size.unwrap_or(0);
                continue;
            }
            let (Some(size), Some((name, value))) = (size, line.split_once(':')) else { continue };
            if name == "VmFlags" {
                sum.mergeable += if value.split_whitespace().any(|flag| flag == "mg") { size } else { 0 };
                continue;
            }
            let Some(bytes) = kib(value) else { continue };
            match name {
                "Rss" => sum.resident += bytes,
                "Pss" => sum.proportional += bytes,
                "Anonymous" => sum.anonymous += bytes,
                "Locked" => sum.locked += bytes,
                "Swap" => sum.swapped += bytes,
                "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => sum.transparent_huge += bytes,
                // Pages of a pool are not counted in Rss and Pss.
                "Shared_Hugetlb" | "Private_Hugetlb" => {
                    sum.pooled_huge += bytes;
                    sum.resident += bytes;
                    sum.proportional += bytes;
                }
                "KernelPageSize" => *sum.page_sizes.entry(bytes).or_default() += size,
                _ => {}
            }
        }
        sum
    }

    /// Adds the NUMA nodes of the mappings of numa_maps that start in one of `ranges`.
    pub(super) fn add_nodes(&mut self, numa_maps: &str, ranges: &[Range<u64>]) {
        for line in numa_maps.lines() {
            let mut words = line.split_whitespace();
            let start = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            if start.is_none_or(|start| !any(ranges, start)) {
                continue;
            }
            let pairs: Vec<(&str, u64)> =
                words.filter_map(|word| word.split_once('=')).filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect();
            let page = pairs.iter().find(|(key, _)| *key == "kernelpagesize_kB").map_or(4096, |(_, kib)| kib << 10);
            for (key, pages) in pairs {
                if let Some(node) = key.strip_prefix('N').and_then(|n| n.parse().ok()) {
                    *self.nodes.entry(node).or_default() += pages.saturating_mul(page);
                }
            }
        }
    }
}

fn any(ranges: &[Range<u64>], address: u64) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The range of a line that starts a mapping: `start-end perms ...`, in hexadecimal.
fn addresses(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// A `12 kB` in bytes.
fn kib(value: &str) -> Option<u64> {
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
