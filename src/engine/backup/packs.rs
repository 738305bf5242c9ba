//! Storing finished packs while other threads fill the next ones.

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::worker::FinishedPack;
use crate::base::{BackupId, Error, Result, killpoint};
use crate::engine::Scope;
pub(super) use crate::engine::joined;
use crate::repo::layout;
use crate::repo::pack::PackLine;
use crate::repo::resume::ResumeDir;
use crate::store::{Body, PutOutcome};

/// Packs on their way to the repository at one time, beside those being filled. How many bytes these are together is
/// limited by the pool's budget.
const PACKS_IN_FLIGHT: usize = 2;

/// Stores packs of backup `id` until `work` has ended and every pack it handed over is durable.
///
/// # Errors
/// The first failure to store, else that of `work`.
pub(super) async fn store_while<T: Send + 'static>(
    scope: &Scope,
    id: &BackupId,
    suffix: &'static str,
    mut work: JoinHandle<Result<T>>,
    mut packs: mpsc::Receiver<FinishedPack>,
    resume: Option<&ResumeDir>,
) -> Result<(T, Vec<PackLine>)> {
    let mut lines = Vec::new();
    let mut puts: JoinSet<Result<PackLine>> = JoinSet::new();
    let mut open = true;
    // The channel closes when the last thread has handed over its last pack.
    while open || !puts.is_empty() {
        tokio::select! {
            Some(line) = puts.join_next() => match joined(line) {
                Ok(line) => {
                    // Not noted is not lost: the next run looks at what is stored.
                    let _ = resume.map(|resume| resume.note_pack(&line));
                    lines.push(line);
                }
                Err(error) => {
                    // The threads find the channel closed and stop, once the packs on their way have given back what they
                    // hold of the budget; this error is the one that counts.
                    drop(packs);
                    puts.shutdown().await;
                    let _ = (&mut work).await;
                    return Err(error);
                }
            },
            pack = packs.recv(), if open && puts.len() < PACKS_IN_FLIGHT => match pack {
                Some(pack) => {
                    puts.spawn(store_pack(scope.clone(), id.clone(), suffix, pack));
                }
                None => open = false,
            },
        }
    }
    Ok((joined(work.await)?, lines))
}

async fn store_pack(scope: Scope, id: BackupId, suffix: &'static str, pack: FinishedPack) -> Result<PackLine> {
    let key = layout::pack(&scope.source, &id, pack.number, suffix);
    put_new(&scope, &key, Body::Bytes(pack.stored.clone())).await?;
    killpoint::reach("backup.pack-stored");
    let FinishedPack { number, stored, sha256, reserved } = pack;
    let line = PackLine { pack: number, stored_bytes: stored.len() as u64, sha256 };
    // The memory first, then the leave to use it again.
    drop(stored);
    drop(reserved);
    Ok(line)
}

/// Puts an object under a name that is ours alone. One that is there already is our own success, or somebody's mischief:
/// its content decides.
pub(super) async fn put_new(scope: &Scope, key: &str, body: Body) -> Result<()> {
    let store = scope.repository.store();
    match store.put_if_absent(key, body.clone()).await? {
        PutOutcome::Created => Ok(()),
        PutOutcome::AlreadyExists => {
            let ours = match &body {
                Body::Bytes(bytes) => bytes.clone(),
                Body::File(path) => std::fs::read(path).map_err(|error| Error::io("read", path, error))?.into(),
            };
            if store.get(key).await? == ours {
                Ok(())
            } else {
                Err(Error::damaged(format!("{key} exists already with other content")))
            }
        }
    }
}

/// The packs in the order of their numbers, none missing.
pub(super) fn ordered(mut packs: Vec<PackLine>) -> Result<Vec<PackLine>> {
    packs.sort_by_key(|pack| pack.pack);
    match (1..).zip(&packs).find(|(number, pack)| *number != pack.pack) {
        None => Ok(packs),
        Some((number, _)) => Err(Error::failed(format!("pack {number} was never stored: this is a bug"))),
    }
}
