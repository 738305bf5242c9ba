//! SQLite: snapshots of a database file, and every commit from its write-ahead log, while programs write through their
//! own SQLite.
//!
//! | file | what it does |
//! |---|---|
//! | [`watch`] | one database from the engine's side: poll, capture, store, go on |
//! | [`track`] | pure: does what is committed now go on from what was stored last? |
//! | [`attach`] | the read transaction that guards the log, open files, checkpoints |
//! | [`wal`], [`walindex`], [`header`] | the three file formats, as SQLite documents them |
//! | [`capture`], [`snapshot`], [`digests`] | pages: of the commits since, of a whole state, those that changed |
//! | [`segment`], [`chain`], [`restore`], [`check`] | what is stored, which of it makes a moment, the file made of it, its check |
//! | [`mod@probe`], [`claim`], [`connection`] | what a path holds, who may open it, and how |
//!
//! No repository, no store and no printing here: the engine holds those.
//!
//! # Invariants
//!
//! 1. **Only what is committed.** Frames count up to the number in the wal-index, SQLite's own word for it, and only when
//!    salts and the chain of checksums lead from the last stored frame exactly to the checksum that stands there.
//! 2. **Without a gap.** A batch names the moment that it goes on from, by generation, frame, checksum and time, and a
//!    restore applies it to nothing else. Where the capture cannot prove that the log goes on, it asks for a snapshot.
//! 3. **What is stored, counts.** The position moves when the caller has stored a batch, and the guard after it.
//! 4. **Nothing is written into the user's database.** Connections that read cannot write. Checkpoints, when the log is
//!    large, move committed pages as any connection's do; no row, table or setting changes, and no file is deleted.
//! 5. **One hand a file.** Closing any descriptor would drop our locks ([`claim`]), so nothing else opens a watched file.
//! 6. **A moment says what it holds**: every transaction whose commit had returned by `complete_at`, none that was
//!    committed after `captured_at`; and `captured_at` only grows. Both are of this host's clock.
//!
//! # How this could lose data or lie, and why it does not
//!
//! | danger | against it |
//! |---|---|
//! | the log is begun again before all of it was captured | the guard, which SQLite's locks make effective; and by content: the new generation must carry on SQLite's count of transactions without a hole, else a snapshot |
//! | the same while nobody watched, or the machine restarted | a new process goes on within a generation only; another one is a snapshot, for the count begins anew when the index is rebuilt |
//! | a writer dies between writing a commit and counting it, and the next one overwrites it | frames beyond the wal-index's number are not read |
//! | a crash takes the log's tail back after it was captured | fewer frames than were captured, or another checksum: a snapshot |
//! | another file under the same name; a removed log or index | device, inode and birth of all three are compared at every poll |
//! | something writes over the file in place | while it is watched: its time of modification changes though no checkpoint ran, so a snapshot. While it is not, and an old log is left beside it: SQLite applies that log to the wrong file ("How To Corrupt An SQLite Database File", 1.2), and so do we, until the next backup compares all pages |
//! | VACUUM, a truncated file, page reuse | all go through the log; a commit carries the size, pages beyond it go |
//! | another file beside the old log | nothing is opened there until the log is gone or begun again |
//! | a clone of the machine backs up its copy under the same source | what goes on from one run of a machine is written over an image of the same run only |
//! | another page size | needs another journal mode in between, or another file: both are noticed, and a snapshot follows |
//! | a checkpoint writes the file while a snapshot copies it | pages with frames come from the log; others nobody writes, which is looked at again when all are copied |
//! | two states whose logs are empty look the same | what follows one of them names its time as well |
//! | the log grows while a snapshot is copied, for hours | it is let go before it fills its disk, and the snapshot given up; so is one that cannot be stored |
//! | a frame is overwritten between verifying and copying it | its page's digest is compared when it is copied |
//! | a page that is new and free is in neither log nor file | reads as zeros, as it would for SQLite, which never looks into it |
//! | an old log or journal beside the restored file | refused before anything is written |
//! | a database that was damaged before it was backed up | `integrity_check` before the restored file gets its name |
//! | a rollback journal | no log to follow: snapshots only, under a shared lock, during which commits wait |
//!
//! What stays: a database that is watched keeps its log when the last program closes it, and SQLite applies that to whatever
//! file gets the name: whoever replaces the file has to move the log away as well. Until then a file that came while we
//! watched is not touched. A program that changes the journal mode finds the database locked as long as it is watched, and so
//! does one that begins with `locking_mode = EXCLUSIVE` meanwhile; one that has begun before cannot be backed up.
//! `PRAGMA wal_checkpoint(RESTART)` and `TRUNCATE` may wait for the next [`Watch::maintain`].
//!
//! # In the repository, format 1
//!
//! `docs/FORMAT.md` has it. A backup's header has a member `sqlite` in place of `postgres`, with the [`position::Moment`] of
//! its snapshot; full, diff and incr hold its image in frames and patches as other files do, chosen by [`digests`] beside the
//! digests of the base. Each object of the log holds one [`segment`]; they are numbered, and a number is left out where
//! nothing goes on. The engine knows the rest (`engine/sqlite/`).

pub mod attach;
pub mod capture;
pub mod chain;
pub mod check;
pub mod claim;
pub mod connection;
pub mod digests;
pub mod header;
pub mod position;
pub mod probe;
pub mod restore;
pub mod segment;
pub mod snapshot;
pub mod track;
pub mod wal;
pub mod walindex;
pub mod watch;

pub use capture::Batch;
pub use chain::chain_to;
pub use position::{Discontinuity, Moment, Position};
pub use probe::{Probe, probe};
pub use restore::{Restore, Restored};
pub use segment::{SegmentHeader, SegmentReader, SegmentWriter};
pub use snapshot::Snapshot;
pub use watch::{Options, Poll, Watch};
