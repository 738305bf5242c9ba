//! A delivery in the background: a process of its own that outlives the verb which left something in a queue.
//!
//! It works with the queue on the disk alone, so whoever kills it loses nothing: the next push or backup starts another.
//! It never ends in a code other than 0: when the verb's caller is PostgreSQL and PostgreSQL is the system's first process,
//! as in a container, an orphan's other code would read as that of a crashed server process.

use std::process::{Command, Stdio};

use super::config::{Settings, SourceSettings};
use super::context::Context;
use crate::base::{Error, Result};
use crate::repo::queue::Queue;

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
