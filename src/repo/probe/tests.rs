use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::repo::{KeyEntry, Role, Signer};
use crate::store::faulty::FaultyStore;
use crate::store::memory::MemoryStore;
use crate::store::{Body, ListPage, ObjectInfo, PutOutcome, StoreError};

/// How a store falls short.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    /// Says that it created what it replaced.
    Overwrites,
    /// Says rightly who came first, and keeps the last content all the same.
    KeepsTheLast,
    /// Lists what was there some time ago.
    ListsLate,
    /// Lists as a dictionary does.
    ListsUnordered,
    /// Ignores ranges.
    ReadsWhole,
    DeleteRefused,
    /// Deletes later.
    DeletesLate,
    /// Reads what was put only later.
    ReadsLate,
    /// The clock is off by so many seconds.
    Clock(i64),
    PutRefused,
}

struct Flawed {
    inner: MemoryStore,
    flaw: Flaw,
}

impl Flawed {
    fn refusal(&self) -> StoreError {
        StoreError::Permanent { message: "AccessDenied".into(), source: None }
    }

    fn shifted(&self, mut object: ObjectInfo) -> ObjectInfo {
        if let Flaw::Clock(seconds) = self.flaw {
            let by = Duration::from_secs(seconds.unsigned_abs());
            object.modified = if seconds < 0 { object.modified.minus(by) } else { object.modified.plus(by) };
        }
        object
    }
}

#[async_trait]
impl Store for Flawed {
    fn url(&self) -> &str {
        "flawed:"
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        let is_canary = key.starts_with("probe/canary");
        if self.flaw == Flaw::PutRefused && is_canary {
            return Err(self.refusal());
        }
        let overwrites = matches!(self.flaw, Flaw::Overwrites | Flaw::KeepsTheLast) && is_canary;
        let existed = overwrites && self.inner.get(key).await.is_ok();
        if existed {
            self.inner.delete(key).await?;
        }
        let outcome = self.inner.put_if_absent(key, body).await?;
        Ok(if existed && self.flaw == Flaw::KeepsTheLast { PutOutcome::AlreadyExists } else { outcome })
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.inner.replace_if(key, content, expected).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.inner.get_versioned(key).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        if self.flaw == Flaw::ReadsLate && key.starts_with("probe/canary") {
            return Err(StoreError::NotFound { key: key.to_owned() });
        }
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        if self.flaw == Flaw::ReadsWhole { self.inner.get(key).await } else { self.inner.get_range(key, range).await }
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.inner.head(key).await.map(|object| self.shifted(object))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        let mut page = self.inner.list(prefix, start_after).await?;
        page.objects = page.objects.into_iter().map(|object| self.shifted(object)).collect();
        if self.flaw == Flaw::ListsLate && prefix.starts_with("probe/canary") {
            page.objects.pop();
        }
        if self.flaw == Flaw::ListsUnordered {
            page.objects.sort_by_key(|object| object.key.to_lowercase());
        }
        Ok(page)
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.inner.list_dirs(prefix).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        match self.flaw {
            Flaw::DeleteRefused => Err(self.refusal()),
            Flaw::DeletesLate => Ok(()),
            _ => self.inner.delete(key).await,
        }
    }
}

/// A repository in a store with this flaw, and the layer under it that counts.
async fn repository(flaw: Flaw) -> (Repository, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::counting(Arc::new(Flawed { inner: MemoryStore::new(), flaw })));
    let signer = Signer::generate();
    let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] }];
    (Repository::create("main", store.clone(), keys, &signer).await.unwrap(), store)
}

async fn recorded(flaw: Flaw) -> (Recorded, Repository) {
    let (repository, _) = repository(flaw).await;
    (run(&repository, "here").await.unwrap(), repository)
}

async fn below_probe(repository: &Repository) -> Vec<String> {
    let objects = repository.store().list_all(layout::PROBES, None).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

const NEVER_KNOWN: [&str; 3] = ["overwrite_protection", "object_lock", "versioning"];

#[tokio::test]
async fn a_store_that_keeps_its_word_lacks_nothing_and_is_left_clean() {
    let (Recorded { report, key, warnings }, repository) = recorded(Flaw::None).await;
    assert_eq!((report.lacks().count(), report.unknown(), warnings.len()), (0, NEVER_KNOWN.to_vec(), 0));
    assert_eq!((report.clock_skew_seconds, report.skew_sentence()), (Some(0.0), None));
    let key = key.unwrap();
    assert_eq!(below_probe(&repository).await, std::slice::from_ref(&key), "nothing but the report is left");
    let stored: ProbeReport = serde_json::from_slice(&repository.store().get(&key).await.unwrap()).unwrap();
    assert_eq!(stored, report);
    assert_eq!((report.format, report.repository.as_str(), report.host.as_str()), (1, repository.id(), "here"));
}

#[tokio::test]
async fn every_flaw_is_found_alone_and_has_its_sentence() {
    for (flaw, ability, weight, words) in [
        (Flaw::Overwrites, "conditional_put", Weight::Degraded, "let one host alone"),
        (Flaw::KeepsTheLast, "conditional_put", Weight::Degraded, "let one host alone"),
        (Flaw::ListsLate, "list_after_write", Weight::Degraded, "not listed as soon as"),
        (Flaw::ListsUnordered, "listing_order", Weight::Broken, "do not keep a repository here"),
        (Flaw::ReadsWhole, "ranged_read", Weight::Broken, "restores and verification fail"),
        (Flaw::DeleteRefused, "delete", Weight::Note, "a thief of them cannot either"),
        (Flaw::DeletesLate, "delete_visibility", Weight::Degraded, "can still be read or listed"),
    ] {
        let (Recorded { report, .. }, repository) = recorded(flaw).await;
        let lacks: Vec<&Lack> = report.lacks().collect();
        assert_eq!(lacks.len(), 1, "{flaw:?}: {lacks:?}");
        assert_eq!((lacks[0].ability, lacks[0].weight), (ability, weight), "{flaw:?}");
        assert!(lacks[0].sentence.contains(words), "{flaw:?}: {}", lacks[0].sentence);
        let left = below_probe(&repository).await.iter().filter(|key| key.contains("canary")).count();
        let is_left = matches!(flaw, Flaw::DeleteRefused | Flaw::DeletesLate);
        assert_eq!(left > 0, is_left, "{flaw:?}: {left} objects are left");
    }
}

#[tokio::test]
async fn what_cannot_be_read_yet_is_no_failure() {
    let (Recorded { report, .. }, _) = recorded(Flaw::ReadsLate).await;
    assert_eq!(report.abilities.read_after_write, Answer::No);
    let lacks: Vec<&Lack> = report.lacks().collect();
    assert_eq!(lacks.len(), 1, "{lacks:?}");
    assert!(lacks[0].sentence.contains("run again"));
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_with_its_side() {
    for (seconds, words) in [(3600, "ahead of"), (-90, "behind")] {
        let (Recorded { report, .. }, _) = recorded(Flaw::Clock(seconds)).await;
        assert_eq!(report.lacks().count(), 0);
        let skew = report.clock_skew_seconds.unwrap();
        assert!((skew - seconds as f64).abs() < 3.0, "{skew}");
        let sentence = report.skew_sentence().unwrap();
        assert!(sentence.contains(words) && sentence.contains("times of arrival"), "{sentence}");
    }
    let (Recorded { report, .. }, _) = recorded(Flaw::Clock(2)).await;
    assert_eq!(report.skew_sentence(), None, "so little is nothing to act on");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_an_error_with_its_reason() {
    let (repository, _) = repository(Flaw::PutRefused).await;
    let error = run(&repository, "here").await.unwrap_err();
    assert!(error.summary().contains("AccessDenied"), "{error:?}");
}

#[tokio::test]
async fn a_probe_costs_few_requests_and_its_report_is_not_repeated_within_a_day() {
    let (repository, store) = repository(Flaw::None).await;
    let requests = |before: usize| store.calls().len() - before;
    let before = store.calls().len();
    probe::probe(&repository.shared_store(), "probe/canary-x/").await.unwrap();
    assert_eq!(requests(before) as u64, probe::REQUESTS);
    let before = store.calls().len();
    let first = run(&repository, "here").await.unwrap();
    assert_eq!(requests(before) as u64, probe::REQUESTS + 2, "one to look for earlier reports, one to store this one");
    let before = store.calls().len();
    let second = run(&repository, "here").await.unwrap();
    assert_eq!(requests(before) as u64, probe::REQUESTS + 2);
    assert_eq!(second.key, first.key, "the earlier one says it already");
    // Another host may have other credentials.
    let third = run(&repository, "there").await.unwrap();
    assert_ne!(third.key, first.key);
    // An old one does not count.
    let mut old = ProbeReport { host: "elsewhere".into(), ..first.report.clone() };
    old.time = old.time.minus(REPEATED_AFTER * 2);
    let key = record(repository.store(), &old).await.unwrap();
    assert!(key < first.key.unwrap());
    let again = run(&repository, "elsewhere").await.unwrap();
    assert_ne!(again.key, Some(key));
}

#[test]
fn every_ability_has_a_sentence_and_every_sentence_an_ability() {
    let abilities = |answer: Answer| Abilities {
        conditional_put: answer,
        overwrite_protection: answer,
        read_after_write: answer,
        list_after_write: answer,
        listing_order: answer,
        ranged_read: answer,
        delete: answer,
        delete_visibility: answer,
        object_lock: answer,
        versioning: answer,
    };
    let names = |answer: Answer| -> Vec<&str> {
        let abilities = abilities(answer);
        LACKS.iter().filter(|lack| (lack.answer)(&abilities) == Answer::No).map(|lack| lack.ability).collect()
    };
    assert!(names(Answer::Yes).is_empty());
    let serde_json::Value::Object(fields) = serde_json::to_value(abilities(Answer::No)).unwrap() else { panic!("no object") };
    let mut named: Vec<String> = names(Answer::No).into_iter().map(str::to_owned).collect();
    named.sort();
    let mut fields: Vec<String> = fields.keys().cloned().collect();
    fields.sort();
    assert_eq!(named, fields);
    // The answer that each entry looks at is the one of its name.
    for lack in &LACKS {
        let mut one = serde_json::to_value(abilities(Answer::Yes)).unwrap();
        one[lack.ability] = "no".into();
        let one: Abilities = serde_json::from_value(one).unwrap();
        let found: Vec<&str> = LACKS.iter().filter(|lack| (lack.answer)(&one) == Answer::No).map(|lack| lack.ability).collect();
        assert_eq!(found, [lack.ability]);
    }
}
