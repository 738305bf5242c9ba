//! What `lifeboat init` did, or would do, and in plain words what to keep where.

use serde::Serialize;

use super::keys::{KeyFile, Keys, Made};
use crate::base::Result;
use crate::cli::config::{RepositorySettings, Settings};
use crate::engine::check::{self, Finding};
use crate::repo::Repository;
use crate::repo::probe::{ProbeReport, Recorded};

/// The document `init`, version 1.
#[derive(Serialize)]
pub struct Document {
    /// Whether nothing was done.
    dry_run: bool,
    repository: RepositoryPart,
    keys: Vec<KeyPart>,
    /// Lines for `lifeboat.toml`; with `…` where only a real run knows.
    configuration: String,
    /// What the store was found to do; none when nothing was done, or it could not be tried out.
    probe: Option<ProbeReport>,
    /// What that means, in words.
    store: Vec<StoreLine>,
    /// What the operator should know.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct RepositoryPart {
    name: String,
    url: String,
    id: Option<String>,
    root_sha256: Option<String>,
}

#[derive(Serialize)]
struct KeyPart {
    file: String,
    purpose: &'static str,
    made: bool,
}

#[derive(Serialize)]
struct StoreLine {
    level: &'static str,
    message: String,
}

const IDENTITY: &str = "decrypts every backup";
const OPERATOR: &str = "expires backups, settles contradictions, changes keys";
const SIGNING: &str = "signs what this host writes";

impl Document {
    /// What a run without `--dry-run` would do.
    pub fn planned(chosen: &RepositorySettings, settings: &Settings, keys: &Keys) -> Self {
        Self::new(chosen, settings, keys, None)
    }

    /// What was done.
    pub fn done(
        chosen: &RepositorySettings,
        settings: &Settings,
        keys: &Keys,
        made: &Made,
        repository: &Repository,
        probe: &Result<Recorded>,
    ) -> Self {
        let mut document = Self::new(chosen, settings, keys, Some((made, repository)));
        document.probe = probe.as_ref().ok().map(|recorded| recorded.report.clone());
        let line = |finding: Finding| StoreLine { level: finding.level.as_str(), message: finding.message };
        document.store = check::probe::findings(&chosen.url, probe.as_ref()).into_iter().map(line).collect();
        document
    }

    fn new(chosen: &RepositorySettings, settings: &Settings, keys: &Keys, done: Option<(&Made, &Repository)>) -> Self {
        let repository = RepositoryPart {
            name: chosen.name.clone(),
            url: chosen.url.clone(),
            id: done.map(|(_, repository)| repository.id().to_owned()),
            root_sha256: done.map(|(_, repository)| repository.keyring().root.to_string()),
        };
        let part = |file: &KeyFile, purpose| KeyPart { file: file.path().display().to_string(), purpose, made: file.is_new() };
        let mut parts: Vec<KeyPart> = Vec::new();
        parts.extend(keys.identity.as_ref().map(|file| part(file, IDENTITY)));
        parts.extend(keys.operator.as_ref().map(|file| part(file, OPERATOR)));
        parts.push(part(&keys.signing, SIGNING));
        let configuration = configuration(&repository, settings, keys, done.map(|(made, _)| made));
        let notes = notes(&repository, settings, keys);
        let (probe, store) = (None, Vec::new());
        Self { dry_run: done.is_none(), repository, keys: parts, configuration, probe, store, notes }
    }

    /// For people.
    pub fn text(&self) -> String {
        let RepositoryPart { name, url, .. } = &self.repository;
        let mut text = match self.dry_run {
            true => format!("would create repository {name} at {url}\n"),
            false => format!("created repository {name} at {url}\n"),
        };
        for StoreLine { level, message } in &self.store {
            text += &format!("  {level:7}  store: {message}\n");
        }
        for (made, heading) in [(true, if self.dry_run { "keys to be made" } else { "keys made" }), (false, "keys used")] {
            let mut keys = self.keys.iter().filter(|key| key.made == made).peekable();
            if keys.peek().is_some() {
                text += &format!("\n{heading}:\n");
            }
            for key in keys {
                text += &format!("  {}\n      {}\n", key.file, key.purpose);
            }
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text + &format!("\nlifeboat.toml should say:\n\n{}", self.configuration)
    }
}

/// The lines that the configuration must have, ready to be copied.
fn configuration(repository: &RepositoryPart, settings: &Settings, keys: &Keys, made: Option<&Made>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let root = repository.root_sha256.as_deref().unwrap_or("…");
    let mut text = format!("[repository.{}]\nurl = {}\nroot = {}\n", repository.name, quoted(&repository.url), quoted(root));
    if settings.encryption.off {
        text += "\n[encryption]\nmode = \"off\"\n";
    } else {
        let configured = settings.encryption.recipients.iter().map(ToString::to_string);
        let own =
            keys.identity.iter().map(|_| made.and_then(|made| made.recipient.as_ref()).map_or("…".into(), ToString::to_string));
        let recipients: Vec<String> = configured.chain(own).map(|recipient| format!("  {},\n", quoted(&recipient))).collect();
        text += &format!("\n[encryption]\nrecipients = [\n{}]\n", recipients.concat());
    }
    text + &format!("\n[signing]\nkey_file = {}\n", quoted(&keys.signing.path().display().to_string()))
}

fn notes(repository: &RepositoryPart, settings: &Settings, keys: &Keys) -> Vec<String> {
    let mut notes = Vec::new();
    let name = |file: &KeyFile| file.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let offline: Vec<String> = keys.identity.iter().chain(&keys.operator).map(name).collect();
    if let Some(identity) = &keys.identity {
        notes
            .push(format!("Without {} no backup can ever be read again, and whoever has\nit can read them all.", name(identity)));
    }
    if !offline.is_empty() {
        notes.push(format!(
            "Keep {} offline, in two places, and never\non the protected host: move them away now. A restore needs the identity, on\nthe host that restores.",
            offline.join(" and ")
        ));
    }
    notes.push(format!(
        "Keep {} on the protected host, readable only by the user that\nruns archive_command (usually postgres).",
        name(&keys.signing)
    ));
    if keys.operator.is_none() {
        notes.push(
            "The signing key has all rights in this repository: whoever takes the host can\nalso expire backups. With --generate-keys DIR an operator's key, kept offline,\nhas those rights instead."
                .to_owned(),
        );
    }
    if settings.encryption.off {
        notes.push("Encryption is off: whoever can read the repository can read the databases.".to_owned());
    } else if keys.identity.is_none() && settings.encryption.recipients.is_empty() {
        notes.push("No recipient is configured yet: backups need one, or mode = \"off\".".to_owned());
    }
    if rustix::process::geteuid().is_root() && repository.url.starts_with("file:") {
        notes.push(
            "The repository's directory belongs to root. The server's user must be able to\nwrite to it, and to read the signing key: chown both, or run init as that user."
                .to_owned(),
        );
    }
    notes
}
