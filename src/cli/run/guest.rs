//! What is booted: kernel, initrd, command line, and what our init is told.

use std::env;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;

use super::RunArgs;
use crate::config::{ConsoleSpec, KernelFile, Listing, MachineConfig, MachineName};
use crate::console::Console;
use crate::guest::initramfs::default_initramfs;
use crate::guest::spec::{Spec, Stdio, WindowSize, spec_overlay};
use crate::guest::store::{cache_folder, default_kernel};
use crate::host::{Flavour, PAGE_TABLE_CMDLINE};
use crate::registry::own_folder;

/// For every kernel: messages and console on the serial port, a reset where the monitor sees it, at once after a panic.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1";
/// For the default guest: only what goes wrong is worth a line.
const CMDLINE_DEFAULT_GUEST: &str = "quiet";
/// The guest's name when none is given.
const DEFAULT_NAME: &str = "ringfence";

/// The machine that the arguments ask for.
pub(super) fn configure(args: &RunArgs, flavour: Flavour, console: &Console) -> anyhow::Result<MachineConfig> {
    let cache = cache_folder()?;
    let mut parts = vec![CMDLINE.to_owned()];
    let kernel = match &args.kernel {
        Some(path) => KernelFile { path: path.clone(), immutable: false },
        None => {
            parts.push(CMDLINE_DEFAULT_GUEST.to_owned());
            KernelFile { path: default_kernel(&cache, args.flavour)?.path, immutable: true }
        }
    };
    if flavour.emulates_ring_0() {
        parts.push(PAGE_TABLE_CMDLINE.to_owned());
    }
    parts.extend(args.cmdline.clone());
    parts.retain(|p| !p.is_empty());
    let ours = args.initrd.is_none();
    let initrd = match &args.initrd {
        None => Some(default_initramfs(&cache)?),
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
    };
    if !ours && !args.command.is_empty() {
        bail!(
            "a COMMAND is run by the default initrd; leave out --initrd, or pass the command to your own init with --cmdline"
        );
    }
    let overlay = if ours { spec_overlay(&spec(args, console))? } else { Vec::new() };
    Ok(MachineConfig {
        cpus: args.cpus,
        memory: args.memory,
        kernel,
        initrd,
        initrd_immutable: ours,
        initrd_overlay: overlay,
        cmdline: args.cmdline_only.clone().unwrap_or_else(|| parts.join(" ")),
        irqchip: args.irqchip,
        entry: args.entry,
        cache: Some(cache),
        placement: args.cores.policy()?,
        ram_policy: args.ram.policy()?,
        sandbox: args.sandbox.policy()?,
        listing: Some(listing(args)),
    })
}

/// How the machine is listed.
fn listing(args: &RunArgs) -> Listing {
    Listing {
        folder: own_folder(),
        name: args.name.clone(),
        console: args.console.to_string(),
        command: args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
    }
}

/// What our init is told.
fn spec(args: &RunArgs, console: &Console) -> Spec {
    let window = console.window_size().map(|w| WindowSize { rows: w.rows, cols: w.columns }).unwrap_or_default();
    Spec {
        stdio: stdio(&args.console),
        term: env::var_os("TERM").filter(|t| !t.is_empty()).unwrap_or_else(|| "vt100".into()),
        window,
        hostname: args.name.as_ref().map_or(DEFAULT_NAME, MachineName::as_str).to_owned(),
        loglevel: None,
        env: Vec::new(),
        args: args.command.clone(),
    }
}

/// A terminal on both ends of the console makes the guest's a terminal; a pty or socket has one at its other end.
fn stdio(console: &ConsoleSpec) -> Stdio {
    let terminal = match console {
        ConsoleSpec::Stdio => std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        ConsoleSpec::Pty(_) | ConsoleSpec::Unix(_) => true,
        ConsoleSpec::File(_) | ConsoleSpec::None => false,
    };
    if terminal { Stdio::Tty } else { Stdio::Pipe }
}
