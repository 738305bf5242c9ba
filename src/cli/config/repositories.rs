//! `[repository.NAME]`: an address, the pinned keys, and for a bucket how to reach it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::resolve::Reader;
use super::settings::RepositorySettings;
use crate::base::document::{Document, Found, Table, nearest};
use crate::base::units::parse_duration;
use crate::repo::layout;
use crate::store::s3::{self, S3Options, ServerSideEncryption};
use crate::store::{LockMode, LockTerms, StoreOptions};

/// How long a chain is built on, with a full backup every week.
const DEFAULT_CHAIN_FOR: Duration = Duration::from_secs(8 * 86_400);

/// What stores take at most.
const LONGEST_LOCK: Duration = Duration::from_secs(100 * 365 * 86_400);

const LOCK_MODES: [LockMode; 2] = [LockMode::Governance, LockMode::Compliance];

/// What a server calls its encryption.
const ENCRYPTION_NAMES: [&str; 2] = ["AES256", "aws:kms"];

impl Reader<'_, '_> {
    pub(super) fn repositories(&self, root: &Table<'_, '_>) -> BTreeMap<String, RepositorySettings> {
        let mut repositories = BTreeMap::new();
        for (name, table) in root.named_tables("repository") {
            if !is_plain_name(&name.value) {
                let message = format!("'{}' cannot name a repository: use letters, digits, '-', '_' and '.'", name.value);
                self.document.complain(&name.span, message, None);
            }
            let url = table.required_string("url", "url = \"file:///srv/backups\"");
            if let Some(url) = &url
                && let Err((message, hint)) = check_url(&url.value)
            {
                self.document.complain(&url.span, message, Some(hint));
            }
            let root_digest = table.string("root").and_then(|found| {
                let digest = hex::decode(&found.value).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                if digest.is_none() {
                    let message = format!("'root' in [repository.{}] is not a SHA-256 in 64 hex digits", name.value);
                    self.document.complain(&found.span, message, None);
                }
                digest
            });
            let is_bucket = url.as_ref().is_some_and(|url| url.value.starts_with("s3://"));
            let options = StoreOptions { s3: self.bucket(&table, is_bucket) };
            let limit_rate_bytes = self.rate(&table, "limit_rate");
            let archive_limit_rate_bytes = self.rate(&table, "archive_limit_rate");
            let site = table.string("site").map(|site| site.value);
            table.reject_unknown_keys();
            // Kept even when the URL is wrong, so that a source which names it is not blamed as well.
            let url = url.map(|url| url.value).unwrap_or_default();
            let name = name.value;
            let settings = RepositorySettings {
                name: name.clone(),
                url,
                root: root_digest,
                limit_rate_bytes,
                archive_limit_rate_bytes,
                site,
                options,
            };
            repositories.insert(name, settings);
        }
        repositories
    }

    /// The keys that only a bucket has; complained about beside any other address.
    fn bucket(&self, table: &Table<'_, '_>, is_bucket: bool) -> S3Options {
        let string = |key: &'static str| {
            let found = table.string(key)?;
            refuse_elsewhere(self.document, key, &found, is_bucket);
            Some(found)
        };
        let plain = |key: &'static str| string(key).map(|found| found.value);
        let endpoint = string("endpoint").and_then(|found| self.endpoint(found));
        let region = plain("region");
        let path_style = table.boolean("path_style");
        if let Some(found) = &path_style {
            refuse_elsewhere(self.document, "path_style", found, is_bucket);
        }
        let storage_class = plain("storage_class");
        let encryption = self.server_side_encryption(string("server_side_encryption"), string("kms_key_id"));
        let profile = plain("profile");
        let ca_file = string("ca_file").map(|found| self.path(&found));
        let path_style = path_style.map(|found| found.value);
        let (versions, lock) = self.immutability(table, is_bucket);
        S3Options {
            endpoint,
            region,
            path_style,
            storage_class,
            encryption,
            profile,
            ca_file,
            versions,
            lock,
            lifetimes: layout::LIFETIMES,
            ..S3Options::default()
        }
    }

    /// Whether the oldest versions count, and how objects are locked.
    fn immutability(&self, table: &Table<'_, '_>, is_bucket: bool) -> (bool, Option<LockTerms>) {
        let versions = table.boolean("versions");
        if let Some(found) = &versions {
            refuse_elsewhere(self.document, "versions", found, is_bucket);
        }
        let mode = table.string("object_lock");
        if let Some(found) = &mode {
            refuse_elsewhere(self.document, "object_lock", found, is_bucket);
        }
        let lock_for = self.lock_time(table, "lock_for", mode.is_some(), is_bucket);
        let chain_for = self.lock_time(table, "lock_chain_for", mode.is_some(), is_bucket);
        let Some(mode) = mode else { return (versions.is_some_and(|found| found.value), None) };
        if let Some(found) = versions.as_ref().filter(|found| !found.value) {
            let hint = "take 'versions' out: what is locked can be hidden by later versions, but not replaced".to_owned();
            self.document.complain(&found.span, "'object_lock' needs versions = true", Some(hint));
        }
        let parsed = LOCK_MODES.into_iter().find(|known| known.as_str() == mode.value);
        if parsed.is_none() {
            let near = nearest(&mode.value, LOCK_MODES.into_iter().map(LockMode::as_str));
            let message = format!("'object_lock' must be \"governance\" or \"compliance\", not \"{}\"", mode.value);
            self.document.complain(&mode.span, message, near.map(|near| format!("did you mean '{near}'?")));
        }
        if lock_for.is_none() {
            let hint = "add lock_for = \"35d\"".to_owned();
            self.document.complain(&mode.span, "'object_lock' does not say for how long", Some(hint));
        }
        let terms = parsed.zip(lock_for.flatten());
        let chain_for = chain_for.flatten().unwrap_or(DEFAULT_CHAIN_FOR);
        (true, terms.map(|(mode, lock_for)| LockTerms { mode, lock_for, chain_for }))
    }

    /// A time that only means something with `object_lock`; the inner one is none after a complaint.
    fn lock_time(&self, table: &Table<'_, '_>, key: &'static str, is_locked: bool, is_bucket: bool) -> Option<Option<Duration>> {
        let found = table.string(key)?;
        refuse_elsewhere(self.document, key, &found, is_bucket);
        if is_bucket && !is_locked {
            let hint = "add object_lock = \"governance\", or \"compliance\"".to_owned();
            self.document.complain(&found.span, format!("'{key}' means nothing without 'object_lock'"), Some(hint));
        }
        let why = match parse_duration(&found.value) {
            Ok(time) if time > LONGEST_LOCK => "longer than 100 years cannot be taken back".to_owned(),
            Ok(time) if time.is_zero() => "no time at all locks nothing".to_owned(),
            Ok(time) => return Some(Some(time)),
            Err(why) => why,
        };
        self.document.complain(&found.span, format!("'{key}': {why}"), Some(format!("write {key} = \"35d\"")));
        Some(None)
    }

    fn endpoint(&self, found: Found<String>) -> Option<String> {
        let refuse = |message: &str, hint: &str| {
            self.document.complain(&found.span, message, Some(hint.to_owned()));
            None
        };
        let example = "write endpoint = \"https://s3.example.com\", or http://… where the store has no TLS";
        let Some(host) = found.value.strip_prefix("https://").or_else(|| found.value.strip_prefix("http://")) else {
            return refuse("'endpoint' does not begin with https:// or http://", example);
        };
        if host.contains('@') {
            // What stands before it may be a secret.
            return refuse("'endpoint' holds credentials", "keep them out of it; use the environment or a profile");
        }
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.is_empty() || host.contains(['?', '#', ' ']) || host.chars().any(char::is_control) {
            return refuse("'endpoint' is no address of a host", example);
        }
        Some(found.value.strip_suffix('/').unwrap_or(&found.value).to_owned())
    }

    fn server_side_encryption(&self, mode: Option<Found<String>>, key_id: Option<Found<String>>) -> Option<ServerSideEncryption> {
        match mode.as_ref().map(|mode| mode.value.as_str()) {
            Some("aws:kms") => return Some(ServerSideEncryption::Kms { key_id: key_id.map(|found| found.value) }),
            Some("AES256") | None => {}
            Some(other) => {
                let near = nearest(other, ENCRYPTION_NAMES.into_iter()).map(|near| format!("did you mean '{near}'?"));
                let message = format!("'server_side_encryption' must be \"AES256\" or \"aws:kms\", not \"{other}\"");
                self.document.complain(&mode.as_ref().map(|mode| mode.span.clone()).unwrap_or_default(), message, near);
                return None;
            }
        }
        if let Some(key_id) = key_id {
            let hint = "add server_side_encryption = \"aws:kms\"".to_owned();
            self.document.complain(&key_id.span, "'kms_key_id' is for server_side_encryption = \"aws:kms\" only", Some(hint));
        }
        mode.map(|_| ServerSideEncryption::Managed)
    }
}

fn refuse_elsewhere<T>(document: &Document<'_>, key: &str, found: &Found<T>, is_bucket: bool) {
    if !is_bucket {
        let message = format!("'{key}' is only for a bucket, s3://…");
        document.complain(&found.span, message, Some("take it out, or correct 'url'".to_owned()));
    }
}

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(plain)
}

/// Says what is wrong with a repository's address, and what to write instead.
fn check_url(url: &str) -> Result<(), (String, String)> {
    if let Some(path) = url.strip_prefix("file://") {
        return match path.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => Ok(()),
            _ => Err((format!("'{url}' is not an absolute path"), "write file:///srv/backups, with three slashes".into())),
        };
    }
    if url.starts_with("s3://") {
        return s3::check_url(url);
    }
    let hint = if url.starts_with('/') {
        format!("did you mean 'file://{url}'?")
    } else {
        "write file:///srv/backups or s3://bucket/prefix".into()
    };
    Err((format!("'{url}' is not the address of a repository (file:///… or s3://…)"), hint))
}
