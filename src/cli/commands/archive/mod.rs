//! `lifeboat archive …`: what PostgreSQL calls for every file of its log, the log as it is written, and the operator's word
//! on a split brain.

pub(super) mod enough;
pub mod get;
mod follow;
mod prefetch;
pub mod push;
pub mod resolve;
pub mod stream;

use std::path::{Path, PathBuf};

use crate::base::{Error, SourceName};

/// Where `lifeboat run` listens to `archive push` of `source`.
pub(super) fn handover_socket(state_dir: &Path, source: &SourceName) -> PathBuf {
    state_dir.join(format!("push-{source}.sock"))
}

/// One error for several repositories: the first one's, with the others as details.
fn joined(errors: Vec<(String, Error)>) -> Option<Error> {
    let mut errors = errors.into_iter();
    let (name, first) = errors.next()?;
    let first = first.context(format!("repository {name}"));
    Some(errors.fold(first, |error, (name, other)| error.detail(format!("repository {name}"), other.summary())))
}
