//! `ringfence kernel`: builds the default kernels and keeps kernels in the store.

mod progress;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::boot::image::{Kernel, OpenOptions};
use crate::guest::build::{self, BuildError, Built, Progress, Request};
use crate::guest::initramfs::{InitramfsError, default_initramfs};
use crate::guest::recipe::Flavour;
use crate::guest::store::{Entry, Store, cache_folder};
use crate::guest::toolchain::{self, Missing, MissingList};
use crate::layout;

/// Version of the JSON list's schema; fields may be added under the same number, none is taken away or changed.
const SCHEMA: u32 = 1;

/// Build the default kernels, and keep kernels of your own by name
///
/// Kernels are kept in $RINGFENCE_CACHE/kernels, else $XDG_CACHE_HOME/ringfence/kernels, else
/// ~/.cache/ringfence/kernels.
#[derive(Debug, Args)]
pub struct KernelArgs {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Debug, Subcommand)]
enum KernelCommand {
    Build(BuildArgs),
    List(ListArgs),
    Path(PathArgs),
    Import(ImportArgs),
    Rm(RmArgs),
}

/// Build a default kernel from the distribution's linux-source, or from any Linux 6.x
///
/// The initrd of the default guest is made as well.
/// Nothing happens when the kernel of this recipe, source and compiler is there already. The kernel that was built
/// last is the one `ringfence run` takes.
#[derive(Debug, Args)]
struct BuildArgs {
    /// Which kernel: micro boots fastest, full has what micro leaves out for that
    #[arg(long, default_value = "micro", value_name = "micro|full")]
    flavour: Flavour,

    /// Build from this tarball (.tar.xz, .gz, .bz2, .zst) or folder [default: the newest
    /// /usr/src/linux-source-6.*.tar.*]
    #[arg(long, value_name = "TARBALL|DIR")]
    source: Option<PathBuf>,

    /// Compilers at once [default: one for each CPU]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,

    /// Build again what is there already
    #[arg(long)]
    force: bool,

    /// Leave the tree in which it was built and say where it is
    #[arg(long)]
    keep: bool,

    /// As root, install what the build needs and the host lacks (with apt-get)
    #[arg(long)]
    install_deps: bool,
}

/// List the kernels in the store
#[derive(Debug, Args)]
struct ListArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Print the path of a kernel's image
#[derive(Debug, Args)]
struct PathArgs {
    /// A flavour, or a name from `ringfence kernel list`
    #[arg(default_value = "micro", value_name = "NAME")]
    name: String,
}

/// Copy a kernel image into the store
#[derive(Debug, Args)]
struct ImportArgs {
    /// An ELF vmlinux or a bzImage
    file: PathBuf,

    /// What to call it [default: the file's name]
    #[arg(long)]
    name: Option<String>,
}

/// Remove kernels from the store
#[derive(Debug, Args)]
struct RmArgs {
    /// Flavours, or names from `ringfence kernel list`
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,

    /// Every kernel
    #[arg(long)]
    all: bool,
}

/// Runs `ringfence kernel`: 0 when done, 128 + n when signal n stopped a build.
///
/// # Errors
/// Those of the store and the build.
pub fn run(args: &KernelArgs) -> anyhow::Result<i32> {
    let cache = cache_folder()?;
    let store = Store::new(&cache);
    match &args.command {
        KernelCommand::Build(args) => build(args, &cache, &store),
        KernelCommand::List(args) => list(args, &store),
        KernelCommand::Path(args) => print(&format!("{}\n", store.find(&args.name)?.display())),
        KernelCommand::Import(args) => import(args, &store),
        KernelCommand::Rm(args) => remove(args, &store),
    }
}

/// Prints to stdout; 0, the exit status.
fn print(text: &str) -> anyhow::Result<i32> {
    super::print(text).map(|()| 0)
}

fn build(args: &BuildArgs, cache: &Path, store: &Store) -> anyhow::Result<i32> {
    if args.install_deps {
        install_missing(args.source.as_deref(), cache)?;
    }
    let (stop, signal) = watch_signals()?;
    let jobs = args.jobs.map_or_else(cpus, usize::from);
    let request =
        Request { flavour: args.flavour, source: args.source.clone(), jobs, force: args.force, keep: args.keep };
    let mut bar = progress::Bar::new(args.flavour, io::stderr().is_terminal());
    let result = build::build(store, &request, &stop, &mut bar);
    bar.finish();
    if result.is_ok() {
        // The kernel is of use without it, to those who have an initrd of their own.
        if let Err(error) = default_initramfs(cache) {
            bar.warn(&format!("the kernel is ready, its initrd is not: {}", super::causes(&error.into())));
        }
    }
    match result {
        Ok(built) => {
            report(&built, args.flavour);
            Ok(0)
        }
        Err(BuildError::Stopped) if signal.load(Ordering::Relaxed) != 0 => {
            bar.say(&BuildError::Stopped.to_string());
            Ok(128 + signal.load(Ordering::Relaxed))
        }
        Err(error) => Err(error.into()),
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Sets the first on SIGINT, SIGTERM and SIGHUP, and the second to which of them it was.
fn watch_signals() -> anyhow::Result<(Arc<AtomicBool>, Arc<AtomicI32>)> {
    let (stop, which) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
    let theirs = (stop.clone(), which.clone());
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if theirs.0.load(Ordering::Relaxed) {
                // Asked twice: at once. The next build sweeps up.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            eprintln!("\nringfence: stopping and tidying up; once more to leave at once");
            theirs.1.store(signal, Ordering::Relaxed);
            theirs.0.store(true, Ordering::Relaxed);
        }
    });
    Ok((stop, which))
}

/// Tells of a kernel that was built; of one that was there, nothing, as with make.
fn report(built: &Built, flavour: Flavour) {
    if !built.fresh {
        return;
    }
    let manifest = &built.manifest;
    let seconds = manifest.build.as_ref().map_or(0.0, |build| build.seconds);
    eprintln!(
        "built the {flavour} kernel, Linux {}, {} in {}\n{}",
        manifest.version.as_deref().unwrap_or("?"),
        rounded(manifest.size),
        progress::clock(seconds as u64),
        built.path.display()
    );
    if let Some(tree) = &built.tree {
        eprintln!("left its tree in {}", tree.display());
    }
}

/// Installs what is missing, if this is root on a system with apt-get; says what to do otherwise.
fn install_missing(source: Option<&Path>, cache: &Path) -> anyhow::Result<()> {
    let mut missing = MissingList(build::missing(source)?);
    if let Err(InitramfsError::NoBusybox { .. }) = default_initramfs(cache) {
        missing.0.push(Missing { what: "a static busybox".to_owned(), package: "busybox-static" });
    }
    if missing.0.is_empty() {
        return Ok(());
    }
    if !toolchain::is_root() || !toolchain::on_path("apt-get") {
        bail!("--install-deps needs root and apt-get, and this is missing: {missing}");
    }
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "-y", "-q", "--no-install-recommends"]).args(missing.packages());
        succeeds(command)
    };
    eprintln!("installing {}", missing.packages().join(" "));
    // A fresh container has no package lists; a machine that has them need not fetch them again.
    let installed = install()? || {
        let mut update = Command::new("apt-get");
        update.args(["update", "-q"]);
        succeeds(update)? && install()?
    };
    if !installed {
        bail!("apt-get could not install what is missing: {missing}");
    }
    Ok(())
}

fn succeeds(mut command: Command) -> anyhow::Result<bool> {
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    // Scripts read paths from our stdout.
    command.stdout(io::stderr());
    Ok(command.status().context("cannot run apt-get")?.success())
}

/// The list as JSON.
#[derive(Serialize)]
struct Listing<'a> {
    schema: u32,
    kernels: &'a [Entry],
}

fn list(args: &ListArgs, store: &Store) -> anyhow::Result<i32> {
    let entries = store.list()?;
    if args.json {
        let listing = Listing { schema: SCHEMA, kernels: &entries };
        return print(&(serde_json::to_string_pretty(&listing)? + "\n"));
    }
    if entries.is_empty() {
        eprintln!("no kernels yet: `ringfence kernel build` makes the default one");
        return Ok(0);
    }
    print(&table(&entries, now()))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The list for people: the columns as wide as what is in them, 80 together for kernels that were built.
fn table(entries: &[Entry], now: u64) -> String {
    let mut rows = vec![["NAME", "LINUX", "SIZE", "AGE", "NOTE"].map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| row(entry, now)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for [name, linux, size, age, note] in &rows {
        let [a, b, c, d] = widths;
        let line = format!("{name:<a$}  {linux:<b$}  {size:>c$}  {age:>d$}  {note}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(entry: &Entry, now: u64) -> [String; 5] {
    let damaged = entry.damage.as_ref().map(|damage| format!("damaged: {damage}"));
    let Some(manifest) = &entry.manifest else {
        let damaged = damaged.unwrap_or_default();
        return [entry.name.clone(), String::new(), String::new(), String::new(), damaged];
    };
    let left_out = manifest.build.as_ref().is_some_and(|build| !build.patches_left_out.is_empty());
    let notes = [
        (entry.default, "default"),
        (entry.out_of_date, "outdated"),
        (left_out && !entry.out_of_date, "unpatched"),
        (manifest.build.is_none(), "imported"),
    ];
    let notes = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note);
    let notes: Vec<_> = notes.chain(damaged.as_deref()).collect();
    [
        entry.name.clone(),
        manifest.version.clone().unwrap_or_else(|| "?".to_owned()),
        rounded(manifest.size),
        age(now.saturating_sub(manifest.created_unix)),
        notes.join(", "),
    ]
}

/// A size to one decimal place, in KiB below 1 MiB.
fn rounded(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 { format!("{kib:.1} KiB") } else { format!("{:.1} MiB", kib / 1024.0) }
}

/// A length of time in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => "now".to_owned(),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn import(args: &ImportArgs, store: &Store) -> anyhow::Result<i32> {
    let own = || args.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let version = recognise(&args.file)?;
    let name = args.name.clone().or_else(own).with_context(|| format!("{} has no name", args.file.display()))?;
    let entry = store.import(&args.file, &name, version)?;
    eprintln!("imported as {}: {}", entry.name, entry.path.display());
    Ok(0)
}

/// Sees that the file is a kernel some machine can boot, and returns its version where it names one.
fn recognise(file: &Path) -> anyhow::Result<Option<String>> {
    let most =
        OpenOptions::new(vec![layout::HIGH_RAM_START..layout::MMIO_HOLE_START, layout::HIGH_RAM_64_START..1 << 40]);
    Ok(Kernel::open(file, &most)?.format().version.clone())
}

fn remove(args: &RmArgs, store: &Store) -> anyhow::Result<i32> {
    let names = if args.all { store.list()?.into_iter().map(|entry| entry.name).collect() } else { args.names.clone() };
    for name in names {
        eprintln!("removed {}", store.remove(&name)?);
    }
    Ok(0)
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
