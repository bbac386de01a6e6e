//! What each takes of the host's memory, before any work and under it: measured, as the proportional set size of all processes.

use std::time::Duration;

use serde::Serialize;

use super::guest::Guests;
use super::place::Places;
use super::{CompareError, neighbour};
use crate::bench::child::{Child, Stop};
use crate::bench::container::{Limits, NotRun, Runtime};
use crate::bench::footprint::Footprint;
use crate::bench::progress::Progress;

/// What the payload holds under work, in MiB.
pub const HELD_MIB: u64 = 64;
/// The least it can be told to hold, in MiB.
const IDLE_MIB: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(240);
/// From the payload's word until the runtime has nothing more to do.
const SETTLE: Duration = Duration::from_millis(300);
/// What a subject's measurement is expected to take, in seconds.
pub const EXPECTED: f64 = 12.0;

/// One subject's memory on the host.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// The subject.
    pub name: String,
    /// With a payload that holds 1 MiB and sleeps.
    pub idle: Footprint,
    /// With a payload that holds [`HELD_MIB`].
    pub working: Footprint,
    /// What PSS leaves out.
    pub note: String,
}

/// Measures every runtime and the guests; adds to `absent` those that could not be measured.
///
/// # Errors
/// [`CompareError`] when the user stops it; a subject that fails is no error.
pub fn measure(
    runtimes: &[Runtime],
    guests: Option<&Guests>,
    places: Option<&Places>,
    stop: &Stop,
    progress: &mut Progress,
    absent: &mut Vec<NotRun>,
) -> Result<Vec<Memory>, CompareError> {
    let mut measured = Vec::new();
    let mut add =
        |name: &str, note: &str, of: &dyn Fn(u64) -> Result<Footprint, CompareError>| -> Result<(), CompareError> {
            progress.step(&format!("memory of {name}"));
            let both = of(IDLE_MIB).and_then(|idle| Ok((idle, of(HELD_MIB)?)));
            progress.done(EXPECTED);
            if let Some((idle, working)) = super::kept(name, both, absent)? {
                measured.push(Memory { name: name.to_owned(), idle, working, note: note.to_owned() });
            }
            Ok(())
        };
    for runtime in runtimes {
        let note = match runtime.name {
            "docker" | "nerdctl" => "its daemons, which serve all containers, are not counted in",
            _ => "it has no daemon",
        };
        add(runtime.name, note, &|mib| of_container(runtime, mib, stop))?;
    }
    if let Some(guests) = guests {
        let kernel = "its own kernel is counted in; a container's is the host's and is not";
        add("guest", kernel, &|mib| of_guest(guests, &[], mib, stop))?;
        if let Some(places) = places {
            let flags = ["--cpuset-cpus".to_owned(), places.own.to_string(), "--reserve".to_owned()];
            let reserved = "all of its RAM is there from the start, which is what it is for";
            add("guest, reserved", reserved, &|mib| of_guest(guests, &flags, mib, stop))?;
        }
    }
    Ok(measured)
}

fn of_container(runtime: &Runtime, mib: u64, stop: &Stop) -> Result<Footprint, CompareError> {
    let mut container =
        runtime.container(&neighbour::id("memory"), &["/work", "hold", &mib.to_string()], &Limits::default())?;
    let mut child = Child::spawn(container.command())?;
    child.wait_for(b"RFREADY", PATIENCE, stop)?;
    stop.sleep(SETTLE)?;
    let pid = container.pid(stop)?;
    let roots = [vec![child.pid(), pid], container.shims(pid)].concat();
    let footprint = Footprint::of(&roots);
    // The container first: its runtime ends with it.
    drop(container);
    Ok(footprint)
}

fn of_guest(guests: &Guests, flags: &[String], mib: u64, stop: &Stop) -> Result<Footprint, CompareError> {
    let mut command = guests.command(&["/work", "hold", &mib.to_string()], flags)?;
    let mut child = Child::spawn(&mut command)?;
    child.wait_for(b"RFREADY", PATIENCE, stop)?;
    stop.sleep(SETTLE)?;
    let footprint = Footprint::of(&[child.pid()]);
    child.end();
    Ok(footprint)
}
