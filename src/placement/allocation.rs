//! The CPUs that a machine has, from when they are taken.

use std::sync::atomic::{AtomicI32, Ordering};

use super::choice::choose;
use super::error::AllocationError;
use super::locks::{CpuLock, Folder, Hold, LockError, holders};
use super::realtime;
use super::scheduler::{self, SELF};
use crate::config::{Granted, Pin, Placement, Smt};
use crate::host::Root;
use crate::host::topology::Topology;
use crate::units::CpuList;

/// The CPUs that a machine has. They are given back when it is dropped.
#[derive(Debug)]
pub struct Allocation {
    pub(super) granted: Granted,
    /// The vCPUs' threads, 0 until they have started.
    pub(super) threads: Vec<AtomicI32>,
    /// Whether the vCPUs have a cookie.
    pub(super) core_scheduling: bool,
    warnings: Vec<String>,
    _locks: Vec<CpuLock>,
}

impl Allocation {
    /// Takes the CPUs for `vcpus` vCPUs. `None`, and no system call, when nothing is asked for.
    ///
    /// # Errors
    /// See [`AllocationError`]; then nothing is taken.
    pub fn take(asked: &Placement, vcpus: u32) -> Result<Option<Self>, AllocationError> {
        if asked.is_free() {
            return Ok(None);
        }
        let allowed = scheduler::affinity(SELF).map_err(AllocationError::refused("ask where this process may run"))?;
        let within = |option, list: &CpuList| within(option, list, &allowed, &Root::default());
        asked.cpus.iter().try_for_each(|list| within("--cpuset-cpus", list))?;
        asked.vmm_cpus.iter().try_for_each(|list| within("--vmm-cpus", list))?;
        if let Some(priority) = asked.realtime.map(|priority| priority.get()) {
            let highest = realtime::highest(&Root::default());
            if highest < priority {
                return Err(AllocationError::NoRealtime { priority, highest });
            }
        }
        let (lists, mut locks) = take_vcpus(asked, vcpus, &allowed)?;
        let vcpu_cpus: CpuList = lists.iter().flat_map(CpuList::iter).collect();
        let (siblings, core_scheduling) = match asked.smt {
            Smt::Share => (CpuList::default(), false),
            Smt::Isolate => isolated_siblings(asked, &vcpu_cpus)?,
        };
        let folder = if siblings.is_empty() { None } else { Some(Folder::open()?) };
        for (folder, cpu) in folder.iter().flat_map(|folder| siblings.iter().map(move |cpu| (folder, cpu))) {
            locks.push(folder.lock(cpu, Hold::Alone, &asked.holder)?);
        }
        let own: CpuList = vcpu_cpus.iter().chain(siblings.iter()).collect();
        let mut warnings = Vec::new();
        let vmm = match &asked.vmm_cpus {
            Some(list) => {
                check_vmm(asked, list, &own, &mut warnings)?;
                locks.extend(lock_shared(&list.without(&own), &asked.holder)?);
                list.sorted()
            }
            None => rest(&allowed, &own, &mut warnings),
        };
        if let Some(priority) = asked.realtime {
            if vmm.without(&own).is_empty() {
                return Err(AllocationError::RealtimeStarves(vmm));
            }
            warnings.push(realtime::warning(priority, &Root::default()));
        }
        let Placement { pin, smt, realtime, halt, .. } = *asked;
        let granted = Granted { vcpus: lists, vmm, pin, smt, realtime, halt };
        let threads = (0..vcpus).map(|_| AtomicI32::new(0)).collect();
        Ok(Some(Self { granted, threads, core_scheduling, warnings, _locks: locks }))
    }

    /// What was given.
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Gives the calling thread what vCPU `id` gets.
    fn apply(&self, id: u32) -> Result<(), AllocationError> {
        let cpus = &self.granted.vcpus[id as usize];
        scheduler::set_affinity(SELF, cpus)
            .map_err(AllocationError::refused(format!("move vCPU {id} to CPU {cpus}")))?;
        if self.core_scheduling {
            let made = match id {
                0 => scheduler::create_core_cookie(),
                // The first vCPU's thread has made the machine, and so its cookie, before another is started.
                _ => scheduler::share_core_cookie(self.threads[0].load(Ordering::Acquire)),
            };
            made.map_err(AllocationError::refused(format!("give vCPU {id} a core scheduling cookie")))?;
        }
        self.threads[id as usize].store(scheduler::thread_id(), Ordering::Release);
        Ok(())
    }
}

/// Gives the calling thread what vCPU `id` gets of the allocation, if there is one. To be called first of all on that thread,
/// so that what the kernel allocates for the vCPU is near its CPU.
///
/// # Errors
/// What the kernel refuses.
pub fn apply(allocation: Option<&Allocation>, id: u32) -> Result<(), AllocationError> {
    allocation.map_or(Ok(()), |allocation| allocation.apply(id))
}

/// The vCPUs' CPUs, and their locks.
fn take_vcpus(
    asked: &Placement,
    vcpus: u32,
    allowed: &CpuList,
) -> Result<(Vec<CpuList>, Vec<CpuLock>), AllocationError> {
    let Placement { cpus, pin, holder, .. } = asked;
    if *pin == Pin::Off {
        let list = cpus.as_ref().map_or_else(|| allowed.clone(), CpuList::sorted);
        let locks = cpus.as_ref().map_or(Ok(Vec::new()), |list| lock_shared(list, holder))?;
        return Ok((vec![list; vcpus as usize], locks));
    }
    if let Some(list) = cpus {
        return Ok((one_each(list, vcpus), lock_alone(list, vcpus, holder)?));
    }
    // Another guest may take them between the choice and the locks.
    let mut last = None;
    for _ in 0..4 {
        let topology = Topology::of(&Root::default());
        let chosen = choose(&topology, allowed, &holders(), vcpus, asked.smt)?.vcpus;
        match lock_alone(&chosen, vcpus, holder) {
            Ok(locks) => return Ok((one_each(&chosen, vcpus), locks)),
            Err(error @ LockError::Taken(_)) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or(AllocationError::NoThread(0), Into::into))
}

fn one_each(list: &CpuList, vcpus: u32) -> Vec<CpuList> {
    list.iter().take(vcpus as usize).map(|cpu| [cpu].into_iter().collect()).collect()
}

/// Locks the vCPUs' CPUs; those of the list beyond them stay free.
fn lock_alone(list: &CpuList, vcpus: u32, holder: &str) -> Result<Vec<CpuLock>, LockError> {
    let folder = Folder::open()?;
    list.iter().take(vcpus as usize).map(|cpu| folder.lock(cpu, Hold::Alone, holder)).collect()
}

fn lock_shared(list: &CpuList, holder: &str) -> Result<Vec<CpuLock>, LockError> {
    let folder = Folder::open()?;
    list.iter().map(|cpu| folder.lock(cpu, Hold::Shared, holder)).collect()
}

/// The other threads of the vCPUs' cores, and whether the kernel keeps everybody else off them.
fn isolated_siblings(asked: &Placement, cpus: &CpuList) -> Result<(CpuList, bool), AllocationError> {
    // It answers for the calling thread wherever there is core scheduling, and SMT.
    let core_scheduling = scheduler::core_cookie(SELF).is_ok();
    let siblings = Topology::of(&Root::default()).siblings(cpus);
    if !core_scheduling {
        whole_cores(asked, &siblings)?;
    }
    Ok((siblings, core_scheduling))
}

/// Without core scheduling a list that was typed must have every thread of its vCPUs' cores.
fn whole_cores(asked: &Placement, siblings: &CpuList) -> Result<(), AllocationError> {
    let Some(list) = &asked.cpus else { return Ok(()) };
    let missing = siblings.without(list).sorted();
    if missing.is_empty() { Ok(()) } else { Err(AllocationError::PartOfCores { asked: list.clone(), missing }) }
}

/// Whether ringfence's other threads may be where they are told to be.
fn check_vmm(
    asked: &Placement,
    list: &CpuList,
    own: &CpuList,
    warnings: &mut Vec<String>,
) -> Result<(), AllocationError> {
    let shared = list.without(&list.without(own));
    if shared.is_empty() || asked.pin == Pin::Off {
        return Ok(());
    }
    if asked.smt == Smt::Isolate {
        return Err(AllocationError::VmmOnCores { asked: list.clone(), shared });
    }
    warnings.push(format!("--vmm-cpus {list}: ringfence's own threads share {shared} with the vCPUs, as asked"));
    Ok(())
}

/// Where the threads go that are no vCPUs, when nothing is said of them: to what is allowed and nobody's.
fn rest(allowed: &CpuList, own: &CpuList, warnings: &mut Vec<String>) -> CpuList {
    let left = allowed.without(own);
    if left.is_empty() {
        warnings.push(format!(
            "no CPU is left for ringfence's own threads: they share {allowed} with the vCPUs. Allow the process one more, or \
             name theirs with --vmm-cpus"
        ));
        return allowed.clone();
    }
    let taken: CpuList = holders().iter().filter(|holder| holder.exclusive).map(|holder| holder.cpu).collect();
    let free = left.without(&taken);
    if free.is_empty() { left } else { free }
}

/// Whether this process may use every CPU of a list; says why not by what the host's files tell.
fn within(option: &'static str, asked: &CpuList, allowed: &CpuList, root: &Root) -> Result<(), AllocationError> {
    let missing = asked.without(allowed);
    if missing.is_empty() {
        return Ok(());
    }
    let asked = asked.clone();
    let list = |name| root.read(format!("/sys/devices/system/cpu/{name}")).and_then(|text| CpuList::parse(&text));
    let (Some(online), Some(present)) = (list("online"), list("present")) else {
        return Err(AllocationError::NotAllowed { option, asked, missing, allowed: allowed.clone() });
    };
    let absent = missing.without(&present);
    let offline = missing.without(&online);
    Err(if !absent.is_empty() {
        AllocationError::NoSuchCpu { option, asked, missing: absent, online }
    } else if !offline.is_empty() {
        AllocationError::Offline { option, asked, missing: offline, online }
    } else {
        AllocationError::NotAllowed { option, asked, missing, allowed: allowed.clone() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    /// Proves that a CPU is told to be absent, offline or forbidden as the host's files have it, each with its remedy.
    #[test]
    fn unusable_cpus_are_told_apart() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = dir.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("online"), "0-5\n").unwrap();
        std::fs::write(folder.join("present"), "0-7\n").unwrap();
        let root = Root::new(dir.path());
        let why = |asked: &str| within("--cpuset-cpus", &list(asked), &list("0-3"), &root).unwrap_err().to_string();
        assert!(within("--cpuset-cpus", &list("3,0"), &list("0-3"), &root).is_ok());
        assert!(why("2,9-11").contains("has no CPU 9-11; it has 0-5"), "{}", why("2,9-11"));
        assert!(why("6").contains("CPU 6 is offline") && why("6").contains("cpu6/online"), "{}", why("6"));
        assert!(why("1,4").contains("may not run on CPU 4") && why("1,4").contains("allow 0-3"), "{}", why("1,4"));
    }

    /// Proves that without core scheduling a list with part of a core is refused with what it lacks, and whole cores are not.
    #[test]
    fn a_part_of_a_core_is_not_isolated() {
        let asked = |cpus: &str| Placement { cpus: Some(list(cpus)), smt: Smt::Isolate, ..Placement::default() };
        let error = whole_cores(&asked("2-3"), &list("7,6")).unwrap_err().to_string();
        assert!(error.contains("2-3 lacks 6-7") && error.contains("CONFIG_SCHED_CORE"), "{error}");
        assert!(whole_cores(&asked("2,6"), &list("6")).is_ok());
        assert!(whole_cores(&Placement::default(), &list("6")).is_ok(), "CPUs that are chosen are of whole free cores");
    }

    /// Proves that ringfence's own threads share the vCPUs' CPUs only when told to, and their cores never when isolated.
    #[test]
    fn the_other_threads_share_only_when_told() {
        let strict = Placement { pin: Pin::Strict, ..Placement::default() };
        let mut warnings = Vec::new();
        assert!(check_vmm(&strict, &list("0-1"), &list("2-3"), &mut warnings).is_ok() && warnings.is_empty());
        assert!(check_vmm(&strict, &list("0-2"), &list("2-3"), &mut warnings).is_ok());
        assert!(warnings[0].contains("share 2 with the vCPUs"), "{warnings:?}");
        let isolated = Placement { smt: Smt::Isolate, ..strict };
        let error = check_vmm(&isolated, &list("0-2"), &list("2-3"), &mut warnings).unwrap_err().to_string();
        assert!(error.contains("has 2, which"), "{error}");
    }

    /// Proves that vCPU i gets the i-th of the list, whatever its order, and the rest of the list stays free.
    #[test]
    fn vcpus_follow_the_order_of_the_list() {
        let lists: Vec<String> = one_each(&list("6,4,1-3"), 3).iter().map(ToString::to_string).collect();
        assert_eq!(lists, ["6", "4", "1"]);
    }
}
