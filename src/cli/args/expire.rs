//! `lifeboat expire`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::parsers;
use crate::base::{BackupId, SourceName};

pub(super) const HELP: &str = "\
Two steps. First it marks what the source's policy does not keep, or what
--backup names: nothing is deleted, and the mark can be withdrawn. Given again
after the grace, it carries out what is due: what is there then is looked at
afresh, and every backup that stays is told with the reason; what the policy
marked and wants again stays. Readers take an expired backup for gone at once;
if the deletion is interrupted, the next run goes on with it. Without a SOURCE
all are looked at. Where a source has no policy, what operators marked is done,
and what a policy marked that it no longer has stays.

A backup goes only with all that build on it, the last that can be restored only
with --allow-none, and log only when no backup that stays needs it.

--key names the operator's private key, which lifeboat init made and no
protected host has. --dry-run and --explain need none.

Examples:
  lifeboat expire --dry-run
  lifeboat expire orders --explain
  lifeboat expire orders --backup 20261120T214002Z-full-k3fq --chain --key FILE
  lifeboat expire orders --key FILE
  lifeboat expire orders --backup ID --withdraw --key FILE
  lifeboat expire orders --orphans --dry-run";

/// `lifeboat expire`.
#[derive(Args, Debug)]
pub struct ExpireArgs {
    /// The source [default: all]
    pub source: Option<SourceName>,
    /// A backup to let go; may be repeated
    #[arg(long = "backup", value_name = "ID", requires = "source")]
    pub backups: Vec<BackupId>,
    /// Also what builds on it
    #[arg(long, requires = "backups")]
    pub chain: bool,
    /// How long a mark can be withdrawn before anything is deleted
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parsers::duration)]
    pub grace: Duration,
    /// Withdraw the marks on these backups, and on those they build on
    #[arg(long, requires = "backups", conflicts_with_all = ["chain", "allow_none"])]
    pub withdraw: bool,
    /// Remove what crashed backups left
    #[arg(long, conflicts_with_all = ["backups", "allow_none"])]
    pub orphans: bool,
    /// With --orphans: what was written to later may still be in flight
    #[arg(long, requires = "orphans", value_name = "DURATION", default_value = "8d", value_parser = parsers::duration)]
    pub older_than: Duration,
    /// With --orphans: wait so long while a backup is being taken [default: not at all]
    #[arg(long, requires = "orphans", value_name = "DURATION", value_parser = parsers::duration)]
    pub wait: Option<Duration>,
    /// Even when nothing that can be restored is left
    #[arg(long)]
    pub allow_none: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Say everything that the policy has to say of each backup and of the log, and do nothing
    #[arg(long, conflicts_with_all = ["backups", "orphans", "allow_none"])]
    pub explain: bool,
    /// The operator's private key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present_any = ["dry_run", "explain"])]
    pub key: Option<PathBuf>,
}
