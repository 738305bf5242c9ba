//! `lifeboat ls` and `lifeboat diff`.

use std::ffi::OsString;

use clap::Args;

use super::parsers;
use crate::base::{BackupId, SourceName};
use crate::engine::directory::catalogue::Which;

pub(super) const LS_HELP: &str = "\
Needs an identity, like a restore. PATH counts from the protected directory.

Examples:
  lifeboat ls documents
  lifeboat ls documents photos/2026 --long --to '2 days ago'
  lifeboat ls documents --recursive --output json";

pub(super) const DIFF_HELP: &str = "\
OLD and NEW are ids of backups, times (the newest backup that had ended by
then), or latest. '+' is only in NEW, '-' only in OLD, 'M' differs, with what
differs: kind, content, target, hard link, mode, owner, modified, attributes.
Needs an identity, like a restore.

Examples:
  lifeboat diff documents '1 day ago' latest
  lifeboat diff documents 20261120T214002Z-full-k3fq latest --output json";

/// `lifeboat ls`.
#[derive(Args, Debug)]
pub struct LsArgs {
    /// The source
    pub source: SourceName,
    /// What to list [default: the top]
    pub path: Option<OsString>,
    /// Of this backup [default: the newest]
    #[arg(long, value_name = "ID", conflicts_with = "to")]
    pub backup: Option<BackupId>,
    /// Of the newest backup that had ended by this time
    #[arg(long, value_name = "TIME|latest", value_parser = parsers::which)]
    pub to: Option<Which>,
    /// Also mode, owner, size and time of last modification
    #[arg(long, short)]
    pub long: bool,
    /// Everything below, not only what lies in it
    #[arg(long, short)]
    pub recursive: bool,
}

impl LsArgs {
    /// The backup that is meant.
    pub fn which(&self) -> Which {
        self.backup.clone().map(Which::Backup).or_else(|| self.to.clone()).unwrap_or(Which::Latest)
    }
}

/// `lifeboat diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The source, a directory
    pub source: SourceName,
    /// The older backup: its id, or a time
    #[arg(value_parser = parsers::which)]
    pub old: Which,
    /// The newer backup: its id, a time, or latest
    #[arg(value_parser = parsers::which)]
    pub new: Which,
}
