//! `lifeboat.toml`: found, read and resolved once into [`Settings`].
//!
//! Every mistake in the file is a usage error that names file and line. Relative paths count from the file.

mod identities;
pub mod policies;
mod repositories;
mod resolve;
mod run;
pub mod settings;

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::engine::drill::run::IDENTITY_VARIABLE;

pub use identities::parse as parse_identities;
pub use resolve::flush;
pub use settings::{
    BackupSettings, Contact, DirectorySettings, Encryption, PostgresSettings, RepositorySettings, RunSettings, Sealing, Settings,
    SourceKind, SourceSettings, SqliteSettings, StandbyPlace,
};

/// What of the process's environment decides where files are.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$LIFEBOAT_CONFIG`.
    pub config_file: Option<PathBuf>,
    /// `$LIFEBOAT_IDENTITY_FILE`: wins over what the file says. A drill gives it to the server that it restores.
    pub identity_file: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// Whether this process runs as root.
    pub is_root: bool,
}

impl Environment {
    /// This process's.
    pub fn of_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG specification: a relative path is invalid and to be ignored.
        let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
        Self {
            config_file: path("LIFEBOAT_CONFIG"),
            identity_file: path(IDENTITY_VARIABLE),
            config_home: absolute("XDG_CONFIG_HOME"),
            state_home: absolute("XDG_STATE_HOME"),
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// Where the configuration file may be when nobody says, in order of preference.
    fn usual_places(&self) -> Vec<PathBuf> {
        let user = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        let user = user.map(|config| config.join("lifeboat/lifeboat.toml"));
        [PathBuf::from("./lifeboat.toml")].into_iter().chain(user).chain([PathBuf::from("/etc/lifeboat/lifeboat.toml")]).collect()
    }

    /// Where state is kept when the file does not say.
    fn default_state_dir(&self) -> Option<PathBuf> {
        match (&self.state_home, self.is_root, &self.home) {
            (Some(state_home), _, _) => Some(state_home.join("lifeboat")),
            (None, true, _) => Some(PathBuf::from("/var/lib/lifeboat")),
            (None, false, Some(home)) => Some(home.join(".local/state/lifeboat")),
            (None, false, None) => None,
        }
    }
}

/// Finds and reads the configuration: `explicit` (`--config`), else `$LIFEBOAT_CONFIG`, else the usual places.
///
/// # Errors
/// Usage errors: no file, an unreadable file, or all mistakes in it, each with file and line.
pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Settings> {
    let settings = find(explicit, environment).and_then(|(path, text)| resolve::resolve(&path, &text, environment));
    settings.map_err(|error| match error.hints() {
        [] => error.hint("lifeboat init --help shows a complete configuration"),
        _ => error,
    })
}

/// The configuration's path, found as [`load`] finds it; none when nobody names one and the usual places have none.
///
/// # Errors
/// When the file that is named does not exist, or cannot be read.
pub fn locate(explicit: Option<&Path>, environment: &Environment) -> Result<Option<PathBuf>> {
    Ok(find_if_any(explicit, environment)?.map(|(path, _)| path))
}

fn find(explicit: Option<&Path>, environment: &Environment) -> Result<(PathBuf, String)> {
    if let Some(found) = find_if_any(explicit, environment)? {
        return Ok(found);
    }
    let places: Vec<String> = environment.usual_places().iter().map(|path| path.display().to_string()).collect();
    Err(Error::usage("there is no configuration file lifeboat.toml")
        .detail("looked for", places.join("\n"))
        .hint("lifeboat init --help shows a complete one; --config FILE names another place"))
}

fn find_if_any(explicit: Option<&Path>, environment: &Environment) -> Result<Option<(PathBuf, String)>> {
    let named = match (explicit, &environment.config_file) {
        (Some(path), _) => Some((path, "--config")),
        (None, Some(path)) => Some((path.as_path(), "LIFEBOAT_CONFIG")),
        (None, None) => None,
    };
    if let Some((path, origin)) = named {
        let text = read(path)?.ok_or_else(|| {
            Error::usage(format!("there is no configuration file {}", path.display())).detail("named by", origin)
        })?;
        return Ok(Some((path.to_owned(), text)));
    }
    for path in environment.usual_places() {
        if let Some(text) = read(&path)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
                Err(Error::usage(format!("{}:{line}: not UTF-8 text", path.display())))
            }
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::usage(format!("cannot read the configuration file {}", path.display())).caused_by(error)),
    }
}

#[cfg(test)]
mod tests;
