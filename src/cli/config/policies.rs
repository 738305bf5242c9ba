//! The policy that a source names: a file, or one of those that come with the program.

use std::path::PathBuf;

use super::{Settings, SourceSettings};
use crate::base::document::{beside, nearest};
use crate::base::{Error, Result};
use crate::policy::{Policy, parse};

/// The policies that come with the program, by name.
pub const READY: &[(&str, &str)] = &[];

impl Settings {
    /// The policy of `source`, read from its file now; none when the source names none.
    ///
    /// A name with a slash, or that ends in `.toml`, is a path beside the configuration; any other is `policies/NAME.toml`
    /// beside it when there is such a file, else one of those that come with the program.
    ///
    /// # Errors
    /// Usage errors when there is no such policy, or something in it is wrong.
    pub fn policy_of(&self, source: &SourceSettings) -> Result<Option<Policy>> {
        source.policy.as_deref().map(|name| self.policy(name)).transpose()
    }

    /// The policy called `name`, as [`Settings::policy_of`] finds it.
    ///
    /// # Errors
    /// As [`Settings::policy_of`].
    pub fn policy(&self, name: &str) -> Result<Policy> {
        let path = if name.contains('/') || name.ends_with(".toml") { name.to_owned() } else { format!("policies/{name}.toml") };
        let path = beside(&self.config_file, &path);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match std::fs::read_to_string(&path) {
            Ok(text) => parse::parse(&stem, &path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match READY.iter().find(|(ready, _)| *ready == name) {
                Some((ready, text)) => parse::parse(ready, &PathBuf::from(format!("policies/{ready}.toml")), text),
                None => Err(unknown(name, &path)),
            },
            Err(error) => Err(Error::usage(format!("cannot read the policy {}", path.display())).caused_by(error)),
        }
    }
}

fn unknown(name: &str, path: &std::path::Path) -> Error {
    let known: Vec<&str> = READY.iter().map(|(ready, _)| *ready).collect();
    let error = Error::usage(format!("there is no policy '{name}'"))
        .detail("looked for", path.display().to_string())
        .detail("ready", known.join(", "));
    match nearest(name, known.into_iter()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("lifeboat policy check FILE   reads a policy and says what is wrong with it"),
    }
}
