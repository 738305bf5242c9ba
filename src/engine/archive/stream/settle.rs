//! Small pieces that follow each other, put together as one, so that a segment that is open for long is read in few parts.
//!
//! Beside the stream: no commit waits for it. Write order: the piece that holds all of them, then, once nobody believes a
//! listing that was begun before it was there ([`tail::listing_lasts`]), those that it holds. A crash in between leaves pieces that hold the same twice;
//! the next stream finds and removes them. What goes wrong costs nothing but the small pieces staying: storing the next
//! one says so.

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::destination::put;
use super::growing::Snapshot;
use crate::base::{Incarnation, Result, TimelineId, killpoint};
use crate::codec::Sha256Digest;
use crate::engine::archive::push;
use crate::engine::{Scope, Writing};
use crate::repo::layout;
use crate::repo::log::tail::{self, Piece};

/// Where the pieces belong.
pub(super) struct Place {
    /// The cluster.
    pub incarnation: Incarnation,
    /// The segment's name.
    pub file: String,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The piece that was stored.
    pub key: Option<String>,
    /// Whether the credentials in use may not delete.
    pub may_not_delete: bool,
}

/// Pieces being put together, and removed; dropped, it ends where it is.
pub(super) struct Settling(JoinHandle<Settled>);

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Settling {
    /// Begins to put `few` together and to remove `due`, which other pieces hold.
    pub fn begin(scope: &Scope, writing: &Writing, place: Place, of: &Snapshot, few: Vec<Piece>, due: Vec<String>) -> Self {
        let raw = few.first().zip(few.last()).map_or(Bytes::new(), |(first, last)| {
            // A copy: the rest of the segment is not kept for it.
            Bytes::copy_from_slice(&of.raw[first.name.from as usize..last.name.to as usize])
        });
        let (scope, writing, timeline) = (scope.clone(), writing.clone(), of.segment.timeline);
        Self(tokio::spawn(async move {
            let mut settled = Settled::default();
            if !few.is_empty() {
                settled.key = together(&scope, &writing, &place, timeline, &few, raw).await.unwrap_or_default();
            }
            for key in due {
                match scope.repository.store().delete(&key).await {
                    Ok(()) => {}
                    Err(error) => {
                        settled.may_not_delete |= !error.is_retryable();
                        break;
                    }
                }
                killpoint::reach("settle.piece-deleted");
            }
            settled
        }))
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Settled {
        (&mut self.0).await.unwrap_or_default()
    }
}

/// Stores `few` as one piece; its key.
async fn together(
    scope: &Scope,
    writing: &Writing,
    place: &Place,
    timeline: TimelineId,
    few: &[Piece],
    raw: Bytes,
) -> Result<Option<String>> {
    let Some(name) = tail::joined(few, Sha256Digest::of(&raw).short()) else { return Ok(None) };
    let seal = push::seal(scope, writing, &place.incarnation).await?;
    let prefix = layout::tail_segment(&scope.source, &place.incarnation, timeline, &place.file);
    let key = format!("{prefix}{}", name.text(seal.suffix()));
    put(scope, writing, &seal, &key, raw).await?;
    killpoint::reach("settle.piece-stored");
    Ok(Some(key))
}
