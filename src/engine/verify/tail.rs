//! What was streamed of segments that are not whole: names, and in a deep run what they hold.

use std::collections::BTreeSet;

use super::finding::Finding;
use super::run::Run;
use crate::base::{ErrorKind, Incarnation, Result, Segment, SegmentSize};
use crate::codec::encrypt::Opener;
use crate::engine::archive::tail::{Streamed, read_current};
use crate::repo::layout;
use crate::repo::log::tail::{self, reach};

impl Run<'_> {
    /// Verifies the pieces of segments other than `whole`; with an `opener` their content, and that they agree.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub(super) async fn tail(
        &mut self,
        incarnation: &Incarnation,
        size: SegmentSize,
        whole: &BTreeSet<Segment>,
        opener: Option<&Opener>,
    ) -> Result<()> {
        let (repository, source) = (self.scope.repository.clone(), self.source().clone());
        let tails = tail::load(&repository, &source, incarnation, size).await?;
        for stranger in &tails.strangers {
            self.find(Finding::notice(stranger, "has no name that lifeboat gives"));
        }
        for (segment, pieces) in tails.segments.into_iter().filter(|(segment, _)| !whole.contains(segment)) {
            self.cancel.check()?;
            self.report.checked_objects += pieces.len() as u64;
            let broken = match opener {
                _ if reach(&pieces) == 0 => Some("the beginning of what was streamed is missing".to_owned()),
                None => None,
                Some(opener) => {
                    match read_current(self.scope, Streamed { incarnation, segment, size }, pieces.clone(), opener).await {
                        Ok(_) => None,
                        Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                        Err(error) => Some(error.summary()),
                    }
                }
            };
            let Some(broken) = broken else { continue };
            // A segment that becomes whole takes its pieces away.
            let now = tail::load_segment(&repository, &source, incarnation, segment, size).await?;
            if pieces.iter().all(|piece| now.iter().any(|other| other.key == piece.key)) {
                let place = layout::tail_segment(&source, incarnation, segment.timeline, &segment.name(size));
                self.find(Finding::damage(place, broken));
            }
        }
        Ok(())
    }
}
