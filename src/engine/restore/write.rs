//! The content: each pack fetched once, part by part, its frames written to disjoint places by several threads, in no order.
//!
//! Frames are written before the digest of their pack is known: when it turns out wrong the restore fails as a whole, and
//! its directory cannot start. So memory holds a few parts of packs ([`super::parts`]), never a pack. Packs of which little
//! is needed are fetched in ranges ([`super::sparse`]).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::parts::{self, Pack, PartReader, Source};
use super::settle::Settling;
use super::sparse::{RangeReader, is_sparse};
use super::spill::{Placed, read_group};
use super::tree::Tree;
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, ErrorKind, RelPath, Result, killpoint};
use crate::codec::CodecError;
use crate::codec::compress::Decompressor;
use crate::codec::frame;
use crate::engine::chain::Member;
use crate::engine::{Scope, joined};
use crate::repo::{decode_error, layout, read_error};
use crate::store::Store;

/// Files a thread keeps open.
const OPEN_FILES: usize = 128;

/// What the threads share.
pub(in crate::engine) struct Shared<T> {
    pub store: Arc<dyn Store>,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    pub bytes_written: AtomicU64,
    /// Where the bytes go.
    pub target: T,
}

/// Where decoded frames go.
pub(in crate::engine) trait Target: Send + Sync + 'static {
    /// What one thread keeps open.
    type Open<'t>
    where
        Self: 't;

    /// Nothing open yet.
    fn open(&self) -> Self::Open<'_>;

    /// Writes what one frame holds to a place of it.
    ///
    /// # Errors
    /// The disk's; damaged when the bytes are not those that belong there.
    fn write(&self, open: &mut Self::Open<'_>, placed: &Placed, raw: &[u8]) -> Result<()>;
}

/// A data directory.
pub(super) struct DataDirectory {
    pub root: PathBuf,
    pub settling: Settling,
}

/// Fetches the packs that the spilled groups name and writes their frames.
///
/// # Errors
/// Damaged when a pack is missing, altered or does not hold what the manifest says.
pub(in crate::engine) async fn write<T: Target>(
    scope: &Scope,
    members: &[Member],
    groups: Vec<PathBuf>,
    shared: Arc<Shared<T>>,
    workers: usize,
) -> Result<()> {
    let (sender, queue) = mpsc::channel::<Pack>(1);
    let queue = Arc::new(Mutex::new(queue));
    let mut working: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..parts::lanes(workers) {
        let (parts, received) = mpsc::channel(1);
        let source = Source {
            store: scope.repository.shared_store(),
            cancel: shared.cancel.clone(),
            part_bytes: parts::part_bytes(workers),
        };
        let queue = Arc::clone(&queue);
        working.spawn(async move { source.fetch_all(&queue, &parts).await });
        let shared = Arc::clone(&shared);
        working.spawn_blocking(move || decode_all(&shared, PartReader::new(received)));
    }
    drop(queue);
    let mut errors: Vec<Error> = Vec::new();
    errors.extend(hand_out(scope, members, groups, &shared, workers, sender).await.err());
    while let Some(outcome) = working.join_next().await {
        errors.extend(joined(outcome).err());
    }
    // Whoever stopped because another failed says "interrupted": the cause comes first.
    errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Makes everything on the file system of `directory` durable.
///
/// # Errors
/// When the disk fails.
pub(super) fn sync_file_system(directory: &Path) -> Result<()> {
    let sync = || rustix::fs::syncfs(File::open(directory)?).map_err(std::io::Error::from);
    sync().map_err(|error| Error::io("sync", directory, error))
}

/// Hands out the packs, each with the places of its frames.
async fn hand_out(
    scope: &Scope,
    members: &[Member],
    groups: Vec<PathBuf>,
    shared: &Shared<impl Target>,
    workers: usize,
    sender: mpsc::Sender<Pack>,
) -> Result<()> {
    for group in groups {
        let packs = read_group(&group)?;
        for ((owner, pack), frames) in spread(packs, parts::lanes(workers)) {
            let Member { link, packs, .. } = &members[owner as usize];
            let id = &link.summary.id;
            let expected = packs.get(pack.wrapping_sub(1) as usize).cloned();
            let expected = expected
                .ok_or_else(|| Error::damaged(format!("the manifest of {id} names pack {pack}, which is not in its list")))?;
            shared.cancel.check()?;
            let key = layout::pack(&scope.source, id, pack, link.suffix());
            let pack = Pack { key, expected, opener: link.opener.clone(), frames };
            sender.send(pack).await.map_err(|_| Error::interrupted())?;
        }
    }
    Ok(())
}

/// `items` in an order in which those at hand at one time lie far apart: neighbouring packs hold parts of the same file, and
/// threads that write to one file wait for each other.
fn spread<T>(items: Vec<T>, lanes: usize) -> Vec<T> {
    let stride = items.len().div_ceil(lanes.max(1)).max(1);
    let mut numbered: Vec<(usize, T)> = items.into_iter().enumerate().collect();
    numbered.sort_by_key(|(index, _)| (index % stride, index / stride));
    numbered.into_iter().map(|(_, item)| item).collect()
}

/// One decoding thread. When it fails, the others stop too.
fn decode_all(shared: &Shared<impl Target>, mut parts: PartReader) -> Result<()> {
    let outcome = decode_packs(shared, &mut parts);
    if outcome.is_err() {
        shared.cancel.cancel();
    }
    outcome
}

fn decode_packs(shared: &Shared<impl Target>, parts: &mut PartReader) -> Result<()> {
    let decompressor = Decompressor::new().map_err(|error| Error::failed("cannot start zstd").caused_by(error))?;
    let mut decoder = Decoder { shared, decompressor, open: shared.target.open() };
    while let Some(pack) = parts.next_pack()? {
        if is_sparse(&pack) {
            let ranges = RangeReader::new(Arc::clone(&shared.store), &pack);
            let failure = ranges.failure();
            let decoded = match pack.opener.reader(ranges) {
                Ok(mut plain) => {
                    decoder.decode(&pack, &mut plain, |plain, _, offset| plain.seek(SeekFrom::Start(offset)).map(|_| ()))
                }
                Err(error) => Err(decode_error(&pack.key, error)),
            };
            let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            decoded.map_err(|error| failure.unwrap_or(error))?;
            killpoint::reach("restore.pack-written");
            continue;
        }
        let decoded = match pack.opener.reader(&mut *parts) {
            Ok(mut plain) => decoder.decode(&pack, &mut plain, |plain, from, to| {
                std::io::copy(&mut plain.by_ref().take(to - from), &mut std::io::sink()).map(|_| ())
            }),
            Err(error) => Err(decode_error(&pack.key, error)),
        };
        if parts.is_broken() {
            return Err(Error::interrupted());
        }
        // Whatever could not be decoded: that the pack is not what was stored explains it, and is what `verify` names.
        if !decoded.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
            parts.check_rest(&pack)?;
        }
        decoded?;
        killpoint::reach("restore.pack-written");
    }
    Ok(())
}

/// What a thread needs to decode frames and write them.
struct Decoder<'a, T: Target> {
    shared: &'a Shared<T>,
    decompressor: Decompressor,
    open: T::Open<'a>,
}

impl<T: Target> Decoder<'_, T> {
    /// Writes the frames of `pack`, whose content `plain` gives; `skip` moves it from one offset to a later one.
    fn decode<R: Read>(
        &mut self,
        pack: &Pack,
        plain: &mut R,
        skip: impl Fn(&mut R, u64, u64) -> std::io::Result<()>,
    ) -> Result<()> {
        let (shared, key) = (self.shared, &pack.key);
        let read_failed = |error: std::io::Error| read_error(key, CodecError::Encryption(error.to_string()));
        let mut position = 0;
        let mut stored = Vec::new();
        // The places of one frame follow each other.
        for places in pack.frames.chunk_by(|one, next| one.frame == next.frame) {
            shared.cancel.check()?;
            let frame = places[0].frame;
            check_places(places, key)?;
            if frame.offset < position {
                return Err(Error::damaged(format!("two frames overlap in {key}")));
            }
            skip(plain, position, frame.offset).map_err(read_failed)?;
            stored.resize(frame.stored_len as usize, 0);
            plain.read_exact(&mut stored).map_err(read_failed)?;
            position = frame.offset + u64::from(frame.stored_len);
            let raw = frame::decode(&mut self.decompressor, &stored, frame.raw_len, frame.digest)
                .map_err(|error| decode_error(key, error))?;
            for placed in places {
                shared.target.write(&mut self.open, placed, &raw)?;
                let bytes = placed.stretches.iter().map(|stretch| u64::from(stretch.len_bytes)).sum();
                shared.bytes_written.fetch_add(bytes, Ordering::Relaxed);
                shared.progress.advance(bytes);
            }
        }
        Ok(())
    }
}

/// Only a frame that is found by what it holds may belong to several places: its bytes are compared with the address of each.
fn check_places(places: &[Placed], key: &str) -> Result<()> {
    match places {
        [first, _, ..] if places.iter().any(|place| place.address.is_none()) => {
            Err(Error::damaged(format!("two places have the frame at {} in {key}", first.frame.offset)))
        }
        _ => Ok(()),
    }
}

impl Target for DataDirectory {
    type Open<'t> = OpenFiles<'t>;

    fn open(&self) -> OpenFiles<'_> {
        OpenFiles { root: &self.root, open: HashMap::new() }
    }

    fn write(&self, open: &mut OpenFiles<'_>, placed: &Placed, raw: &[u8]) -> Result<()> {
        let Placed { path, file_bytes, stretches, .. } = placed;
        let file = open.open(path)?;
        for stretch in stretches {
            // Within the frame: the manifest's reader has checked it.
            let part = &raw[stretch.raw_offset as usize..][..stretch.len_bytes as usize];
            file.write_all_at(part, stretch.file_offset).map_err(|error| write_error(&self.root, path, error))?;
        }
        self.settling.wrote(path, *file_bytes, stretches, file);
        Ok(())
    }
}

/// Files kept open while packs are written to them.
pub(super) struct OpenFiles<'a> {
    root: &'a Path,
    open: HashMap<RelPath, File>,
}

impl OpenFiles<'_> {
    fn open(&mut self, path: &RelPath) -> Result<&File> {
        let location = || Tree::location(self.root, path);
        if !self.open.contains_key(path) {
            if self.open.len() >= OPEN_FILES {
                self.open.clear();
            }
            let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(flags)
                .open(location())
                .map_err(|error| Error::io("open", &location(), error))?;
            self.open.insert(path.clone(), file);
        }
        Ok(&self.open[path])
    }
}

fn write_error(root: &Path, path: &RelPath, error: std::io::Error) -> Error {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let error = Error::io("write", &Tree::location(root, path), error);
    if full {
        error.hint("free space there, or restore into a directory on a larger disk; what is there now cannot start")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{FrameDigest, Sha256Digest};
    use crate::repo::pack::FrameRef;

    #[test]
    fn one_frame_in_two_places_is_damage_unless_both_say_what_it_holds() {
        let digest = FrameDigest::of(b"");
        let placed = |address: Option<Sha256Digest>| Placed {
            frame: FrameRef { owner: 0, pack: 1, offset: 7, stored_len: 5, raw_len: 9, digest },
            path: RelPath::new("a").unwrap(),
            file_bytes: 9,
            stretches: Vec::new(),
            address,
            holes: Vec::new(),
        };
        let (with, without) = (placed(Some(Sha256Digest::of(b"chunk"))), placed(None));
        assert!(check_places(std::slice::from_ref(&without), "p").is_ok());
        assert!(check_places(&[with.clone(), with.clone()], "p").is_ok());
        for places in [[without.clone(), without.clone()], [with.clone(), without.clone()], [without, with]] {
            assert!(check_places(&places, "p").unwrap_err().message().contains("two places have the frame at 7 in p"));
        }
    }

    #[test]
    fn packs_that_are_decoded_together_lie_far_apart() {
        assert_eq!(spread((0..7).collect(), 2), [0, 4, 1, 5, 2, 6, 3]);
        assert_eq!(spread((0..4).collect(), 1), [0, 1, 2, 3]);
        assert!(spread(Vec::<u8>::new(), 4).is_empty());
    }
}
