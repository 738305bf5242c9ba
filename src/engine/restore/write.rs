//! The content: each pack fetched once, its frames written to disjoint places by several threads, in no order.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spill::{Placed, read_group};
use super::tree::Tree;
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, ErrorKind, RelPath, Result, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::compress::Decompressor;
use crate::codec::encrypt::Opener;
use crate::codec::frame;
use crate::engine::Scope;
use crate::engine::chain::Member;
use crate::engine::retry::{Patience, retrying};
use crate::repo::pack::PackLine;
use crate::repo::{decode_error, layout, read_error};

/// Packs fetched ahead of those being decoded.
const PACKS_AHEAD: usize = 1;
/// Files a thread keeps open.
const OPEN_FILES: usize = 128;

/// A fetched pack and the places of its frames.
struct Fetched {
    key: String,
    opener: Opener,
    expected: PackLine,
    stored: Bytes,
    frames: Vec<Placed>,
}

/// What the threads share.
pub(super) struct Shared {
    pub root: PathBuf,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    pub frames_written: AtomicU64,
}

/// Fetches the packs that the spilled groups name and writes their frames.
///
/// # Errors
/// Damaged when a pack is missing, altered or does not hold what the manifest says.
pub(super) async fn write(
    scope: &Scope,
    members: &[Member],
    groups: Vec<PathBuf>,
    shared: Arc<Shared>,
    workers: usize,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel::<Fetched>(1);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut threads = JoinSet::new();
    for _ in 0..workers {
        let (shared, receiver) = (Arc::clone(&shared), Arc::clone(&receiver));
        threads.spawn_blocking(move || decode_all(&shared, &receiver));
    }
    drop(receiver);
    let fetched = fetch_all(scope, members, groups, &shared, sender).await;
    let mut errors: Vec<Error> = Vec::new();
    while let Some(outcome) = threads.join_next().await {
        match outcome {
            Ok(outcome) => errors.extend(outcome.err()),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => errors.push(Error::interrupted()),
        }
    }
    errors.extend(fetched.err());
    // Whoever found the channel closed says "interrupted": the cause comes first.
    errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
    errors.into_iter().next().map_or(Ok(()), Err)
}

async fn fetch_all(
    scope: &Scope,
    members: &[Member],
    groups: Vec<PathBuf>,
    shared: &Shared,
    sender: mpsc::Sender<Fetched>,
) -> Result<()> {
    let mut fetching: JoinSet<Result<Fetched>> = JoinSet::new();
    for group in groups {
        for ((owner, pack), frames) in read_group(&group)? {
            let Member { link, packs, .. } = &members[owner as usize];
            let id = &link.summary.id;
            let expected = packs.get(pack.wrapping_sub(1) as usize).cloned();
            let expected = expected
                .ok_or_else(|| Error::damaged(format!("the manifest of {id} names pack {pack}, which is not in its list")))?;
            while fetching.len() >= PACKS_AHEAD {
                hand_over(&mut fetching, &sender).await?;
            }
            shared.cancel.check()?;
            let (scope, key) = (scope.clone(), layout::pack(&scope.source, id, pack, link.suffix()));
            let opener = link.opener.clone();
            fetching.spawn(async move {
                let store = scope.repository.store();
                let stored = retrying(Patience::LONG, || store.get(&key)).await?;
                Ok(Fetched { key, opener, expected, stored, frames })
            });
        }
    }
    while !fetching.is_empty() {
        hand_over(&mut fetching, &sender).await?;
    }
    Ok(())
}

async fn hand_over(fetching: &mut JoinSet<Result<Fetched>>, sender: &mpsc::Sender<Fetched>) -> Result<()> {
    match fetching.join_next().await {
        Some(Ok(fetched)) => sender.send(fetched?).await.map_err(|_| Error::interrupted()),
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(_)) => Err(Error::interrupted()),
        None => Ok(()),
    }
}

fn decode_all(shared: &Shared, packs: &Mutex<mpsc::Receiver<Fetched>>) -> Result<()> {
    let mut decompressor = Decompressor::new().map_err(|error| Error::failed("cannot start zstd").caused_by(error))?;
    let mut files = OpenFiles { root: &shared.root, open: HashMap::new() };
    let mut first_error = Ok(());
    loop {
        let next = match packs.lock() {
            Ok(mut packs) => packs.blocking_recv(),
            Err(_) => return Err(Error::interrupted()),
        };
        let Some(fetched) = next else { return first_error };
        // After an error the channel is only drained, so that the fetching task ends.
        if first_error.is_ok() && !shared.cancel.is_cancelled() {
            first_error = decode(shared, &fetched, &mut decompressor, &mut files);
            if first_error.is_err() {
                shared.cancel.cancel();
            }
        }
    }
}

fn decode(shared: &Shared, fetched: &Fetched, decompressor: &mut Decompressor, files: &mut OpenFiles<'_>) -> Result<()> {
    let key = &fetched.key;
    let found = Sha256Digest::of(&fetched.stored);
    if found != fetched.expected.sha256 {
        return Err(Error::damaged(format!("{key} is damaged: it is not what was stored"))
            .detail("expected", fetched.expected.sha256.to_string())
            .detail("found", found.to_string())
            .hint("lifeboat verify   shows what else is damaged; an older backup may still be whole"));
    }
    let mut plain = fetched.opener.reader(&fetched.stored[..]).map_err(|error| decode_error(key, error))?;
    let read_failed = |error: std::io::Error| read_error(key, crate::codec::CodecError::Encryption(error.to_string()));
    let mut position = 0;
    let mut stored = Vec::new();
    for Placed { frame, path, stretches } in &fetched.frames {
        shared.cancel.check()?;
        let skip = frame.offset.checked_sub(position).ok_or_else(|| Error::damaged(format!("two frames overlap in {key}")))?;
        std::io::copy(&mut plain.by_ref().take(skip), &mut std::io::sink()).map_err(read_failed)?;
        stored.resize(frame.stored_len as usize, 0);
        plain.read_exact(&mut stored).map_err(read_failed)?;
        position = frame.offset + u64::from(frame.stored_len);
        let raw = frame::decode(decompressor, &stored, frame.raw_len, frame.digest).map_err(|error| decode_error(key, error))?;
        for stretch in stretches {
            // The manifest's reader has checked that frames are as long as what is taken from them.
            let part = &raw[stretch.raw_offset as usize..][..stretch.len_bytes as usize];
            files.write(path, stretch.file_offset, part)?;
            shared.progress.advance(part.len() as u64);
        }
        shared.frames_written.fetch_add(1, Ordering::Relaxed);
    }
    killpoint::reach("restore.pack-written");
    Ok(())
}

/// Files kept open while packs are written to them.
struct OpenFiles<'a> {
    root: &'a Path,
    open: HashMap<RelPath, File>,
}

impl OpenFiles<'_> {
    fn write(&mut self, path: &RelPath, offset: u64, raw: &[u8]) -> Result<()> {
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
        self.open[path].write_all_at(raw, offset).map_err(|error| {
            let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
            let error = Error::io("write", &location(), error);
            if full {
                error.hint("free space there, or restore into a directory on a larger disk; what is there now cannot start")
            } else {
                error
            }
        })
    }
}
