//! `lifeboat schedule …`.

use clap::{Args, Subcommand, ValueEnum};

use crate::base::SourceName;

const HELP: &str = "\
For hosts where no 'lifeboat run' shall live. Nobody makes up for a failure then
before the next time, and two hosts take two backups.

Examples:
  lifeboat schedule print orders | crontab -
  lifeboat schedule print --format systemd";

/// `lifeboat schedule …`.
#[derive(Debug, Subcommand)]
pub enum ScheduleVerb {
    /// Print the schedule for cron or systemd
    #[command(after_long_help = HELP)]
    Print(SchedulePrintArgs),
}

/// `lifeboat schedule print`.
#[derive(Args, Debug)]
pub struct SchedulePrintArgs {
    /// The source [default: all that have a policy]
    pub source: Option<SourceName>,
    /// crontab or systemd
    #[arg(long, value_enum, default_value_t = ScheduleFormat::Crontab, hide_possible_values = true, value_name = "crontab|systemd")]
    pub format: ScheduleFormat,
}

/// For whom the schedule is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScheduleFormat {
    /// A crontab.
    Crontab,
    /// Pairs of a service and a timer.
    Systemd,
}
