//! A repository without a server, as several hosts see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat::base::{Cancel, Result, Timestamp};
use lifeboat::engine::Scope;
use lifeboat::engine::lease::{Ability, Held, Terms, acquire};
use lifeboat::repo::{BackupSummary, KeyEntry, Repository, Role, Signer};
use lifeboat::store::{self, Store, StoreOptions};

/// A summary as one was stored; tests change the id.
const SUMMARY: &str = r#"{"id":"20261121T010446Z-full-3dxs","type":"full","base":null,"incarnation":"pg15-7710424414189593293","timeline":1,"start_lsn":"0/3000028","stop_lsn":"0/3000100","start_time":"2026-11-21T01:04:47.284142Z","stop_time":"2026-11-21T01:04:47.427623Z","segment_bytes":16777216,"from_standby":false,"server_version":150018,"data_checksums":true,"wal_log_hints":false,"wal_level":"replica","encrypted":true,"entries":992,"raw_bytes":28907154,"stored_bytes":3558424,"packs":3,"packs_sha256":"3dce3ead6aee4791e5014d0e12aea218ddb8131f3c3140477b9694518679b8e3","manifest_sha256":"ce9262789ff722533236a887d1c9b196778be7bf0d5216e804f47cee55c32b28","manifest_bytes":23395,"bad_pages":0,"duration_seconds":0.882045884}"#;

pub const LEASE: &str = "orders/lease.json";

/// A local repository and the key that every host signs with.
pub struct Stage {
    pub dir: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        let url = store::file_url(&stage.repository());
        block_on(store::create_root(&url, &StoreOptions::default())).unwrap();
        block_on(stage.create_in(store::open(&url, &StoreOptions::default()).unwrap()));
        stage
    }

    /// Makes the repository in any store, with this stage's key.
    pub async fn create_in(&self, store: Arc<dyn Store>) -> Repository {
        let signer = Signer::generate();
        std::fs::write(self.dir.path().join("signing.key"), signer.to_pem()).unwrap();
        let entry = KeyEntry {
            name: "host".into(),
            public_key: signer.public_key(),
            roles: vec![Role::Write, Role::Expire, Role::Admin],
        };
        Repository::create("main", store, vec![entry], &signer).await.unwrap()
    }

    pub fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    pub fn object(&self, key: &str) -> PathBuf {
        self.repository().join(key)
    }

    pub fn signer(&self) -> Signer {
        Signer::read(&self.dir.path().join("signing.key")).unwrap()
    }

    /// The source as the host called `host` sees it.
    pub async fn scope(&self, host: &str) -> Scope {
        open(self.dir.path(), host).await.0
    }

    /// Takes the lease for the host called `host`.
    pub async fn acquire(&self, host: &str, terms: Terms) -> Result<Held> {
        acquire(&self.scope(host).await, &self.signer(), "backup", terms, &Cancel::new()).await
    }
}

/// Scope and key of a host on the stage in `dir`: also from another process.
pub async fn open(dir: &Path, host: &str) -> (Scope, Signer) {
    let store = store::open(&store::file_url(&dir.join("repository")), &StoreOptions::default()).unwrap();
    let repository = Repository::open("main", store, None).await.unwrap();
    let scope = Scope::new(repository, "orders".parse().unwrap(), &dir.join(host));
    (scope, Signer::read(&dir.join("signing.key")).unwrap())
}

pub fn terms(ttl: Duration, wait: Duration) -> Terms {
    Terms { wait, ability: Some(Ability::Conditional), ..Terms::new(ttl) }
}

pub fn summary(number: u32) -> BackupSummary {
    let summary: BackupSummary = serde_json::from_str(SUMMARY).unwrap();
    let id = format!("20261121T0104{number:02}Z-full-3dxs").parse().unwrap();
    BackupSummary { id, ..summary }
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Milliseconds since 1970.
pub fn now_millis() -> i64 {
    Timestamp::now().unix_micros() / 1000
}
