//! `s3://bucket/prefix`, and the way from a key to an object's name and back.

use crate::store::key::{MAX_KEY_BYTES, check_key};
use crate::store::{StoreError, StoreResult};

/// Where a repository lies in S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// As the operator wrote it.
    pub(super) url: String,
    pub(super) bucket: String,
    /// What all names begin with: empty, or ending in `/`.
    root: String,
}

impl Address {
    /// Understands `s3://bucket` and `s3://bucket/prefix`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead; never with a secret that stands in it.
    pub(super) fn parse(url: &str) -> Result<Self, (String, String)> {
        let example = || "write s3://bucket/prefix".to_owned();
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("s3") => rest,
            _ => return Err(("the address is not of the form s3://bucket/prefix".to_owned(), example())),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains(['@', ':']) || rest.contains('@') && bucket.is_empty() {
            // It may hold a secret, so it is not repeated.
            return Err((
                "the address holds credentials or a port".to_owned(),
                "write s3://bucket/prefix (host: 'endpoint'; credentials: environment)".to_owned(),
            ));
        }
        if bucket.is_empty() {
            return Err((format!("'{url}' names no bucket"), example()));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return Err((
                format!("'{bucket}' cannot name a bucket: letters, digits, '-', '_' and '.', three at least"),
                example(),
            ));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.contains(['?', '#']) || (!prefix.is_empty() && check_key(prefix).is_err()) {
            return Err((
                format!("the prefix of '{url}' cannot be used"),
                "write words between single slashes: s3://bucket/a/b".into(),
            ));
        }
        let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { url: url.to_owned(), bucket: bucket.to_owned(), root })
    }

    /// The name in the bucket of the object `key`.
    ///
    /// # Errors
    /// Permanent: an invalid key, or one that is too long with the prefix.
    pub(super) fn name_of(&self, key: &str) -> StoreResult<String> {
        check_key(key)?;
        let name = format!("{}{key}", self.root);
        let why = if name.len() > MAX_KEY_BYTES {
            "with the prefix it is longer than 1024 bytes"
        } else if name.trim().is_empty() {
            "nothing in it is visible"
        } else {
            return Ok(name);
        };
        Err(StoreError::Permanent { message: format!("cannot use {key:?} in {}: {why}", self.url), source: None })
    }

    /// What names begin with when their keys begin with `start`; may be longer than any name.
    pub(super) fn name_start(&self, start: &str) -> String {
        format!("{}{start}", self.root)
    }

    /// The key of an object, unless another tool put it here.
    pub(super) fn key_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(&self.root).filter(|key| check_key(key).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lie_below_the_prefix() {
        for (url, bucket, name) in [
            ("s3://orders-backup", "orders-backup", "a/b"),
            ("s3://orders-backup/", "orders-backup", "a/b"),
            ("S3://orders.backup/x/ü y", "orders.backup", "x/ü y/a/b"),
            ("s3://Orders_backup/x/", "Orders_backup", "x/a/b"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.bucket.as_str(), address.name_of("a/b").unwrap().as_str()), (bucket, name), "{url}");
            assert_eq!(address.key_of(name), Some("a/b"));
        }
        let address = Address::parse("s3://bucket/x").unwrap();
        for foreign in ["y/a", "x", "x/", "x//a", "x/a/", "xa"] {
            assert_eq!(address.key_of(foreign), None, "{foreign}");
        }
        assert!(address.name_of("a//b").is_err());
        let long = vec!["k".repeat(255); 4].join("/");
        assert!(address.name_of(&long).unwrap_err().to_string().contains("longer than 1024 bytes"));
    }

    #[test]
    fn wrong_addresses_are_refused_without_what_may_be_secret() {
        for (url, what) in [
            ("s3:bucket", "form s3://"),
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("s3://key:hunter2@bucket/p", "credentials"),
            ("s3://hunter2@bucket", "credentials"),
            ("s3://host:9000/bucket", "a port"),
            ("s3://ab", "three at least"),
            ("s3://buck et", "cannot name a bucket"),
            ("s3://bucket/a//b", "prefix"),
            ("s3://bucket/../b", "prefix"),
            ("s3://bucket/a?versionId=1", "prefix"),
        ] {
            let (message, hint) = Address::parse(url).unwrap_err();
            assert!(message.contains(what), "{url}: {message}");
            assert!(hint.contains("s3://bucket/"), "{url}: {hint}");
            assert!(!message.contains("hunter2") && !hint.contains("hunter2"), "{message}");
        }
    }
}
