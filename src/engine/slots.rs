//! The slots of a schedule that several hosts may follow: what was done, whose turn it is, claims and their ends.
//!
//! - A slot is run by whoever creates the claim of its next attempt ([`crate::repo::run_claim`]); one host alone does.
//! - A slot is settled by the end of its run, or by facts: a backup that did as much and began later, a drill's evidence.
//!   So a run whose host died between its commit and its end is not repeated, and neither is a drill that found damage.
//! - Nothing is drilled or verified before the first backup is committed.
//! - While an attempt may be at work nobody claims the next one ([`crate::policy::turn`]). A host that is stopped between
//!   its claim and its work, for longer than a claim is trusted, may double the work of another; the lease and the commit
//!   log keep that from doing harm.
//! - The claims lie in the repository that a backup would go to: the first of the source that answers. Two hosts of
//!   which each reaches another repository only may both run a slot.
//!
//! On a store without conditional writes a claim is followed by a pause and a look at what stands there, as with a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Scope;
use super::backup::host_name;
use super::lease::{self, Terms};
use crate::base::{BackupType, DrillLevel, Job, Result, Timestamp};
use crate::policy::turn::{Attempt, Ending, Patience, Turn, turn};
use crate::repo::evidence;
use crate::repo::run_claim::{self, Claim, End, Found};
use crate::repo::{CommitLog, Signer, layout};
use crate::store::{PutOutcome, StoreError};

/// Claims of earlier slots are removed when they are older than this.
const CLAIMS_KEPT: Duration = Duration::from_secs(31 * 86_400);

/// How often to look whether there is a first backup, without which nothing can be drilled.
const FIRST_BACKUP_PAUSE: Duration = Duration::from_secs(60);

/// What the repository says of a slot.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whose turn it is.
    pub turn: Turn,
    /// Jobs of the same kind that were done, and when they began: of backups all, by their type. Empty while somebody
    /// holds the lease for an attempt.
    pub done: BTreeSet<(Job, Timestamp)>,
    /// Claims that are not used: key and why.
    pub problems: Vec<(String, String)>,
}

/// Looks at `slot` of `job`.
///
/// # Errors
/// When the repository does not answer.
pub async fn look(scope: &Scope, job: Job, slot: Timestamp, now: Timestamp) -> Result<Look> {
    let (found, problems) = run_claim::load(&scope.repository, &scope.source, job, slot).await?;
    let own = scope.state.installation(&scope.source)?;
    let attempts: Vec<Attempt> = found.iter().map(|found| attempt(found, &own)).collect();
    let takes_lease = takes_lease(job);
    let may_be_at_work = attempts.last().is_some_and(|last| last.end.is_none());
    let leased = takes_lease && may_be_at_work && lease::is_held(scope).await?;
    let patience = if takes_lease { Patience::SHORT } else { Patience::LONG };
    let turn = turn(&attempts, leased, patience, now);
    // Who holds the lease is at work: the facts are asked for when it is given back, for its host may have died then.
    let done = if leased { BTreeSet::new() } else { done(scope, job).await? };
    let too_early = matches!(turn, Turn::Take(_)) && is_drill(job) && self::done(scope, Job::Full).await?.is_empty();
    let turn = if too_early { Turn::Busy(now.plus(FIRST_BACKUP_PAUSE)) } else { turn };
    Ok(Look { turn, done, problems })
}

/// What needs a backup.
fn is_drill(job: Job) -> bool {
    matches!(job, Job::Drill | Job::Verify)
}

fn takes_lease(job: Job) -> bool {
    !is_drill(job) && job != Job::Expire
}

fn attempt(found: &Found, own: &str) -> Attempt {
    let Some(claim) = &found.claim else {
        // Scribbled by somebody: it uses up its number and is not waited for.
        return Attempt { number: found.attempt, claimed: found.stored, is_over: true, end: None };
    };
    let end = found.end.as_ref().map(|end| (ending(claim.job, end.exit_code), end.ended));
    Attempt { number: found.attempt, claimed: found.stored, is_over: claim.installation == own, end }
}

/// What an exit code says of the job: objectives that are missed, or damage that was found, are no reason to look again.
pub fn ending(job: Job, exit_code: Option<i32>) -> Ending {
    match (job, exit_code) {
        (_, Some(0)) | (Job::Drill | Job::Verify, Some(10..=12 | 22)) => Ending::Settled,
        (_, Some(130)) => Ending::Interrupted,
        _ => Ending::Failed,
    }
}

/// What was done of the kind of `job`, with the moments at which it began, by the clocks of the hosts that did it.
///
/// # Errors
/// When the repository does not answer.
pub(super) async fn done(scope: &Scope, job: Job) -> Result<BTreeSet<(Job, Timestamp)>> {
    match job {
        Job::Full | Job::Diff | Job::Incr => {
            let log = CommitLog::load(&scope.repository, &scope.source).await?;
            let of_type = |backup_type| match backup_type {
                BackupType::Full => Job::Full,
                BackupType::Diff => Job::Diff,
                BackupType::Incr => Job::Incr,
            };
            let backups =
                log.entries.iter().filter(|entry| !log.fenced.contains(&entry.number)).filter_map(|entry| entry.backup());
            Ok(backups.map(|backup| (of_type(backup.backup_type), backup.id.start())).collect())
        }
        Job::Drill | Job::Verify => {
            let record = evidence::Record::load(&scope.repository, &scope.source).await?;
            // Whatever its outcome: damage that was found is what a drill is for. One that could not drill leaves none.
            let drills = record.kept.iter().map(|kept| &kept.evidence);
            let job_of = |level| if level == DrillLevel::Verify { Job::Verify } else { Job::Drill };
            Ok(drills.map(|drill| (job_of(drill.level), drill.declared)).filter(|(of, _)| *of == job).collect())
        }
        Job::Expire => Ok(BTreeSet::new()),
    }
}

/// An attempt that this host has claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    key: String,
    claim: Claim,
}

/// Claims attempt `number` of `slot`; none when another host was faster. `settle` is longer than any write takes.
///
/// # Errors
/// When the repository does not answer.
pub async fn claim(
    scope: &Scope,
    signer: &Signer,
    job: Job,
    slot: Timestamp,
    number: u32,
    settle: Option<Duration>,
) -> Result<Option<Claimed>> {
    let (repository, source) = (&scope.repository, &scope.source);
    let conditional = repository.store().honours_conditions().await?;
    let letters = (!conditional).then(|| hex::encode(rand::random::<[u8; 8]>()));
    let key = layout::run_claim(source, job, slot, number, letters.as_deref());
    let claim = Claim {
        job,
        slot,
        attempt: number,
        host: host_name(),
        installation: scope.state.installation(source)?,
        claimed: Timestamp::now(),
    };
    let document = run_claim::claim_document(repository, source, signer, &claim);
    let is_ours = match repository.store().put_if_absent(&key, document.clone().into()).await {
        Ok(PutOutcome::Created) => true,
        // An earlier attempt at this very put may have been answered by nobody.
        Ok(PutOutcome::AlreadyExists) | Err(StoreError::Retryable { .. }) => repository.store().get(&key).await? == document,
        Err(error) => return Err(error.into()),
    };
    let claimed = Claimed { key, claim };
    if !is_ours || conditional {
        return Ok(is_ours.then_some(claimed));
    }
    tokio::time::sleep(settle.unwrap_or(Terms::new(Terms::TTL).settle)).await;
    let (found, _) = run_claim::load(repository, source, job, slot).await?;
    Ok(found.iter().any(|found| found.key == claimed.key).then_some(claimed))
}

impl Claimed {
    /// How long ago it was claimed.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.claim.claimed)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.claim.attempt
    }

    /// Notes how it ended.
    ///
    /// # Errors
    /// When the repository does not answer: then others find out by the facts, or try again.
    pub async fn end(&self, scope: &Scope, signer: &Signer, exit_code: Option<i32>) -> Result<()> {
        let end = End { claim: self.claim.clone(), ended: Timestamp::now(), exit_code };
        let document = run_claim::end_document(&scope.repository, &scope.source, signer, &end);
        scope.repository.store().put_if_absent(&run_claim::end_of(&self.key), document.into()).await?;
        Ok(())
    }
}

/// Removes month-old claims of slots of `job` before `slot`, all of them; where these credentials may not delete, they
/// stay.
///
/// # Errors
/// When the repository does not answer, or does not let go.
pub async fn forget_old(scope: &Scope, job: Job, slot: Timestamp, now: Timestamp) -> Result<()> {
    let store = scope.repository.store();
    let (prefix, limit) = (layout::run_job(&scope.source, job), now.minus(CLAIMS_KEPT));
    let mut last: Option<String> = None;
    loop {
        let page = store.list(&prefix, last.as_deref()).await?;
        for object in &page.objects {
            let is_earlier = run_claim::slot_of(&scope.source, job, &object.key).is_some_and(|of| of < slot);
            if is_earlier && object.modified < limit {
                store.delete(&object.key).await?;
            }
        }
        last = page.objects.last().map(|object| object.key.clone()).filter(|_| page.more);
        if last.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Lsn;
    use crate::engine::drill::evidence::Circumstances;
    use crate::policy::cadence::Record;
    use crate::repo::commit::{self, BackupSummary};
    use crate::repo::evidence::KeyUse;
    use crate::repo::{KeyEntry, Repository, Role};
    use crate::store::memory::MemoryStore;

    #[test]
    fn findings_of_a_drill_are_its_result_and_no_failure() {
        assert_eq!(ending(Job::Incr, Some(0)), Ending::Settled);
        assert_eq!(ending(Job::Incr, Some(22)), Ending::Failed);
        assert_eq!(ending(Job::Verify, Some(22)), Ending::Settled);
        assert_eq!(ending(Job::Drill, Some(10)), Ending::Settled);
        assert_eq!(ending(Job::Drill, Some(1)), Ending::Failed);
        assert_eq!(ending(Job::Full, Some(130)), Ending::Interrupted);
        assert_eq!(ending(Job::Full, None), Ending::Failed, "something killed it");
        assert_eq!(ending(Job::Full, Some(20)), Ending::Failed);
    }

    const SLOT: &str = "20261120T220000Z";

    /// A source that nothing was done for, and its writer.
    async fn scope(dir: &std::path::Path) -> (Scope, Signer) {
        let signer = Signer::generate();
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let entry = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles };
        let repository = Repository::create("main", Arc::new(MemoryStore::new()), vec![entry], &signer).await.unwrap();
        (Scope::new(repository, "orders".parse().unwrap(), dir), signer)
    }

    async fn commit(scope: &Scope, signer: &Signer) {
        let backup = BackupSummary::sample("20261120T210000Z-full-aaaa", (Lsn(100), Lsn(200)));
        commit::append(&scope.repository, &scope.source, signer, "host", &backup).await.unwrap();
    }

    #[tokio::test]
    async fn a_drill_that_found_damage_is_not_repeated_and_one_that_could_not_drill_is() {
        let dir = tempfile::tempdir().unwrap();
        let (scope, signer) = scope(dir.path()).await;
        commit(&scope, &signer).await;
        let slot = Timestamp::parse_compact(SLOT).unwrap();
        for (job, level) in [(Job::Drill, DrillLevel::Component), (Job::Verify, DrillLevel::Verify)] {
            let claimed = claim(&scope, &signer, job, slot, 1, None).await.unwrap().expect("the only one");
            // What the verb ends with when it found faults, and when it could not drill.
            claimed.end(&scope, &signer, Some(1)).await.unwrap();
            let later = Timestamp::now().plus(Duration::from_secs(7200));
            let before = look(&scope, job, slot, later).await.unwrap();
            assert_eq!((before.turn, before.done.len()), (Turn::Take(2), 0));
            let declared = slot.plus(Duration::from_secs(60));
            let circumstances = Circumstances {
                host: "host".into(),
                level,
                declared,
                policy: None,
                seed: None,
                target: "latest".into(),
                key_use: KeyUse::None,
            };
            let record = evidence::Record::load(&scope.repository, &scope.source).await.unwrap();
            let failed = circumstances.of_refusal("a page is torn".into());
            record.append(&scope.repository, &scope.source, &signer, failed).await.unwrap();
            let after = look(&scope, job, slot, later).await.unwrap();
            assert_eq!(after.done, BTreeSet::from([(job, declared)]));
            let mut known = Record::default();
            after.done.iter().for_each(|(job, began)| known.done(*job, *began));
            assert!(known.is_settled(job, slot, later));
        }
    }

    #[tokio::test]
    async fn an_expiry_at_work_is_not_judged_by_the_lease() {
        let dir = tempfile::tempdir().unwrap();
        let (scope, signer) = scope(dir.path()).await;
        let slot = Timestamp::parse_compact(SLOT).unwrap();
        claim(&scope, &signer, Job::Expire, slot, 1, None).await.unwrap().expect("the only one");
        let other = Scope::new(scope.repository.clone(), scope.source.clone(), &dir.path().join("other"));
        let hours = |hours: u64| Timestamp::now().plus(Duration::from_secs(3600 * hours));
        assert!(matches!(look(&other, Job::Expire, slot, hours(23)).await.unwrap().turn, Turn::Busy(_)));
        assert_eq!(look(&other, Job::Expire, slot, hours(25)).await.unwrap().turn, Turn::Take(2));
    }

    #[tokio::test]
    async fn old_claims_go_however_many_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let (scope, _) = scope(dir.path()).await;
        let slot = Timestamp::parse_compact(SLOT).unwrap();
        let store = scope.repository.store();
        for minutes in 1..=1200 {
            let key = layout::run_claim(&scope.source, Job::Incr, slot.minus(Duration::from_secs(60 * minutes)), 1, None);
            store.put_if_absent(&key, b"{}".to_vec().into()).await.unwrap();
        }
        let later = Timestamp::now().plus(2 * CLAIMS_KEPT);
        forget_old(&scope, Job::Incr, slot, later).await.unwrap();
        let left = crate::store::list_all(store, &layout::run_job(&scope.source, Job::Incr), None).await.unwrap();
        assert_eq!(left.len(), 0);
    }

    #[tokio::test]
    async fn nothing_is_drilled_before_the_first_backup() {
        let dir = tempfile::tempdir().unwrap();
        let (scope, signer) = scope(dir.path()).await;
        let (slot, now) = (Timestamp::parse_compact(SLOT).unwrap(), Timestamp::now());
        for job in [Job::Drill, Job::Verify] {
            let turn = look(&scope, job, slot, now).await.unwrap().turn;
            assert_eq!(turn, Turn::Busy(now.plus(FIRST_BACKUP_PAUSE)));
        }
        assert_eq!(look(&scope, Job::Full, slot, now).await.unwrap().turn, Turn::Take(1));
        commit(&scope, &signer).await;
        assert_eq!(look(&scope, Job::Drill, slot, now).await.unwrap().turn, Turn::Take(1));
    }
}
