//! `archive resolve`: the operator says which of two contents of one log file is the right one.

use crate::base::{Error, Incarnation, Result, Timestamp};
use crate::engine::Scope;
use crate::repo::log::name::is_short_digest;
use crate::repo::log::resolution::{self, Resolution};
use crate::repo::{Signer, identity};

use super::{FileKind, file_kind};

/// Records that `file` of the log is the content whose digest begins with the 16 hex digits `keep`. Returns the record's key.
///
/// # Errors
/// When the signer is no operator, the file is none of the log, or the incarnation cannot be told.
pub async fn run(scope: &Scope, operator: &Signer, incarnation: Option<Incarnation>, file: &str, keep: &str) -> Result<String> {
    if !matches!(file_kind(file), Some(FileKind::Segment | FileKind::History(_))) {
        return Err(Error::usage(format!("'{file}' is neither a segment nor a history file")));
    }
    if !is_short_digest(keep) {
        return Err(Error::usage(format!("'{keep}' is not a digest of 16 lower-case hex digits"))
            .hint("archive push and verify print the digests"));
    }
    let incarnation = match incarnation {
        Some(incarnation) => incarnation,
        None => {
            let (mut known, _) = identity::survey(&scope.repository, &scope.source).await?;
            match (known.pop(), known.is_empty()) {
                (Some(only), true) => only.incarnation,
                (None, _) => return Err(Error::failed(format!("nothing of {} was ever archived here", scope.source))),
                (Some(_), false) => {
                    return Err(Error::usage(format!("{} has several incarnations; name one with --incarnation", scope.source)));
                }
            }
        }
    };
    let resolution = Resolution { incarnation, file: file.to_owned(), keep: keep.to_owned(), decided: Timestamp::now() };
    resolution::store(&scope.repository, &scope.source, operator, &resolution).await
}
