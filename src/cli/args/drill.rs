//! `lifeboat drill`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::parsers;
use super::target::RestoreMoment;
use crate::base::{DrillLevel, SourceName};

pub(super) const HELP: &str = "\
Rehearses the disaster in a scratch directory of its own, which is gone at the
end, and stores signed evidence of it. Nothing is written to the source's server
or its data directory, and the restored server reaches nobody.

Levels:
  verify     objects are read and compared with their digests
  component  restored, started, replayed, written to, checked
  failover   restored as a standby that follows the archive, promoted, checked
Without --level: the one of the policy's that was drilled the longest ago, or
component. The checks are the policy's ([[drill.check]]) and amcheck.

Exits with 0 when it passed, 1 when it failed, 12 when no check looked at data;
with --gate also with 10 when an objective is broken, 12 when one is unproven.

Examples:
  lifeboat drill orders
  lifeboat drill orders --to random --junit drill.xml --gate
  lifeboat drill orders --identity-command 'pass show lifeboat/identity'
  lifeboat drill orders --self-test
  lifeboat drill orders --list";

/// `lifeboat drill`.
#[derive(Args, Debug)]
pub struct DrillArgs {
    /// The source to drill
    pub source: SourceName,
    /// verify, component or failover [default: as the policy says]
    #[arg(long)]
    pub level: Option<DrillLevel>,
    /// To the end of the archive, a random moment, or this time [default: latest]
    #[arg(long, value_name = "latest|random|TIME", value_parser = parsers::drill_moment)]
    pub to: Option<DrillMoment>,
    /// Seed of the random moment [default: a fresh one, which is told]
    #[arg(long, value_name = "N", requires = "to")]
    pub seed: Option<u64>,
    /// Restore below this directory [default: [drill] scratch_dir, else in state_dir]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,
    /// Also write the result as JUnit XML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
    /// Also write the signed evidence here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "self_test")]
    pub evidence: Option<PathBuf>,
    /// Fail when an objective of the policy is broken or unproven
    #[arg(long, conflicts_with = "self_test")]
    pub gate: bool,
    /// Plant faults, each of which the checks must notice; records nothing
    #[arg(long)]
    pub self_test: bool,
    /// Leave the restored server running, and say how to connect and remove it
    #[arg(long, conflicts_with = "self_test")]
    pub keep: bool,
    /// Get the age identity from this command's output
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub identity_command: Option<String>,
    /// Bytes a second from the repository [default: the policy's, else its own]
    #[arg(long, value_name = "RATE", value_parser = parsers::rate)]
    pub limit_rate: Option<u64>,
    /// Show the drills of this source so far, and do none
    #[arg(long, conflicts_with_all = ["level", "to", "junit", "evidence", "gate", "self_test", "keep"])]
    pub list: bool,
}

/// `--to` of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillMoment {
    /// Any moment in the recovery window.
    Random,
    /// As in a restore.
    As(RestoreMoment),
}
