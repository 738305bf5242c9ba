//! Is a server running on a data directory? Asked before anything is written there.
//!
//! Two witnesses: every server process keeps the data directory as its working directory, which also finds a server in
//! another container or one whose `postmaster.pid` somebody deleted; and `postmaster.pid` itself, for processes whose
//! working directory may not be seen. In doubt a server is said to run.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::base::{Error, Result};

/// A server that runs on a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveServer {
    /// One of its processes.
    pub pid: u32,
    /// How it was noticed.
    pub evidence: &'static str,
}

/// Looks for a server on `data_directory`; `None` when there is none, or no such directory.
pub fn live_server(data_directory: &Path) -> Result<Option<LiveServer>> {
    let wanted = match fs::metadata(data_directory) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", data_directory, error)),
    };
    if let Some(pid) = server_process(|pid| working_directory(pid) == Some(wanted))? {
        return Ok(Some(LiveServer { pid, evidence: "a PostgreSQL process works in this directory" }));
    }
    let Some(pid) = recorded_pid(data_directory)? else { return Ok(None) };
    let maybe_ours = is_postgres(pid) && working_directory(pid).is_none();
    Ok(maybe_ours.then_some(LiveServer { pid, evidence: "postmaster.pid names a running PostgreSQL process" }))
}

/// The process that leads the server running on `data_directory`, as its `postmaster.pid` says and its working directory
/// bears out; `None` when there is none, or nobody can be sure.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn leader(data_directory: &Path) -> Result<Option<u32>> {
    let wanted = match fs::metadata(data_directory) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", data_directory, error)),
    };
    let recorded = recorded_pid(data_directory)?;
    Ok(recorded.filter(|pid| is_postgres(*pid) && working_directory(*pid) == Some(wanted)))
}

/// A process that is proven to be of a server on `data_directory`, its leader where that is known: it works there, or it is
/// the one that `postmaster.pid` names and its command line names the directory. A number that the system has given to
/// another process since is none of its, not even to another server's.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn proven_process(data_directory: &Path) -> Result<Option<u32>> {
    if let Some(leader) = leader(data_directory)? {
        return Ok(Some(leader));
    }
    let wanted = match fs::metadata(data_directory) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", data_directory, error)),
    };
    if let Some(pid) = recorded_pid(data_directory)?.filter(|pid| is_postgres(*pid) && names(*pid, data_directory)) {
        return Ok(Some(pid));
    }
    server_process(|pid| working_directory(pid) == Some(wanted))
}

/// Whether a word of the process's command line is the directory.
fn names(pid: u32, directory: &Path) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).any(|word| word == directory.as_os_str().as_bytes())
}

/// A running server whose data directory leads to the tablespace at `directory`; `None` when there is none to be seen.
///
/// # Errors
/// When processes cannot be listed.
pub fn server_with_tablespace(directory: &Path) -> Result<Option<u32>> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let Some(wanted) = identity(directory) else { return Ok(None) };
    server_process(|pid| {
        // What may not be seen, or is gone by now, has no entries.
        let links = fs::read_dir(format!("/proc/{pid}/cwd/pg_tblspc"));
        links.is_ok_and(|mut links| links.any(|link| link.is_ok_and(|link| identity(&link.path()) == Some(wanted))))
    })
}

/// A running server's process for which `is_it` holds.
fn server_process(is_it: impl Fn(u32) -> bool) -> Result<Option<u32>> {
    let processes = Path::new("/proc");
    for found in fs::read_dir(processes).map_err(|error| Error::io("list", processes, error))? {
        let name = found.map_err(|error| Error::io("list", processes, error))?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_postgres(pid) && is_it(pid) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// True when the process lives and is named like a server; its title says `postgres`, its executable may be `postmaster`.
fn is_postgres(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.starts_with("postgres") || name.starts_with("postmaster")
}

/// Device and inode of the process's working directory; `None` when it may not be seen or the process is gone.
fn working_directory(pid: u32) -> Option<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{pid}/cwd")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The first line of `postmaster.pid`; `None` without the file, or when it is being written.
fn recorded_pid(data_directory: &Path) -> Result<Option<u32>> {
    let path = data_directory.join("postmaster.pid");
    match fs::read_to_string(&path) {
        // A standalone backend writes its number negated.
        Ok(text) => Ok(text.lines().next().and_then(|line| line.trim().trim_start_matches('-').parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_pid_file_is_no_server() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(live_server(&dir.path().join("none")).unwrap(), None);
        // This test's own process lives, but is no PostgreSQL.
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n/x\n", std::process::id())).unwrap();
        assert_eq!(recorded_pid(dir.path()).unwrap(), Some(std::process::id()));
        assert_eq!(live_server(dir.path()).unwrap(), None);
        fs::write(dir.path().join("postmaster.pid"), "").unwrap();
        assert_eq!(live_server(dir.path()).unwrap(), None);
    }

    #[test]
    fn only_what_is_proven_is_a_servers_process() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        // Named like a server, and works elsewhere: as one to which the system gave the number again.
        let program = dir.path().join("postgres");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut stranger = std::process::Command::new(&program).arg("60").current_dir(&other).spawn().unwrap();
        // A process that was started has its name before it has its words.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while fs::read(format!("/proc/{}/cmdline", stranger.id())).unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "it has no words");
        }
        fs::write(own.join("postmaster.pid"), format!("{}\n", stranger.id())).unwrap();
        let found = [proven_process(&own).unwrap(), proven_process(&other).unwrap()];
        let (named, unnamed) = (names(stranger.id(), Path::new("60")), names(stranger.id(), &own));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(found, [None, Some(stranger.id())]);
        assert!(named && !unnamed);
    }
}
