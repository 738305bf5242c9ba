//! A backup, decoded: the manifest line by line, every pack frame by frame. Nothing is written anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::fetch;
use super::finding::Finding;
use super::frames::{FrameSorter, SortedFrames};
use super::plan::{self, Check, Stored};
use super::run::Run;
use crate::base::{Error, Result, SourceName};
use crate::codec::compress::{self, Decompressor};
use crate::codec::encrypt::Opener;
use crate::codec::frame;
use crate::engine::joined;
use crate::repo::BackupSummary;
use crate::repo::manifest::{ManifestLine, ManifestReader};
use crate::repo::pack::{FrameRef, PackLine};
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
        let frames = self.manifest(summary, packs.len(), opener, scratch.path()).await?;
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
                self.find(Finding::damage(check.key, what).affecting(check.backup.as_ref()));
            }
        }
    }

    /// Reads the manifest; its frames by pack, or `None` when it is damaged.
    async fn manifest(
        &mut self,
        summary: &BackupSummary,
        packs: usize,
        opener: &Opener,
        scratch: &Path,
    ) -> Result<Option<SortedFrames>> {
        let check = plan::manifest_check(self.source(), summary);
        let copy = scratch.join("manifest");
        let found = fetch::digest(self.store(), &check.key, Some(&copy)).await?;
        if !self.conclude(&check, found) {
            return Ok(None);
        }
        let sorter = FrameSorter::new(scratch, u32::try_from(packs).unwrap_or(u32::MAX))
            .map_err(|error| Error::io("write to", scratch, error))?;
        let (summary, opener, source) = (summary.clone(), opener.clone(), self.source().clone());
        let reading = move || Ok(read_manifest(&copy, &opener, &source, &summary, sorter));
        match joined(tokio::task::spawn_blocking(reading).await)? {
            Ok(frames) => Ok(Some(frames)),
            Err(what) => {
                self.find(Finding::damage(check.key, what).affecting(check.backup.as_ref()));
                Ok(None)
            }
        }
    }
}

/// Reads a manifest to its end and compares it with the commit entry.
fn read_manifest(
    copy: &PathBuf,
    opener: &Opener,
    source: &SourceName,
    summary: &BackupSummary,
    mut sorter: FrameSorter,
) -> std::result::Result<SortedFrames, String> {
    let text = |error: io::Error| error.to_string();
    let sealed = opener.reader(BufReader::new(File::open(copy).map_err(text)?)).map_err(|error| error.to_string())?;
    let plain = compress::stream_reader(BufReader::new(sealed)).map_err(text)?;
    let reader = ManifestReader::new(BufReader::new(plain))?;
    let header = reader.header();
    let own = header.owners.first();
    if (&header.backup, &header.source, &header.incarnation, own)
        != (&summary.id, source, &summary.incarnation, Some(&summary.id))
    {
        return Err(format!("belongs to backup {} of {}, not to this one", header.backup, header.source));
    }
    let mut counted = BTreeMap::from([("entries", 0), ("bytes", 0), ("bad pages", 0)]);
    let mut refs = 0;
    for line in reader {
        let line = match line? {
            ManifestLine::Entry(line) => line,
            ManifestLine::Ref { .. } => {
                refs += 1;
                continue;
            }
        };
        let add = [("entries", 1), ("bytes", line.size_bytes), ("bad pages", line.bad_blocks.len() as u64)];
        add.into_iter().for_each(|(what, more)| *counted.entry(what).or_default() += more);
        // Frames that another backup holds are verified with it.
        let patches = line.patches.iter().map(|patch| &patch.frame);
        for frame in line.frames.iter().chain(patches).filter(|frame| frame.owner == 0) {
            if !sorter.add(frame).map_err(text)? {
                return Err(format!("{} lies in pack {}, which does not exist", line.path, frame.pack));
            }
        }
    }
    *counted.entry("entries").or_default() += refs;
    let totals = if refs > 0 { 1 } else { 3 };
    for (what, expected) in
        [("entries", summary.entries), ("bytes", summary.raw_bytes), ("bad pages", summary.bad_pages)].into_iter().take(totals)
    {
        if counted[what] != expected {
            return Err(format!("has {} {what} where the commit entry says {expected}", counted[what]));
        }
    }
    sorter.finish().map_err(text)
}

async fn decode_pack(
    store: Arc<dyn Store>,
    check: Check,
    frames: Vec<FrameRef>,
    opener: Opener,
) -> Result<(Check, Option<Stored>, Judgement)> {
    let Some((content, found)) = fetch::whole(store.as_ref(), &check.key).await? else { return Ok((check, None, Ok(()))) };
    if check.judge(Some(found)).is_some() {
        return Ok((check, Some(found), Ok(())));
    }
    let decoded = joined(tokio::task::spawn_blocking(move || Ok(decode(&content, &frames, &opener))).await)?;
    Ok((check, Some(found), decoded))
}

fn decode(content: &[u8], frames: &[FrameRef], opener: &Opener) -> Judgement {
    let plain = opener.open(content).map_err(|error| format!("cannot be decrypted: {error}"))?;
    let mut decompressor = Decompressor::new().map_err(|error| error.to_string())?;
    let mut wrong: Vec<String> = Vec::new();
    for frame in frames {
        let bytes = usize::try_from(frame.offset).ok().and_then(|at| plain.get(at..)?.get(..frame.stored_len as usize));
        match bytes.map(|bytes| frame::decode(&mut decompressor, bytes, frame.raw_len, frame.digest)) {
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

    #[test]
    fn every_frame_is_compared_with_its_own_digest() {
        let mut compressor = Compressor::new(3).unwrap();
        let (a, b) = (frame::encode(&mut compressor, b"aaaa").unwrap(), frame::encode(&mut compressor, b"bbbb").unwrap());
        let pack = [a.stored.as_slice(), &b.stored].concat();
        let at = |offset: usize, frame: &frame::Frame| FrameRef {
            owner: 0,
            pack: 1,
            offset: offset as u64,
            stored_len: frame.stored.len() as u32,
            raw_len: frame.raw_len,
            digest: frame.digest,
        };
        let frames = [at(0, &a), at(a.stored.len(), &b)];
        assert_eq!(decode(&pack, &frames, &Opener::Plain), Ok(()));
        let mut lying = frames;
        lying[1].digest = FrameDigest::of(b"cccc");
        assert!(decode(&pack, &lying, &Opener::Plain).unwrap_err().contains("does not match its digest"));
        assert!(decode(&pack[..pack.len() - 1], &frames, &Opener::Plain).unwrap_err().contains("beyond its end"));
        let mut far = frames;
        far[0].offset = u64::MAX;
        assert!(decode(&pack, &far, &Opener::Plain).is_err());
    }
}
