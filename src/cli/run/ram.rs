//! How the guest's RAM is backed.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;

use crate::config::{HugePage, NodeChoice, RamPolicy, Transparent};
use crate::units::ByteSize;

/// How the guest's RAM is backed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct RamArgs {
    /// Take all of the guest's RAM from the host before the guest starts
    #[arg(long)]
    prefault: bool,
    /// Keep RAM that was taken: never swapped out (all of it from the start, with --prefault)
    #[arg(long)]
    lock: bool,
    /// Take RAM from the host's pool of huge pages, before the guest starts: 2M or 1G
    #[arg(long, value_name = "SIZE", conflicts_with = "thp")]
    hugepages: Option<HugePage>,
    /// Transparent huge pages: always (where the host has them), never, or host (its own setting)
    #[arg(long, value_name = "WHEN", default_value = "always")]
    thp: Transparent,
    /// Take RAM from this NUMA node only; auto: that of the CPUs, or the one with the most free
    #[arg(long, value_name = "N")]
    numa_node: Option<NodeChoice>,
    /// Never share pages with other processes that hold the same bytes (KSM)
    #[arg(long)]
    no_merge: bool,
    /// RAM that is there, locked, local and unshared: --prefault --lock --numa-node auto --no-merge
    #[arg(long)]
    reserve: bool,
    /// An allocation of one's own, or no machine: --pin strict and --reserve, or every reason why not
    ///
    /// Each vCPU gets a CPU that no other ringfence guest has, chosen as `ringfence check` proposes unless --cpuset-cpus names
    /// them, and all RAM is taken from those CPUs' NUMA node and locked before the guest starts. All of it is read back from the
    /// kernel.
    #[arg(long)]
    guarantee: bool,
}

impl RamArgs {
    /// What was typed, checked.
    pub fn policy(&self) -> anyhow::Result<RamPolicy> {
        let policy = RamPolicy {
            prefault: self.prefault,
            lock: self.lock,
            pool: self.hugepages,
            transparent: self.thp,
            node: self.numa_node.unwrap_or_default(),
            no_merge: self.no_merge,
        };
        Ok(if self.reserve || self.guarantee { policy.reserve() } else { policy })
    }

    /// Whether CPUs of its own belong to what was asked for.
    pub(super) fn guarantees(&self) -> bool {
        self.guarantee
    }
}

/// A line on a terminal that tells how much RAM is taken, when that takes long.
pub(super) struct Meter {
    size: ByteSize,
    next: Option<Instant>,
    shown: bool,
}

impl Meter {
    /// What takes less is not worth a line.
    const PATIENCE: Duration = Duration::from_millis(500);
    const EVERY: Duration = Duration::from_millis(100);

    pub(super) fn new(size: ByteSize) -> Self {
        Self { size, next: None, shown: false }
    }

    /// Shows that `taken` is there.
    pub(super) fn show(&mut self, taken: ByteSize) {
        let now = Instant::now();
        let next = *self.next.get_or_insert(now + Self::PATIENCE);
        if now < next || !std::io::stderr().is_terminal() {
            return;
        }
        self.next = Some(now + Self::EVERY);
        self.shown = true;
        let percent = u128::from(taken.as_u64()) * 100 / u128::from(self.size.as_u64().max(1));
        eprint!("\r\x1b[Kringfence: taking {} of RAM: {percent}%", self.size);
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
            self.shown = false;
        }
    }
}
