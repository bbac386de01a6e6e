//! How guest RAM is backed: from which pages, how early, and whether it stays.

use std::fmt;
use std::str::FromStr;

use crate::units::ByteSize;

/// How guest RAM is backed: from which pages, how early, and whether it stays.
///
/// The default takes a page when the guest first touches it, from wherever the host has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamPolicy {
    /// Every page is there before the guest's first instruction.
    pub prefault: bool,
    /// A page that is there stays there: it is never swapped out.
    pub lock: bool,
    /// Pages from the host's pool of huge pages (hugetlbpage), in place of ordinary ones. Such pages are always there from the
    /// start, since one that the pool could not give would end the guest when it touches it.
    pub pool: Option<HugePage>,
    /// Transparent huge pages.
    pub transparent: Transparent,
    /// The NUMA node all of it comes from.
    pub node: NodeChoice,
    /// Never shared with equal pages of other processes (KSM).
    pub no_merge: bool,
}

impl RamPolicy {
    /// RAM that is there, locked, local and unshared from the start.
    pub fn reserve(self) -> Self {
        let node = if self.node == NodeChoice::Any { NodeChoice::Auto } else { self.node };
        Self { prefault: true, lock: true, no_merge: true, node, ..self }
    }

    /// Whether every page is there before the guest's first instruction.
    pub fn is_there_from_the_start(&self) -> bool {
        self.prefault || self.pool.is_some()
    }
}

/// A page of one of the host's pools (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl HugePage {
    /// Its size.
    pub fn size(self) -> ByteSize {
        match self {
            Self::Mib2 => ByteSize::mib(2),
            Self::Gib1 => ByteSize::gib(1),
        }
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mib2 => "2M",
            Self::Gib1 => "1G",
        })
    }
}

impl FromStr for HugePage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse::<ByteSize>().ok();
        [Self::Mib2, Self::Gib1].into_iter().find(|page| size == Some(page.size())).ok_or("use 2M or 1G".to_owned())
    }
}

/// Whether ordinary RAM may be mapped by huge pages that the host puts together by itself (Linux,
/// Documentation/admin-guide/mm/transhuge.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transparent {
    /// Wherever the host has them: fewer faults, shorter page walks.
    #[default]
    Always,
    /// Not at all: RAM is taken 4 KiB at a time.
    Never,
    /// As the host's own setting says for a process that does not ask.
    Host,
}

impl FromStr for Transparent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            "host" => Ok(Self::Host),
            _ => Err("use always, never or host".to_owned()),
        }
    }
}

/// Which NUMA node RAM comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeChoice {
    /// Any, page by page, as the host likes.
    #[default]
    Any,
    /// The one of the CPUs that the machine may run on, or else the one with the most free memory.
    Auto,
    /// This one.
    Number(u32),
}

impl FromStr for NodeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Number).map_err(|_| "use a node's number, such as 0, or auto".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that each spelling gives its meaning and that others are refused with the ones that do.
    #[test]
    fn reads_what_is_typed() {
        assert_eq!("2M".parse(), Ok(HugePage::Mib2));
        assert_eq!("1024M".parse(), Ok(HugePage::Gib1));
        assert_eq!("4K".parse::<HugePage>(), Err("use 2M or 1G".to_owned()));
        assert_eq!("auto".parse(), Ok(NodeChoice::Auto));
        assert_eq!("3".parse(), Ok(NodeChoice::Number(3)));
        assert!("-1".parse::<NodeChoice>().is_err() && "4294967296".parse::<NodeChoice>().is_err());
        assert_eq!("never".parse(), Ok(Transparent::Never));
        assert!("yes".parse::<Transparent>().is_err());
    }

    /// Proves that reserving adds to what was asked for and takes nothing away.
    #[test]
    fn reserving_keeps_what_was_asked_for() {
        let all = RamPolicy::default().reserve();
        assert!(all.prefault && all.lock && all.no_merge && all.node == NodeChoice::Auto);
        let asked = RamPolicy { node: NodeChoice::Number(1), pool: Some(HugePage::Mib2), ..Default::default() };
        assert_eq!((asked.reserve().node, asked.reserve().pool), (asked.node, asked.pool));
    }
}
