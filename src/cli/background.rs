//! A delivery in the background: a process of its own that outlives the verb which left something in a queue.
//!
//! It works with the queue on the disk alone, so whoever kills it loses nothing: the next push or backup starts another.
//! It never ends in a code other than 0: when the verb's caller is PostgreSQL and PostgreSQL is the system's first process,
//! as in a container, an orphan's other code would read as that of a crashed server process.

use std::fs;
use std::os::fd::RawFd;
use std::process::{Command, Stdio};

use super::args::{ArchiveVerb, Verb};
use super::config::{Settings, SourceSettings};
use super::context::Context;
use crate::base::{Error, Result};
use crate::repo::queue::Queue;

/// Whether the process was left behind by another, to outlive whoever called that.
pub fn outlives_its_caller(verb: &Verb) -> bool {
    match verb {
        Verb::Archive(ArchiveVerb::Get(args)) => args.fetch_ahead,
        Verb::Queue(args) => args.background,
        _ => false,
    }
}

/// Closes all files but the standard ones. For a process of its own that has opened none yet: those it has are the server's,
/// which before version 16 hands its open files down, and what the server removes would keep its room on the disk.
pub fn let_go_of_inherited_files() {
    // Elsewhere than on Linux nothing is listed, and nothing closed.
    let Ok(listed) = fs::read_dir("/proc/self/fd") else { return };
    let names = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // Collected first: the listing is a file as well, and closes itself.
    let inherited: Vec<RawFd> = names.filter(|descriptor| *descriptor > 2).collect();
    for descriptor in inherited {
        // That of the listing is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Starts a delivery of what is queued for the source's repositories; none is started when nothing is, or one is under way.
/// A failure is a warning: what is queued stays queued.
pub fn deliver(context: &Context, settings: &Settings, source: &SourceSettings) {
    let start = || -> Result<()> {
        let mut needed = false;
        for repository in &source.repositories {
            let queue = Queue::new(&settings.state_dir, &source.name, repository);
            // The lock is released at once: the delivery takes it. And one item that cannot be read must not keep the others.
            needed |= queue.lock()?.is_some() && queue.waiting().map_or(true, |waiting| !waiting.is_empty());
        }
        if needed { spawn(settings, source) } else { Ok(()) }
    };
    if let Err(error) = start() {
        context.progress.warn(&format!("what is queued is not delivered: {}", error.summary()));
    }
}

fn spawn(settings: &Settings, source: &SourceSettings) -> Result<()> {
    use std::os::unix::process::CommandExt;

    let failed = |error| Error::failed("cannot start a delivery in the background").caused_by(error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("--config").arg(&settings.config_file).args(["--quiet", "queue"]).arg(source.name.to_string());
    command.args(["--deliver", "--background"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not among the server's processes: a signal to their group is none to this one.
    command.process_group(0).current_dir("/");
    command.spawn().map(drop).map_err(failed)
}
