//! What an operator may say of a bucket beside its address.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::{LifetimeRule, LockTerms};

/// Settings of one S3 repository. Secrets are found where every AWS tool finds them, unless a program gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// `https://host[:port]` or `http://…` of a store that is not AWS; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// The bucket's region; `None` asks the environment, the profile and, on AWS, the instance.
    pub region: Option<String>,
    /// Whether the bucket is named in the path instead of the host name; `None`: with a custom endpoint.
    pub path_style: Option<bool>,
    /// The class new objects are stored in, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// How the store is asked to encrypt new objects, beside Lifeboat's own encryption.
    pub encryption: Option<ServerSideEncryption>,
    /// The profile of `~/.aws/config` whose credentials to use, before any other.
    pub profile: Option<String>,
    /// A PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the bucket keeps versions and the oldest version of each name is the one that counts.
    pub versions: bool,
    /// How objects are locked when they are written; implies `versions`.
    pub lock: Option<LockTerms>,
    /// Which objects are locked and which are rewritten.
    pub lifetimes: LifetimeRule,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Credentials given by the program, before any that are found; never from a configuration file.
    pub credentials: Option<Credentials>,
}

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}

impl Credentials {
    /// A lasting access key.
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self { access_key_id: access_key_id.into(), secret_access_key: secret_access_key.into() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.access_key_id)
    }
}

/// Encryption by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// With the store's own keys: `AES256`.
    Managed,
    /// With a key of AWS KMS: `aws:kms`; the account's default key when none is named.
    Kms {
        /// Id, ARN or alias of the key.
        key_id: Option<String>,
    },
}

/// How long one attempt may take. A call makes a few attempts, but repeats only what failed quickly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the request (without its body) to the head of the answer; credentials and connection included.
    pub answer: Duration,
    /// Longest time in which no byte of a body moves.
    pub stall: Duration,
    /// What even the slowest link must do: bounds the time of a whole body.
    pub slowest_bytes_per_second: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            slowest_bytes_per_second: 16 << 10,
        }
    }
}

impl Timeouts {
    /// Longest time for a body of this length, with the request around it.
    pub(super) fn whole(&self, body_bytes: u64) -> Duration {
        self.answer + Duration::from_secs_f64(body_bytes as f64 / self.slowest_bytes_per_second as f64)
    }
}
