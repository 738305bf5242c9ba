//! Wrapped keys: there and of the right form, and in a deep run unwrapped.
//!
//! All keys are tried before anything else, so that a wrong identity is told at once. An altered wrapping looks to an
//! identity like one for somebody else; so when the identities at hand open other keys but not this one, it is damage.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::run::Run;
use crate::base::{BackupId, Incarnation, Result};
use crate::codec::CodecError;
use crate::codec::encrypt::{DataKey, Identity, Opener};
use crate::repo::{BackupSummary, decode_error, layout};
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
    /// Failed when there are keys and the identities at hand open none of them.
    pub(super) async fn keys(&mut self, backups: &[BackupSummary], incarnations: &[Incarnation]) -> Result<Openers> {
        let mut openers = Openers::default();
        let mut tried = Tried::default();
        for backup in backups {
            let opener = if backup.encrypted {
                let keys = self.try_keys(&layout::backup_keys(self.source(), &backup.id), Some(&backup.id), &mut tried).await?;
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
            let prefix = layout::log_keys(self.source(), incarnation);
            let keys = self.try_keys(&prefix, None, &mut tried).await?.unwrap_or_default();
            openers.logs.insert(incarnation.clone(), Opener::Age(keys));
            let objects = list_all(self.store(), &prefix, None).await?;
            let number = |key: &str| key[prefix.len()..].split_once('-')?.0.parse().ok();
            let numbers = objects.iter().filter_map(|object| number(&object.key)).collect();
            openers.stretches.insert(incarnation.clone(), numbers);
        }
        self.settle(tried)?;
        Ok(openers)
    }

    /// Checks all wrappings below `prefix`, and unwraps them when there are identities; `None` when there is none.
    async fn try_keys(&mut self, prefix: &str, backup: Option<&BackupId>, tried: &mut Tried) -> Result<Option<Vec<Identity>>> {
        let objects = list_all(self.store(), prefix, None).await?;
        if objects.is_empty() {
            return Ok(None);
        }
        let (mut keys, mut refused) = (Vec::new(), Vec::new());
        for object in objects {
            self.cancel.check()?;
            let wrapped = self.store().get(&object.key).await?;
            self.count(wrapped.len() as u64);
            if let Err(error) = DataKey::check_form(&wrapped) {
                self.find(Finding::damage(object.key, format!("is no wrapped key: {error}")).affecting(backup));
                continue;
            }
            let Some(identities) = &self.identities else { continue };
            match DataKey::unwrap(&wrapped, identities) {
                Ok(key) => {
                    tried.opened += 1;
                    keys.push(key.identity().clone());
                }
                Err(CodecError::NoMatchingIdentity) => refused.push((object.key, backup.cloned())),
                Err(error) => {
                    self.find(Finding::damage(object.key, format!("cannot be unwrapped: {error}")).affecting(backup));
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

    fn settle(&mut self, tried: Tried) -> Result<()> {
        if tried.opened == 0
            && let Some((key, _)) = tried.refused.first()
        {
            return Err(decode_error(key, CodecError::NoMatchingIdentity));
        }
        for (key, backup) in tried.refused {
            let what =
                "is opened by none of the identities at hand, which open others: it was altered, or wrapped to somebody else";
            self.find(Finding::damage(key, what).affecting(backup.as_ref()));
        }
        Ok(())
    }
}
