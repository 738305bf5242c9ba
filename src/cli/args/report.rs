//! `lifeboat report` and `lifeboat runbook`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::base::SourceName;

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
