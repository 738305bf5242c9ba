//! `lifeboat restore`: the verb with the most options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::parsers;
use super::target::EndArgs;
use crate::base::{BackupId, Incarnation, SourceName, TimelineId};
use crate::engine::restore::Target;

pub(super) const HELP: &str = "\
Times: '2026-11-20 21:40:02' (this machine's zone), 2026-11-20T21:40:02Z,
'2026-11-20 21:40 UTC', '15m ago', now. Without a target: latest.

With --standby the server is read-only, replays what arrives in the archive, and
archives nothing of its own until it is promoted: lifeboat promote --help.

With --delta DIR is this cluster's own data directory, a half restore of it, or
empty; what does not differ from the backup stays. Refused: a directory whose
server runs, another cluster's, and one with log that was never archived.

A directory comes back as it was at the end of a backup: with --to, of the
newest that had ended by then. --path names a file, a directory with all below
it, or a glob (docs, photos/2026/*.jpg, **/*.txt).

Examples:
  lifeboat restore orders --into /srv/pg15/restored --dry-run
  lifeboat restore orders --into DIR --to '2026-11-20 21:31:07Z'
  lifeboat restore orders --into DIR --to-name before-migration --action pause
  lifeboat restore orders --into DIR --clone --tablespace /fast=/tmp/fast
  lifeboat restore orders --into /srv/pg15/main --delta --to-name before-v2
  lifeboat restore orders --into /srv/pg15/standby --standby --delay 1h
  lifeboat restore documents --into DIR --to '2 days ago' --path letters";

/// `lifeboat restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The source to restore
    pub source: SourceName,
    /// The directory to restore into, empty or missing but for --delta; or a SQLite file
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub into: PathBuf,
    /// How far to go
    #[command(flatten)]
    pub target: EndArgs,
    /// To the moment the backup ended
    #[arg(long, conflicts_with = "EndArgs")]
    pub to_immediate: bool,
    /// Stop just before the target, not just after it
    #[arg(long, requires = "EndArgs", conflicts_with_all = ["to_name", "to_immediate"])]
    pub exclusive: bool,
    /// Follow this timeline (decimal) [default: the newest]
    #[arg(long, value_name = "N", value_parser = parsers::timeline)]
    pub timeline: Option<TimelineId>,
    /// The cluster meant, when several have had this name [default: the newest]
    #[arg(long, value_name = "I")]
    pub incarnation: Option<Incarnation>,
    /// Start from this backup [default: the newest that serves]
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,
    /// Put the tablespace at OLD into NEW; may be repeated
    #[arg(long = "tablespace", value_name = "OLD=NEW", value_parser = parsers::tablespace)]
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Of a directory only this, as in the backup, or what a glob matches; may be repeated
    #[arg(long = "path", value_name = "PATTERN")]
    pub paths: Vec<String>,
    /// Into a data directory in use before: fetch and write only what differs
    #[arg(long)]
    pub delta: bool,
    /// With --delta: remove even log that was never archived
    #[arg(long, requires = "delta")]
    pub discard_log: bool,
    /// What the server does at the target
    #[arg(long, value_enum, default_value_t = RecoveryAction::Promote, hide_possible_values = true, value_name = "promote|pause|shutdown")]
    pub action: RecoveryAction,
    /// For a look or a test: the restored server never archives
    #[arg(long)]
    pub clone: bool,
    /// A warm standby: it keeps following the archive until `lifeboat promote`
    #[arg(long, conflicts_with_all = ["to_lsn", "to_xid", "to_name", "to_immediate", "exclusive", "timeline", "action", "clone"])]
    pub standby: bool,
    /// With --standby: replay each commit only so long after it
    #[arg(long, value_name = "DURATION", value_parser = parsers::duration, requires = "standby")]
    pub delay: Option<Duration>,
    /// Bytes a second from the repository [default: its limit_rate, else none]
    #[arg(long, value_name = "RATE", value_parser = parsers::rate)]
    pub limit_rate: Option<u64>,
    /// Show the plan, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl RestoreArgs {
    /// The target that the options name; [`Target::Latest`] when they name none.
    pub fn target(&self) -> Target {
        let immediate = self.to_immediate.then_some(Target::Immediate);
        self.target.target(self.exclusive).or(immediate).unwrap_or(Target::Latest)
    }
}

/// What the restored server does when it reaches the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecoveryAction {
    /// Opens for writing on a new timeline.
    Promote,
    /// Stays read-only until told to go on.
    Pause,
    /// Stops.
    Shutdown,
}
