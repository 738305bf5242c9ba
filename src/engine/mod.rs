//! The verbs. Each has a plan, which is pure, and a run, which has the effects.
//!
//! Only this floor holds both sources and stores: what a verb's `run` reads is the way of a byte, source → codec →
//! repo → store, and back in a restore.

pub mod accounts;
pub mod activity;
pub mod archive;
pub mod backup;
pub mod chain;
pub mod check;
pub mod copy;
pub mod deliver;
pub mod directory;
pub mod drill;
pub mod expire;
pub mod head;
pub mod lease;
pub mod list;
pub mod locks;
pub(crate) mod pages;
mod reread;
pub mod restore;
pub mod retention;
pub mod slots;
pub mod sqlite;
pub mod standby;
pub mod status;
pub mod timeline;
pub mod verify;
pub mod window;

use std::path::Path;

use crate::base::{Error, Result, SourceName};
use crate::codec::encrypt::{Identity, Recipient};
use crate::repo::host_state::HostState;
use crate::repo::{Repository, Signer};

/// What a task of this floor came to; a panic in it goes on here.
///
/// # Errors
/// The task's; interrupted when it was cancelled.
pub(crate) fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::interrupted()),
    }
}

/// One source in one repository, as this host sees it: what every verb works on.
#[derive(Clone)]
pub struct Scope {
    /// The repository.
    pub repository: Repository,
    /// The source.
    pub source: SourceName,
    /// What this host remembers of the repository.
    pub state: HostState,
}

impl Scope {
    /// `source` in `repository`, with this host's memory of it below `state_dir`.
    pub fn new(repository: Repository, source: SourceName, state_dir: &Path) -> Self {
        let state = HostState::new(state_dir, repository.id());
        Self { repository, source, state }
    }
}

/// What a verb that writes needs beside a [`Scope`].
#[derive(Clone)]
pub struct Writing {
    /// Signs what is written.
    pub signer: Signer,
    /// To whom data keys are wrapped; none when the configuration says that encryption is off.
    pub recipients: Option<Vec<Recipient>>,
    /// zstd level.
    pub compression_level: i32,
}

/// Identities that unwrap data keys, read from where the operator keeps them only when a verb needs them.
pub trait IdentitySource: Send + Sync {
    /// The identities at hand; empty when the configuration names none.
    ///
    /// # Errors
    /// When a file that the configuration names cannot be read.
    fn identities(&self) -> Result<Vec<Identity>>;
}

impl IdentitySource for Vec<Identity> {
    fn identities(&self) -> Result<Vec<Identity>> {
        Ok(self.clone())
    }
}
