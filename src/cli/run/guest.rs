//! What is booted: kernel, initrd, command line, and what our init is told.

use std::env;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;

use super::RunArgs;
use crate::boot::cmdline::join_clearcpuid;
use crate::config::{ConsoleSpec, KernelFile, Listing, MachineConfig, MachineName};
use crate::console::Console;
use crate::guest::initramfs::default_initramfs;
use crate::guest::spec::{Spec, Stdio, WindowSize, spec_overlay};
use crate::guest::store::{Store, cache_folder, default_kernel};
use crate::host::{Flavour, PAGE_TABLE_CMDLINE};
use crate::machine::MachineError;
use crate::registry::own_folder;

/// For every kernel: messages and console on the serial port, a reset where the monitor sees it, at once after a panic.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1";
/// For the default guest: only what goes wrong is worth a line.
const CMDLINE_DEFAULT_GUEST: &str = "quiet";
/// The guest's name when none is given.
const DEFAULT_NAME: &str = "ringfence";

/// The machine that the arguments ask for.
pub(super) fn configure(args: &RunArgs, flavour: Flavour, console: &Console) -> anyhow::Result<MachineConfig> {
    let mut parts = vec![CMDLINE.to_owned()];
    let kernel = match &args.kernel {
        Some(path) => KernelFile { path: path.clone(), immutable: false },
        None => {
            parts.push(CMDLINE_DEFAULT_GUEST.to_owned());
            KernelFile { path: default_kernel(&cache_folder()?, args.flavour)?.path, immutable: true }
        }
    };
    if flavour.emulates_ring_0() {
        parts.push(PAGE_TABLE_CMDLINE.to_owned());
    }
    let (default_line, joined) = command_line(parts, args.cmdline.as_deref(), flavour);
    if joined && args.verbose && args.cmdline_only.is_none() {
        eprintln!(
            "ringfence: the lists of clearcpuid= are joined: the kernel acts on the last one alone, and this KVM needs its own"
        );
    }
    let ours = args.initrd.is_none();
    let initrd = match &args.initrd {
        None => Some(default_initramfs(&cache_folder()?)?),
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
        cmdline: args.cmdline_only.clone().unwrap_or(default_line),
        irqchip: args.irqchip,
        entry: args.entry,
        // A kernel and initrd of one's own need none.
        cache: cache_folder().ok(),
        placement: args.cores.policy(
            args.cpus,
            args.name.as_ref().map_or("", MachineName::as_str),
            args.ram.guarantees(),
        )?,
        ram_policy: args.ram.policy()?,
        sandbox: args.sandbox.policy()?,
        listing: Some(listing(args)),
    })
}

/// Adds the remedy where the kernel that cannot be loaded is ringfence's own, and it is not as it was built.
pub(super) fn blame_the_store(error: anyhow::Error, args: &RunArgs) -> anyhow::Error {
    // Loading comes before the sandbox; after it no file may be opened.
    if !matches!(error.downcast_ref(), Some(MachineError::Load(_))) {
        return error;
    }
    let damage = || {
        let cache = cache_folder().ok().filter(|_| args.kernel.is_none())?;
        let path = default_kernel(&cache, args.flavour).ok()?.path;
        Store::new(&cache).list().ok()?.into_iter().find(|entry| entry.path == path)?.damage
    };
    match damage() {
        Some(damage) => error.context(format!(
            "the {} kernel in the store is damaged, {damage}; make it anew with `ringfence kernel build --flavour {0}`",
            args.flavour
        )),
        None => error,
    }
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

/// The default line with the user's text behind it, and whether the user's `clearcpuid=` was joined to the one that such a KVM
/// needs.
fn command_line(mut parts: Vec<String>, added: Option<&str>, flavour: Flavour) -> (String, bool) {
    parts.extend(added.map(str::to_owned));
    parts.retain(|p| !p.is_empty());
    let line = parts.join(" ");
    match join_clearcpuid(&line).filter(|_| flavour.emulates_ring_0()) {
        Some(joined) => (joined, true),
        None => (line, false),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a user's clearcpuid= takes away more features on a page-table based KVM and none of its own, and that
    /// elsewhere the line is as it was typed.
    #[test]
    fn a_second_clearcpuid_replaces_nothing() {
        let parts = || vec![CMDLINE.to_owned(), PAGE_TABLE_CMDLINE.to_owned()];
        let (line, joined) = command_line(parts(), Some("clearcpuid=avx,smap debug"), Flavour::PageTable);
        assert!(joined && line.ends_with(" debug"), "{line}");
        assert_eq!(line.matches("clearcpuid=").count(), 1, "{line}");
        assert!(line.contains("clearcpuid=popcnt,smap,smep,erms,fsrm,avx "), "{line}");
        let typed = "clearcpuid=a clearcpuid=b";
        assert_eq!(command_line(vec![], Some(typed), Flavour::Vmx), (typed.to_owned(), false));
        assert_eq!(command_line(parts(), Some(""), Flavour::PageTable).0, parts().join(" "));
    }
}
