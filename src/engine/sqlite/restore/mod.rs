//! `restore` of a SQLite database: a backup and the log after it, as one file.
//!
//! What comes back is a moment that was captured: that of a backup, or one that a segment of the log leads to. The [`plan`]
//! says which, and an impossible target is refused before anything is touched; [`run`] carries it out.

pub mod plan;
mod prepare;
mod run;

use std::path::PathBuf;
use std::time::Duration;

use crate::base::Timestamp;

pub use plan::{Plan, Situation};
pub use prepare::{Prepared, Request, prepare};
pub use run::{check, describe, run, target_file};

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The file to be made, or a directory in which it gets the name that it had.
    pub into: PathBuf,
    /// Threads that decode and write.
    pub workers: usize,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub raw_bytes: u64,
    /// Everything whose commit had returned by then is in it.
    pub complete_at: Timestamp,
    /// Nothing is in it that was committed later.
    pub captured_at: Timestamp,
    /// Time it took.
    pub duration: Duration,
    /// What the operator should know.
    pub notes: Vec<String>,
}
