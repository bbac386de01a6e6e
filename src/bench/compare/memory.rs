//! What each takes of the host's memory, before any work and under it: measured, as the proportional set size of all processes.

use std::time::Duration;

use serde::Serialize;

use super::guest::Guests;
use super::place::Places;
use super::{CompareError, neighbour};
use crate::bench::child::{self, Child, Stop};
use crate::bench::container::{Limits, NotRun, Runtime};
use crate::bench::footprint::Footprint;
use crate::bench::progress::Progress;

/// What the payload holds under work, in MiB.
pub const HELD_MIB: u64 = 64;
/// What it holds before, in MiB.
const IDLE_MIB: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(240);
/// What the payload says when it holds little, and when it holds all.
const READY: &[u8] = b"RFREADY";
const HELD: &[u8] = b"RFHELD";
/// From the payload's word until the runtime has nothing more to do.
const SETTLE: Duration = Duration::from_millis(300);
/// What a subject's measurement is expected to take, in seconds.
pub const EXPECTED: f64 = 8.0;

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
        |name: &str, note: &str, of: &dyn Fn() -> Result<[Footprint; 2], CompareError>| -> Result<(), CompareError> {
            progress.step(&format!("memory of {name}"));
            let both = of();
            progress.done(EXPECTED);
            if let Some([idle, working]) = super::kept(name, both, absent)? {
                measured.push(Memory { name: name.to_owned(), idle, working, note: note.to_owned() });
            }
            Ok(())
        };
    for runtime in runtimes {
        let note = match runtime.name {
            "docker" | "nerdctl" => "its daemons, which serve all containers, are not counted in",
            _ => "it has no daemon",
        };
        add(runtime.name, note, &|| of_container(runtime, stop))?;
    }
    if let Some(guests) = guests {
        let kernel = "its own kernel is counted in; a container's is the host's and is not";
        add("guest", kernel, &|| of_guest(guests, &[], stop))?;
        if let Some(places) = places {
            let flags = ["--cpuset-cpus".to_owned(), places.own.to_string(), "--reserve".to_owned()];
            let reserved = "all of its RAM is there from the start, which is what it is for";
            add("guest, reserved", reserved, &|| of_guest(guests, &flags, stop))?;
        }
    }
    Ok(measured)
}

fn of_container(runtime: &Runtime, stop: &Stop) -> Result<[Footprint; 2], CompareError> {
    let (little, much) = (IDLE_MIB.to_string(), HELD_MIB.to_string());
    let mut container =
        runtime.container(&neighbour::id("memory"), &["/work", "hold", &little, &much], &Limits::default())?;
    let mut child = Child::spawn(container.command())?;
    child.wait_for(READY, PATIENCE, stop)?;
    let pid = container.pid(stop)?;
    let roots = [vec![child.pid(), pid], container.shims(pid)].concat();
    let both = both(&mut child, &roots, child::words(container.command()), stop)?;
    // The container first: its runtime ends with it.
    drop(container);
    Ok(both)
}

fn of_guest(guests: &Guests, flags: &[String], stop: &Stop) -> Result<[Footprint; 2], CompareError> {
    let (little, much) = (IDLE_MIB.to_string(), HELD_MIB.to_string());
    let mut command = guests.command(&["/work", "hold", &little, &much], flags)?;
    let mut child = Child::spawn(&mut command)?;
    child.wait_for(READY, PATIENCE, stop)?;
    let roots = [child.pid()];
    let both = both(&mut child, &roots, child::words(&command), stop)?;
    child.end();
    Ok(both)
}

/// The processes' memory while the payload holds little, and when it holds all.
fn both(child: &mut Child, roots: &[u32], words: String, stop: &Stop) -> Result<[Footprint; 2], CompareError> {
    stop.sleep(SETTLE)?;
    let idle = Footprint::of(roots);
    if child.writes(HELD, Duration::ZERO) {
        return Err(CompareError::Early(words));
    }
    child.wait_for(HELD, PATIENCE, stop)?;
    stop.sleep(SETTLE)?;
    Ok([idle, Footprint::of(roots)])
}
