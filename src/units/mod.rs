//! What has a unit or a notation of its own: sizes, and lists of CPUs.

mod cpu_list;
mod size;

pub use cpu_list::{CpuList, ParseCpuListError};
pub use size::{ByteSize, ParseSizeError};
