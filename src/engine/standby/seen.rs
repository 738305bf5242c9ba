//! Where a standby that is declared by its connection string was seen last: it is to be found while its server is down.
//!
//! A hint: whoever takes it looks at the marker in that directory, and at what it holds against the archive, as ever.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::marker::Marker;
use crate::base::{Error, Result, SourceName, durable};
use crate::source::postgres::conninfo;

#[derive(Serialize, Deserialize)]
struct Seen {
    /// What the connection string leads to, without secrets.
    server: String,
    directory: PathBuf,
}

fn path(state_dir: &Path, source: &SourceName) -> PathBuf {
    state_dir.join(format!("standby-{source}.json"))
}

fn server(text: &str) -> Option<String> {
    let parsed = conninfo::parse(text, &conninfo::process_environment).ok()?;
    Some(conninfo::describe(&parsed.config))
}

/// Remembers that the server of `source` which `conninfo` leads to has its data in `directory`, on this host.
///
/// # Errors
/// When it cannot be written.
pub fn remember(state_dir: &Path, source: &SourceName, conninfo: &str, directory: &Path) -> Result<()> {
    let Some(server) = server(conninfo) else { return Ok(()) };
    let path = path(state_dir, source);
    let text = serde_json::to_string(&Seen { server, directory: directory.to_owned() });
    let text = text.map_err(|error| Error::failed(error.to_string()))?;
    let write = || {
        durable::create_dir_all(state_dir)?;
        durable::write_file(&path, text.as_bytes(), 0o600)
    };
    write().map_err(|error| Error::io("write", &path, error))
}

/// Where that was, if a standby of `source` is there.
pub fn recall(state_dir: &Path, source: &SourceName, conninfo: &str) -> Option<PathBuf> {
    // Unreadable is as good as not remembered: the operator names the directory.
    let seen: Seen = serde_json::from_slice(&fs::read(path(state_dir, source)).ok()?).ok()?;
    let marker = Marker::read(&seen.directory).ok()??;
    (server(conninfo)? == seen.server && marker.source == *source).then_some(seen.directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BackupId, BackupType, Incarnation, Lsn, Timestamp};

    #[test]
    fn it_is_recalled_for_the_same_server_and_source_while_the_standby_is_there() {
        let (state, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, other) = ("orders".parse::<SourceName>().unwrap(), "others".parse::<SourceName>().unwrap());
        let recall = |source: &SourceName, conninfo: &str| recall(state.path(), source, conninfo);
        let conninfo = "host=/run/a port=5432 user=u password=secret dbname=d";
        assert_eq!(recall(&source, conninfo), None);
        for source in [&source, &other] {
            remember(state.path(), source, conninfo, data.path()).unwrap();
        }
        assert_eq!(recall(&source, conninfo), None, "no standby is there");
        let backup = BackupId::fresh(Timestamp::now(), BackupType::Full);
        Marker::new(&source, &Incarnation::postgres(15, 7), &backup, Lsn(7)).write(data.path()).unwrap();
        assert_eq!(recall(&source, conninfo).as_deref(), Some(data.path()));
        assert_eq!(recall(&source, &conninfo.replace("secret", "another")).as_deref(), Some(data.path()));
        assert_eq!(recall(&source, &conninfo.replace("/run/a", "/run/b")), None);
        assert_eq!(recall(&other, conninfo), None, "of another source");
        let text = fs::read_to_string(path(state.path(), &source)).unwrap();
        assert!(!text.contains("secret"), "{text}");
        fs::write(path(state.path(), &source), "{").unwrap();
        assert_eq!(recall(&source, conninfo), None);
    }
}
