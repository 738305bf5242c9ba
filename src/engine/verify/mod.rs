//! `verify`: is what was stored still there, unaltered, and enough to restore from?
//!
//! Without any key: signatures, the commit log, the SHA-256 of every object that a signed document names, and the
//! log's continuity. Deep, with an identity: everything is also decrypted, decoded and compared with its own digests,
//! and the log is read record by record.
//!
//! What a diff or an incr builds on is looked at once, with the backup that it belongs to: damage there is told there, with
//! the backups that build on it. Of itself such a backup is sound when everything it has of others is what those have:
//! its references lead to entries, its frames of theirs are their own, and the tree that results is the one that was signed.
//!
//! Damage never ends the run: all of it is found and named. Memory is bounded, whatever the repository's size: manifests
//! are streamed, those of one chain side by side, and two packs or two segments are held at one time.

mod deep_backup;
mod deep_database;
mod deep_log;
mod expired;
mod fetch;
mod finding;
mod foreign;
mod frames;
mod keys;
mod log;
mod manifest;
mod plan;
mod run;
mod tail;

pub use finding::{BackupVerdict, Finding, LogVerdict, Severity, SourceReport, Uncommitted};
pub use plan::Gap;
pub use run::{run, sources};
