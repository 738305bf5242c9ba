//! From the document's keys to [`Settings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Environment;
use super::settings::{
    BackupSettings, Contact, Copies, DirectorySettings, Encryption, PostgresSettings, RepositorySettings, Settings, SourceKind,
    SourceSettings, SqliteSettings, StandbyPlace,
};
use crate::base::document::{Document, Found, Table, beside, nearest};
use crate::base::units::{parse_duration, parse_rate};
use crate::base::{Engine, Error, Result, SourceName};
use crate::codec::Sha256Digest;
use crate::engine::backup::plan::LARGEST_PACK_BYTES;
use crate::engine::lease::Terms;

/// Compressing and encrypting with more threads rarely helps the disk and takes them from the database.
const DEFAULT_WORKERS_AT_MOST: usize = 4;
const DEFAULT_COMPRESSION_LEVEL: u64 = 3;
const DEFAULT_ARCHIVE_TIMEOUT_SECONDS: u64 = 300;
const DEFAULT_FLUSH: Duration = Duration::from_secs(2);
/// Each flush costs a request or two; what is rarer than this is what `archive push` is for.
const FLUSH: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// PostgreSQL's `NAMEDATALEN`, less one.
const LONGEST_SLOT_BYTES: usize = 63;

/// Reads `text`, the content of the file `path`; complaints are collected and returned together.
pub(super) fn resolve(path: &Path, text: &str, environment: &Environment) -> Result<Settings> {
    let config_file = std::path::absolute(path).map_err(|error| Error::io("resolve", path, error))?;
    let document = Document::new(path, text);
    let parsed = document.parse()?;
    let root = document.root(&parsed);
    let reader = Reader { document: &document, config_file: &config_file };

    let state_dir = reader.state_dir(&root, environment);
    let repositories = reader.repositories(&root);
    let sources = reader.sources(&root, &repositories);
    let mut encryption = root.table("encryption").map(|table| reader.encryption(&table)).unwrap_or_default();
    if let Some(file) = &environment.identity_file {
        encryption.identity_files = vec![file.clone()];
    }
    let signing_key_file = root.table("signing").and_then(|table| {
        let file = table.required_string("key_file", "key_file = \"signing.key\"").map(|file| reader.path(&file));
        table.reject_unknown_keys();
        file
    });
    let backup = reader.backup(root.table("backup"));
    let drill_scratch_dir = root.table("drill").and_then(|table| {
        let directory = table.string("scratch_dir").map(|directory| reader.path(&directory));
        table.reject_unknown_keys();
        directory
    });
    let run = reader.run(root.table("run"));
    let contacts = root.tables("contact").iter().filter_map(contact).collect();
    root.reject_unknown_keys();

    document.finish()?;
    Ok(Settings {
        config_file,
        config_sha256: Sha256Digest::of(text.as_bytes()),
        state_dir,
        repositories,
        encryption,
        signing_key_file,
        sources,
        backup,
        run,
        drill_scratch_dir,
        contacts,
    })
}

/// How often a stream is stored.
///
/// # Errors
/// What a good value looks like.
pub fn flush(text: &str) -> Result<Duration, String> {
    let flush = parse_duration(text)?;
    if FLUSH.contains(&flush) { Ok(flush) } else { Err("write between 100ms and 10m".to_owned()) }
}

/// The slot of a source that names none.
fn default_slot(source: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = "lifeboat_".chars().chain(source.chars().map(letter)).collect();
    name.chars().take(LONGEST_SLOT_BYTES).collect()
}

/// `None` after a complaint.
fn contact(table: &Table<'_, '_>) -> Option<Contact> {
    let text = |key, example| table.required_string(key, example).map(|found| found.value);
    let name = text("name", "name = \"…\"");
    let (role, reach) = (text("role", "role = \"on call\""), text("reach", "reach = \"+41 …\""));
    table.reject_unknown_keys();
    Some(Contact { name: name?, role: role?, reach: reach? })
}

/// What the readers of the sections share.
pub(super) struct Reader<'d, 'a> {
    pub(super) document: &'d Document<'a>,
    config_file: &'d Path,
}

impl Reader<'_, '_> {
    /// A path of the file, relative to it.
    pub(super) fn path(&self, found: &Found<String>) -> PathBuf {
        beside(self.config_file, &found.value)
    }

    fn state_dir(&self, root: &Table<'_, '_>, environment: &Environment) -> PathBuf {
        if let Some(found) = root.string("state_dir") {
            return self.path(&found);
        }
        environment.default_state_dir().unwrap_or_else(|| {
            let hint = "add state_dir = \"DIR\" at the top".to_owned();
            self.document.complain(&(0..0), "no 'state_dir', and this user has no home directory", Some(hint));
            PathBuf::new()
        })
    }

    /// Bytes a second.
    pub(super) fn rate(&self, table: &Table<'_, '_>, key: &'static str) -> Option<u64> {
        let found = table.string(key)?;
        match parse_rate(&found.value) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.document.complain(&found.span, format!("'{key}': {why}"), None);
                None
            }
        }
    }

    fn encryption(&self, table: &Table<'_, '_>) -> Encryption {
        let mode = table.string("mode");
        let off = mode.as_ref().is_some_and(|mode| mode.value == "off");
        if let Some(mode) = mode.filter(|mode| !matches!(mode.value.as_str(), "off" | "age")) {
            let message = format!("'mode' in [encryption] must be \"age\" or \"off\", not \"{}\"", mode.value);
            self.document.complain(&mode.span, message, None);
        }
        let mut recipients = Vec::new();
        if let Some(list) = table.strings("recipients") {
            if off && !list.value.is_empty() {
                let hint = "drop one of the two".to_owned();
                self.document.complain(&list.span, "encryption is off, yet there are recipients", Some(hint));
            }
            for item in list.value {
                match item.value.parse() {
                    Ok(recipient) => recipients.push(recipient),
                    Err(why) => self.complain_about_recipient(&item, why),
                }
            }
        }
        let identity_files = table.string_or_strings("identity_file");
        let identity_files = identity_files.map(|files| files.value.iter().map(|file| self.path(file)).collect());
        let identity_command = table.string("identity_command").map(|command| command.value);
        table.reject_unknown_keys();
        Encryption { off, recipients, identity_files: identity_files.unwrap_or_default(), identity_command }
    }

    /// Never shows what stands there: a secret key pasted into the wrong place must not end up in a log.
    fn complain_about_recipient(&self, item: &Found<String>, why: &str) {
        if item.value.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            let hint = "name the public key (age1…) here; the secret one belongs in identity_file, on another host";
            self.document.complain(&item.span, "a secret key among the recipients", Some(hint.into()));
        } else {
            let message = format!("not an age recipient (age1…): {why}");
            self.document.complain(&item.span, message, Some("age-keygen -y FILE prints a key's recipient".into()));
        }
    }

    fn sources(
        &self,
        root: &Table<'_, '_>,
        repositories: &BTreeMap<String, RepositorySettings>,
    ) -> BTreeMap<SourceName, SourceSettings> {
        let mut sources = BTreeMap::new();
        for (name, table) in root.named_tables("source") {
            let parsed = name.value.parse::<SourceName>();
            if let Err(why) = &parsed {
                self.document.complain(&name.span, why, None);
            }
            let policy = table.string("policy").map(|policy| policy.value);
            let site = table.string("site").map(|site| site.value);
            let kept_in = self.repositories_of_source(&table, repositories);
            let copies = Copies {
                log: self.copies(&table, "log_copies", kept_in.len()),
                backup: self.copies(&table, "backup_copies", kept_in.len()),
            };
            let Some(kind) = self.source_kind(&name.value, &table) else { continue };
            table.reject_unknown_keys();
            if let Ok(name) = parsed {
                sources.insert(name.clone(), SourceSettings { name, kind, site, policy, repositories: kept_in, copies });
            }
        }
        sources
    }

    /// `None` after a complaint; then the other keys, which depend on the kind, are not looked at.
    fn source_kind(&self, name: &str, table: &Table<'_, '_>) -> Option<SourceKind> {
        let kind = table.required_string("kind", "kind = \"postgres\"")?;
        match Engine::ALL.into_iter().find(|engine| engine.as_str() == kind.value) {
            Some(Engine::Postgres) => Some(SourceKind::Postgres(self.postgres(name, table))),
            Some(Engine::Sqlite) => self.sqlite(table).map(SourceKind::Sqlite),
            Some(Engine::Directory) => self.directory(table).map(SourceKind::Directory),
            None => {
                let known = Engine::ALL.map(Engine::as_str);
                let hint = nearest(&kind.value, known.into_iter()).map(|near| format!("did you mean '{near}'?"));
                let message = format!("'{}' is not a kind of source; this version knows {}", kind.value, known.join(", "));
                self.document.complain(&kind.span, message, hint);
                None
            }
        }
    }

    fn postgres(&self, name: &str, table: &Table<'_, '_>) -> PostgresSettings {
        let conninfo = table.required_string("conninfo", "conninfo = \"host=/var/run/postgresql\"");
        let timeout_seconds = table.integer("archive_timeout_seconds", 1..=7 * 86_400, "seconds");
        PostgresSettings {
            conninfo: conninfo.map(|found| found.value).unwrap_or_default(),
            primary_conninfo: table.string("primary_conninfo").map(|found| found.value),
            data_directory: table.string("data_directory").map(|found| self.path(&found)),
            standby: table.string("standby").map(|found| self.standby(&found)),
            archive_timeout: Duration::from_secs(timeout_seconds.unwrap_or(DEFAULT_ARCHIVE_TIMEOUT_SECONDS)),
            slot: self.slot(table).unwrap_or_else(|| default_slot(name)),
            flush: self.flush(table).unwrap_or(DEFAULT_FLUSH),
        }
    }

    /// `None` after a complaint.
    fn sqlite(&self, table: &Table<'_, '_>) -> Option<SqliteSettings> {
        let path = table.required_string("path", "path = \"/var/lib/app/app.db\"").map(|found| self.path(&found));
        let flush = self.flush(table).unwrap_or(DEFAULT_FLUSH);
        Some(SqliteSettings { path: path?, flush })
    }

    /// `None` after a complaint.
    fn directory(&self, table: &Table<'_, '_>) -> Option<DirectorySettings> {
        let path = table.required_string("path", "path = \"/srv/documents\"").map(|found| self.path(&found));
        let exclude = table.strings("exclude").map(|rules| rules.value.into_iter().map(|rule| rule.value).collect());
        let one_file_system = table.boolean("one_file_system").is_some_and(|found| found.value);
        Some(DirectorySettings { path: path?, exclude: exclude.unwrap_or_default(), one_file_system })
    }

    /// A connection string has `=` or is a URL; what is neither is a directory, relative to the file.
    fn standby(&self, found: &Found<String>) -> StandbyPlace {
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| found.value.starts_with(scheme));
        let is_path = found.value.starts_with(['/', '.']);
        match is_url || (found.value.contains('=') && !is_path) {
            true => StandbyPlace::Server(found.value.clone()),
            false => StandbyPlace::Directory(self.path(found)),
        }
    }

    fn slot(&self, table: &Table<'_, '_>) -> Option<String> {
        let found = table.string("slot")?;
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=LONGEST_SLOT_BYTES).contains(&found.value.len()) && found.value.bytes().all(is_known) {
            return Some(found.value);
        }
        let hint = format!("up to {LONGEST_SLOT_BYTES} lower-case letters, digits and underscores");
        self.document.complain(&found.span, format!("'{}' cannot be the name of a slot", found.value), Some(hint));
        None
    }

    fn flush(&self, table: &Table<'_, '_>) -> Option<Duration> {
        let found = table.string("flush")?;
        let read = flush(&found.value);
        read.map_err(|why| self.document.complain(&found.span, format!("'flush': {why}"), None)).ok()
    }

    fn repositories_of_source(&self, table: &Table<'_, '_>, repositories: &BTreeMap<String, RepositorySettings>) -> Vec<String> {
        let Some(named) = table.strings("repositories") else { return repositories.keys().cloned().collect() };
        if named.value.is_empty() {
            self.document.complain(&named.span, "'repositories' is empty: leave it out to use all of them", None);
        }
        let mut chosen = Vec::new();
        for name in named.value {
            if !repositories.contains_key(&name.value) {
                let near = nearest(&name.value, repositories.keys().map(String::as_str));
                let hint = match near {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("add a section [repository.{}]", name.value),
                };
                self.document.complain(&name.span, format!("there is no [repository.{}]", name.value), Some(hint));
            } else if chosen.contains(&name.value) {
                self.document.complain(&name.span, format!("repository '{}' is named twice", name.value), None);
            }
            chosen.push(name.value);
        }
        chosen
    }

    /// How many of `repositories` must hold something, if the file says so.
    fn copies(&self, table: &Table<'_, '_>, key: &'static str, repositories: usize) -> Option<usize> {
        let most = repositories.max(1) as u64;
        table.integer(key, 1..=most, "repositories").map(|copies| copies as usize)
    }

    fn backup(&self, table: Option<Table<'_, '_>>) -> BackupSettings {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let workers = cores.min(DEFAULT_WORKERS_AT_MOST);
        let Some(table) = table else {
            return BackupSettings {
                workers,
                compression_level: DEFAULT_COMPRESSION_LEVEL as i32,
                pack_size_bytes: None,
                lease_ttl: Terms::TTL,
            };
        };
        let settings = BackupSettings {
            workers: table.integer("workers", 1..=256, "").map_or(workers, |workers| workers as usize),
            compression_level: table.integer("compression_level", 1..=19, "").unwrap_or(DEFAULT_COMPRESSION_LEVEL) as i32,
            pack_size_bytes: table.integer("pack_size_mib", 1..=LARGEST_PACK_BYTES >> 20, "MiB").map(|size_mib| size_mib << 20),
            lease_ttl: table.integer("lease_ttl_seconds", 3..=3600, "seconds").map_or(Terms::TTL, Duration::from_secs),
        };
        table.reject_unknown_keys();
        settings
    }
}
