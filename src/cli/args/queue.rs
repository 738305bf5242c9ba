//! `lifeboat queue`.

use clap::Args;

use crate::base::SourceName;

pub(super) const HELP: &str = "\
A source that names log_copies or backup_copies counts as safe once so many of
its repositories hold a file or a backup; the others get it in the background.
Until they have, it is queued on this host's disk. What fails for good is given
up and stays listed, with the reason: --retry tries it again.

With --deliver it ends with 20 while something waits that could not be
delivered, and with 1 when something was given up.

Examples:
  lifeboat queue
  lifeboat queue orders --deliver
  lifeboat queue orders --deliver --retry";

/// `lifeboat queue`.
#[derive(Args, Debug)]
pub struct QueueArgs {
    /// The source [default: all]
    pub source: Option<SourceName>,
    /// Deliver now, and say what came of it
    #[arg(long)]
    pub deliver: bool,
    /// Take up again what was given up
    #[arg(long)]
    pub retry: bool,
    /// Go on until nothing waits; ends with 0 whatever happens
    #[arg(long, hide = true, requires = "deliver")]
    pub background: bool,
}
