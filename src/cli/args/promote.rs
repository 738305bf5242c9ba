//! `lifeboat promote`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::parsers;
use super::target::EndArgs;
use crate::base::{SourceName, TimelineId};
use crate::engine::restore::Target;

pub(super) const HELP: &str = "\
For a directory that lifeboat restored with --standby, on its own host, as its
owner or root. To the latest moment, the running standby replays everything that
the archive holds, without its delay, and then takes writes. To a target, or
where a repository does not answer, it is stopped, given the target that a
restore would have, and started again with the options of its last start.

Nothing is promoted while the source's own server takes writes, or newer log
arrives. After a crash, or when the time is up, the same command goes on.

Examples:
  lifeboat promote orders --dry-run
  lifeboat promote orders
  lifeboat promote --dir /srv/standby --to '2026-11-20 21:31:07Z'
  lifeboat promote orders --to-name before-migration --timeout 10m";

/// `lifeboat promote`.
#[derive(Args, Debug)]
pub struct PromoteArgs {
    /// The source that it is a standby of [default: what --dir says]
    #[arg(required_unless_present = "dir")]
    pub source: Option<SourceName>,
    /// The standby's data directory [default: the source's `standby`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// How far to go
    #[command(flatten)]
    pub target: EndArgs,
    /// Stop just before the target, not just after it
    #[arg(long, requires = "EndArgs", conflicts_with = "to_name")]
    pub exclusive: bool,
    /// Follow this timeline (decimal) [default: the newest]
    #[arg(long, value_name = "N", value_parser = parsers::timeline)]
    pub timeline: Option<TimelineId>,
    /// Give up waiting after this time
    #[arg(long, value_name = "DURATION", value_parser = parsers::duration, default_value = "1h")]
    pub timeout: Duration,
    /// Promote although the source lives: two servers will take writes
    #[arg(long)]
    pub force: bool,
    /// Show where it stands and what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl PromoteArgs {
    /// The target that the options name; none when they name none.
    pub fn target(&self) -> Option<Target> {
        self.target.target(self.exclusive)
    }
}
