//! `lifeboat man DIR`: one page a verb, `lifeboat.1`, `lifeboat-backup.1`, `lifeboat-archive-push.1`, …

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::base::{Error, Result, durable};
use crate::cli::args::{Cli, ManArgs};
use crate::cli::exit::Outcome;

/// What the foot of each page names.
const SOURCE: &str = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));

/// Writes all pages, replacing those of an earlier version.
///
/// # Errors
/// When the directory or a page cannot be written.
pub fn run(args: &ManArgs) -> Result<Outcome> {
    durable::create_dir_all(&args.dir).map_err(|error| Error::io("create", &args.dir, error))?;
    // `help` is documented by what it prints; pages for it would double all others.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &args.dir)?;
    Ok(Outcome::Done)
}

fn write_pages(command: &Command, dir: &Path) -> Result<()> {
    for verb in command.get_subcommands() {
        write_pages(verb, dir)?;
    }
    let page = Man::new(command.clone()).source(SOURCE).manual("Lifeboat");
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).map_err(|error| Error::io("render", &path, error))?;
    durable::write_file(&path, &text, 0o644).map_err(|error| Error::io("write", &path, error))
}
