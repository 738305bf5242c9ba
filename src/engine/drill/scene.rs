//! The scratch directory of a drill, and what is left of one that was killed.
//!
//! Layout: `data/` (the restored tree), `tablespaces/`, `socket/`, `server.log`, `hba.conf`, `ident.conf`, `drill-id`.
//! A record in the state directory, written before the directory is made, names it with the drill's process id and that
//! process's start: a later drill of this host stops the server and removes what a killed drill left, wherever that was.
//! Nothing is removed that does not carry the record's own id.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::isolation;
use crate::base::{Error, Result, SourceName, boot_id, durable};
use crate::source::postgres::external_config::EXTERNAL_CONFIG_FOLDER;
use crate::source::postgres::live;
use crate::source::postgres::scratch_server::{Account, ScratchServer};

/// A socket's path has 107 bytes at most; this is what comes after the scratch directory.
const SOCKET_NAME: &str = "/socket/.s.PGSQL.5432";
const LONGEST_SOCKET_BYTES: usize = 107;
/// How long removing is tried: what a server had started may write for a moment longer.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// The file in the directory that carries the record's id.
const ID_FILE: &str = "drill-id";
/// Where secrets are kept: never on a disk when there is such a place.
const MEMORY: &str = "/dev/shm";

/// What is remembered of a drill while it runs.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    source: SourceName,
    directory: PathBuf,
    /// The file with the identity, where there is one.
    identity_file: Option<PathBuf>,
    /// The drill's process, and when it started, in the system's own ticks.
    pid: u32,
    started_ticks: u64,
    /// Which start of the system that was; of another, nothing can live any more.
    #[serde(default)]
    boot: Option<String>,
}

impl Record {
    /// Whether the system has been started since.
    fn is_before_boot(&self) -> bool {
        // Some were kept with the line's end.
        self.boot.is_some() && boot_id().as_deref() != self.boot.as_deref().map(str::trim)
    }
}

/// A drill's directory and server; both go when it is dropped, unless it is kept.
#[derive(Debug)]
pub struct Scene {
    /// The scratch directory.
    pub directory: PathBuf,
    /// The restored server, once there is one.
    pub server: Option<ScratchServer>,
    record_file: PathBuf,
    record: Record,
    kept: bool,
}

impl Scene {
    /// Makes a fresh directory below `base`, on record in `state_dir`. A `server` needs the account that runs it, and
    /// perhaps a secret, which goes into a file that is gone with it.
    ///
    /// # Errors
    /// When a file cannot be made, or the path is too long for a server's socket.
    pub fn make(base: &Path, state_dir: &Path, source: &SourceName, server: Option<(&Account, Option<&str>)>) -> Result<Self> {
        let id = hex::encode(rand::random::<[u8; 6]>());
        let directory = base.join(format!("lifeboat-drill-{id}"));
        let socket_bytes = directory.as_os_str().len() + SOCKET_NAME.len();
        if server.is_some() && socket_bytes > LONGEST_SOCKET_BYTES {
            return Err(Error::usage(format!("{} is too deep: a socket's path has 107 bytes at most", base.display()))
                .hint("add --scratch DIR   with a shorter path"));
        }
        let memory = Path::new(MEMORY);
        let place = if memory.is_dir() { memory } else { directory.as_path() };
        let identity_file = server.and_then(|(_, secret)| secret).map(|_| place.join(format!("lifeboat-drill-{id}.key")));
        let pid = std::process::id();
        let started_ticks = started_ticks(pid).ok_or_else(|| Error::failed("cannot read this process's start from /proc"))?;
        let (source, boot) = (source.clone(), boot_id());
        let record = Record { id, source, directory: directory.clone(), identity_file, pid, started_ticks, boot };
        let record_file = records(state_dir).join(format!("{}.json", record.id));
        let scene = Self { directory, server: None, record_file, record, kept: false };
        scene.create()?;
        if let Some((account, secret)) = server {
            scene.make_room_for_server(account, secret)?;
        }
        Ok(scene)
    }

    fn create(&self) -> Result<()> {
        let parent = self.record_file.parent().unwrap_or(Path::new("/"));
        durable::create_dir_all(parent).map_err(failed(parent))?;
        let text = serde_json::to_vec(&self.record).map_err(|error| Error::failed("cannot write a record").caused_by(error))?;
        durable::write_file(&self.record_file, &text, 0o600).map_err(failed(&self.record_file))?;
        let base = self.directory.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(base).map_err(failed(base))?;
        fs::DirBuilder::new().mode(0o700).create(&self.directory).map_err(failed(&self.directory))?;
        let id_file = self.directory.join(ID_FILE);
        fs::write(&id_file, &self.record.id).map_err(failed(&id_file))
    }

    fn make_room_for_server(&self, account: &Account, secret: Option<&str>) -> Result<()> {
        account.give(&self.directory)?;
        for directory in [self.sockets(), self.tablespaces()] {
            fs::DirBuilder::new().mode(0o700).create(&directory).map_err(failed(&directory))?;
            account.give(&directory)?;
        }
        for (file, content) in [(self.hba(), isolation::HBA), (self.ident(), "")] {
            private_file(&file, content).map_err(failed(&file))?;
            account.give(&file)?;
        }
        if let (Some(file), Some(secret)) = (&self.record.identity_file, secret) {
            private_file(file, secret).map_err(failed(file))?;
            account.give(file)?;
        }
        Ok(())
    }

    /// The restored data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where the tablespaces go.
    pub fn tablespaces(&self) -> PathBuf {
        self.directory.join("tablespaces")
    }

    /// Where the only socket is.
    pub fn sockets(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// What the server writes.
    pub fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// Who may connect.
    pub fn hba(&self) -> PathBuf {
        self.directory.join("hba.conf")
    }

    /// An empty map of users.
    pub fn ident(&self) -> PathBuf {
        self.directory.join("ident.conf")
    }

    /// The file with the identity that the `restore_command` needs, where a command gave one.
    pub fn identity_file(&self) -> Option<&Path> {
        self.record.identity_file.as_deref()
    }

    /// The source's `postgresql.conf` where it lay outside the data directory.
    pub fn stored_config(&self) -> Option<PathBuf> {
        let mut pending = vec![self.data().join(EXTERNAL_CONFIG_FOLDER)];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).ok()?.flatten() {
                if entry.file_name() == "postgresql.conf" {
                    return Some(entry.path());
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(entry.path());
                }
            }
        }
        None
    }

    /// Takes the identity away: nothing needs it any more.
    pub fn forget_identity(&self) {
        if let Some(file) = &self.record.identity_file {
            // Removed again at the end; a file that is gone already is as wanted.
            let _ = fs::remove_file(file);
        }
    }

    /// Leaves directory and server for somebody to look at.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::io("write", &path, error)
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.forget_identity();
        if self.kept {
            self.server.iter_mut().for_each(ScratchServer::leave);
        } else {
            if let Some(server) = &mut self.server {
                let _ = server.stop_at_once();
            }
            // What cannot be removed stays on record: the next drill tries again.
            if remove(&self.directory).is_err() {
                return;
            }
        }
        let _ = fs::remove_file(&self.record_file);
    }
}

/// Stops and removes what killed drills of this host left; says what it did.
///
/// # Errors
/// When something cannot be stopped or removed.
pub fn sweep(state_dir: &Path) -> Result<Vec<String>> {
    let (records, mut told) = (records(state_dir), Vec::new());
    let entries = match fs::read_dir(&records) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(told),
        Err(error) => return Err(Error::io("list", &records, error)),
    };
    for entry in entries {
        let file = entry.map_err(|error| Error::io("list", &records, error))?.path();
        let Ok(text) = fs::read(&file) else { continue };
        // One that is being written by another drill has a temporary name, or will be whole in a moment.
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { continue };
        if !record.is_before_boot() && started_ticks(record.pid) == Some(record.started_ticks) {
            continue;
        }
        if clear(&record)? {
            let directory = record.directory.display();
            told.push(format!("removed {directory}, which a drill of {} left when it was killed", record.source));
        }
        fs::remove_file(&file).map_err(|error| Error::io("remove", &file, error))?;
    }
    Ok(told)
}

/// Whether there was something to remove.
fn clear(record: &Record) -> Result<bool> {
    if let Some(file) = &record.identity_file {
        let _ = fs::remove_file(file);
    }
    let directory = &record.directory;
    match fs::read_to_string(directory.join(ID_FILE)) {
        Ok(id) if id == record.id => {}
        // Killed before the id was written: nothing was restored there.
        Err(_) if directory.exists() && !directory.join("data").exists() => {}
        _ => return Ok(false),
    }
    if !record.is_before_boot() {
        stop_stranger(&directory.join("data"))?;
    }
    remove(directory).map_err(|error| Error::io("remove", directory, error))?;
    Ok(true)
}

/// Stops the server on `data`, which the directory's id has shown to be a drill's. Only what is proven to be of that server
/// is signalled: the number in `postmaster.pid` may be another's by now.
fn stop_stranger(data: &Path) -> Result<()> {
    for signal in [Signal::QUIT, Signal::KILL] {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        while Instant::now() < deadline {
            let Some(pid) = live::proven_process(data)? else { return Ok(()) };
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // Fails only when it has just ended, or is another user's: then it does not stop.
                let _ = kill_process(pid, signal);
            }
            std::thread::sleep(POLL);
        }
    }
    match live::proven_process(data)? {
        None => Ok(()),
        Some(pid) => Err(Error::failed(format!("the server of a killed drill on {} does not stop", data.display()))
            .hint(format!("kill -9 {pid}"))),
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + REMOVE_PATIENCE;
    loop {
        match fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(_) if !directory.exists() => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn records(state_dir: &Path) -> PathBuf {
    state_dir.join("drills")
}

fn private_file(path: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content.as_bytes())
}

/// When a process started, in ticks since the system did; none when there is no such process.
fn started_ticks(pid: u32) -> Option<u64> {
    // "pid (name) state ppid …": the name may hold anything, so count from the last parenthesis.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SourceName {
        "orders".parse().unwrap()
    }

    #[test]
    fn a_scene_is_private_and_gone_when_dropped() {
        use std::os::unix::fs::PermissionsExt;
        let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let account = Account::choose().unwrap();
        let scene = Scene::make(base.path(), state.path(), &source(), Some((&account, Some("AGE-SECRET-KEY-1X")))).unwrap();
        let (directory, key) = (scene.directory.clone(), scene.identity_file().unwrap().to_owned());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&scene.sockets()), mode(&key)), (0o700, 0o700, 0o600));
        assert!(sweep(state.path()).unwrap().is_empty(), "its own process lives");
        assert!(directory.exists());
        drop(scene);
        assert!(!directory.exists() && !key.exists());
        assert_eq!(fs::read_dir(records(state.path())).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_that_carries_another_id() {
        let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let leave = |name: &str, id_there: &str| {
            let directory = base.path().join(name);
            fs::create_dir_all(directory.join("data")).unwrap();
            fs::write(directory.join(ID_FILE), id_there).unwrap();
            let record = Record {
                id: name.to_owned(),
                source: source(),
                directory: directory.clone(),
                identity_file: None,
                pid: std::process::id(),
                started_ticks: 1,
                boot: boot_id(),
            };
            fs::create_dir_all(records(state.path())).unwrap();
            fs::write(records(state.path()).join(name), serde_json::to_vec(&record).unwrap()).unwrap();
            directory
        };
        let (own, strange) = (leave("own", "own"), leave("strange", "other"));
        assert_eq!(sweep(state.path()).unwrap().len(), 1);
        assert!(!own.exists() && strange.exists());
    }

    #[test]
    fn after_another_start_of_the_system_nothing_of_a_drill_lives() {
        let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let account = Account::choose().unwrap();
        let mut scene = Scene::make(base.path(), state.path(), &source(), Some((&account, None))).unwrap();
        assert!(sweep(state.path()).unwrap().is_empty(), "this process lives");
        scene.record.boot = Some("another".to_owned());
        fs::write(&scene.record_file, serde_json::to_vec(&scene.record).unwrap()).unwrap();
        assert_eq!(sweep(state.path()).unwrap().len(), 1, "it only has the same number and start");
        assert!(!scene.directory.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = base.path().join("d".repeat(100));
        let error = Scene::make(&deep, state.path(), &source(), Some((&Account::choose().unwrap(), None))).unwrap_err();
        assert!(error.message().contains("107"), "{error:?}");
        assert!(!deep.exists());
    }
}
