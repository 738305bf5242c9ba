//! `lifeboat report` and `lifeboat runbook`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::base::SourceName;

pub(super) const REPORT_HELP: &str = "\
The page needs no network and no other file: mail it, archive it, print it.
It names backups, times, sizes and digests, and no data.

Examples:
  lifeboat report
  lifeboat report orders --file /var/www/html/lifeboat.html";

pub(super) const RUNBOOK_HELP: &str = "\
Markdown: what is needed, whom to call ([[contact]] in lifeboat.toml), the
commands in their order with the durations that drills measured, the checks
that the policy declares, and what to do when something goes wrong.

Examples:
  lifeboat runbook orders
  lifeboat runbook orders --file runbook-orders.md";

/// `lifeboat report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// The source [default: all]
    pub source: Option<SourceName>,
    /// Where the page goes; replaced when it is there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "lifeboat-report.html")]
    pub file: PathBuf,
}

/// `lifeboat runbook`.
#[derive(Args, Debug)]
pub struct RunbookArgs {
    /// The source
    pub source: SourceName,
    /// Where the plan goes; replaced when it is there [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}
