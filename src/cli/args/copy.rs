//! `lifeboat copy`.

use std::time::Duration;

use clap::Args;

use super::parsers;
use crate::base::SourceName;

pub(super) const HELP: &str = "\
Carries backups and logs over as they are stored: nothing is decrypted, and no
identity is needed. Every object is compared with its signed digest on the way.
What is there already stays, what has expired there is not brought back, and an
interrupted copy goes on where it stopped. Exits with 22 when something in the
first repository is damaged; the rest is copied all the same. What was streamed
of segments is not carried: they are, once they are whole.

Examples:
  lifeboat copy --from main --to offsite --dry-run
  lifeboat copy --from main --to offsite orders";

/// `lifeboat copy`.
#[derive(Args, Debug)]
pub struct CopyArgs {
    /// The sources to copy [default: all that the first repository holds]
    pub sources: Vec<SourceName>,
    /// The repository to copy from
    #[arg(long, value_name = "NAME")]
    pub from: String,
    /// The repository to fill, made by 'lifeboat init' before
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// Wait so long when another run writes to a source there [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parsers::duration)]
    pub wait: Option<Duration>,
    /// Bytes a second from and to each repository [default: its limit_rate, else none]
    #[arg(long, value_name = "RATE", value_parser = parsers::rate)]
    pub limit_rate: Option<u64>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    pub dry_run: bool,
}
