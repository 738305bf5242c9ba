//! `lifeboat timeline`.

use std::time::Duration;

use clap::Args;

use super::parsers;
use crate::base::{Incarnation, SourceName, TimelineId, Timestamp};

pub(super) const HELP: &str = "\
Without --detail and --around no key is needed: the names of the archived log
tell how much was committed when. Commits of a segment are spread evenly over
the time that its name tells.

--detail reads the log itself: rows by relation, restore points, checkpoints,
and what was dropped, truncated, rewritten or deleted by the thousand, each
with the command that restores the moment before it.
--around lists single transactions. Its last line is the command that restores
what was there before the one marked '>': the nearest one that lost rows, else
the first one from TIME on, else the one that --before names.

Names of relations come from the running server, where it can be reached; what
was dropped has none there.

Examples:
  lifeboat timeline orders
  lifeboat timeline orders --from '6h ago' --interval 15m
  lifeboat timeline orders --from '1h ago' --detail
  lifeboat timeline orders --around '2026-11-20 21:40'";

/// `lifeboat timeline`.
#[derive(Args, Debug)]
pub struct TimelineArgs {
    /// The source
    pub source: SourceName,
    /// From this time on [default: where the archived log begins]
    #[arg(long, value_name = "TIME", value_parser = parsers::time)]
    pub from: Option<Timestamp>,
    /// Up to this time [default: where it ends]
    #[arg(long, value_name = "TIME", value_parser = parsers::time)]
    pub to: Option<Timestamp>,
    /// Length of a row [default: a round one, for about 24 rows]
    #[arg(long, value_name = "DURATION", value_parser = parsers::interval)]
    pub interval: Option<Duration>,
    /// Also read the log: rows by relation, DDL, restore points; needs an identity
    #[arg(long)]
    pub detail: bool,
    /// Single transactions around this time; needs an identity
    #[arg(long, value_name = "TIME", value_parser = parsers::time, conflicts_with_all = ["from", "to", "interval", "detail"])]
    pub around: Option<Timestamp>,
    /// With --around: so far from it [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parsers::interval, requires = "around")]
    pub within: Option<Duration>,
    /// With --around: so many transactions on each side, beside those that lost rows
    #[arg(long, value_name = "N", default_value_t = 10, requires = "around", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub count: u16,
    /// With --around: restore to before this transaction
    #[arg(long, value_name = "XID", requires = "around")]
    pub before: Option<u32>,
    /// Follow this timeline (decimal) [default: the newest]
    #[arg(long, value_name = "N", value_parser = parsers::timeline)]
    pub timeline: Option<TimelineId>,
    /// The cluster meant, when several have had this name [default: the newest]
    #[arg(long, value_name = "I")]
    pub incarnation: Option<Incarnation>,
}
