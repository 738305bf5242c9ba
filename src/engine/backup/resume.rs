//! Going on where an interrupted backup of the same kind stopped: its id, its key and its packs are used again.
//!
//! What the interrupted run stored serves only as something to compare with. Every file is read and compared by digest,
//! but for those that have certainly not been touched since before that run; what changed meanwhile is stored anew. A
//! frame counts only when its pack is in the repository. An audit goes on with nothing: what it finds is held in memory
//! until all is read, and of what an earlier run stored it could not say what change detection would have said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::base::{Moment, place};
use super::begin::Begun;
use super::compare::Rules;
use super::copy::{Base, BaseLines};
use super::plan::Decision;
use super::pool::PackNumbers;
use crate::base::units::{format_bytes, format_duration};
use crate::base::{BackupId, ErrorKind, Result, Timestamp};
use crate::codec::FrameDigest;
use crate::codec::encrypt::{Recipient, Seal};
use crate::engine::reread::digest_to_sign;
use crate::engine::{Scope, Writing};
use crate::repo::base_cache::{BaseLine, Place};
use crate::repo::manifest::{PAGES_IN_FRAME, Patch};
use crate::repo::pack::PackLine;
use crate::repo::resume::{ResumeDir, ResumeFacts};
use crate::repo::{CommitLog, backup, layout};
use crate::store::list_all;

/// Age from which on an interrupted backup is left alone.
const OLDEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks for an interrupted backup that was to be what is to be taken now; an `audit` of a base takes none.
///
/// # Errors
/// When the repository does not answer; what speaks against it makes a fresh start.
pub(super) async fn look(
    scope: &Scope,
    writing: &Writing,
    decision: &Decision,
    audit: bool,
    moment: &Moment<'_>,
) -> Result<Option<Begun>> {
    if audit && decision.base.is_some() {
        return Ok(None);
    }
    let dir = scope.state.resume(&scope.source);
    let Some(facts) = dir.facts() else { return Ok(None) };
    let place = place(moment.data_directory)?;
    let Some(seal) = fits(&facts, scope, writing, decision, moment, &place) else { return Ok(None) };
    let id = &facts.backup;
    let began = backup::load_begin(&scope.repository, &scope.source, id).await?.is_some();
    if !began || CommitLog::load(&scope.repository, &scope.source).await?.was_committed(id) {
        return Ok(None);
    }
    let Some(packs) = stored_packs(scope, &dir, id, &seal).await? else { return Ok(None) };
    let numbers = PackNumbers::beside(packs.iter().map(|pack| pack.pack));
    let present: BTreeSet<u32> = packs.iter().map(|pack| pack.pack).collect();
    // Before any number is given again: a frame that is lost now must not be taken for one of the pack that gets its number.
    let lines = dir.roll(|line| without_lost(line, &present))?;
    // Of what was stored by what the log told it is not known what the rest of the frames was: the base serves.
    let is_known = |line: &BaseLine| line.line.states.iter().all(|(_, state)| *state != FrameDigest::UNKNOWN);
    let lines: BaseLines = Box::new(lines.filter(is_known).map(Ok));
    let rules = Rules { trusted_since: None, untouched_before: Some(facts.started), audit, log: None };
    let note = Some(note(id, &packs, moment.host_time));
    let earlier = Some(Base::new(lines, rules));
    Ok(Some(Begun { id: id.clone(), seal, numbers, packs, earlier, resume: dir, note }))
}

/// How the data is sealed, when `facts` are of the same backup as the one to be taken.
fn fits(
    facts: &ResumeFacts,
    scope: &Scope,
    writing: &Writing,
    decision: &Decision,
    moment: &Moment<'_>,
    place: &Place,
) -> Option<Seal> {
    let base = decision.base.as_ref().map(|base| base.id.clone());
    let same = facts.repository == scope.repository.id()
        && (facts.backup_type, &facts.base) == (decision.backup_type, &base)
        && (&facts.incarnation, facts.timeline, &facts.place) == (moment.incarnation, moment.timeline, place)
        && facts.wrapped_to == recipients(writing)
        && facts.started <= moment.host_time
        && moment.host_time < facts.started.plus(OLDEST);
    if !same {
        return None;
    }
    match &facts.recipient {
        Some(recipient) => recipient.parse().ok().map(Seal::Age),
        None => Some(Seal::Plain),
    }
}

/// The operators' recipients as text.
fn recipients(writing: &Writing) -> Vec<String> {
    writing.recipients.iter().flatten().map(Recipient::to_string).collect()
}

/// Remembers a backup that begins now.
///
/// # Errors
/// When it cannot be written.
pub(super) fn remember(
    scope: &Scope,
    writing: &Writing,
    decision: &Decision,
    moment: &Moment<'_>,
    id: &BackupId,
    seal: &Seal,
) -> Result<ResumeDir> {
    let dir = scope.state.resume(&scope.source);
    dir.begin(&ResumeFacts {
        version: ResumeFacts::VERSION,
        repository: scope.repository.id().to_owned(),
        backup: id.clone(),
        backup_type: decision.backup_type,
        base: decision.base.as_ref().map(|base| base.id.clone()),
        incarnation: moment.incarnation.clone(),
        timeline: moment.timeline,
        place: place(moment.data_directory)?,
        started: moment.host_time,
        recipient: match seal {
            Seal::Age(recipient) => Some(recipient.to_string()),
            Seal::Plain => None,
        },
        wrapped_to: recipients(writing),
    })?;
    Ok(dir)
}

/// The packs of `id` in the repository; none when the backup cannot be gone on with, because it was nearly complete or
/// its packs are not what was noted.
async fn stored_packs(scope: &Scope, dir: &ResumeDir, id: &BackupId, seal: &Seal) -> Result<Option<Vec<PackLine>>> {
    let noted: BTreeMap<u32, PackLine> = dir.packs().into_iter().map(|pack| (pack.pack, pack)).collect();
    let (prefix, store) = (layout::backup(&scope.source, id), scope.repository.store());
    let mut packs = Vec::new();
    for object in list_all(store, &prefix, None).await? {
        let number = object.key[prefix.len()..].strip_prefix("pack-").and_then(|name| name.get(..8)?.parse::<u32>().ok());
        let Some(number) = number else {
            let is_known =
                object.key == layout::begin(&scope.source, id) || object.key.starts_with(&layout::backup_keys(&scope.source, id));
            if is_known {
                continue;
            }
            return Ok(None);
        };
        if object.key != layout::pack(&scope.source, id, number, seal.suffix()) {
            return Ok(None);
        }
        match noted.get(&number) {
            Some(pack) if pack.stored_bytes == object.size_bytes => packs.push(pack.clone()),
            Some(_) => return Ok(None),
            // Stored in the moment of the interruption.
            None => match digest_to_sign(store, &object.key).await {
                Ok((sha256, length)) if length == object.size_bytes => {
                    packs.push(PackLine { pack: number, stored_bytes: length, sha256 });
                }
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Damaged => return Ok(None),
                Err(error) => return Err(error),
            },
        }
    }
    Ok(Some(packs))
}

/// `line` without the frames of this backup that lie in no pack of `present`: they are compared as if they had no bytes,
/// and so stored again.
fn without_lost(mut line: BaseLine, present: &BTreeSet<u32>) -> BaseLine {
    let is_lost = |owner: u32, pack: u32| owner == 0 && !present.contains(&pack);
    let file = &mut line.line;
    let mut lost: BTreeSet<usize> = BTreeSet::new();
    lost.extend(file.frames.iter().enumerate().filter(|(_, frame)| is_lost(frame.owner, frame.pack)).map(|(index, _)| index));
    let lost_patches = file.patches.iter().filter(|patch| is_lost(patch.frame.owner, patch.frame.pack));
    lost.extend(lost_patches.flat_map(Patch::pages).map(|page| (page / PAGES_IN_FRAME) as usize));
    for index in &lost {
        if let Some(frame) = file.frames.get_mut(*index) {
            frame.raw_len = 0;
        }
    }
    if !lost.is_empty() {
        line.stamp = None;
    }
    line
}

/// What to tell of a backup that is gone on with.
fn note(id: &BackupId, packs: &[PackLine], now: Timestamp) -> String {
    format!(
        "goes on with a backup that was interrupted, begun {} ago: {} packs, {}, are stored already",
        format_duration(now.since(id.start())),
        packs.len(),
        format_bytes(packs.iter().map(|pack| pack.stored_bytes).sum())
    )
}
