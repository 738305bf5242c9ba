//! Configuration files outside the data directory, as Debian keeps them.
//!
//! A backup of the data directory alone would lose them. They are stored below `lifeboat-external-config/` under their
//! absolute path, for the operator to put back: a restore never writes to `/etc` by itself.
//! Source: PostgreSQL documentation, "File Locations" and "Managing Configuration File Contents" (`include*`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, RelPath, Result};
use crate::source::{Entry, EntryKind};

use super::server::ServerInfo;
use super::walk::entry_from;

/// The folder of a backup that holds these files.
pub const EXTERNAL_CONFIG_FOLDER: &str = "lifeboat-external-config";

/// PostgreSQL's own limit on nested includes.
const MAX_DEPTH: usize = 10;

/// The server's configuration files that lie outside its data directory, with what they include, sorted by path.
///
/// A file that does not exist is left out (`pg_ident.conf` may be missing, as may an `include_if_exists`).
pub fn external_config(info: &ServerInfo) -> Result<Vec<Entry>> {
    let data_directory = fs::canonicalize(&info.data_directory)
        .map_err(|error| Error::io("find the data directory", &info.data_directory, error))?;
    let mut collector = Collector { data_directory, found: BTreeMap::new() };
    for file in [&info.config_file, &info.hba_file, &info.ident_file] {
        collector.add(file, 0)?;
    }
    Ok(collector.found.into_values().collect())
}

struct Collector {
    data_directory: PathBuf,
    found: BTreeMap<RelPath, Entry>,
}

impl Collector {
    fn add(&mut self, file: &Path, depth: usize) -> Result<()> {
        if file.as_os_str().is_empty() || depth > MAX_DEPTH {
            return Ok(());
        }
        let real = match fs::canonicalize(file) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("find", file, error)),
        };
        let metadata = fs::metadata(&real).map_err(|error| Error::io("look at", &real, error))?;
        if !metadata.is_file() {
            return Ok(());
        }
        if !real.starts_with(&self.data_directory) {
            let absolute = real.as_os_str().as_bytes();
            let path = RelPath::new([EXTERNAL_CONFIG_FOLDER.as_bytes(), absolute].concat()).map_err(Error::failed)?;
            let entry = entry_from(path.clone(), real.clone(), EntryKind::File, &metadata);
            if self.found.insert(path, entry).is_some() {
                return Ok(());
            }
        }
        let content = fs::read(&real).map_err(|error| Error::io("read", &real, error))?;
        let directory = real.parent().unwrap_or(Path::new("/"));
        for line in String::from_utf8_lossy(&content).lines() {
            match parse_include(line) {
                Some(("include_dir", name)) => self.add_directory(&directory.join(name), depth)?,
                Some((_, name)) => self.add(&directory.join(name), depth + 1)?,
                None => {}
            }
        }
        Ok(())
    }

    fn add_directory(&mut self, directory: &Path, depth: usize) -> Result<()> {
        let listed = match fs::read_dir(directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("list", directory, error)),
        };
        for file in listed {
            let file = file.map_err(|error| Error::io("list", directory, error))?.path();
            let name = file.file_name().unwrap_or_default().as_bytes();
            if name.ends_with(b".conf") && !name.starts_with(b".") {
                self.add(&file, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// The directive and the name of an `include`, `include_if_exists` or `include_dir` line, quoted or not.
fn parse_include(line: &str) -> Option<(&str, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(line.len());
    let (directive, rest) = line.split_at(end);
    if !["include", "include_if_exists", "include_dir"].contains(&directive) {
        return None;
    }
    let rest = rest.trim_start().trim_start_matches('=').trim_start();
    let name = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.replace("''", "\0").split('\'').next()?.replace('\0', "'"),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.trim_matches('"').to_owned(),
    };
    (!name.is_empty()).then_some((directive, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_recognised() {
        assert_eq!(parse_include("include_dir = 'conf.d'\t# more"), Some(("include_dir", "conf.d".into())));
        assert_eq!(parse_include("  include 'it''s.conf'"), Some(("include", "it's.conf".into())));
        assert_eq!(parse_include("include_if_exists extra.conf # x"), Some(("include_if_exists", "extra.conf".into())));
        for line in ["#include 'x'", "included = 'x'", "include", "port = 5432"] {
            assert_eq!(parse_include(line), None, "{line}");
        }
    }

    #[test]
    fn only_files_outside_the_data_directory_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let (data, etc) = (dir.path().join("data"), dir.path().join("etc"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(etc.join("conf.d")).unwrap();
        fs::write(data.join("pg_hba.conf"), "local all all trust\n").unwrap();
        fs::write(etc.join("postgresql.conf"), "include_dir = 'conf.d'\ninclude 'postgresql.conf'\n").unwrap();
        fs::write(etc.join("conf.d/ssl.conf"), "ssl = off\n").unwrap();
        fs::write(etc.join("conf.d/ignored"), "").unwrap();
        let real = fs::canonicalize(&data).unwrap();
        let mut collector = Collector { data_directory: real, found: BTreeMap::new() };
        for file in [etc.join("postgresql.conf"), data.join("pg_hba.conf"), etc.join("pg_ident.conf")] {
            collector.add(&file, 0).unwrap();
        }
        let names: Vec<String> = collector.found.keys().map(ToString::to_string).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].starts_with(EXTERNAL_CONFIG_FOLDER) && names[0].ends_with("/etc/conf.d/ssl.conf"));
        assert!(names[1].ends_with("/etc/postgresql.conf"));
    }
}
