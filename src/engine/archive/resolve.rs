//! `archive resolve`: the operator says which of two contents of one log file is the right one.

use crate::base::{Error, Incarnation, Result, TimelineId, Timestamp};
use crate::engine::Scope;
use crate::repo::log::name::is_short_digest;
use crate::repo::log::resolution::{self, Resolution};
use crate::repo::{Signer, identity, layout};
use crate::store::list_all;

use super::{FileKind, file_kind};

/// Records that `file` of the log is the content whose digest begins with the 16 hex digits `keep`. Returns the record's key.
///
/// # Errors
/// When the signer is no operator, the file is none of the log, the digest is that of a piece, or the incarnation cannot be
/// told.
pub async fn run(scope: &Scope, operator: &Signer, incarnation: Option<Incarnation>, file: &str, keep: &str) -> Result<String> {
    let kind = file_kind(file).filter(|kind| *kind != FileKind::Auxiliary);
    let kind = kind.ok_or_else(|| Error::usage(format!("'{file}' is neither a segment nor a history file")))?;
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
    if let FileKind::Segment = kind {
        refuse_piece(scope, &incarnation, file, keep).await?;
    }
    let resolution = Resolution { incarnation, file: file.to_owned(), keep: keep.to_owned(), decided: Timestamp::now() };
    resolution::store(&scope.repository, &scope.source, operator, &resolution).await
}

/// A decision for the digest of a piece would take the whole segment out of use, whatever is archived of it.
async fn refuse_piece(scope: &Scope, incarnation: &Incarnation, file: &str, keep: &str) -> Result<()> {
    let timeline = TimelineId::parse_hex(&file[..8]).ok_or_else(|| Error::usage(format!("'{file}' names no timeline")))?;
    let pieces = layout::tail_segment(&scope.source, incarnation, timeline, file);
    let pieces = list_all(scope.repository.store(), &pieces, None).await?;
    let Some(piece) = pieces.iter().find(|object| object.key.contains(&format!("_{keep}."))) else { return Ok(()) };
    let whole = format!("{}{file}_", layout::log_timeline(&scope.source, incarnation, timeline));
    let whole = list_all(scope.repository.store(), &whole, None).await?;
    if whole.iter().any(|object| object.key.contains(&format!("_{keep}."))) {
        return Ok(());
    }
    Err(Error::failed(format!("{keep} is the digest of a piece of {file}, and not of the segment"))
        .detail("piece", &piece.key)
        .hint("of pieces that contradict each other remove the wrong one"))
}
