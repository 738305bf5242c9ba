//! `probe/<time>-<letters>.json`: what the repository's store was found to do, and what follows from what it does not.
//!
//! Nothing is decided by a report: it is for people, and so that a change is noticed. It is not signed. A report that
//! says the same as the latest is not repeated within a day.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Repository, layout, signed};
use crate::base::{Error, Result, Timestamp};
use crate::store::probe::{self, Ability, Probed};
use crate::store::{LockTrial, Protection, PutOutcome, Store, StoreResult, list_all};

/// How long a report that says the same is not repeated.
const REPEATED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Reports older than this say nothing of today's store.
const REMEMBERED_FOR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A canary that is older belongs to no probe under way, and its lock is over.
const CANARIES_LAST: Duration = Duration::from_secs(3600);

/// Clocks that differ by less are taken for one.
const TOLERATED_SKEW_SECONDS: f64 = 5.0;

/// `yes`, `no`, or `unknown` when it could not be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The store was seen to do it.
    Yes,
    /// The store was seen not to do it.
    No,
    /// It could not be tried.
    #[default]
    Unknown,
}

impl From<Option<bool>> for Answer {
    fn from(seen: Option<bool>) -> Self {
        match seen {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }
}

impl From<Ability> for Answer {
    fn from(ability: Ability) -> Self {
        match ability {
            Ability::Yes => Self::Yes,
            Ability::No => Self::No,
            Ability::Unknown => Self::Unknown,
        }
    }
}

/// What a store does; the fields' docs say what `yes` means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Of several writers of one name exactly one creates it, and its content stays.
    pub conditional_put: Answer,
    /// A plain put with the credentials in use does not replace an object.
    pub overwrite_protection: Answer,
    /// What was put is read at once.
    pub read_after_write: Answer,
    /// What was put is listed at once.
    pub list_after_write: Answer,
    /// Listings are in byte order and go on after any key.
    pub listing_order: Answer,
    /// A part of an object can be read.
    pub ranged_read: Answer,
    /// The credentials in use may delete.
    pub delete: Answer,
    /// What was deleted is neither read nor listed.
    pub delete_visibility: Answer,
    /// Objects can be locked against deletion.
    pub object_lock: Answer,
    /// Overwritten and deleted versions are kept.
    pub versioning: Answer,
}

/// What was found out about a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Repository format.
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// When the store was tried out, by the host's clock.
    pub time: Timestamp,
    /// The host that did it: another may have other credentials.
    pub host: String,
    /// What the store does.
    pub abilities: Abilities,
    /// What stands between these credentials and what is stored.
    #[serde(default)]
    pub guard: Guard,
    /// The store's clock minus the host's, in seconds; 0 when they agree within what can be measured.
    pub clock_skew_seconds: Option<f64>,
}

/// What stands between the credentials in use and what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Whether this host reads the repository by its oldest versions.
    pub reads_oldest_versions: bool,
    /// The credentials in use may delete versions.
    pub deletes_versions: Answer,
    /// What came of trying to delete a locked canary; none where no lock is configured.
    pub lock: Option<LockSeen>,
}

/// What came of trying to delete a locked canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum LockSeen {
    /// The store refused, and let go what was not locked.
    Proven {
        /// `governance` or `compliance`.
        mode: String,
    },
    /// The store has the lock on record; these credentials delete nothing, so that nothing was proven.
    Recorded {
        /// `governance` or `compliance`.
        mode: String,
    },
    /// It was deleted.
    Broken,
    /// It could not be locked.
    Refused {
        /// Why, in the store's words.
        why: String,
    },
}

impl From<&LockTrial> for LockSeen {
    fn from(trial: &LockTrial) -> Self {
        match trial {
            LockTrial::Proven(mode) => Self::Proven { mode: mode.to_string() },
            LockTrial::Recorded(mode) => Self::Recorded { mode: mode.to_string() },
            LockTrial::Broken => Self::Broken,
            LockTrial::Refused(why) => Self::Refused { why: why.clone() },
        }
    }
}

/// How much it matters that a store lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// All is well without it, or better.
    Note,
    /// Something is less safe, or slower.
    Degraded,
    /// Lifeboat cannot be relied upon here.
    Broken,
}

/// What it means that a store lacks an ability.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    /// The ability's name, as in [`Abilities`].
    pub ability: &'static str,
    /// How much it matters.
    pub weight: Weight,
    /// What follows, in plain words.
    pub sentence: &'static str,
    answer: fn(&Abilities) -> Answer,
}

/// Every ability, with what follows when a store lacks it.
pub const LACKS: [Lack; 10] = [
    Lack {
        ability: "conditional_put",
        weight: Weight::Degraded,
        sentence: "it overwrites an object although it was asked not to: two hosts that commit at the same moment can undo \
                   one of the two entries; let one host alone take backups of a source",
        answer: |abilities| abilities.conditional_put,
    },
    Lack {
        ability: "overwrite_protection",
        weight: Weight::Note,
        sentence: "these credentials may put an object over another",
        answer: |abilities| abilities.overwrite_protection,
    },
    Lack {
        ability: "read_after_write",
        weight: Weight::Degraded,
        sentence: "an object cannot be read as soon as it was written: a backup or a restore that follows closely may fail, and \
                   succeeds when it is run again",
        answer: |abilities| abilities.read_after_write,
    },
    Lack {
        ability: "list_after_write",
        weight: Weight::Degraded,
        sentence: "an object is not listed as soon as it was written: two servers that archive one segment may not notice each \
                   other, and the newest backups and log are seen late",
        answer: |abilities| abilities.list_after_write,
    },
    Lack {
        ability: "listing_order",
        weight: Weight::Broken,
        sentence: "it does not list in the order of bytes: gaps in the log and whole backups can be overlooked; do not keep a \
                   repository here",
        answer: |abilities| abilities.listing_order,
    },
    Lack {
        ability: "ranged_read",
        weight: Weight::Broken,
        sentence: "it does not read parts of objects: restores and verification fail; do not keep a repository here",
        answer: |abilities| abilities.ranged_read,
    },
    Lack {
        ability: "delete",
        weight: Weight::Note,
        sentence: "these credentials cannot delete: a thief of them cannot either; backups are expired from elsewhere, and each \
                   probe leaves three small objects",
        answer: |abilities| abilities.delete,
    },
    Lack {
        ability: "delete_visibility",
        weight: Weight::Degraded,
        sentence: "what was deleted can still be read or listed for a while: expired backups may be shown that cannot be restored",
        answer: |abilities| abilities.delete_visibility,
    },
    Lack {
        ability: "object_lock",
        weight: Weight::Note,
        sentence: "objects cannot be locked in this bucket",
        answer: |abilities| abilities.object_lock,
    },
    Lack {
        ability: "versioning",
        weight: Weight::Note,
        sentence: "it keeps no versions: what is overwritten or deleted is gone",
        answer: |abilities| abilities.versioning,
    },
];

impl ProbeReport {
    fn new(repository: &Repository, host: &str, probed: &Probed, protection: &Protection) -> Self {
        Self {
            format: signed::FORMAT,
            repository: repository.id().to_owned(),
            time: Timestamp::now(),
            host: host.to_owned(),
            abilities: Abilities {
                conditional_put: probed.conditional_put.into(),
                overwrite_protection: protection.refuses_overwrite.into(),
                read_after_write: probed.read_after_write.into(),
                list_after_write: probed.list_after_write.into(),
                listing_order: probed.listing_order.into(),
                ranged_read: probed.ranged_read.into(),
                delete: probed.delete.into(),
                delete_visibility: probed.delete_visibility.into(),
                object_lock: protection.can_lock.into(),
                versioning: protection.keeps_versions.into(),
            },
            guard: Guard {
                reads_oldest_versions: protection.reads_oldest,
                deletes_versions: protection.deletes_versions.into(),
                lock: protection.lock.as_ref().map(LockSeen::from),
            },
            clock_skew_seconds: probed.clock_skew_seconds,
        }
    }

    /// What the store lacks, in the order of [`LACKS`].
    pub fn lacks(&self) -> impl Iterator<Item = &'static Lack> {
        LACKS.iter().filter(|lack| (lack.answer)(&self.abilities) == Answer::No)
    }

    /// Names of the abilities that could not be tried.
    pub fn unknown(&self) -> Vec<&'static str> {
        LACKS.iter().filter(|lack| (lack.answer)(&self.abilities) == Answer::Unknown).map(|lack| lack.ability).collect()
    }

    /// What follows from the store's clock, when it is not this host's.
    pub fn skew_sentence(&self) -> Option<String> {
        let seconds = self.clock_skew_seconds.filter(|seconds| seconds.abs() > TOLERATED_SKEW_SECONDS)?;
        let side = if seconds > 0.0 { "ahead of" } else { "behind" };
        Some(format!(
            "its clock is {:.0} s {side} this host's: times of arrival, and what is measured with them, are off by as much; \
             correct whichever is wrong",
            seconds.abs()
        ))
    }

    /// Whether somebody who has these credentials could destroy what is stored; none when that is not known.
    pub fn can_be_destroyed(&self) -> Option<bool> {
        let Abilities { overwrite_protection, delete, versioning, .. } = self.abilities;
        let Guard { reads_oldest_versions, deletes_versions, lock } = &self.guard;
        let is_locked = matches!(lock, Some(LockSeen::Proven { .. } | LockSeen::Recorded { .. }));
        let keeps_versions = versioning == Answer::Yes && *deletes_versions == Answer::No && *reads_oldest_versions;
        let refuses_all = overwrite_protection == Answer::Yes && delete == Answer::No;
        if is_locked || keeps_versions || refuses_all {
            return Some(false);
        }
        (versioning != Answer::Unknown || overwrite_protection != Answer::Unknown).then_some(true)
    }

    /// Whether `other` says the same of the store.
    fn says_the_same(&self, other: &Self) -> bool {
        let skew = |report: &Self| report.skew_sentence().is_some();
        (&self.abilities, &self.guard, &self.host, skew(self)) == (&other.abilities, &other.guard, &other.host, skew(other))
    }
}

/// A report, and the object that holds it or one that says the same.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What was found.
    pub report: ProbeReport,
    /// Where it is on record; none when that failed.
    pub key: Option<String>,
    /// What went wrong beside the probe.
    pub warnings: Vec<String>,
}

/// Tries out the repository's store as `host`, and puts what was found on record.
///
/// # Errors
/// The store's, when objects cannot be written, read or listed.
pub async fn run(repository: &Repository, host: &str) -> Result<Recorded> {
    let store = repository.shared_store();
    remove_old_canaries(store.as_ref()).await;
    let letters = letters();
    let probed = probe::probe(&store, &layout::probe_canary(&letters)).await.map_err(Error::from)?;
    let protection = store.probe_protection(&layout::probe_canary(&format!("{letters}-held"))).await?;
    let report = ProbeReport::new(repository, host, &probed, &protection);
    match record(repository.store(), &report).await {
        Ok(key) => Ok(Recorded { report, key: Some(key), warnings: Vec::new() }),
        Err(error) => {
            let warning = format!("what the store does was not put on record: {error}");
            Ok(Recorded { report, key: None, warnings: vec![warning] })
        }
    }
}

/// Removes canaries of earlier probes whose lock is over, as far as it is allowed.
async fn remove_old_canaries(store: &dyn Store) {
    if !store.may_lock() {
        return;
    }
    let limit = Timestamp::now().minus(CANARIES_LAST);
    let listed = store.list_all(layout::PROBE_CANARIES, None).await.unwrap_or_default();
    for canary in listed.iter().filter(|canary| canary.modified < limit) {
        // Whoever may not delete this one may delete none.
        if store.delete(&canary.key).await.is_err() {
            return;
        }
    }
}

async fn record(store: &dyn Store, report: &ProbeReport) -> StoreResult<String> {
    if let Some((key, latest)) = latest(store, report.time.minus(REPEATED_AFTER)).await?
        && latest.says_the_same(report)
    {
        return Ok(key);
    }
    let mut document = serde_json::to_vec(report).expect("a report is a plain struct");
    document.push(b'\n');
    loop {
        let key = layout::probe(report.time, &letters());
        match store.put_if_absent(&key, document.clone().into()).await? {
            PutOutcome::Created => return Ok(key),
            // By chance, once in four thousand million.
            PutOutcome::AlreadyExists => {}
        }
    }
}

/// The latest report by `host` that can be read, of those made in the last year.
///
/// # Errors
/// When the repository does not answer.
pub async fn latest_by(repository: &Repository, host: &str) -> Result<Option<ProbeReport>> {
    let after = format!("{}{}", layout::PROBES, Timestamp::now().minus(REMEMBERED_FOR).compact_seconds());
    let store = repository.store();
    for object in list_all(store, layout::PROBES, Some(&after)).await?.iter().rev() {
        if !object.key.ends_with(".json") {
            continue;
        }
        if let Ok(report) = serde_json::from_slice::<ProbeReport>(&store.get(&object.key).await?)
            && report.host == host
        {
            return Ok(Some(report));
        }
    }
    Ok(None)
}

/// The latest report made after `since` that can be read.
async fn latest(store: &dyn Store, since: Timestamp) -> StoreResult<Option<(String, ProbeReport)>> {
    let after = format!("{}{}", layout::PROBES, since.compact_seconds());
    for object in store.list(layout::PROBES, Some(&after)).await?.objects.iter().rev() {
        let is_report = object.key.ends_with(".json");
        if is_report && let Ok(report) = serde_json::from_slice(&store.get(&object.key).await?) {
            return Ok(Some((object.key.clone(), report)));
        }
    }
    Ok(None)
}

fn letters() -> String {
    format!("{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests;
