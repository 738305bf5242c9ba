//! Evidence: the signed record of a drill, each naming the digest of the one before.
//!
//! `<source>/drill/<time>-<letters>.json`. A reader takes every document that verifies, in the order of the names, and
//! says which does not follow the one before it: something was removed there, or two drills ended in one moment.

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
    /// SHA-256 of the last object, verified or not.
    head: Option<Sha256Digest>,
}

impl Record {
    /// Reads and verifies all of it.
    ///
    /// # Errors
    /// Only when the repository does not answer.
    pub async fn load(repository: &Repository, source: &SourceName) -> Result<Self> {
        let mut record = Self::default();
        for object in list_all(repository.store(), &layout::drills(source), None).await? {
            let judge = |document: &[u8]| {
                signed::verify::<Evidence>(document, &place(repository, source), |id| {
                    repository.keyring().key_for(id, Role::Write)
                })
            };
            let (document, judged) = signed::read_judged(repository.store(), &object.key, judge).await?;
            let sha256 = Sha256Digest::of(&document);
            match judged {
                Ok(evidence) => {
                    if evidence.previous != record.head {
                        let why = "it does not follow the evidence before it: something was removed, replaced or put between";
                        record.problems.push((object.key.clone(), why.to_owned()));
                    }
                    record.kept.push(Kept { key: object.key, sha256, evidence });
                }
                Err(error) => record.problems.push((object.key, error.to_string())),
            }
            record.head = Some(sha256);
        }
        Ok(record)
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
        let evidence = Evidence { previous: self.head, ..evidence };
        let document = signed::sign(place(repository, source), &evidence, signer);
        let key = layout::drill(source, evidence.declared, &Sha256Digest::of(&document).short());
        repository.store().put_if_absent(&key, document.into()).await?;
        Ok(key)
    }
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("drill", repository.id(), source)
}
