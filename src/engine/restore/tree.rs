//! The tree before its content: directories, links and files of their final length; afterwards their modes and times.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::base::{Error, RelPath, Result, Timestamp};
use crate::engine::accounts;
use crate::repo::manifest::{FileKind, FileLine, Header};
use crate::source::postgres::walk::is_control_file;

/// Where tablespaces go: old directory → new directory.
pub(super) type TablespaceMap = BTreeMap<PathBuf, PathBuf>;

/// The restored tree.
pub(super) struct Tree {
    root: PathBuf,
    tablespaces: TablespaceMap,
    owners: Option<Owners>,
    /// Whether what is there already and of the right kind is kept.
    over_existing: bool,
}

/// Owners to set, when this process may.
struct Owners {
    uids: BTreeMap<u32, u32>,
    gids: BTreeMap<u32, u32>,
}

impl Owners {
    /// Owner and group of an entry on this host.
    fn of(&self, line: &FileLine) -> (u32, u32) {
        (self.uids.get(&line.uid).copied().unwrap_or(line.uid), self.gids.get(&line.gid).copied().unwrap_or(line.gid))
    }
}

impl Tree {
    pub fn new(root: &Path, tablespaces: TablespaceMap, header: &Header, over_existing: bool) -> Self {
        // As root, owners are kept, by name where this host knows the name; otherwise everything belongs to this user.
        let owners = rustix::process::geteuid().is_root().then(|| Owners {
            uids: header.users.iter().filter_map(|(uid, name)| Some((*uid, accounts::uid_of(name)?))).collect(),
            gids: header.groups.iter().filter_map(|(gid, name)| Some((*gid, accounts::gid_of(name)?))).collect(),
        });
        Self { root: root.to_owned(), tablespaces, owners, over_existing }
    }

    /// Where `path` lies now. The control file has a temporary name until everything else is there.
    pub fn location(root: &Path, path: &RelPath) -> PathBuf {
        let location = root.join(path.as_path());
        if is_control_file(path) { location.with_file_name("pg_control.lifeboat-restore") } else { location }
    }

    /// Creates one entry.
    pub fn create(&self, line: &FileLine) -> Result<()> {
        let location = Self::location(&self.root, &line.path);
        let failed = |error: io::Error| Error::io("create", &location, error);
        match &line.kind {
            FileKind::Directory => self.create_directory(&location).map_err(failed)?,
            FileKind::File | FileKind::Pages => {
                let open = || self.open_file(&location);
                let file = match open() {
                    // Configuration from outside the data directory is listed without the directories that it lay in.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        location.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
                        open()
                    }
                    outcome => outcome,
                };
                let file = file.map_err(failed)?;
                file.set_len(line.size_bytes).map_err(failed)?;
            }
            FileKind::Symlink { target } => self.link(&decode(target)?, &location).map_err(failed)?,
            FileKind::Tablespace { target } => {
                let directory = self.tablespace(target)?;
                fs::create_dir_all(&directory).map_err(|error| Error::io("create", &directory, error))?;
                self.link(&directory, &location).map_err(failed)?;
            }
            FileKind::Fifo | FileKind::CharacterDevice { .. } | FileKind::BlockDevice { .. } => return Err(foreign(line)),
        }
        Ok(())
    }

    fn create_directory(&self, location: &Path) -> io::Result<()> {
        match fs::create_dir(location) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(location),
            Err(error) if self.over_existing && error.kind() == io::ErrorKind::AlreadyExists && location.is_dir() => Ok(()),
            outcome => outcome,
        }
    }

    fn open_file(&self, location: &Path) -> io::Result<File> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(flags);
        if self.over_existing {
            options.create(true).truncate(false)
        } else {
            options.create_new(true)
        };
        options.open(location)
    }

    fn link(&self, target: &Path, location: &Path) -> io::Result<()> {
        match symlink(target, location) {
            Err(error) if self.over_existing && error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(location)? == target { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    /// The new directory of the tablespace that was at `target`.
    pub fn tablespace(&self, target: &str) -> Result<PathBuf> {
        let old = decode(target)?;
        Ok(self.tablespaces.get(&old).cloned().unwrap_or(old))
    }

    /// Sets owner, mode and time of one entry, when its content is complete.
    pub fn finish(&self, line: &FileLine) -> Result<()> {
        let location = Self::location(&self.root, &line.path);
        let failed = |error: io::Error| Error::io("set owner, mode and time of", &location, error);
        if let Some(owners) = &self.owners {
            if is_control_file(&line.path) {
                // No entry stands for the data directory itself: it belongs to whom the control file belongs.
                let (uid, gid) = owners.of(line);
                chown(&self.root, Some(uid), Some(gid)).map_err(failed)?;
            }
            let (uid, gid) = owners.of(line);
            match &line.kind {
                FileKind::Symlink { .. } => lchown(&location, Some(uid), Some(gid)).map_err(failed)?,
                FileKind::Tablespace { target } => {
                    lchown(&location, Some(uid), Some(gid)).map_err(failed)?;
                    chown(self.tablespace(target)?, Some(uid), Some(gid)).map_err(failed)?;
                }
                _ => lchown(&location, Some(uid), Some(gid)).map_err(failed)?,
            }
        }
        match &line.kind {
            FileKind::Symlink { .. } => Ok(()),
            FileKind::Tablespace { target } => {
                let directory = self.tablespace(target)?;
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).map_err(failed)
            }
            FileKind::Directory | FileKind::File | FileKind::Pages => {
                let set = || {
                    let file = File::open(&location)?;
                    file.set_modified(system_time(line.modified))?;
                    fs::set_permissions(&location, fs::Permissions::from_mode(line.mode & 0o777))
                };
                set().map_err(failed)
            }
            FileKind::Fifo | FileKind::CharacterDevice { .. } | FileKind::BlockDevice { .. } => Err(foreign(line)),
        }
    }
}

/// No cluster has pipes and devices; the manifest's reader refuses them already.
fn foreign(line: &FileLine) -> Error {
    Error::damaged(format!("{} is nothing that a data directory holds", line.path))
}

/// A link's target as a path.
pub(super) fn decode(target: &str) -> Result<PathBuf> {
    let bytes = FileKind::decode_target(target).map_err(Error::damaged)?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

fn system_time(time: Timestamp) -> SystemTime {
    let micros = time.unix_micros();
    let duration = Duration::from_micros(micros.unsigned_abs());
    if micros >= 0 { SystemTime::UNIX_EPOCH + duration } else { SystemTime::UNIX_EPOCH - duration }
}
