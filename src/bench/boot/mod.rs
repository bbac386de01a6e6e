//! Starts, timed: ringfence, other monitors, containers and plain processes, all of them child processes of this one.
//!
//! Every subject starts the same payload. One clock stamps three points for all of them alike: just before the child is made,
//! when the payload's line has arrived here, and when the child's end is known. What lies between comes from runs of its own:
//! ringfence's report, and for any monitor the kernel's trace of its KVM_RUN.
//!
//! - [`subjects`]: what is compared, a file each;
//! - [`guest`], [`payload`]: what is booted and run, the same bytes for all;
//! - [`attempt`]: one run; [`session`]: all of them, in turns; [`load`], [`sweep`], [`cold`]: the other modes;
//! - [`floor`]: the least that any monitor pays;
//! - [`phases`], [`memory`], [`trace`], [`harness`]: what is looked at besides;
//! - [`results`]: what was found; [`text`], [`html`], [`csv`]: how it is shown.

pub mod attempt;
pub mod cold;
pub mod csv;
#[allow(unsafe_code)]
pub mod floor;
pub mod guest;
pub mod harness;
pub mod html;
pub mod load;
pub mod memory;
pub mod payload;
pub mod phases;
mod prepare;
pub mod results;
mod rounds;
pub mod session;
mod sittings;
pub mod subjects;
pub mod sweep;
pub mod text;
pub mod trace;
