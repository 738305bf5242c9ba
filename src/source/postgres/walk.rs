//! The sorted list of everything in a data directory that a backup stores.
//!
//! Invariants: entries come in the order of their [`RelPath`]s, each directory before its content, and memory holds
//! one directory's names a level; what vanishes between listing and looking is left out. What `basebackup.c` skips is
//! skipped (see [`super::filenames`]), with these rules of our own:
//! - `pg_wal`, and any other directory of the server, is listed as a plain directory even when it is a symbolic link,
//!   so a restore makes it one; other links are kept as links, their targets are not stored.
//! - Of a tablespace only this cluster's version directory is listed, below `pg_tblspc/<oid>/PG_<major>_<catalog>`.
//! - `global/pg_control` is listed in its place; the caller copies it last ([`is_control_file`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::base::{Error, FileStamp, RelPath, Result, Timestamp};
use crate::source::{Entry, EntryKind};

use super::control::{CONTROL_PATH, ControlFile};
use super::external_config::EXTERNAL_CONFIG_FOLDER;
use super::filenames::{
    EMPTIED_DIRECTORIES, is_excluded_name, is_number, is_server_directory, is_temporary_relation, parse_relation_file,
};
use super::unlogged::UnloggedRelations;

/// What a walk must know of the cluster.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// `PG_15_202209061`: the name of this cluster's directory in each tablespace.
    pub version_directory: String,
    /// Pages in one file of a relation (`RELSEG_SIZE`).
    pub pages_per_file: u32,
    /// `stats_temp_directory` of 13 and 14 when it lies below the data directory; its content is left out.
    pub stats_temp_directory: Option<RelPath>,
}

impl WalkOptions {
    /// For a cluster of `major` with this control file.
    pub fn new(major: u32, control: &ControlFile) -> Self {
        let version_directory = format!("PG_{major}_{}", control.catalog_version);
        Self { version_directory, pages_per_file: control.pages_per_file, stats_temp_directory: None }
    }
}

/// Something found that a backup cannot hold; worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is.
    pub path: RelPath,
    /// What it is: `a socket`, `a tablespace whose directory is missing`, …
    pub what: &'static str,
}

/// True for `global/pg_control`, which must be copied after everything else.
pub fn is_control_file(path: &RelPath) -> bool {
    path.as_bytes() == CONTROL_PATH.as_bytes()
}

/// The walk itself: an iterator over entries, in order.
///
/// An error ends nothing by itself, but what could not be listed is missing: a backup must fail on it.
#[derive(Debug)]
pub struct Walk {
    options: WalkOptions,
    levels: Vec<Level>,
    skipped: Vec<Skipped>,
}

#[derive(Debug)]
struct Level {
    path: Option<RelPath>,
    location: PathBuf,
    area: Area,
    names: std::vec::IntoIter<OsString>,
    unlogged: UnloggedRelations,
}

/// What kind of directory the walk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    /// The data directory.
    Top,
    /// `base`, or a tablespace's version directory: its subdirectories are databases.
    Databases,
    /// One database.
    Database,
    /// `global`.
    Global,
    /// `pg_tblspc`.
    Tablespaces,
    /// One tablespace.
    Tablespace,
    /// `pg_wal`.
    Wal,
    /// Listed as an empty directory.
    Emptied,
    /// Anything else.
    Other,
}

impl Walk {
    /// Starts a walk over `data_directory`. Fails when it cannot be listed.
    pub fn new(data_directory: &Path, options: WalkOptions) -> Result<Self> {
        let names = list_sorted(data_directory).map_err(|error| list_error(data_directory, error))?;
        let top = Level {
            path: None,
            location: data_directory.to_owned(),
            area: Area::Top,
            names,
            unlogged: UnloggedRelations::default(),
        };
        Ok(Self { options, levels: vec![top], skipped: Vec::new() })
    }

    /// What was left out so far and is worth a warning.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn visit(&mut self, name: OsString) -> Result<Option<Entry>> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let path = match &level.path {
            Some(parent) => parent.child(&name),
            None => RelPath::new(name.as_bytes()).map_err(Error::failed)?,
        };
        if level.leaves_out(&name, &self.options) {
            return Ok(None);
        }
        let (area, location) = (level.area, level.location.join(&name));
        let metadata = match fs::symlink_metadata(&location) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("look at", &location, error)),
        };
        if metadata.is_dir() {
            return self.directory(path, location, area, &metadata).map(Some);
        }
        if metadata.is_symlink() {
            return self.link(path, location, area, metadata);
        }
        if metadata.is_file() {
            let kind = self.file_kind(area, &name);
            return Ok(Some(entry_from(path, location, kind, &metadata)));
        }
        self.skipped.push(Skipped { path, what: special_file(&metadata) });
        Ok(None)
    }

    /// Lists a directory's names as the next level and returns its own entry.
    fn directory(&mut self, path: RelPath, location: PathBuf, parent: Area, metadata: &Metadata) -> Result<Entry> {
        let area = self.area_of(parent, &path);
        self.descend(path.clone(), location.clone(), area)?;
        Ok(entry_from(path, location, EntryKind::Directory, metadata))
    }

    fn descend(&mut self, path: RelPath, location: PathBuf, area: Area) -> Result<()> {
        if area == Area::Emptied {
            return Ok(());
        }
        let names = match list_sorted(&location) {
            Ok(names) => names,
            // Dropped in this moment, with its database or tablespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(list_error(&location, error)),
        };
        let is_database = area == Area::Database;
        let unlogged = if is_database { UnloggedRelations::among(names.as_slice()) } else { UnloggedRelations::default() };
        self.levels.push(Level { path: Some(path), location, area, names, unlogged });
        Ok(())
    }

    fn link(&mut self, path: RelPath, location: PathBuf, parent: Area, own: Metadata) -> Result<Option<Entry>> {
        let target = match fs::read_link(&location) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read the link", &location, error)),
        };
        let area = self.area_of(parent, &path);
        let ours = parent == Area::Top && is_server_directory(path.as_bytes());
        if matches!(parent, Area::Databases | Area::Database | Area::Global | Area::Tablespace) {
            return Err(Error::failed(format!(
                "{} is a symbolic link: what it holds would not be backed up",
                location.display()
            ))
            .detail("leads to", target.display().to_string())
            .hint("PostgreSQL makes links only for tablespaces; move the data back, or into a tablespace"));
        }
        if !ours && area != Area::Tablespace {
            self.skipped.push(Skipped { path: path.clone(), what: "a link; it is kept, what it leads to is not stored" });
            let kind = EntryKind::Symlink { target: target.into_os_string().into_vec() };
            return Ok(Some(entry_from(path, location, kind, &own)));
        }
        let metadata = match fs::metadata(&location) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && (area == Area::Tablespace || area == Area::Emptied) => {
                let what = if area == Area::Tablespace {
                    "a tablespace whose directory is missing"
                } else {
                    "a link to a missing directory"
                };
                self.skipped.push(Skipped { path, what });
                return Ok(None);
            }
            Err(error) => return Err(Error::io("follow the link", &location, error)),
        };
        if ours {
            return self.directory(path, location, parent, &metadata).map(Some);
        }
        self.descend(path.clone(), location.clone(), area)?;
        Ok(Some(entry_from(path, location, EntryKind::Tablespace { target }, &metadata)))
    }

    fn area_of(&self, parent: Area, path: &RelPath) -> Area {
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if self.options.stats_temp_directory.as_ref() == Some(path) {
            return Area::Emptied;
        }
        match (parent, name) {
            (Area::Top, b"base") => Area::Databases,
            (Area::Top, b"global") => Area::Global,
            (Area::Top, b"pg_tblspc") => Area::Tablespaces,
            (Area::Top, b"pg_wal") => Area::Wal,
            (Area::Top, name) if EMPTIED_DIRECTORIES.contains(&name) => Area::Emptied,
            (Area::Wal, _) => Area::Emptied,
            (Area::Tablespaces, name) if is_number(name) => Area::Tablespace,
            (Area::Tablespace, _) => Area::Databases,
            (Area::Databases, name) if is_number(name) => Area::Database,
            _ => Area::Other,
        }
    }

    fn file_kind(&self, area: Area, name: &OsStr) -> EntryKind {
        if !matches!(area, Area::Database | Area::Global) {
            return EntryKind::File;
        }
        let pages = parse_relation_file(name.as_bytes()).and_then(|file| {
            let first_block = file.segment.checked_mul(self.options.pages_per_file)?;
            Some(EntryKind::Pages { first_block, fork: file.fork })
        });
        pages.unwrap_or(EntryKind::File)
    }
}

impl Iterator for Walk {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(name) = self.levels.last_mut()?.names.next() else {
                self.levels.pop();
                continue;
            };
            if let Some(found) = self.visit(name).transpose() {
                return Some(found);
            }
        }
    }
}

impl Level {
    fn leaves_out(&self, name: &OsStr, options: &WalkOptions) -> bool {
        let name = name.as_bytes();
        match self.area {
            Area::Wal => return !matches!(name, b"archive_status" | b"summaries"),
            Area::Tablespace => return name != options.version_directory.as_bytes(),
            // What an earlier restore put there is a copy of files that are stored from where they are in force.
            Area::Top if name == b"lost+found" || name == EXTERNAL_CONFIG_FOLDER.as_bytes() => return true,
            _ => {}
        }
        if is_excluded_name(name) {
            return true;
        }
        self.area == Area::Database && (is_temporary_relation(name) || self.unlogged.hold(name))
    }
}

/// Names in a directory, sorted by their bytes.
pub(super) fn list_sorted(location: &Path) -> io::Result<std::vec::IntoIter<OsString>> {
    let mut names = fs::read_dir(location)?.map(|found| Ok(found?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names.into_iter())
}

pub(super) fn list_error(location: &Path, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let failed = Error::io("list", location, error);
    if denied {
        failed.hint("run lifeboat as the user who owns the data directory, for example: sudo -u postgres lifeboat …")
    } else {
        failed
    }
}

fn special_file(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

/// An entry with the attributes of `metadata`.
pub(super) fn entry_from(path: RelPath, location: PathBuf, kind: EntryKind, metadata: &Metadata) -> Entry {
    let is_file = matches!(kind, EntryKind::File | EntryKind::Pages { .. });
    Entry {
        path,
        location,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: metadata
            .modified()
            .map(Timestamp::from_system_time)
            .unwrap_or(Timestamp::from_system_time(std::time::UNIX_EPOCH)),
        stamp: Some(FileStamp::of(metadata)),
        size_bytes: if is_file { metadata.len() } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Fork;
    use std::os::unix::fs::symlink;

    fn options() -> WalkOptions {
        WalkOptions { version_directory: "PG_15_202209061".into(), pages_per_file: 131_072, stats_temp_directory: None }
    }

    fn make(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
    }

    fn walk(root: &Path, options: WalkOptions) -> (Vec<Entry>, Vec<Skipped>) {
        let mut walk = Walk::new(root, options).unwrap();
        let entries = walk.by_ref().collect::<Result<Vec<_>>>().unwrap();
        (entries, walk.skipped().to_vec())
    }

    fn paths(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.path.to_string()).collect()
    }

    #[test]
    fn the_walk_is_sorted_and_leaves_out_what_postgresql_does() {
        let dir = tempfile::tempdir().unwrap();
        make(
            dir.path(),
            &[
                "PG_VERSION",
                "postmaster.pid",
                "base/5/1259",
                "base/5/1259_fsm",
                "base/5/16384",
                "base/5/16384.1",
                "base/5/16384_init",
                "base/5/t3_16390",
                "base/5/pg_internal.init",
                "base/5/pg_filenode.map",
                "base/pgsql_tmp/pgsql_tmp1.0",
                "base-notes",
                "global/pg_control",
                "global/1260",
                "pg_replslot/slot/state",
                "pg_stat_tmp/db.stat",
                "pg_wal/000000010000000000000001",
                "pg_wal/archive_status/000000010000000000000001.done",
            ],
        );
        let (entries, skipped) = walk(dir.path(), options());
        let expected = [
            "PG_VERSION",
            "base",
            "base/5",
            "base/5/1259",
            "base/5/1259_fsm",
            "base/5/16384_init",
            "base/5/pg_filenode.map",
            "base-notes",
            "global",
            "global/1260",
            "global/pg_control",
            "pg_replslot",
            "pg_stat_tmp",
            "pg_wal",
            "pg_wal/archive_status",
        ];
        assert_eq!(paths(&entries), expected);
        assert!(entries.is_sorted_by(|a, b| a.path < b.path));
        assert!(skipped.is_empty(), "{skipped:?}");
        let kind = |path: &str| entries.iter().find(|entry| entry.path.to_string() == path).unwrap().kind.clone();
        assert_eq!(kind("base/5/1259_fsm"), EntryKind::Pages { first_block: 0, fork: Fork::FreeSpaceMap });
        assert_eq!(kind("global/1260"), EntryKind::Pages { first_block: 0, fork: Fork::Main });
        assert_eq!(kind("base/5/pg_filenode.map"), EntryKind::File);
        assert!(is_control_file(&RelPath::new(*b"global/pg_control").unwrap()));
    }

    #[test]
    fn tablespaces_show_only_this_clusters_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (data, space) = (dir.path().join("data"), dir.path().join("space ü"));
        make(&data, &["pg_tblspc/90/PG_15_202209061/5/77.2"]);
        make(&space, &["PG_15_202209061/5/88", "PG_14_202107181/5/99", "notes"]);
        symlink(&space, data.join("pg_tblspc/100")).unwrap();
        symlink(dir.path().join("gone"), data.join("pg_tblspc/101")).unwrap();
        let (entries, skipped) = walk(&data, options());
        let expected = [
            "pg_tblspc",
            "pg_tblspc/100",
            "pg_tblspc/100/PG_15_202209061",
            "pg_tblspc/100/PG_15_202209061/5",
            "pg_tblspc/100/PG_15_202209061/5/88",
            "pg_tblspc/90",
            "pg_tblspc/90/PG_15_202209061",
            "pg_tblspc/90/PG_15_202209061/5",
            "pg_tblspc/90/PG_15_202209061/5/77.2",
        ];
        assert_eq!(paths(&entries), expected);
        assert_eq!(entries[1].kind, EntryKind::Tablespace { target: space });
        assert_eq!(entries[8].kind, EntryKind::Pages { first_block: 262_144, fork: Fork::Main });
        assert_eq!(skipped[0].what, "a tablespace whose directory is missing");
    }

    #[test]
    fn links_are_kept_but_the_servers_own_directories_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (data, away) = (dir.path().join("data"), dir.path().join("away"));
        make(&data, &["PG_VERSION"]);
        make(&away, &["wal/000000010000000000000001", "wal/archive_status/x", "xact/0000", "log/today"]);
        symlink(away.join("wal"), data.join("pg_wal")).unwrap();
        symlink(away.join("xact"), data.join("pg_xact")).unwrap();
        symlink(away.join("log"), data.join("log")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
        let (entries, skipped) = walk(&data, options());
        assert_eq!(paths(&entries), ["PG_VERSION", "log", "pg_wal", "pg_wal/archive_status", "pg_xact", "pg_xact/0000"]);
        assert!(matches!(entries[1].kind, EntryKind::Symlink { .. }));
        assert_eq!(entries[2].kind, EntryKind::Directory);
        let skipped: Vec<_> = skipped.iter().map(|skipped| (skipped.path.to_string(), skipped.what)).collect();
        assert_eq!(
            skipped,
            [("log".into(), "a link; it is kept, what it leads to is not stored"), ("socket".into(), "a socket")]
        );
    }

    #[test]
    fn configuration_that_a_restore_put_there_is_not_listed_again() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["PG_VERSION", "lifeboat-external-config/etc/postgresql/15/main/postgresql.conf"]);
        assert_eq!(paths(&walk(dir.path(), options()).0), ["PG_VERSION"]);
    }

    #[test]
    fn a_link_among_relations_is_an_error_and_never_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let (data, away) = (dir.path().join("data"), dir.path().join("away"));
        make(&data, &["base/5/1259"]);
        make(&away, &["16384/2601"]);
        symlink(away.join("16384"), data.join("base/16384")).unwrap();
        let errors: Vec<_> = Walk::new(&data, options()).unwrap().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].message().contains("base/16384") && errors[0].message().contains("symbolic link"), "{:?}", errors[0]);
    }

    #[test]
    fn a_moved_statistics_directory_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["stats/db.stat"]);
        let moved = WalkOptions { stats_temp_directory: Some(RelPath::new(*b"stats").unwrap()), ..options() };
        assert_eq!(paths(&walk(dir.path(), moved).0), ["stats"]);
    }
}
