//! `lifeboat status`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use crate::base::SourceName;

pub(super) const HELP: &str = "\
Verdicts, the worst reason decides:
  breach    an objective of the policy is missed
  at_risk   one may be missed soon, or is not known to be met
  unproven  never rehearsed, too long ago, or nothing is declared
  ok        none of these

Ends with 0 once the answer is told; with --gate with 10 on a breach, 11 at
risk, 12 unproven. It ends with 20 when no repository of a source answers. In
the format nagios it ends with 0 (ok), 1 (at risk or unproven), 2 (breach) or
3 (unknown, and every error), --gate or not.

Examples:
  lifeboat status
  lifeboat status orders --gate
  lifeboat status orders --watch 10
  lifeboat status --format nagios
  lifeboat status --textfile /var/lib/node_exporter/lifeboat.prom";

/// `lifeboat status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The source [default: all]
    pub source: Option<SourceName>,
    /// Let the exit code tell the verdict: 10 breach, 11 at risk, 12 unproven
    #[arg(long, conflicts_with = "watch")]
    pub gate: bool,
    /// Tell it again every so many seconds until Ctrl-C [without a number: 5]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub watch: Option<u64>,
    /// text, json (as --output json), prometheus or nagios
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORMAT")]
    pub format: Option<StatusFormat>,
    /// Also write the prometheus format into this file, whole or not at all
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub textfile: Option<PathBuf>,
}

/// How the status is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// For people.
    Text,
    /// The document `status`.
    Json,
    /// Prometheus' text exposition format.
    Prometheus,
    /// One line with performance data, for Nagios and its kin.
    Nagios,
}
