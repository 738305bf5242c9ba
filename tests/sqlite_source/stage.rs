//! The stage of the cases: a directory with a database, a program that writes it, a watch, a store.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat::source::sqlite::{Discontinuity, Moment, Options, Poll, Watch, check};

use super::store;

pub struct Stage {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub storage: PathBuf,
    pub watch: Watch,
}

/// Never checkpoints, never lets go.
pub const STILL: Options = Options { checkpoint_above_bytes: None, checkpoint_alone_above_bytes: None, let_go_above_bytes: None };

impl Stage {
    pub fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, storage) = (dir.path().join("data.db"), dir.path().join("store"));
        fs::create_dir(&storage).unwrap();
        let watch = Watch::new(&path, options);
        Self { dir, path, storage, watch }
    }

    /// As a new process would: goes on from the last segment.
    pub fn restart_watch(&mut self, options: Options) {
        self.watch = Watch::new(&self.path, options);
        if let Some((_, last)) = store::segments(&self.storage).last() {
            self.watch.resume(last.to);
        }
    }

    pub fn poll(&mut self) -> Poll {
        self.watch.poll().unwrap()
    }

    pub fn snapshot(&mut self) -> Moment {
        let snapshot = self.watch.snapshot().unwrap();
        store::put_snapshot(&self.storage, &mut self.watch, &snapshot).unwrap();
        self.watch.stored(&snapshot.moment);
        self.watch.maintain().unwrap();
        snapshot.moment
    }

    /// Stores the batch that must be there.
    pub fn capture(&mut self) -> Moment {
        let Poll::Batch(batch) = self.poll() else { panic!("no batch: {:?}", self.poll()) };
        store::put_batch(&self.storage, &self.watch, &batch).unwrap();
        self.watch.stored(&batch.to);
        self.watch.maintain().unwrap();
        batch.to
    }

    /// The reason for which a snapshot must be needed now.
    pub fn lost(&mut self) -> Discontinuity {
        match self.poll() {
            Poll::SnapshotNeeded(reason) => reason,
            other => panic!("no snapshot is needed: {other:?}"),
        }
    }

    /// What a query returns on `moment`, restored.
    pub fn query_at(&self, moment: &Moment, sql: &str) -> String {
        let target = self.dir.path().join("restored.db");
        let restored = store::restore(&store::segments(&self.storage), moment, &target).unwrap();
        assert_eq!(restored.moment, *moment, "the chain has a gap");
        let rows = check::query(&target, sql).unwrap();
        fs::remove_file(&target).unwrap();
        rows[0][0].clone().unwrap_or_default()
    }

    /// Rows of `t` at `moment`, of which there must be as many as the largest number says.
    pub fn rows_at(&self, moment: &Moment) -> u32 {
        let rows = self.query_at(moment, "SELECT count(*) || ' ' || coalesce(max(n), 0) FROM t");
        let (count, last) = rows.split_once(' ').unwrap();
        assert_eq!(count, last, "rows are missing");
        count.parse().unwrap()
    }

    /// Generations of the log that batches belong to.
    pub fn generations(&self) -> usize {
        let segments = store::segments(&self.storage);
        let salts = segments.iter().filter(|(_, header)| header.from.is_some()).map(|(_, header)| header.to.at.salts.0);
        salts.collect::<BTreeSet<u64>>().len()
    }

    pub fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.path, suffix)
    }
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}
