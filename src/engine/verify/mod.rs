//! `verify`: is what was stored still there, unaltered, and enough to restore from?
//!
//! Without any key: signatures, the commit log, the SHA-256 of every object that a signed document names, and the
//! log's continuity. Deep, with an identity: everything is also decrypted, decoded and compared with its own digests,
//! and the log is read record by record.
//!
//! Damage never ends the run: all of it is found and named. Memory is bounded, whatever the repository's size: the
//! manifest is streamed, and two packs or two segments are held at one time.

mod deep_backup;
mod deep_log;
mod fetch;
mod finding;
mod frames;
mod keys;
mod log;
mod manifest;
mod plan;
mod run;

pub use finding::{BackupVerdict, Finding, LogVerdict, Severity, SourceReport, Uncommitted};
pub use plan::Gap;
pub use run::{run, sources};
