//! Wrapped keys: there and of the right form, and in a deep run unwrapped.
//!
//! An altered wrapping looks to an identity like one for somebody else: which it is, nobody can tell. So a key that none
//! of the identities at hand opens is a finding, also when they open no other; what needs no key is looked at all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::fetch;
use super::finding::Finding;
use super::run::Run;
use crate::base::{BackupId, Incarnation, Result};
use crate::codec::CodecError;
use crate::codec::encrypt::{DataKey, Identity, Opener};
use crate::repo::{BackupSummary, layout};
use crate::store::list_all;

/// What opens the data of a source.
#[derive(Default)]
pub(super) struct Openers {
    /// By backup; one whose key cannot be had is left out.
    pub backups: BTreeMap<BackupId, Opener>,
    /// By incarnation.
    pub logs: BTreeMap<Incarnation, Opener>,
    /// Numbers of the stretches of log that have a key, by incarnation.
    pub stretches: BTreeMap<Incarnation, BTreeSet<u32>>,
}

/// What became of the keys tried.
#[derive(Default)]
struct Tried {
    opened: usize,
    refused: Vec<(String, Option<BackupId>)>,
}

impl Run<'_> {
    /// Looks at every wrapped key of the source.
    ///
    /// # Errors
    /// When the repository does not answer; what is wrong with a key is reported.
    pub(super) async fn keys(&mut self, backups: &[BackupSummary], incarnations: &[Incarnation]) -> Result<Openers> {
        let mut openers = Openers::default();
        let mut tried = Tried::default();
        for backup in backups {
            let opener = if backup.encrypted {
                let listed = list_all(self.store(), &layout::backup_keys(self.source(), &backup.id), None).await?;
                let named = |key: &String| layout::backup_key_wrapping(self.source(), &backup.id, key).is_some();
                let objects = listed.into_iter().map(|object| object.key).filter(named).collect();
                let keys = self.try_keys(objects, Some(&backup.id), &mut tried).await?;
                if keys.is_none() {
                    let key = layout::backup_key(self.source(), &backup.id, 1);
                    self.find(Finding::damage(key, "is missing").affecting(Some(&backup.id)));
                }
                keys.filter(|keys| !keys.is_empty()).map(Opener::Age)
            } else {
                Some(Opener::Plain)
            };
            openers.backups.extend(opener.map(|opener| (backup.id.clone(), opener)));
        }
        for incarnation in incarnations {
            let (mut objects, mut numbers) = (Vec::new(), BTreeSet::new());
            for object in list_all(self.store(), &layout::log_keys(self.source(), incarnation), None).await? {
                match layout::log_key_numbers(self.source(), incarnation, &object.key) {
                    Some((stretch, _)) => {
                        numbers.insert(stretch);
                        objects.push(object.key);
                    }
                    None => self.find(Finding::notice(object.key, "has no name that lifeboat gives")),
                }
            }
            let keys = self.try_keys(objects, None, &mut tried).await?.unwrap_or_default();
            openers.logs.insert(incarnation.clone(), Opener::Age(keys));
            openers.stretches.insert(incarnation.clone(), numbers);
        }
        self.settle(tried);
        Ok(openers)
    }

    /// Checks the wrappings `objects`, and unwraps them when there are identities; `None` when there is no wrapping.
    async fn try_keys(
        &mut self,
        objects: Vec<String>,
        backup: Option<&BackupId>,
        tried: &mut Tried,
    ) -> Result<Option<Vec<Identity>>> {
        if objects.is_empty() {
            return Ok(None);
        }
        let (mut keys, mut refused) = (Vec::new(), Vec::new());
        for key in objects {
            self.cancel.check()?;
            let Some((wrapped, _)) = fetch::whole(self.store(), &key).await? else {
                self.find(Finding::damage(key, "is missing").affecting(backup));
                continue;
            };
            self.count(wrapped.len() as u64);
            if let Err(error) = DataKey::check_form(&wrapped) {
                self.find(Finding::damage(key, format!("is no wrapped key: {error}")).affecting(backup));
                continue;
            }
            let Some(identities) = &self.identities else { continue };
            match DataKey::unwrap(&wrapped, identities) {
                Ok(unwrapped) => {
                    tried.opened += 1;
                    keys.push(unwrapped.identity().clone());
                }
                Err(CodecError::NoMatchingIdentity) => refused.push((key, backup.cloned())),
                Err(error) => {
                    self.find(Finding::damage(key, format!("cannot be unwrapped: {error}")).affecting(backup));
                }
            }
        }
        // A backup may be wrapped several times, to the recipients of different years; one that opens is enough. Every
        // stretch of a log has a key of its own.
        if backup.is_none() || keys.is_empty() {
            tried.refused.extend(refused);
        }
        Ok(Some(keys))
    }

    fn settle(&mut self, tried: Tried) {
        let what = match tried.opened {
            0 => {
                "is opened by none of the identities at hand, and nor is any other key: set [encryption] identity_file to the \
                 age identity that belongs to one of the recipients; if this is it, the keys were altered"
            }
            _ => "is opened by none of the identities at hand, which open others: it was altered, or wrapped to somebody else",
        };
        for (key, backup) in tried.refused {
            self.find(Finding::damage(key, what).affecting(backup.as_ref()));
        }
    }
}
