//! What a host keeps of a backup so that a later one can build on it: the protected host cannot read its own backups.
//!
//! Two files a backup below `state_dir`: the lines (its manifest with every reference resolved, plus what only this host
//! can know), then the facts, which carry the digest of the lines. Losing them costs a full backup and never data;
//! whatever does not fit to the last byte is not used.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host_state::{HostState, digested, parse_digested};
use super::manifest::FileLine;
use crate::base::{BackupId, Error, FileStamp, Result, SourceName, TimelineId, Timestamp, durable};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;

/// Version of the two files; others are not used.
const VERSION: u32 = 1;
/// zstd level of the lines: they are read at the next backup.
const LEVEL: i32 = 1;

/// Where and when the backup was taken, and what the lines must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseFacts {
    /// Version of the cache.
    pub version: u32,
    /// Id of the repository.
    pub repository: String,
    /// The source.
    pub source: SourceName,
    /// The backup.
    pub backup: BackupId,
    /// Digest of its stored manifest: that of the commit entry.
    pub manifest_sha256: Sha256Digest,
    /// The table of owners in the manifest's header.
    pub owners: Vec<BackupId>,
    /// The host on which it was taken.
    pub place: Place,
    /// Timeline of the server when it was taken.
    pub timeline: TimelineId,
    /// This host's clock before the backup was started on the server.
    pub started: Timestamp,
    /// When the server process was started: settings that need a restart have not changed since.
    pub server_started: Timestamp,
    /// SHA-256 of the file with the lines.
    pub lines_sha256: Sha256Digest,
}

/// A data directory on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What names the host for certain.
    pub host: String,
    /// The data directory as the server names it.
    pub data_directory: String,
    /// Device and inode of the directory.
    pub directory: (u64, u64),
}

/// An entry of the backup, as the next one needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseLine {
    /// The entry, resolved.
    pub line: FileLine,
    /// Index of the backup whose manifest holds the entry; 0 is the backup itself.
    pub holder: u32,
    /// What the file system said of the file before it was read; none for what lifeboat itself made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<FileStamp>,
    /// Sixteen bits of the digest of each page of a relation's file.
    #[serde(default, skip_serializing_if = "PageMarks::is_empty")]
    pub marks: PageMarks,
}

impl BaseLine {
    /// The same with all indices into the table of owners one higher: as the base of a backup that puts itself first.
    pub fn shifted(mut self) -> Self {
        let patches = self.line.patches.iter_mut().map(|patch| &mut patch.frame);
        self.line.frames.iter_mut().chain(patches).for_each(|frame| frame.owner += 1);
        self.holder += 1;
        self
    }
}

/// Sixteen bits of the XXH3-64 of each page of a file, in order. They find changes that should not have happened; no
/// page is ever left out because of them. Text form: four hex digits a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMarks(pub Vec<u16>);

impl PageMarks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for PageMarks {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|mark| mark.to_be_bytes()).collect();
        serializer.serialize_str(&hex::encode(bytes))
    }
}

impl<'de> Deserialize<'de> for PageMarks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = hex::decode(text.as_ref()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.chunks(2).map(|pair| pair.iter().fold(0, |mark, byte| mark << 8 | u16::from(*byte))).collect()))
    }
}

/// Writes lines.
pub struct BaseWriter {
    path: PathBuf,
    out: zstd::stream::Encoder<'static, BufWriter<DigestingWriter<File>>>,
}

impl BaseWriter {
    /// A new file at `path`, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let create = || {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            compress::stream_writer(BufWriter::new(DigestingWriter::new(file)), LEVEL)
        };
        let out = create().map_err(|error| Error::io("create", path, error))?;
        Ok(Self { path: path.to_owned(), out })
    }

    /// Adds one line; they come in the order of their paths.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn line(&mut self, line: &BaseLine) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.path, error);
        serde_json::to_writer(&mut self.out, line).map_err(|error| failed(error.into()))?;
        self.out.write_all(b"\n").map_err(failed)
    }

    /// Completes the file, durably; gives its digest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<Sha256Digest> {
        let finish = || {
            let digesting = self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            let (file, sha256, _) = digesting.finish();
            file.sync_all().map(|()| sha256)
        };
        finish().map_err(|error| Error::io("write", &self.path, error))
    }
}

/// The lines of a cached backup: an iterator in the order of their paths.
pub struct BaseReader {
    path: PathBuf,
    inner: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
}

impl BaseReader {
    /// The lines that a [`BaseWriter`] wrote to `path`, from the first on.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<Box<dyn BufRead + Send>> {
            let plain = compress::stream_reader(File::open(path)?)?;
            Ok(Box::new(BufReader::with_capacity(256 << 10, plain)))
        };
        let inner = open().map_err(|error| Error::io("read", path, error))?;
        Ok(Self { path: path.to_owned(), inner, buffer: Vec::new() })
    }

    /// The file that they are in, to be read once more.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Iterator for BaseReader {
    type Item = Result<BaseLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.buffer.clear();
        match self.inner.read_until(b'\n', &mut self.buffer) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&self.buffer).map_err(|error| Error::io("read", &self.path, error.into()))),
            Err(error) => Some(Err(Error::io("read", &self.path, error))),
        }
    }
}

impl HostState {
    fn base_dir(&self, source: &SourceName) -> PathBuf {
        self.of_source(source).join("base")
    }

    /// Keeps `facts` and the lines in the file `lines`, which is moved, and forgets all backups but those in `keep`.
    ///
    /// # Errors
    /// When a file cannot be moved or written.
    pub fn remember_base(&self, facts: &BaseFacts, lines: &Path, keep: &[BackupId]) -> Result<()> {
        let dir = self.base_dir(&facts.source);
        let (facts_path, lines_path) = paths(&dir, &facts.backup);
        let text = digested(facts);
        let remember = || {
            durable::create_dir_all(&dir)?;
            fs::rename(lines, &lines_path)?;
            durable::sync_parent(&lines_path)?;
            durable::write_file(&facts_path, text.as_bytes(), 0o600)?;
            forget(&dir, keep)
        };
        remember().map_err(|error| Error::io("write", &facts_path, error))
    }

    /// What this host kept of `backup` in `repository`, after its digest was compared.
    ///
    /// # Errors
    /// In words that end "…, because": why it cannot be used.
    pub fn load_base(
        &self,
        repository: &str,
        source: &SourceName,
        backup: &BackupId,
        manifest_sha256: Sha256Digest,
    ) -> std::result::Result<(BaseFacts, BaseReader), String> {
        let (facts_path, lines_path) = paths(&self.base_dir(source), backup);
        let unreadable = |path: &Path, error: &dyn std::fmt::Display| format!("{} cannot be used: {error}", path.display());
        let text = match fs::read_to_string(&facts_path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("this host keeps no record of {backup}"));
            }
            Err(error) => return Err(unreadable(&facts_path, &error)),
        };
        let facts: BaseFacts = parse_digested(&text).ok_or_else(|| unreadable(&facts_path, &"it is damaged"))?;
        let named = (facts.repository.as_str(), &facts.source, &facts.backup, facts.manifest_sha256);
        if facts.version != VERSION || named != (repository, source, backup, manifest_sha256) {
            return Err(format!("{} is the record of another backup", facts_path.display()));
        }
        let open = || File::open(&lines_path);
        let mut digesting = DigestingWriter::new(io::sink());
        open().and_then(|mut file| io::copy(&mut file, &mut digesting)).map_err(|error| unreadable(&lines_path, &error))?;
        if digesting.finish().1 != facts.lines_sha256 {
            return Err(format!("{} is damaged", lines_path.display()));
        }
        let file = open().map_err(|error| unreadable(&lines_path, &error))?;
        let plain = compress::stream_reader(file).map_err(|error| unreadable(&lines_path, &error))?;
        let plain: Box<dyn Read + Send> = Box::new(plain);
        let inner = Box::new(BufReader::with_capacity(256 << 10, plain));
        Ok((facts, BaseReader { path: lines_path, inner, buffer: Vec::new() }))
    }
}

impl HostState {
    /// Keeps the file `digests`, which is moved, beside the record of `backup`: digests of all that is in it, in order, and
    /// behind them what [`seal_digests`] says.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn remember_digests(&self, source: &SourceName, backup: &BackupId, digests: &Path) -> Result<()> {
        let dir = self.base_dir(source);
        let path = dir.join(format!("{backup}.digests"));
        let remember = || {
            durable::create_dir_all(&dir)?;
            fs::rename(digests, &path)?;
            durable::sync_parent(&path)
        };
        remember().map_err(|error| Error::io("write", &path, error))
    }

    /// The digests that this host kept of `backup`, after theirs was compared.
    ///
    /// # Errors
    /// As [`HostState::load_base`].
    pub fn load_digests(
        &self,
        source: &SourceName,
        backup: &BackupId,
        manifest_sha256: Sha256Digest,
    ) -> std::result::Result<impl Read + Send + use<>, String> {
        let path = self.base_dir(source).join(format!("{backup}.digests"));
        let unreadable = |error: &dyn std::fmt::Display| format!("{} cannot be used: {error}", path.display());
        let mut file = File::open(&path).map_err(|error| unreadable(&error))?;
        let length = file.metadata().map_err(|error| unreadable(&error))?.len();
        let Some(content) = length.checked_sub(2 * 32) else { return Err(unreadable(&"it is cut off")) };
        let mut digesting = DigestingWriter::new(io::sink());
        io::copy(&mut (&mut file).take(content), &mut digesting).map_err(|error| unreadable(&error))?;
        let mut seal = [[0; 32]; 2];
        seal.iter_mut().try_for_each(|part| file.read_exact(part)).map_err(|error| unreadable(&error))?;
        if seal[0] != manifest_sha256.0 {
            return Err(format!("{} is the record of another backup", path.display()));
        }
        digesting.write_all(&seal[0]).map_err(|error| unreadable(&error))?;
        if digesting.finish().1.0 != seal[1] {
            return Err(format!("{} is damaged", path.display()));
        }
        let file = File::open(&path).map_err(|error| unreadable(&error))?;
        Ok(BufReader::with_capacity(256 << 10, file).take(content))
    }
}

/// Writes behind the digests in the file at `path` of which backup they are, and the digest of it all; durably.
///
/// # Errors
/// When the file cannot be read or written.
pub fn seal_digests(path: &Path, manifest_sha256: Sha256Digest) -> Result<()> {
    let seal = || {
        let mut digesting = DigestingWriter::new(io::sink());
        io::copy(&mut File::open(path)?, &mut digesting)?;
        digesting.write_all(&manifest_sha256.0)?;
        let (_, sha256, _) = digesting.finish();
        let mut file = File::options().append(true).open(path)?;
        file.write_all(&[manifest_sha256.0, sha256.0].concat())?;
        file.sync_all()
    };
    seal().map_err(|error| Error::io("write", path, error))
}

impl BaseFacts {
    /// The version that this program writes.
    pub const VERSION: u32 = VERSION;
}

fn paths(dir: &Path, backup: &BackupId) -> (PathBuf, PathBuf) {
    (dir.join(format!("{backup}.json")), dir.join(format!("{backup}.jsonl.zst")))
}

/// Removes what is kept of other backups.
fn forget(dir: &Path, keep: &[BackupId]) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let kept = keep.iter().any(|id| name.to_string_lossy().starts_with(id.as_str()));
        if !kept {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RelPath;
    use crate::repo::manifest::FileKind;

    fn line(path: &str) -> BaseLine {
        let line = FileLine::bare(RelPath::new(path).unwrap(), FileKind::Pages);
        BaseLine { line, holder: 1, stamp: None, marks: PageMarks(vec![0, 0xbeef]) }
    }

    fn remembered(state: &HostState, scratch: &Path) -> BaseFacts {
        let path = scratch.join("lines");
        let mut writer = BaseWriter::create(&path).unwrap();
        ["base/1/2", "base/1/3"].iter().for_each(|path| writer.line(&line(path)).unwrap());
        let facts = BaseFacts {
            version: VERSION,
            repository: "r".into(),
            source: "orders".parse().unwrap(),
            backup: "20261120T214002Z-full-k3fq".parse().unwrap(),
            manifest_sha256: Sha256Digest::of(b"manifest"),
            owners: vec![],
            place: Place { host: "h".into(), data_directory: "/d".into(), directory: (1, 2) },
            timeline: TimelineId(1),
            started: Timestamp::now(),
            server_started: Timestamp::now(),
            lines_sha256: writer.finish().unwrap(),
        };
        state.remember_base(&facts, &path, std::slice::from_ref(&facts.backup)).unwrap();
        facts
    }

    #[test]
    fn what_was_kept_is_read_and_anything_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = HostState::new(dir.path(), "r");
        let facts = remembered(&state, dir.path());
        let load = |repository: &str, digest: &[u8]| {
            state
                .load_base(repository, &facts.source, &facts.backup, Sha256Digest::of(digest))
                .map(|(facts, lines)| (facts, lines.collect::<Result<Vec<_>>>().unwrap()))
        };
        let (found, lines) = load("r", b"manifest").unwrap();
        assert_eq!((found, lines), (facts.clone(), vec![line("base/1/2"), line("base/1/3")]));
        assert!(load("other", b"manifest").unwrap_err().contains("another backup"));
        assert!(load("r", b"other").unwrap_err().contains("another backup"));
        let (facts_path, lines_path) = paths(&state.base_dir(&facts.source), &facts.backup);
        for path in [&facts_path, &lines_path] {
            let good = fs::read(path).unwrap();
            for at in (0..good.len()).step_by(7) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(path, &bad).unwrap();
                assert!(load("r", b"manifest").is_err(), "byte {at} of {}", path.display());
                fs::write(path, &good[..at]).unwrap();
                assert!(load("r", b"manifest").is_err(), "cut at {at}");
            }
            fs::write(path, &good).unwrap();
        }
        assert!(load("r", b"manifest").is_ok());
        fs::remove_file(&lines_path).unwrap();
        assert!(load("r", b"manifest").is_err());
    }

    #[test]
    fn digests_are_those_of_one_backup_or_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let state = HostState::new(dir.path(), "r");
        let (source, backup): (SourceName, BackupId) = ("app".parse().unwrap(), "20261120T214002Z-full-k3fq".parse().unwrap());
        let (path, own) = (dir.path().join("digests"), Sha256Digest::of(b"manifest"));
        fs::write(&path, [7; 48]).unwrap();
        seal_digests(&path, own).unwrap();
        state.remember_digests(&source, &backup, &path).unwrap();
        let load = |manifest| {
            let mut found = Vec::new();
            state.load_digests(&source, &backup, manifest).map(|mut digests| digests.read_to_end(&mut found).map(|_| found))
        };
        assert_eq!(load(own).unwrap().unwrap(), [7; 48]);
        assert!(load(Sha256Digest::of(b"other")).unwrap_err().contains("another backup"));
        let kept = state.base_dir(&source).join(format!("{backup}.digests"));
        let good = fs::read(&kept).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&kept, &bad).unwrap();
            assert!(load(own).is_err(), "byte {at}");
            fs::write(&kept, &good[..at]).unwrap();
            assert!(load(own).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn shifting_leaves_room_for_the_next_backup() {
        assert_eq!(line("x").shifted().holder, 2);
    }
}
