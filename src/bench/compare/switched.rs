//! The neighbour: a process for each CPU it may use, all of them stopped and let run again at will.
//!
//! SIGSTOP and SIGCONT do for a container what they do for a plain process, also for a container's first process, which takes
//! SIGSTOP from outside of it (pid_namespaces(7)). Whether it worked is read from the processes' states, and that a stopped one
//! had no CPU from the scheduler's own account.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::slices::{self, Company, SLICE, Slice};
use super::{CompareError, work};
use crate::bench::cgroup::{CpuGroup, SHARES};
use crate::bench::child::{Child, Stop};
use crate::bench::clock::Instant;
use crate::bench::container::{Container, Limits, Runtime};
use crate::bench::footprint;
use crate::units::CpuList;

/// Memory that each of its processes streams through, in MiB: more than a CPU's own caches hold.
const STREAMED_MIB: &str = "64";
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to stop or go on.
const SWITCH: Duration = Duration::from_secs(5);
/// How often a state is looked at.
const LOOK: Duration = Duration::from_micros(50);
/// Ticks in a second of the times that Linux shows (USER_HZ, which is 100 on x86).
const TICKS: u64 = 100;

/// The neighbour. The container is deleted first, then its runtime ends, then the group goes.
pub struct Neighbour<'a> {
    processes: Vec<Process>,
    /// How many CPUs it may use.
    cpus: usize,
    _container: Option<Container<'a>>,
    _child: Child,
    _group: Option<CpuGroup>,
}

struct Process {
    pid: u32,
    handle: OwnedFd,
}

/// A moment between two slices.
struct Moment {
    at: Instant,
    neighbour: Duration,
    steal: Duration,
}

impl<'a> Neighbour<'a> {
    /// Starts it as a container of `runtime` on `cpus`, and stops it when all of it runs.
    ///
    /// # Errors
    /// [`CompareError`].
    pub fn container(runtime: &'a Runtime, cpus: &CpuList, stop: &Stop) -> Result<Self, CompareError> {
        let limits = Limits { cpu_shares: Some(SHARES), cpuset: Some(cpus.clone()), memory: None };
        let arguments = ["/work", "burn", STREAMED_MIB];
        let mut container = runtime.container(&super::neighbour::id("neighbour"), &arguments, &limits)?;
        let mut child = Child::spawn(container.command())?;
        ready(&mut child, cpus, stop)?;
        let first = container.pid(stop)?;
        let processes = processes(first, cpus)?;
        let neighbour = Self { processes, cpus: cpus.len(), _container: Some(container), _child: child, _group: None };
        neighbour.stop()?;
        Ok(neighbour)
    }

    /// The same as a process in a control group of its own, where this user may make one.
    ///
    /// # Errors
    /// [`CompareError`].
    pub fn process(program: &std::path::Path, cpus: &CpuList, stop: &Stop) -> Result<Self, CompareError> {
        let mut command = Command::new(program);
        command.args(["burn", STREAMED_MIB]);
        let mut child = super::place::on(cpus, || Ok(Child::spawn(&mut command)?))?;
        let group = CpuGroup::new(&super::neighbour::id("neighbour"), SHARES).ok();
        let group = group.filter(|group| group.add(child.pid()).is_ok());
        ready(&mut child, cpus, stop)?;
        let processes = processes(child.pid(), cpus)?;
        let neighbour = Self { processes, cpus: cpus.len(), _container: None, _child: child, _group: group };
        neighbour.stop()?;
        Ok(neighbour)
    }

    /// How many CPUs it may use.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Stops it and lets it run, in slices, until the work in `subject` is done; then it is stopped. The time that this machine's
    /// host takes is looked up for the CPUs `watched`.
    ///
    /// # Errors
    /// [`CompareError`] when it does not stop or run as it is told, or the user wants to stop.
    pub fn slices(
        &self,
        subject: &Child,
        watched: &CpuList,
        patience: Duration,
        seed: u64,
        stop: &Stop,
    ) -> Result<Vec<Slice>, CompareError> {
        let mut slices: Vec<Slice> = Vec::new();
        let began = Instant::now();
        let mut running = false;
        let mut from = self.moment(watched)?;
        for company in slices::order(seed) {
            stop.check()?;
            if running != (company == Company::Beside) {
                running = !running;
                if running {
                    self.go_on()?
                } else {
                    self.stop()?
                }
                from = self.moment(watched)?;
            }
            let waits = Instant::now();
            let done = subject.writes(work::MAGIC, SLICE) || waits.elapsed() < SLICE;
            let to = self.moment(watched)?;
            let (neighbour, steal) = (to.neighbour.saturating_sub(from.neighbour), to.steal.saturating_sub(from.steal));
            slices.push(Slice { company, from: from.at, to: to.at, neighbour, steal });
            from = to;
            if done || began.elapsed() > patience {
                break;
            }
        }
        if running {
            self.stop()?;
        }
        Ok(slices)
    }

    /// The clock first: where the neighbour is switched next, that comes after.
    fn moment(&self, watched: &CpuList) -> Result<Moment, CompareError> {
        let at = Instant::now();
        let neighbour = self.processes.iter().map(Process::ran).sum::<Result<Duration, CompareError>>()?;
        let steal = steal(&fs::read_to_string("/proc/stat").unwrap_or_default(), watched);
        Ok(Moment { at, neighbour, steal })
    }

    /// Stops it, and waits until all of it is.
    fn stop(&self) -> Result<(), CompareError> {
        self.tell(Signal::STOP, true)
    }

    /// Lets it go on, and waits until all of it does.
    fn go_on(&self) -> Result<(), CompareError> {
        self.tell(Signal::CONT, false)
    }

    fn tell(&self, signal: Signal, stopped: bool) -> Result<(), CompareError> {
        for process in &self.processes {
            pidfd_send_signal(&process.handle, signal).map_err(|_| CompareError::NeighbourGone(process.pid))?;
        }
        let asked = Instant::now();
        for process in &self.processes {
            while process.is_stopped()? != stopped {
                if asked.elapsed() > SWITCH {
                    return Err(CompareError::NotSwitched(process.pid));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

impl Drop for Neighbour<'_> {
    fn drop(&mut self) {
        // A stopped process takes no signal but SIGKILL, and not every runtime ends its containers by that.
        let _ = self.go_on();
    }
}

impl Process {
    fn file(&self, name: &str) -> Result<String, CompareError> {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).map_err(|_| CompareError::NeighbourGone(self.pid))
    }

    /// Whether a signal has stopped it.
    fn is_stopped(&self) -> Result<bool, CompareError> {
        match Self::state(self.pid) {
            None | Some('Z' | 'X') => Err(CompareError::NeighbourGone(self.pid)),
            Some(state) => Ok(state == 'T'),
        }
    }

    /// A process's state: the third field of `/proc/PID/stat`.
    fn state(pid: u32) -> Option<char> {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// CPU time it has had: the first field of `/proc/PID/schedstat` in nanoseconds, else its times in ticks.
    fn ran(&self) -> Result<Duration, CompareError> {
        let first = |text: String| text.split_ascii_whitespace().next()?.parse().ok();
        if let Some(ns) = self.file("schedstat").ok().and_then(first).filter(|ns| *ns > 0) {
            return Ok(Duration::from_nanos(ns));
        }
        let stat = self.file("stat")?;
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        // Fields 14 and 15 of the whole line: user and system time.
        let ticks: u64 = rest.split_ascii_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }
}

/// Waits until a process for each of `cpus` has said that it is ready.
fn ready(child: &mut Child, cpus: &CpuList, stop: &Stop) -> Result<(), CompareError> {
    const WORD: &[u8] = b"RFREADY\n";
    let all = WORD.repeat(cpus.len());
    let terminal: Vec<u8> = b"RFREADY\r\n".repeat(cpus.len());
    child.wait_for(WORD, PATIENCE, stop)?;
    let began = Instant::now();
    while ![&all, &terminal].iter().any(|all| child.stdout().windows(all.len()).any(|window| window == &all[..])) {
        stop.check()?;
        if began.elapsed() > PATIENCE {
            return Err(CompareError::Nothing("the neighbour, which does not start on all of its CPUs".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Its processes, one for each CPU.
fn processes(first: u32, cpus: &CpuList) -> Result<Vec<Process>, CompareError> {
    let family = footprint::family(&[first]);
    let open = |pid: u32| {
        let gone = CompareError::NeighbourGone(pid);
        let id = Pid::from_raw(pid as i32);
        let handle = id.and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok()).ok_or(gone)?;
        Ok(Process { pid, handle })
    };
    let found = family.into_iter().map(open).collect::<Result<Vec<_>, CompareError>>()?;
    if found.len() != cpus.len() {
        let what = format!("the neighbour, which has {} processes on {} CPUs", found.len(), cpus.len());
        return Err(CompareError::Nothing(what));
    }
    Ok(found)
}

/// Time that the host has taken from `cpus` (proc(5), `/proc/stat`: the eighth number of a CPU's line).
pub fn steal(stat: &str, cpus: &CpuList) -> Duration {
    let of = |line: &str| {
        let (name, numbers) = line.split_once(' ')?;
        let cpu: u32 = name.strip_prefix("cpu")?.parse().ok()?;
        cpus.contains(cpu).then(|| numbers.split_ascii_whitespace().nth(7)?.parse::<u64>().ok()).flatten()
    };
    let ticks: u64 = stat.lines().filter_map(of).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Root;
    use crate::host::cpus::Cpus;
    use std::os::unix::fs::PermissionsExt;

    /// Proves on this host that the neighbour has a process for each CPU, that it has no CPU time in the slices in which it is
    /// stopped and has some in those in which it runs, that slices follow each other, and that all of it ends.
    #[test]
    fn it_stops_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("work");
        fs::write(&program, work::PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (cpus, stop) = (Cpus::of(&Root::default()).allowed, Stop::default());
        let neighbour = Neighbour::process(&program, &cpus, &stop).unwrap();
        let pids: Vec<u32> = neighbour.processes.iter().map(|process| process.pid).collect();
        assert_eq!((neighbour.cpus(), pids.len()), (cpus.len(), cpus.len()));
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1.5; echo RFWORK2 x; sleep 60"]);
        let subject = Child::spawn(&mut command).unwrap();
        let slices = neighbour.slices(&subject, &cpus, PATIENCE, 1, &stop).unwrap();
        assert!(slices.len() >= 4, "{slices:?}");
        for slice in &slices {
            let (ran, length) = (slice.neighbour, slice.length());
            assert!(ran <= length * cpus.len() as u32 + Duration::from_millis(20), "{slice:?}");
            match slice.company {
                Company::Alone => assert_eq!(ran, Duration::ZERO, "{slices:?}"),
                Company::Beside => assert!(ran > Duration::ZERO || length < SLICE, "{slices:?}"),
            }
        }
        assert!(slices.windows(2).all(|two| two[0].to <= two[1].from && two[0].length() >= SLICE));
        assert!(neighbour.processes.iter().all(|process| process.is_stopped().unwrap()), "it is stopped at the end");
        drop(neighbour);
        let alive = |pid: &&u32| Process::state(**pid).is_some_and(|state| state != 'Z');
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            pids.iter().filter(alive).count() == 0
        });
        assert!(gone, "some of the neighbour is left");
    }

    /// Proves that a neighbour that has ended is an error that says so.
    #[test]
    fn a_neighbour_that_ended_is_told() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        let handle = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        let process = Process { pid, handle };
        assert!(pidfd_send_signal(&process.handle, Signal::STOP).is_err());
        assert!(process.is_stopped().unwrap_err().to_string().contains("ended by itself"));
    }

    /// Proves that the eighth number of the asked CPUs' lines is read, in hundredths of a second, and no other.
    #[test]
    fn steal_is_of_the_asked_cpus() {
        let stat =
            "cpu  9 9 9 9 9 9 9 99 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 80 9 10\ncpu12 1 2 3\nintr 5\n";
        let of = |cpus: &str| steal(stat, &CpuList::parse(cpus).unwrap());
        assert_eq!(of("0"), Duration::from_millis(80));
        assert_eq!(of("0-1"), Duration::from_millis(880));
        assert_eq!(of("12"), Duration::ZERO);
    }
}
