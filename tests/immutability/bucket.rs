//! A bucket of its own set-up, stores that lead to it, and a client without manners.

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ObjectLockRetention, ObjectLockRetentionMode};
use aws_sdk_s3::{Client, Config};
use lifeboat::repo::layout;
use lifeboat::store::s3::{S3Options, S3Store};
use lifeboat::store::{LockMode, LockTerms};

use crate::support::s3::{BUCKET, Keeping, Rights, S3Server};

/// A bucket with versions and nothing else.
pub const VERSIONED: Keeping = Keeping { versions: true, object_lock: false, refuses_overwrites: false, sham_locks: false };

/// A bucket in which objects can be locked.
pub const LOCKING: Keeping = Keeping { object_lock: true, ..VERSIONED };

/// A month and a little for the chain.
pub const TERMS: LockTerms = LockTerms {
    mode: LockMode::Governance,
    lock_for: Duration::from_secs(35 * 86_400),
    chain_for: Duration::from_secs(8 * 86_400),
};

/// Options as `lifeboat.toml` would give them: by oldest versions, and with locks where there are terms.
pub fn options(server: &S3Server, lock: Option<LockTerms>) -> S3Options {
    S3Options { versions: true, lock, lifetimes: layout::LIFETIMES, ..server.options() }
}

/// A store with these options at the bucket's root.
pub fn store(server: &S3Server, lock: Option<LockTerms>) -> S3Store {
    S3Store::new(&server.url(""), options(server, lock)).expect("a right address")
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Whoever has credentials and an S3 client of their own.
pub struct Stranger {
    client: Client,
}

impl Stranger {
    pub fn with(server: &S3Server, rights: Rights) -> Self {
        let (key, secret) = S3Server::access(rights);
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(key, secret, None, None, "stolen"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(server.endpoint())
            .force_path_style(true)
            .build();
        Self { client: Client::from_conf(config) }
    }

    /// Puts without any condition, or only where nothing is; whether it was let.
    pub async fn put(&self, name: &str, content: &[u8], only_new: bool) -> bool {
        let request = self.client.put_object().bucket(BUCKET).key(name).body(ByteStream::from(content.to_vec()));
        let request = if only_new { request.if_none_match("*") } else { request };
        request.send().await.is_ok()
    }

    /// Puts a delete marker, or deletes where no versions are kept; whether it was let.
    pub async fn hide(&self, name: &str) -> bool {
        self.client.delete_object().bucket(BUCKET).key(name).send().await.is_ok()
    }

    /// Deletes one version; whether it was let.
    pub async fn delete(&self, name: &str, version: &str) -> bool {
        let request = self.client.delete_object().bucket(BUCKET).key(name).version_id(version);
        request.bypass_governance_retention(true).send().await.is_ok()
    }

    /// Sets the lock of a version to end in a minute, in a mode; whether it was let.
    pub async fn shorten(&self, name: &str, version: &str, mode: ObjectLockRetentionMode) -> bool {
        let soon = std::time::SystemTime::now() + Duration::from_secs(60);
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from(soon)).build();
        let request = self.client.put_object_retention().bucket(BUCKET).key(name).version_id(version);
        request.retention(retention).bypass_governance_retention(true).send().await.is_ok()
    }
}

/// Tries every way to spoil each object of `server`; with `spares_lease` all but what is rewritten anyway. How many of the
/// attempts were let through.
pub async fn spoil_everything(server: &S3Server, stranger: &Stranger, spares_lease: bool) -> u64 {
    let mut let_through = 0;
    let spoilt = server.versions().into_iter().filter(|(name, _)| !spares_lease || !name.ends_with("/lease.json"));
    for (name, versions) in spoilt {
        for version in &versions {
            for mode in [ObjectLockRetentionMode::Governance, ObjectLockRetentionMode::Compliance] {
                let_through += u64::from(stranger.shorten(&name, &version.id, mode).await);
            }
            let_through += u64::from(stranger.delete(&name, &version.id).await);
        }
        for only_new in [false, true] {
            let_through += u64::from(stranger.put(&name, b"{\"format\":1}\n", only_new).await);
        }
        let_through += u64::from(stranger.hide(&name).await);
        // What lies behind a marker looks free.
        let_through += u64::from(stranger.put(&name, b"after the marker", true).await);
        let_through += u64::from(stranger.hide(&name).await);
    }
    let_through
}
