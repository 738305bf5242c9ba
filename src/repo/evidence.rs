//! Evidence: the signed record of a drill, each naming the digest of the one before.
//!
//! `<source>/drill/<time>-<letters>.json`, where the time is that of the appending, and never before the name of the one
//! that it follows. A reader takes every document that verifies, in the order of the names, and says which names one that
//! is not there: something was removed. One that names another than the one before it tells that two drills ended at
//! one moment, on hosts that did not see each other's: nothing is missing, and that is told apart.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::signed::{self, Place};
use super::{Repository, Signer, layout};
use crate::base::{BackupId, DrillLevel, Incarnation, Lsn, Result, SourceName, TimelineId, Timestamp};
use crate::codec::Sha256Digest;
use crate::store::list_all;

/// What a drill came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrillOutcome {
    /// Everything that was checked holds, and data was checked.
    Passed,
    /// Something does not hold, or could not be done.
    Failed,
    /// Nothing failed, and no check looked at the data: it proves nothing.
    Inconclusive,
}

/// Where the key came from that opened the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// Fetched by a command from where the recovery key is kept: what a disaster would need.
    Command,
    /// A file at hand on the drill's host: says nothing about the recovery key.
    File,
    /// Nothing is encrypted.
    None,
}

/// A stretch of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// Which backup, and where replay stops; also fetching the key.
    Plan,
    /// Fetching, decoding and writing; bytes: those written.
    Fetch,
    /// From the server's start to the beginning of its replay.
    Start,
    /// Replay up to the target; bytes: of log.
    Replay,
    /// Ending recovery: a server that takes writes.
    Promote,
    /// The checks up to the first that passed and looked at data.
    FirstCheck,
    /// The other checks: not part of the RTO.
    Checks,
}

/// One phase, in the order of the drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub phase: PhaseKind,
    /// How long it took.
    pub seconds: f64,
    /// How much it handled, where that is what it depends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What became of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// What it proves.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// Whether it looked at the data itself: rows, indexes or every page.
    pub of_data: bool,
    /// What was found; of a check that failed, why. Holds no rows.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}

/// One drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// SHA-256 of the evidence before it, as stored; none for the first.
    pub previous: Option<Sha256Digest>,
    /// Host that ran the drill.
    pub host: String,
    /// The version of the program.
    pub program_version: String,
    /// How far it went.
    pub level: DrillLevel,
    /// What it came to.
    pub outcome: DrillOutcome,
    /// When the disaster was declared, by the drill's host.
    pub declared: Timestamp,
    /// When the drill was over.
    pub finished: Timestamp,
    /// The policy it was held against; none when the source has none.
    pub policy: Option<String>,
    /// The seed of a random target.
    pub seed: Option<u64>,
    /// What was asked for: `latest` or a moment in RFC 3339.
    pub target: String,
    /// What was restored; none when it did not come to that, and at the level `verify`.
    pub restored: Option<Restored>,
    /// Backups whose objects were all read and are as they were signed.
    pub verified: Vec<BackupId>,
    /// What took how long, in order.
    pub phases: Vec<Phase>,
    /// From the declaration to a server that takes writes, has reached the target and passed a first check of data.
    pub rto_seconds: Option<f64>,
    /// What was lost: from the first commit that was not restored to the declaration, 0 when there was none, and where
    /// that is not known from the last that was restored; none when the target was not `latest`.
    pub rpo_seconds: Option<f64>,
    /// Whether that is only known not to be more: the source's server could not be asked for what it had committed.
    #[serde(default)]
    pub rpo_is_upper_bound: bool,
    /// Every check, in order.
    pub checks: Vec<CheckResult>,
    /// Where the key came from.
    pub key_use: KeyUse,
    /// Why it failed or proves nothing; empty when it passed.
    pub why: Vec<String>,
}

/// What a drill restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// From which backup.
    pub backup: BackupId,
    /// Of which incarnation.
    pub incarnation: Incarnation,
    /// Along which timeline.
    pub timeline: TimelineId,
    /// Up to where.
    pub reached_lsn: Option<Lsn>,
    /// The last commit that is there, where it is known.
    pub last_commit: Option<Timestamp>,
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
    /// Bytes of log that were replayed.
    pub replay_bytes: u64,
}

/// One document of evidence as read.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its object's key.
    pub key: String,
    /// SHA-256 of the object.
    pub sha256: Sha256Digest,
    /// What it says.
    pub evidence: Evidence,
}

impl AsRef<Evidence> for Kept {
    fn as_ref(&self) -> &Evidence {
        &self.evidence
    }
}

impl AsRef<Evidence> for Evidence {
    fn as_ref(&self) -> &Evidence {
        self
    }
}

/// The evidence of one source.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// What verified, oldest first.
    pub kept: Vec<Kept>,
    /// What did not, and where the chain is broken: the object's key and why.
    pub problems: Vec<(String, String)>,
    /// What was appended at the same moment as another: the object's key and what it follows. Nothing is wrong with it.
    pub forks: Vec<(String, String)>,
    /// The key and SHA-256 of the last object, verified or not.
    head: Option<(String, Sha256Digest)>,
}

impl Record {
    /// Reads and verifies all of it.
    ///
    /// # Errors
    /// Only when the repository does not answer.
    pub async fn load(repository: &Repository, source: &SourceName) -> Result<Self> {
        let mut read = Vec::new();
        for object in list_all(repository.store(), &layout::drills(source), None).await? {
            let judge = |document: &[u8]| {
                signed::verify::<Evidence>(document, &place(repository, source), |id| {
                    repository.keyring().key_for(id, Role::Write)
                })
            };
            let (document, judged) = signed::read_judged(repository.store(), &object.key, judge).await?;
            read.push((object.key, Sha256Digest::of(&document), judged.map_err(|error| error.to_string())));
        }
        Ok(Self::of(read))
    }

    /// Judges the chain of what was read, in the order of the names.
    fn of(read: Vec<(String, Sha256Digest, Result<Evidence, String>)>) -> Self {
        let mut record = Self::default();
        let keys: Vec<(Sha256Digest, String)> = read.iter().map(|(key, sha256, _)| (*sha256, key.clone())).collect();
        let first_key = |wanted: Sha256Digest| keys.iter().find(|(sha256, _)| *sha256 == wanted).map(|(_, key)| key);
        for (key, sha256, judged) in read {
            let last = record.head.replace((key.clone(), sha256)).map(|(_, sha256)| sha256);
            let evidence = match judged {
                Ok(_) if first_key(sha256).is_some_and(|first| *first != key) => {
                    record.problems.push((key, "it is a copy of another".to_owned()));
                    continue;
                }
                Ok(evidence) => evidence,
                Err(why) => {
                    record.problems.push((key, why));
                    continue;
                }
            };
            if evidence.previous != last {
                match evidence.previous.map(first_key) {
                    None => record.forks.push((key.clone(), "it was the first, as another was".to_owned())),
                    Some(Some(followed)) => record.forks.push((key.clone(), format!("it follows {followed}, as another does"))),
                    Some(None) => {
                        let why = "it does not follow the evidence before it: something was removed or replaced";
                        record.problems.push((key.clone(), why.to_owned()));
                    }
                }
            }
            record.kept.push(Kept { key, sha256, evidence });
        }
        record
    }

    /// A moment for the name of what follows: now, and after the last.
    fn moment(&self, source: &SourceName, now: Timestamp) -> Timestamp {
        let of_name = |key: &str| Timestamp::parse_compact(key.strip_prefix(&layout::drills(source))?.split('-').next()?);
        let last = self.head.as_ref().and_then(|(key, _)| of_name(key));
        last.map_or(now, |last| now.max(last.plus(Duration::from_micros(1))))
    }

    /// Signs and stores what follows it; the object's key.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub async fn append(
        &self,
        repository: &Repository,
        source: &SourceName,
        signer: &Signer,
        evidence: Evidence,
    ) -> Result<String> {
        let evidence = Evidence { previous: self.head.as_ref().map(|(_, sha256)| *sha256), ..evidence };
        let document = signed::sign(place(repository, source), &evidence, signer);
        let key = layout::drill(source, self.moment(source, Timestamp::now()), &Sha256Digest::of(&document).short());
        repository.store().put_if_absent(&key, document.into()).await?;
        Ok(key)
    }
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("drill", repository.id(), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(declared: &str, previous: Option<Sha256Digest>) -> Evidence {
        Evidence {
            previous,
            host: "h".into(),
            program_version: "1".into(),
            level: DrillLevel::Verify,
            outcome: DrillOutcome::Passed,
            declared: Timestamp::parse_compact(declared).unwrap(),
            finished: Timestamp::parse_compact(declared).unwrap(),
            policy: None,
            seed: None,
            target: "latest".into(),
            restored: None,
            verified: Vec::new(),
            phases: Vec::new(),
            rto_seconds: None,
            rpo_seconds: None,
            rpo_is_upper_bound: false,
            checks: Vec::new(),
            key_use: KeyUse::None,
            why: Vec::new(),
        }
    }

    /// The record of documents in the order of these names; each has the digest of its name and follows the one named.
    fn record(documents: &[(&str, Option<&str>)]) -> Record {
        let digest = |name: &str| Sha256Digest::of(name.as_bytes());
        let one = |(name, previous): &(&str, Option<&str>)| {
            ((*name).to_owned(), digest(name), Ok(evidence("20261120T214002Z", previous.map(digest))))
        };
        Record::of(documents.iter().map(one).collect())
    }

    #[test]
    fn drills_that_overlap_are_told_and_only_what_is_missing_is_a_problem() {
        let broken = |record: &Record| (record.problems.len(), record.forks.len());
        assert_eq!(broken(&record(&[("a", None), ("b", Some("a")), ("c", Some("b"))])), (0, 0));
        // Both of b and c saw a alone; the next one heals it.
        let forked = record(&[("a", None), ("b", Some("a")), ("c", Some("a")), ("d", Some("c"))]);
        assert_eq!((broken(&forked), forked.kept.len()), ((0, 1), 4));
        assert_eq!(forked.forks[0], ("c".to_owned(), "it follows a, as another does".to_owned()));
        // As an earlier version named a drill that was declared before another and ended after it.
        assert_eq!(broken(&record(&[("a", None), ("b", Some("c")), ("c", Some("a"))])), (0, 2));
        assert_eq!(broken(&record(&[("a", None), ("b", None)])), (0, 1));
        assert_eq!(broken(&record(&[("a", None), ("c", Some("b"))])), (1, 0), "b was removed");
        assert_eq!(broken(&record(&[("b", Some("a"))])), (1, 0));
        let copied = ("z".to_owned(), Sha256Digest::of(b"a"), Ok(evidence("20261120T214002Z", None)));
        let first = ("a".to_owned(), Sha256Digest::of(b"a"), Ok(evidence("20261120T214002Z", None)));
        assert_eq!(broken(&Record::of(vec![first, copied])), (1, 0));
    }

    #[test]
    fn a_name_is_never_before_the_one_that_it_follows() {
        let source = "orders".parse().unwrap();
        let at = |text: &str| Timestamp::parse_compact(text).unwrap();
        let (early, late) = (at("20261120T214002Z"), at("20261120T220000.000001Z"));
        assert_eq!(Record::default().moment(&source, early), early);
        let head = Some((layout::drill(&source, late, "abcd"), Sha256Digest::of(b"x")));
        let record = Record { head, ..Record::default() };
        assert_eq!(record.moment(&source, early), at("20261120T220000.000002Z"), "a clock that is behind, or a long drill");
        assert_eq!(record.moment(&source, at("20261120T230000Z")), at("20261120T230000Z"));
    }
}
