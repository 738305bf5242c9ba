//! A warm standby: a restored cluster that keeps following the archive, and the end of that.
//!
//! How it could lose data or lie, and what stands against it:
//!
//! | danger | against it |
//! |---|---|
//! | it is promoted before it has replayed what is archived | it is promoted only once the last archived record is replayed ([`promote`]) |
//! | an outage of the repository reads as the end of the log | `archive get` says "not there" only by a listing; a standby's waits for the repository instead of ending the server |
//! | it stops at another record than a restore would | the target is found by the plan of a restore, and is a position |
//! | the target lies before what it has replayed | refused ([`plan`]), also once more after the server has stopped |
//! | it stands on a branch that the archive has left | refused: positions are compared on the way of timelines |
//! | the source lives on: two servers take writes | its server is asked, and the archive is listed again before the promotion |
//! | a crash in between leaves a primary by accident | one of the signal files always stands there until PostgreSQL itself removes it ([`retarget`](crate::source::postgres::recovery_config::retarget)); the marker says what was begun |
//! | a directory is taken for a standby that is none | the marker, which no backup holds, names source, cluster and repositories |

pub mod marker;
pub mod plan;
pub mod promote;
pub mod seen;
