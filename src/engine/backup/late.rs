//! What is stored after everything else: the control file, the label, the tablespaces and configuration from elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{Error, FileStamp, RelPath, Result, Timestamp};
use crate::source::postgres::control::{CONTROL_PATH, ControlFile};
use crate::source::postgres::external_config::external_config;
use crate::source::postgres::server::ServerInfo;
use crate::source::postgres::session::Stopped;
use crate::source::{Entry, EntryKind};

/// `global/pg_control`, read until its checksum is right: the server may be writing it.
pub(super) fn control_entry(data_directory: &Path) -> Result<(Entry, Vec<u8>)> {
    const ATTEMPTS: usize = 10;
    let location = data_directory.join(CONTROL_PATH);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let bytes = std::fs::read(&location).map_err(|error| Error::io("read", &location, error))?;
        match ControlFile::parse(&bytes) {
            Ok(_) => return Ok((file_entry(CONTROL_PATH, &location, bytes.len())?, bytes)),
            Err(_) if attempt < ATTEMPTS => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error),
        }
    }
}

/// What is stored after the stop: the control file, the label, the tablespaces and configuration from elsewhere.
pub(super) fn late_entries(control: (Entry, Vec<u8>), stopped: &Stopped, info: &ServerInfo) -> Result<Vec<(Entry, Vec<u8>)>> {
    let owner = &control.0;
    let made = |name: &str, content: &[u8]| -> Result<(Entry, Vec<u8>)> {
        let entry = Entry {
            path: RelPath::new(name).map_err(Error::failed)?,
            location: PathBuf::from(name),
            kind: EntryKind::File,
            mode: 0o600,
            uid: owner.uid,
            gid: owner.gid,
            modified: stopped.stop_time,
            stamp: None,
            size_bytes: content.len() as u64,
        };
        Ok((entry, content.to_vec()))
    };
    let mut late = vec![made("backup_label", &stopped.backup_label)?];
    if !stopped.tablespace_map.is_empty() {
        late.push(made("tablespace_map", &stopped.tablespace_map)?);
    }
    for entry in external_config(info)? {
        let content = match entry.kind {
            EntryKind::File => std::fs::read(&entry.location).map_err(|error| Error::io("read", &entry.location, error))?,
            _ => Vec::new(),
        };
        late.push((entry, content));
    }
    late.push(control);
    late.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    Ok(late)
}

fn file_entry(path: &str, location: &Path, len: usize) -> Result<Entry> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(location).map_err(|error| Error::io("look at", location, error))?;
    Ok(Entry {
        path: RelPath::new(path).map_err(Error::failed)?,
        location: location.to_owned(),
        kind: EntryKind::File,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: metadata.modified().map(Timestamp::from_system_time).map_err(|error| Error::io("look at", location, error))?,
        stamp: Some(FileStamp::of(&metadata)),
        size_bytes: len as u64,
    })
}
