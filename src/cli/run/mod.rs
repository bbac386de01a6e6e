//! `ringfence run`: boot a guest and be its console.

mod cores;
mod guest;
mod ram;
mod report;
mod sandbox;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kvm_ioctls::{Cap, Kvm};

use crate::config::{BootEntry, ConfigError, ConsoleSpec, IrqChip, MachineConfig, MachineName};
use crate::console::{Console, Output};
use crate::guest::recipe;
use crate::host::{self, Flavour};
use crate::machine::{HeadStart, Machine, MachineError, Outcome, Phase, Report, RunOptions, Timeline};
use crate::sandbox::Support;
use crate::units::ByteSize;
use report::ReportFile;

/// Boot a guest: a Linux kernel on exactly the vCPUs and RAM asked for, with its serial console here.
///
/// With no COMMAND the guest's shell runs. With one, it runs in the guest with just those arguments, its output comes
/// out here, and its status becomes ringfence's.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Guest RAM in bytes, or with K, M, G or T (powers of 1024)
    #[arg(short, long, value_name = "SIZE", default_value = "256M")]
    memory: ByteSize,
    /// Kernel: an ELF vmlinux or a bzImage [default: the guest that comes with ringfence]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Which of ringfence's own kernels: micro or full
    #[arg(long, value_name = "WHICH", default_value = "micro", conflicts_with = "kernel")]
    flavour: recipe::Flavour,
    /// Initial RAM disk, or "none" [default: busybox and ringfence's own init]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Text added to the default kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Kernel command line in place of the default one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "cmdline")]
    cmdline_only: Option<String>,
    /// Where the serial console goes: stdio, file:PATH, pty, pty:LINK, unix:PATH or none
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    console: ConsoleSpec,
    /// The guest's name, also its hostname; no other machine that runs may have it
    #[arg(long, value_name = "NAME")]
    name: Option<MachineName>,
    /// End the machine after this many seconds, with status 124
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Write phases and exit counts as JSON to FILE, or to standard output with "-"
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Interrupt controllers: split (I/O APIC in ringfence) or kernel (all in KVM, with PIC and PIT)
    #[arg(long, value_name = "WHICH", default_value = "split")]
    irqchip: IrqChip,
    /// Kernel entry: auto, pvh or linux64
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    entry: BootEntry,
    /// Tell what is done on standard error; registers too when the guest dies
    #[arg(short, long)]
    verbose: bool,
    /// Command to run in the guest, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    // Last, because the heading of each stays for the arguments that follow.
    #[command(flatten)]
    cores: cores::CoreArgs,
    #[command(flatten)]
    ram: ram::RamArgs,
    #[command(flatten)]
    sandbox: sandbox::SandboxArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a positive number of seconds, such as 30 or 0.5");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero()).ok_or_else(wrong)
}

/// Options with which the first vCPU's thread starts otherwise than [`HeadStart`] would have it, or with which nothing starts:
/// each begins so.
const WITHOUT_HEAD_START: [&str; 8] =
    ["--sandbox", "--cpuset-cpus", "--pin", "--vmm-cpus", "--smt", "--guarantee", "--help", "-h"];

/// Lets KVM make a machine while the command line is read, if that will ask for one. What it then asks for is not known yet: a
/// machine that the head start does not fit is made anew. An error is told when the machine is wanted.
pub(super) fn head_start(words: &[OsString]) -> Option<anyhow::Result<HeadStart>> {
    may_have_head_start(words).then(|| Ok(HeadStart::begin(host::kvm::open()?)?))
}

fn may_have_head_start(words: &[OsString]) -> bool {
    let [_, subcommand, options @ ..] = words else { return false };
    let mut options = options.iter().take_while(|word| *word != "--").map(|word| word.as_encoded_bytes());
    let other = |word: &[u8]| WITHOUT_HEAD_START.iter().any(|start| word.starts_with(start.as_bytes()));
    subcommand == "run" && !options.any(other)
}

/// Boots the guest and returns the process's exit status.
pub fn run(args: &RunArgs, start_ns: u64, ahead: Option<anyhow::Result<HeadStart>>) -> anyhow::Result<i32> {
    let timeline = Arc::new(Timeline::default());
    timeline.reached(Phase::Start, start_ns);
    let flavour = host::flavour();
    let console = Console::open(&args.console)?;
    let config = guest::configure(args, flavour, &console)?;
    config.check()?;
    if !config.ram_policy.is_there_from_the_start() {
        check_memory(config.memory)?;
    }
    timeline.reach(Phase::Configured);
    let ahead = ahead.unwrap_or_else(|| Ok(host::kvm::open()?.into()))?;
    check_cpus(config.cpus, ahead.kvm())?;
    // The machine confines this thread: no file can be opened after it.
    let report_file = args.report.as_deref().map(ReportFile::open).transpose()?;
    let output = console.output();
    match boot(args, &config, ahead, flavour, console, timeline) {
        Ok((outcome, report)) => {
            report_file.map_or(Ok(()), |file| file.write(&report))?;
            Ok(admit_loss(&output, args, conclude(&outcome, args)))
        }
        Err(error) => {
            report_file.into_iter().for_each(|file| file.write_error(&error));
            match error.downcast_ref() {
                Some(MachineError::Signalled(signal)) => Ok(128 + signal),
                _ => Err(guest::blame_the_store(error, args)),
            }
        }
    }
}

/// Makes the machine and runs it until it has ended.
fn boot(
    args: &RunArgs,
    config: &MachineConfig,
    ahead: HeadStart,
    flavour: Flavour,
    console: Console,
    timeline: Arc<Timeline>,
) -> anyhow::Result<(Outcome, Report)> {
    let mut meter = ram::Meter::new(config.memory);
    let built = Machine::build(config, ahead, flavour, console, timeline, &mut |taken| meter.show(taken));
    meter.clear();
    let machine = built?;
    for warning in machine.warnings() {
        eprintln!("ringfence: warning: {warning}");
    }
    if args.verbose {
        tell(&machine, config, flavour);
    }
    let hold_input = !config.initrd_overlay.is_empty();
    let options = RunOptions { timeout: args.timeout, hold_input };
    Ok(machine.run(&options, &mut notice)?)
}

/// Tells the user a line while the guest writes, too: in one call, so that none of the guest's letters come into it.
fn notice(line: &str) {
    // With standard error gone there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("ringfence: {line}\n").as_bytes());
}

/// Refuses more RAM than the host has free, before anything is made.
fn check_memory(asked: ByteSize) -> anyhow::Result<()> {
    let info = rustix::system::sysinfo();
    if asked.as_u64() <= info.freeram as u64 * u64::from(info.mem_unit) {
        return Ok(());
    }
    let (total, available) = host::ram::amounts(&host::Root::default());
    if asked.as_u64() <= available {
        return Ok(());
    }
    let (available, total) = (ByteSize::bytes(available), ByteSize::bytes(total));
    Err(ConfigError::MoreThanFree { asked, available, total }.into())
}

/// Refuses more vCPUs than KVM takes, and warns of more than the host has CPUs for.
fn check_cpus(asked: u32, kvm: &Kvm) -> anyhow::Result<()> {
    if asked <= 1 {
        return Ok(());
    }
    let max = kvm.check_extension_int(Cap::MaxVcpus).max(1) as u32;
    if asked > max {
        return Err(ConfigError::TooManyCpus { asked, max }.into());
    }
    let cpus = std::thread::available_parallelism().map_or(u32::MAX, |n| n.get() as u32);
    if asked > cpus {
        eprintln!(
            "ringfence: warning: {asked} vCPUs share the {cpus} CPUs this process may use, so they will wait for each other"
        );
    }
    Ok(())
}

/// Says that the guest's output could not be written, which nobody who reads it would see; success is none then. A reader who
/// went away, as `head` does, wants no more of it.
fn admit_loss(output: &Output, args: &RunArgs, status: i32) -> i32 {
    let Some(fault) = output.fault().filter(|fault| fault.kind() != ErrorKind::BrokenPipe) else { return status };
    let place = match &args.console {
        ConsoleSpec::File(path) => path.display().to_string(),
        _ => "standard output".to_owned(),
    };
    notice(&format!(
        "{} bytes of the guest's output were lost: cannot write to {place}: {fault}",
        output.statistics().discarded
    ));
    if status == 0 { super::EXIT_FAILED } else { status }
}

fn tell(machine: &Machine, config: &MachineConfig, flavour: Flavour) {
    eprintln!("ringfence: KVM: {flavour}");
    eprintln!(
        "ringfence: machine: {} vCPU, {} of RAM, {:?} interrupt controllers",
        config.cpus,
        config.memory,
        machine.irqchip()
    );
    eprintln!("ringfence: kernel: {}: {}", config.kernel.path.display(), machine.format());
    machine.notes().iter().for_each(|note| eprintln!("ringfence: {note}"));
    eprintln!("ringfence: command line: {}", config.cmdline);
    match machine.sandbox().paths() {
        _ if machine.sandbox().is_off() => eprintln!("ringfence: sandbox: off"),
        Some(Support::Enforced) => eprintln!("ringfence: sandbox: seccomp, no capabilities, landlock"),
        _ => eprintln!("ringfence: sandbox: seccomp, no capabilities; this kernel has no landlock"),
    }
}

/// Says how the machine ended where that is no success, and gives the exit status.
fn conclude(outcome: &Outcome, args: &RunArgs) -> i32 {
    match outcome {
        Outcome::Exited(status) => (*status & 0xff) as i32,
        Outcome::PoweredOff | Outcome::Reset if !args.command.is_empty() => {
            eprintln!("ringfence: the guest went down before the command had ended");
            super::EXIT_FAILED
        }
        Outcome::PoweredOff | Outcome::Reset | Outcome::Quit => 0,
        Outcome::TripleFault(diagnosis) | Outcome::KvmGaveUp(diagnosis) => {
            eprintln!("ringfence: {diagnosis}");
            match diagnosis.registers() {
                Some(registers) if args.verbose => eprintln!("{}", registers.to_string().trim_end()),
                Some(_) => eprintln!("  (-v shows the registers)"),
                None => {}
            }
            super::EXIT_FAILED
        }
        Outcome::Signalled(signal) => 128 + signal,
        Outcome::TimedOut => {
            eprintln!("ringfence: the time limit passed");
            124
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that KVM is asked for a machine early where it is as good as any, and not where its thread must begin otherwise or
    /// none will run; what the guest's command is called does not count.
    #[test]
    fn who_gets_a_head_start() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["ringfence run", "ringfence run --cpus 2 --name x", "ringfence run -m 1G -- ls --help --pin"] {
            assert!(may_have_head_start(&words(line)), "{line}");
        }
        for line in [
            "ringfence",
            "ringfence check",
            "ringfence run --sandbox off",
            "ringfence run --sandbox=off",
            "ringfence run --guarantee",
            "ringfence run --cpus 2 --pin strict -- true",
            "ringfence run --help",
            "ringfence run -h",
        ] {
            assert!(!may_have_head_start(&words(line)), "{line}");
        }
    }
}
