//! SQLite databases: backups of their pages, a log of every commit, restores to the moments that were captured.
//!
//! | file | what it does |
//! |---|---|
//! | [`backup`] | one backup: a snapshot, of which only what changed since the base is stored |
//! | `aside` | a copy on this host of what its writers wait for |
//! | `pages` | the pages of a snapshot as frames and patches, beside the digests of the base |
//! | `base` | which incarnation, which type, which base; where the log goes on |
//! | [`log`] | follows a database: each batch of commits is the next segment of its log |
//! | `bookmark` | what this host remembers of that, and a segment that is on its way |
//! | `store` | a segment, in as many repositories as must hold it |
//! | [`restore`] | which backup, which segments; a file made of them |
//!
//! # Positions
//!
//! The log is Lifeboat's own: segment n+1 goes on from segment n. A number that is left out says that nothing goes on there.
//! A position is `number << 24`, as if each had 16 MiB. A backup at position p is a state that the segments from p on lead
//! beyond: what the first of them goes on from is in the backup.
//!
//! # How this could lose data, and what stands against it
//!
//! | danger | against it |
//! |---|---|
//! | a backup says that segment p follows, and p goes on from something later | the log is listed before the snapshot: what segment p−1 leads to was captured before it; and the follower gives a number to what goes on from its own backup that no backup was given before |
//! | a lost tail of the database's log, after a crash of the host, of which a backup holds more than the log that goes on | after a restart of the host nothing goes on from what was stored before the last backup |
//! | a segment that was stored and not remembered is captured again, with more in it | it lies on this host's disk before it is stored anywhere, and is stored again to the byte |
//! | a discontinuity that only a process that is gone had seen | what is remembered is forgotten, durably, before anything else is done |
//! | two hosts follow two databases under one name | they store two contents under one number: refused, as two servers that write one log |
//! | another host backs up a copy of the database under its name | pages go only over an image of the file that they are of: such a backup is a state of its own, and a restore says so |
//! | a segment that is damaged | the ways through it end before it, which is said; or another backup leads past it |
//! | a stop while no repository answers | what is not stored then is no success: the process fails, and the next one goes on from what it remembers |
//! | a state between two moments | a restore ends at a moment that holds all of its backup, or at the backup's own |

mod aside;
pub mod backup;
mod base;
mod bookmark;
pub mod log;
mod pages;
pub mod restore;
mod store;

use std::path::Path;

use crate::base::{Engine, Incarnation, Lsn, SegmentSize, TimelineId};
use crate::engine::Scope;
use crate::repo::manifest::FileKind;
use crate::source::sqlite::Moment;

/// The one file of a backup.
pub(in crate::engine) const DATABASE: &str = "database";
/// As large a segment counts, whatever is in it.
pub(in crate::engine) const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// The one timeline.
pub(in crate::engine) const TIMELINE: TimelineId = TimelineId(1);

/// The position before segment `number`.
pub(in crate::engine) fn position(number: u64) -> Lsn {
    Lsn(number * SIZE.bytes())
}

/// The segment that follows `position`.
pub(in crate::engine) fn number(position: Lsn) -> u64 {
    position.0 / SIZE.bytes()
}

/// A path as text: UTF-8 as it is, other bytes as `hex:…`.
fn path_text(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    FileKind::encode_target(path.as_os_str().as_bytes())
}

/// What this host remembers to have stored last of the log of `incarnation`; none when it does not, or nothing goes on from
/// it.
pub fn stored_moment(scope: &Scope, incarnation: &Incarnation) -> Option<Moment> {
    debug_assert_eq!(incarnation.engine(), Engine::Sqlite);
    bookmark::Bookmark::load(&scope.state.follow_dir(&scope.source), incarnation).ok()??.last
}
