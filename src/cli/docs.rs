//! `ringfence docs`: the man pages and shell completions, made from the definition of the command line, and the lists of
//! system calls, made from the tables of the filters.

use anyhow::Context;
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

/// Write the man pages, a shell's completions or the lists of system calls
#[derive(Debug, Args)]
pub struct DocsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write ringfence.1 and a page for each subcommand into a folder, which is made
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the lists of system calls that docs/isolation.md holds
    Isolation,
}

/// Runs `ringfence docs` for the command line `command`; 0 is its only exit status.
///
/// # Errors
/// When a file can't be written.
pub fn run(args: &DocsArgs, mut command: Command) -> anyhow::Result<i32> {
    match &args.what {
        What::Man { folder } => man(command, folder)?,
        What::Isolation => super::print(crate::sandbox::markdown())?,
        What::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, "ringfence", &mut text);
            super::print(text)?;
        }
    }
    Ok(0)
}

/// Writes the page of `command` and of each of its subcommands that is not hidden.
fn man(command: Command, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(command, folder)
}

fn page(command: Command, folder: &Path) -> anyhow::Result<()> {
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        page(subcommand.clone(), folder)?;
    }
    let source = concat!("ringfence ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).source(source).manual("ringfence");
    let path = folder.join(man.get_filename());
    let mut text = Vec::new();
    man.render(&mut text)?;
    // clap_mangen's heading for what follows the options; man-pages(7) knows it as NOTES.
    let text = String::from_utf8(text)?.replace(".SH EXTRA\n", ".SH NOTES\n");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
