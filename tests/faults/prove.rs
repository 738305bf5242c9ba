//! That every committed backup restores byte for byte, shown once for each content of the objects that it needs.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat::base::BackupId;
use lifeboat::codec::Sha256Digest;
use lifeboat::repo::layout;

use crate::stage::{Place, Stage, Tree, source};

/// What each backup must restore to, and what was shown to do so.
#[derive(Default)]
pub struct Prover {
    expected: BTreeMap<BackupId, Tree>,
    /// A backup, and the digest of everything below `backup/` and `log/` that a restore of it can read.
    proven: BTreeSet<(BackupId, Sha256Digest)>,
}

impl Prover {
    /// From here on backup `id` must restore to `tree`.
    pub fn expect(&mut self, id: &BackupId, tree: Tree) {
        self.expected.insert(id.clone(), tree);
    }

    /// Restores made so far.
    pub fn restores(&self) -> usize {
        self.proven.len()
    }

    /// Asserts that nothing in `place` is damaged and that every backup that a reader sees there restores; their ids.
    pub async fn assert_restore(&mut self, stage: &Stage, place: &Place, what: &str) -> Vec<BackupId> {
        let committed = stage.committed(place, what).await;
        let objects = place.objects().await;
        let (log, backups) = (layout::logs(&source()), layout::backups(&source()));
        for (at, id) in committed.iter().enumerate() {
            // What it builds on was committed before it.
            let may_need = |key: &str| {
                let in_chain = |id: &BackupId| key.starts_with(&layout::backup(&source(), id));
                key.starts_with(&log) || (key.starts_with(&backups) && committed[..=at].iter().any(in_chain))
            };
            // These say who wrote, and when.
            let is_read = |key: &str| !key.contains("/index/") && !key.ends_with("/begin.json");
            let needed = objects.iter().filter(|(key, _)| may_need(key) && is_read(key));
            let text: String = needed.map(|(key, content)| format!("{key} {}\n", Sha256Digest::of(content))).collect();
            if self.proven.insert((id.clone(), Sha256Digest::of(text.as_bytes()))) {
                let tree = self.expected.get(id).unwrap_or_else(|| panic!("{what}: nobody knows {id}"));
                stage.assert_restores(place, id, tree, what).await;
            }
        }
        committed
    }
}
