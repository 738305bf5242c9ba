//! `restore` of a directory: one of its backups, whole or in part, into an empty directory.
//!
//! A directory has no log: it can come back as it was at the moments of its backups, and at no other. The [`plan`] says which
//! moment that is, and an impossible one is refused before anything is touched; [`run`] carries it out.

mod pass;
mod plan;
mod prepare;
mod run;
mod target;

use std::path::PathBuf;
use std::time::Duration;

pub use plan::{Plan, plan};
pub use prepare::{Prepared, Request, prepare};
pub use run::{check, describe, run};

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Where to: a directory that is absent or empty.
    pub into: PathBuf,
    /// What is wanted: paths and globs; everything when there are none.
    pub paths: Vec<String>,
    /// Threads that decode and write.
    pub workers: usize,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// Files, directories and links that were restored.
    pub entries: u64,
    /// Bytes of data in them.
    pub raw_bytes: u64,
    /// Time it took.
    pub duration: Duration,
    /// How much is not as it was.
    pub shortfalls: u64,
    /// Of this, what is not there at all: files of which the backup has no content, directories of which it does not have
    /// all that they held, what has no entry in it, devices that may not be made.
    pub missing: u64,
    /// Of what is missing, what has no entry in the backup, and so no name.
    pub nameless: u64,
    /// The first of it, each with what is not as it was, and why.
    pub first_shortfalls: Vec<String>,
    /// What the operator should know besides.
    pub notes: Vec<String>,
}
