//! The options that say how far a recovery goes.

use std::time::Duration;

use clap::Args;

use super::parsers;
use crate::base::{Lsn, Timestamp};
use crate::engine::restore::Target;

/// The options that name a target in the log; at most one.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct EndArgs {
    /// To this time, or as far as the archive goes [default: latest]
    #[arg(long, value_name = "TIME|latest", value_parser = parsers::moment)]
    to: Option<RestoreMoment>,
    /// To this position, such as A3/F1000028
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// To the end of this transaction
    #[arg(long, value_name = "XID")]
    to_xid: Option<u64>,
    /// To this restore point (pg_create_restore_point)
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
}

/// `--to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreMoment {
    /// The last position in the archive.
    Latest,
    /// A moment.
    At(Timestamp),
}

impl EndArgs {
    /// The target that the options name, stopping just before it where that `is_exclusive`; none when they name none.
    pub fn target(&self, is_exclusive: bool) -> Option<Target> {
        let inclusive = !is_exclusive;
        let moment = self.to.map(|moment| match moment {
            RestoreMoment::Latest => Target::Latest,
            // Transactions that ended at exactly that time are left out when those that ended after one µs less are.
            RestoreMoment::At(time) if is_exclusive => Target::Time(time.minus(Duration::from_micros(1))),
            RestoreMoment::At(time) => Target::Time(time),
        });
        moment
            .or_else(|| self.to_lsn.map(|lsn| Target::Lsn { lsn, inclusive }))
            .or_else(|| self.to_xid.map(|xid| Target::Xid { xid, inclusive }))
            .or_else(|| self.to_name.clone().map(Target::Name))
    }
}
