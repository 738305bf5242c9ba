//! The first phase of an expiry: marks on backups that are to go, and withdrawals of marks.
//!
//! Both are signed by a key with the right to expire, which no protected host holds, and never changed: a withdrawal is
//! a document of its own. A mark deletes nothing. Once its grace has passed, whoever carries it out decides afresh and
//! puts a tombstone into the commit log ([`super::commit`]); only then is anything deleted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::log::{LogCut, LogRange};
use super::signed::{self, KeyId, Place, Signer};
use super::{Repository, layout};
use crate::base::{BackupId, Error, Incarnation, Result, SourceName, Timestamp};
use crate::store::{PutOutcome, list_all};

/// Backups that are to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Log between backups that is to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_ranges: Vec<LogRange>,
    /// The policy that wants it; none when an operator named the backups. What a policy marked stays when it wants it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// When they were marked, by the clock of the host on which that was done.
    pub marked: Timestamp,
    /// Seconds from then on during which it can be withdrawn and nothing is deleted.
    pub grace_seconds: u64,
    /// That host's name, for people.
    pub host: String,
}

/// Backups that are to stay after all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Names of the marks that no longer count for them.
    pub marks: Vec<String>,
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Whether these marks no longer count for log either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// The policy that wants them again; none when an operator withdrew the marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// When, by the clock of the host on which that was done.
    pub withdrawn: Timestamp,
    /// That host's name, for people.
    pub host: String,
}

/// A document below `expire/`: a field `mark` or a field `withdrawal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expiry {
    /// Backups that are to go.
    Mark(Mark),
    /// Backups that are to stay after all.
    Withdrawal(Withdrawal),
}

/// Its name is part of what is signed: a document cannot be put back under another one.
#[derive(Serialize, Deserialize)]
struct Body {
    name: String,
    #[serde(flatten)]
    expiry: Expiry,
}

/// A mark that was not withdrawn for one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The mark's name.
    pub mark: String,
    /// The first moment at which it may be carried out: its grace counted from the later of what the marking host's clock
    /// and the store's clock said.
    pub due: Timestamp,
    /// Whether every mark that stands for the backup is a policy's: that counts only while the policy wants it.
    pub by_policy: bool,
}

/// A mark that was not withdrawn for log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingLog {
    /// The mark's name.
    pub mark: String,
    /// As [`Standing::due`].
    pub due: Timestamp,
    /// The log that is to go.
    pub ranges: Vec<LogRange>,
}

/// All marks of a source.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// The marks that stand, by backup; of several an operator's before a policy's, and the one that is due first.
    pub standing: BTreeMap<BackupId, Standing>,
    /// Backups of which an operator withdrew a mark, and that no operator has marked since: no policy takes them.
    pub held: BTreeSet<BackupId>,
    /// The marks that stand for log, by name.
    pub log: Vec<StandingLog>,
    /// Documents that are not used: key and why.
    pub problems: Vec<(String, String)>,
    /// All that verified, by name.
    documents: BTreeMap<String, (Expiry, Timestamp)>,
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("expire", repository.id(), source)
}

impl Marks {
    /// Reads the marks and withdrawals of `source`. One that does not verify is in [`Marks::problems`] and counts for
    /// nothing: a mark that nobody with the right to it made expires nothing, and such a withdrawal saves nothing.
    ///
    /// # Errors
    /// Only when the repository does not answer.
    pub async fn load(repository: &Repository, source: &SourceName) -> Result<Self> {
        let prefix = layout::expiries(source);
        let mut marks = Self::default();
        for object in list_all(repository.store(), &prefix, None).await? {
            let name = object.key[prefix.len()..].strip_suffix(".json").unwrap_or_default().to_owned();
            let key_of = |id: &KeyId| repository.keyring().key_for(id, Role::Expire);
            let judge = |document: &[u8]| signed::verify::<Body>(document, &place(repository, source), key_of);
            let judged = match signed::read_judged(repository.store(), &object.key, judge).await {
                Ok((_, judged)) => judged,
                // Neither is ever removed: one that is listed and not there may be a withdrawal that saves a backup.
                Err(error) => return Err(error.into()),
            };
            match judged {
                Ok(body) if body.name == name => {
                    marks.documents.insert(name, (body.expiry, object.modified));
                }
                Ok(body) => marks.problems.push((object.key, format!("it is a copy of {}", body.name))),
                Err(error) => marks.problems.push((object.key, error.to_string())),
            }
        }
        marks.judge();
        Ok(marks)
    }

    fn judge(&mut self) {
        let withdrawals: Vec<&Withdrawal> = self
            .documents
            .values()
            .filter_map(|(expiry, _)| match expiry {
                Expiry::Withdrawal(withdrawal) => Some(withdrawal),
                Expiry::Mark(_) => None,
            })
            .collect();
        let is_withdrawn = |name: &String, id: &BackupId| {
            withdrawals.iter().any(|withdrawal| withdrawal.marks.contains(name) && withdrawal.backups.contains(id))
        };
        let (mut standing, mut log): (BTreeMap<BackupId, Standing>, Vec<StandingLog>) = Default::default();
        for (name, (expiry, stored)) in &self.documents {
            let Expiry::Mark(mark) = expiry else { continue };
            let due = mark.marked.max(*stored).plus(std::time::Duration::from_secs(mark.grace_seconds));
            for id in mark.backups.iter().filter(|id| !is_withdrawn(name, id)) {
                let own = Standing { mark: name.clone(), due, by_policy: mark.policy.is_some() };
                let earliest = standing.entry(id.clone()).or_insert_with(|| own.clone());
                if (own.by_policy, own.due) < (earliest.by_policy, earliest.due) {
                    *earliest = own;
                }
            }
            let is_withdrawn = withdrawals.iter().any(|withdrawal| withdrawal.log && withdrawal.marks.contains(name));
            if !mark.log_ranges.is_empty() && !is_withdrawn {
                log.push(StandingLog { mark: name.clone(), due, ranges: mark.log_ranges.clone() });
            }
        }
        let by_operators = withdrawals.iter().filter(|withdrawal| withdrawal.policy.is_none());
        let is_marked = |id: &BackupId| standing.get(id).is_some_and(|mark| !mark.by_policy);
        let held = by_operators.flat_map(|withdrawal| &withdrawal.backups).filter(|id| !is_marked(id)).cloned().collect();
        (self.standing, self.held, self.log) = (standing, held, log);
    }

    /// The log of `incarnation` that is marked, by the marks among those that stand for which `counts` holds.
    pub fn marked_log(&self, incarnation: &Incarnation, counts: impl Fn(&StandingLog) -> bool) -> LogCut {
        LogCut::of(incarnation, self.log.iter().filter(|mark| counts(mark)).flat_map(|mark| &mark.ranges))
    }

    /// Names of all marks that stand for `id`.
    pub fn names_for(&self, id: &BackupId) -> Vec<String> {
        let names = |(name, (expiry, _)): (&String, &(Expiry, Timestamp))| match expiry {
            Expiry::Mark(mark) if mark.backups.contains(id) => Some(name.clone()),
            _ => None,
        };
        self.documents.iter().filter_map(names).collect()
    }
}

/// Signs and stores a mark or a withdrawal; returns its name.
///
/// # Errors
/// Usage when the signer has no right to expire; when the repository does not answer.
pub async fn store(repository: &Repository, source: &SourceName, signer: &Signer, expiry: Expiry) -> Result<String> {
    repository.keyring().require(signer, Role::Expire)?;
    let when = match &expiry {
        Expiry::Mark(mark) => mark.marked,
        Expiry::Withdrawal(withdrawal) => withdrawal.withdrawn,
    };
    let name = format!("{}-{}", when.compact(), crate::base::ids::random_letters());
    let key = layout::expiry(source, &name);
    let document = signed::sign(place(repository, source), &Body { name: name.clone(), expiry }, signer);
    match repository.store().put_if_absent(&key, document.clone().into()).await {
        Ok(PutOutcome::Created) => Ok(name),
        Ok(PutOutcome::AlreadyExists) => Err(Error::busy(format!("{key} exists already")).hint("run the same command again")),
        // An error may come after the deed.
        Err(error) if error.is_retryable() => match repository.store().get(&key).await {
            Ok(found) if found == document => Ok(name),
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Lsn;

    fn id(letter: &str) -> BackupId {
        format!("20261120T214002Z-full-{}", letter.repeat(4)).parse().unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::parse_compact("20261120T214002Z").unwrap().plus(std::time::Duration::from_secs(seconds))
    }

    fn range() -> LogRange {
        LogRange { incarnation: Incarnation::postgres(15, 1), from: Lsn(10), to: Lsn(20), timelines: Vec::new() }
    }

    fn mark(backups: &[&str], marked: u64) -> Expiry {
        let backups = backups.iter().map(|letter| id(letter)).collect();
        let (log_ranges, policy) = (vec![range()], None);
        Expiry::Mark(Mark { backups, log_ranges, policy, marked: at(marked), grace_seconds: 100, host: "here".into() })
    }

    fn judged(documents: Vec<(&str, Expiry, u64)>) -> Marks {
        let documents = documents.into_iter().map(|(name, expiry, stored)| (name.to_owned(), (expiry, at(stored)))).collect();
        let mut marks = Marks { documents, ..Marks::default() };
        marks.judge();
        marks
    }

    #[test]
    fn the_grace_counts_from_the_later_of_two_clocks() {
        let marks = judged(vec![("m", mark(&["a"], 10), 5), ("n", mark(&["b"], 10), 30)]);
        assert_eq!((marks.standing[&id("a")].due, marks.standing[&id("b")].due), (at(110), at(130)));
    }

    #[test]
    fn what_an_operator_marked_as_well_is_not_the_policys_alone() {
        let by_policy = |marked| match mark(&["a"], marked) {
            Expiry::Mark(mark) => Expiry::Mark(Mark { policy: Some("gold".into()), ..mark }),
            withdrawal => withdrawal,
        };
        let alone = judged(vec![("m", by_policy(10), 0), ("n", by_policy(5), 0)]);
        assert_eq!(alone.standing[&id("a")], Standing { mark: "n".into(), due: at(105), by_policy: true });
        // Then the operator's grace counts, also when it is longer.
        for operators in [0, 20] {
            let both = judged(vec![("m", by_policy(10), 0), ("n", mark(&["a"], operators), 0), ("o", by_policy(5), 0)]);
            assert_eq!(both.standing[&id("a")], Standing { mark: "n".into(), due: at(operators + 100), by_policy: false });
        }
    }

    #[test]
    fn a_withdrawal_ends_the_marks_it_names_for_the_backups_it_names() {
        let withdrawal = |marks: &[&str], backups: &[&str]| {
            Expiry::Withdrawal(Withdrawal {
                marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
                backups: backups.iter().map(|letter| id(letter)).collect(),
                log: true,
                policy: None,
                withdrawn: at(50),
                host: "here".into(),
            })
        };
        let marks = judged(vec![("m", mark(&["a", "b"], 0), 0), ("w", withdrawal(&["m"], &["a"]), 50)]);
        assert_eq!(marks.standing.keys().collect::<Vec<_>>(), [&id("b")]);
        assert_eq!(marks.log, []);
        assert_eq!(marks.held, BTreeSet::from([id("a")]));
        // A mark that was made anew stands.
        let marks = judged(vec![("m", mark(&["a"], 0), 0), ("n", mark(&["a"], 60), 60), ("w", withdrawal(&["m"], &["a"]), 50)]);
        assert_eq!(marks.standing[&id("a")], Standing { mark: "n".into(), due: at(160), by_policy: false });
        assert_eq!(marks.log, [StandingLog { mark: "n".into(), due: at(160), ranges: vec![range()] }]);
        assert_eq!(marks.names_for(&id("a")), ["m", "n"]);
        assert_eq!(marks.held, BTreeSet::new());
        // A policy that marks it anew does not end what an operator decided; and what a policy withdrew is not held.
        let by_policy = |expiry| match expiry {
            Expiry::Mark(mark) => Expiry::Mark(Mark { policy: Some("gold".into()), ..mark }),
            Expiry::Withdrawal(withdrawal) => Expiry::Withdrawal(Withdrawal { policy: Some("gold".into()), ..withdrawal }),
        };
        let anew = by_policy(mark(&["a"], 60));
        let marks = judged(vec![("m", mark(&["a"], 0), 0), ("n", anew, 60), ("w", withdrawal(&["m"], &["a"]), 50)]);
        assert_eq!(marks.held, BTreeSet::from([id("a")]));
        let marks = judged(vec![("m", mark(&["a"], 0), 0), ("w", by_policy(withdrawal(&["m"], &["a"])), 50)]);
        assert_eq!(marks.held, BTreeSet::new());
    }
}
