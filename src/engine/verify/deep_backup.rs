//! A backup, decoded: every pack frame by frame. Nothing is written anywhere.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::fetch;
use super::finding::Finding;
use super::frames::Named;
use super::plan::{self, Check, Stored};
use super::run::Run;
use crate::base::{Error, Result};
use crate::codec::compress::Decompressor;
use crate::codec::encrypt::Opener;
use crate::codec::{Sha256Digest, frame};
use crate::engine::joined;
use crate::repo::BackupSummary;
use crate::repo::pack::PackLine;
use crate::store::Store;

/// Packs held in memory at one time.
const CONCURRENT: usize = 2;

/// What decoding came to: nothing, or what is wrong.
type Judgement = std::result::Result<(), String>;

impl Run<'_> {
    /// Decodes one backup.
    ///
    /// # Errors
    /// When the repository or the scratch directory fails; damage is reported.
    pub(super) async fn deep_backup(&mut self, summary: &BackupSummary, packs: &[PackLine], opener: &Opener) -> Result<()> {
        let scratch = self.scope.state.scratch()?;
        let frames = self.manifest(summary, opener).await?;
        let checks = plan::pack_checks(self.source(), summary, packs);
        let Some(mut frames) = frames else { return self.look_at(checks).await };
        let mut checks = packs.iter().map(|pack| pack.pack).zip(checks);
        let mut tasks: JoinSet<Result<(Check, Option<Stored>, Judgement)>> = JoinSet::new();
        loop {
            self.cancel.check()?;
            while tasks.len() < CONCURRENT
                && let Some((pack, check)) = checks.next()
            {
                let frames = frames.of_pack(pack).map_err(|error| Error::io("read", scratch.path(), error))?;
                tasks.spawn(decode_pack(self.scope.repository.shared_store(), check, frames, opener.clone()));
            }
            let Some(done) = tasks.join_next().await else { return Ok(()) };
            let (check, found, decoded) = joined(done)?;
            if self.conclude(&check, found)
                && let Err(what) = decoded
            {
                self.find(Finding::damage(check.key, what).affecting(&check.backups));
            }
        }
    }
}

async fn decode_pack(
    store: Arc<dyn Store>,
    check: Check,
    frames: Vec<Named>,
    opener: Opener,
) -> Result<(Check, Option<Stored>, Judgement)> {
    let Some((content, found)) = fetch::whole(store.as_ref(), &check.key).await? else { return Ok((check, None, Ok(()))) };
    if check.judge(Some(found)).is_some() {
        return Ok((check, Some(found), Ok(())));
    }
    let decoded = joined(tokio::task::spawn_blocking(move || Ok(decode(&content, &frames, &opener))).await)?;
    Ok((check, Some(found), decoded))
}

fn decode(content: &[u8], frames: &[Named], opener: &Opener) -> Judgement {
    let plain = opener.open(content).map_err(|error| format!("cannot be decrypted: {error}"))?;
    let mut decompressor = Decompressor::new().map_err(|error| error.to_string())?;
    let mut wrong: Vec<String> = Vec::new();
    for Named { frame, address } in frames {
        let bytes = usize::try_from(frame.offset).ok().and_then(|at| plain.get(at..)?.get(..frame.stored_len as usize));
        match bytes.map(|bytes| frame::decode(&mut decompressor, bytes, frame.raw_len, frame.digest)) {
            Some(Ok(raw)) if address.is_some_and(|address| address != Sha256Digest::of(&raw)) => {
                wrong.push(format!("the frame at {} does not hold what its address says", frame.offset));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => wrong.push(format!("the frame at {}: {error}", frame.offset)),
            None => wrong.push(format!("the frame at {} lies beyond its end", frame.offset)),
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [only] => Err(format!("cannot be decoded: {only}")),
        [first, others @ ..] => Err(format!("cannot be decoded: {first}; and {} more frames", others.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameDigest;
    use crate::codec::compress::Compressor;
    use crate::repo::pack::FrameRef;

    #[test]
    fn every_frame_is_compared_with_its_own_digest() {
        let mut compressor = Compressor::new(3).unwrap();
        let (a, b) = (frame::encode(&mut compressor, b"aaaa").unwrap(), frame::encode(&mut compressor, b"bbbb").unwrap());
        let pack = [a.stored.as_slice(), &b.stored].concat();
        let at = |offset: usize, frame: &frame::Frame| Named {
            frame: FrameRef {
                owner: 0,
                pack: 1,
                offset: offset as u64,
                stored_len: frame.stored.len() as u32,
                raw_len: frame.raw_len,
                digest: frame.digest,
            },
            address: None,
        };
        let frames = [at(0, &a), at(a.stored.len(), &b)];
        assert_eq!(decode(&pack, &frames, &Opener::Plain), Ok(()));
        let mut lying = frames;
        lying[1].frame.digest = FrameDigest::of(b"cccc");
        assert!(decode(&pack, &lying, &Opener::Plain).unwrap_err().contains("does not match its digest"));
        let mut addressed = frames;
        addressed[0].address = Some(Sha256Digest::of(b"aaaa"));
        assert_eq!(decode(&pack, &addressed, &Opener::Plain), Ok(()));
        addressed[1].address = Some(Sha256Digest::of(b"aaaa"));
        assert!(decode(&pack, &addressed, &Opener::Plain).unwrap_err().contains("what its address says"));
        assert!(decode(&pack[..pack.len() - 1], &frames, &Opener::Plain).unwrap_err().contains("beyond its end"));
        let mut far = frames;
        far[0].frame.offset = u64::MAX;
        assert!(decode(&pack, &far, &Opener::Plain).is_err());
    }
}
