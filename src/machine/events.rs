//! The event loop: console input, signals and the time limit, until the power is off.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attach::Devices;
use super::build::MachineError;
use super::outcome::Outcome;
use super::posted::Gathering;
use super::power::Power;
use super::signals::Signals;
use super::trim;
use super::vcpu::Shared;
use crate::console::{Console, Request};
use crate::devices::Milestone;

/// How a machine is served.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Longest life, counted from when the guest starts.
    pub timeout: Option<Duration>,
    /// Keep the input until the guest's init has rung the boot timer for its payload. Before that the kernel has the serial
    /// line open in its own way: it would echo what comes, and cook it.
    pub hold_input: bool,
}

/// When what only the start needed is given back, and huge pages are asked for at the latest: a guest that is gone by then does not
/// wait for it.
const TRIM_AFTER: Duration = Duration::from_millis(20);

/// Serves the machine until it has ended.
pub(super) fn serve(
    console: &mut Console,
    devices: &Devices,
    shared: &Shared,
    signals: &Signals,
    options: &RunOptions,
    notice: &mut dyn FnMut(&str),
) -> Result<(), MachineError> {
    let deadline = options.timeout.and_then(|t| Instant::now().checked_add(t));
    let mut trim_at = Some(Instant::now() + TRIM_AFTER);
    let mut carrier = true;
    let mut held = options.hold_input;
    let mut gathering = Gathering::new(devices.flow.clone());
    let power = &*shared.power;
    set_window_size(console, devices, false);
    loop {
        console.take_notices().iter().for_each(|line| notice(line));
        let now = Instant::now();
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let sleep = [until(deadline), until(trim_at), gathering.look_again(now)];
        wait(console, devices, power, signals, sleep.into_iter().flatten().min())?;
        if power.outcome().is_some() {
            return Ok(());
        }
        if deadline.is_some_and(|d| Instant::now() >= d) {
            power.end(Outcome::TimedOut);
            return Ok(());
        }
        if trim_at.take_if(|at| Instant::now() >= *at).is_some() {
            trim::drop_start_pages();
            shared.ram.prefer_huge_pages();
        }
        while let Some(signal) = signals.next() {
            on_signal(signal, console, devices, power)?;
        }
        devices.input_wanted.clear();
        gathering.turn(Instant::now(), &shared.posted, &shared.buses.ports);
        let Some(input) = console.input() else { continue };
        input.read_ready();
        while let Some(request) = input.take_request() {
            match request {
                Request::Quit => power.end(Outcome::Quit),
                Request::Break => devices.serial.send_break(),
            }
        }
        held = held && !devices.boot_timer.milestones().iter().any(|m| m.phase == Milestone::PAYLOAD);
        if held {
            continue;
        }
        input.offer(|bytes| devices.serial.receive(bytes));
        if carrier && input.ended() && devices.serial.is_drained() {
            // The guest sees the end of input as a modem losing its carrier.
            carrier = false;
            devices.serial.set_carrier(false);
        }
    }
}

/// Sleeps until something is to be done, at most for `limit`.
fn wait(
    console: &mut Console,
    devices: &Devices,
    power: &Power,
    signals: &Signals,
    limit: Option<Duration>,
) -> Result<(), MachineError> {
    let mut fds = vec![
        PollFd::new(power.wake(), PollFlags::IN),
        PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        PollFd::new(&*devices.input_wanted, PollFlags::IN),
    ];
    let mut timeout = limit;
    if let Some(input) = console.input() {
        input.interests(|interest| {
            fds.push(PollFd::from_borrowed_fd(interest.fd, PollFlags::from_bits_retain(interest.events as u16)));
        });
        timeout = [timeout, input.look_again()].into_iter().flatten().min();
    }
    let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(MachineError::Host { attempted: "wait for events", source: error.into() }),
    }
}

fn on_signal(signal: i32, console: &mut Console, devices: &Devices, power: &Power) -> Result<(), MachineError> {
    match signal {
        libc::SIGWINCH => set_window_size(console, devices, true),
        libc::SIGCONT => console.continued()?,
        signal => power.end(Outcome::Signalled(signal)),
    }
    Ok(())
}

/// Tells the guest its terminal's size; `changed` also rings the line, which our init answers by reading it.
fn set_window_size(console: &Console, devices: &Devices, changed: bool) {
    if let Some(size) = console.window_size() {
        devices.window_size.set(size.columns, size.rows);
        if changed {
            devices.serial.ring();
        }
    }
}

/// Writes out what the guest printed. A second signal gives up on a reader that does not read.
pub(super) fn flush(console: &Console, signals: &Signals, limit: Option<Duration>) {
    let deadline = limit.map(|l| Instant::now() + l);
    let output = console.output();
    let slice = Duration::from_millis(50);
    loop {
        let now = Instant::now();
        let until = deadline.map_or(now + slice, |d| d.min(now + slice));
        if output.flush(Some(until)) || deadline.is_some_and(|d| Instant::now() >= d) {
            return;
        }
        let ends = |s: i32| !matches!(s, libc::SIGWINCH | libc::SIGCONT);
        if std::iter::from_fn(|| signals.next()).any(ends) {
            return;
        }
    }
}
