//! What this host can do: its flavour of KVM, KVM's capabilities, CPUs, memory, control groups and other software.
//!
//! Everything is read from files below a [`Root`], so that tests (and a look at another machine's saved files) can
//! put a directory in place of `/`. Two of these lie on the path to a guest's first instruction and are kept cheap:
//! [`flavour()`] (at most three look-ups of a name in sysfs, once a process) and [`kvm::open`] (an `open` and one ioctl).

pub mod capabilities;
pub mod cgroup;
pub mod cpus;
pub mod flavour;
pub mod kvm;
pub mod limits;
pub mod process;
pub mod ram;
mod root;
pub mod software;
pub mod topology;

pub use flavour::{Flavour, PAGE_TABLE_CMDLINE, flavour, is_page_table_based};
pub use kvm::OpenError;
pub use root::Root;
