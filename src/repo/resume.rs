//! What a host keeps of a backup that is being taken, so that the next run can go on where this one was interrupted.
//!
//! In one directory below `state_dir`: the facts, written before the first pack is stored; one line for each pack, after
//! it was stored; the entries, as they are completed. Nothing here is believed: an entry serves only as something to
//! compare a file with, a pack only when the repository still has it. The directory is removed with the commit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::base_cache::{BaseLine, Place};
use super::host_state::{HostState, digested, parse_digested};
use super::pack::PackLine;
use crate::base::{BackupId, BackupType, Error, Incarnation, RelPath, Result, SourceName, TimelineId, Timestamp, durable};
use crate::codec::digest::checksum;

/// The backup that is being taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeFacts {
    /// Version of the files; others are not used.
    pub version: u32,
    /// Id of the repository.
    pub repository: String,
    /// The backup.
    pub backup: BackupId,
    /// Its type.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What it builds on.
    pub base: Option<BackupId>,
    /// The cluster.
    pub incarnation: Incarnation,
    /// The server's timeline.
    pub timeline: TimelineId,
    /// Where the data directory is.
    pub place: Place,
    /// This host's clock before the backup was first started on the server.
    pub started: Timestamp,
    /// What its packs are encrypted to; none when they are not.
    pub recipient: Option<String>,
    /// To whom its key is wrapped.
    pub wrapped_to: Vec<String>,
}

impl ResumeFacts {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;
}

/// The directory of one source.
#[derive(Clone, Debug)]
pub struct ResumeDir(PathBuf);

impl HostState {
    /// Where an interrupted backup of `source` is remembered.
    pub fn resume(&self, source: &SourceName) -> ResumeDir {
        ResumeDir(self.of_source(source).join("resume"))
    }
}

impl ResumeDir {
    fn facts_path(&self) -> PathBuf {
        self.0.join("facts.json")
    }

    fn packs_path(&self) -> PathBuf {
        self.0.join("packs.jsonl")
    }

    /// The entries of the run before the present one.
    fn earlier_path(&self) -> PathBuf {
        self.0.join("earlier.jsonl")
    }

    /// The entries that the present run has completed.
    pub fn lines_path(&self) -> PathBuf {
        self.0.join("lines.jsonl")
    }

    /// Forgets whatever is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.0, error)),
            _ => Ok(()),
        }
    }

    /// Remembers that a backup is being taken, in place of any other.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, facts: &ResumeFacts) -> Result<()> {
        self.clear()?;
        let text = digested(facts);
        durable::create_dir_all(&self.0)
            .and_then(|()| durable::write_file(&self.facts_path(), text.as_bytes(), 0o600))
            .map_err(|error| Error::io("write", &self.facts_path(), error))
    }

    /// What is remembered; none when nothing is, or not whole.
    pub fn facts(&self) -> Option<ResumeFacts> {
        let text = fs::read_to_string(self.facts_path()).ok()?;
        let facts: ResumeFacts = parse_digested(&text)?;
        (facts.version == ResumeFacts::VERSION).then_some(facts)
    }

    /// Notes that a pack was stored.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_pack(&self, pack: &PackLine) -> Result<()> {
        let path = self.packs_path();
        let mut line = serde_json::to_vec(pack).expect("a pack line is a plain struct");
        line.push(b'\n');
        let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        open().and_then(|mut file| file.write_all(&line)).map_err(|error| Error::io("write", &path, error))
    }

    /// The packs that were noted.
    pub fn packs(&self) -> Vec<PackLine> {
        let text = fs::read(self.packs_path()).unwrap_or_default();
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// Puts the entries of the runs before together, to be read while the present one completes its own; gives them in
    /// the order of their paths, each as `believed` makes it: what is not believed now must never come back, because its
    /// pack's number is soon another pack's.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn roll(&self, believed: impl Fn(BaseLine) -> BaseLine) -> Result<GuardedLines> {
        let (lines, earlier) = (self.lines_path(), self.earlier_path());
        let joined = self.0.join("joined.jsonl");
        let join = || -> Result<()> {
            let mut out = LineWriter::create(&joined)?;
            let mut last: Option<RelPath> = None;
            for line in GuardedLines::open(&lines)? {
                last = Some(line.line.path.clone());
                out.line(&believed(line))?;
            }
            let is_later = |line: &BaseLine| last.as_ref().is_none_or(|last| line.line.path > *last);
            GuardedLines::open(&earlier)?.filter(is_later).try_for_each(|line| out.line(&believed(line)))?;
            out.finish_durably()
        };
        join()?;
        fs::rename(&joined, &earlier)
            .and_then(|()| match fs::remove_file(&lines) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => durable::sync_parent(&earlier),
            })
            .map_err(|error| Error::io("rename", &joined, error))?;
        GuardedLines::open(&earlier)
    }
}

/// Writes entries, each with a checksum: a line that a crash tore is told from a whole one.
pub struct LineWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl LineWriter {
    /// A new file, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = open().map_err(|error| Error::io("create", path, error))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file) })
    }

    /// Adds one entry; they come in the order of their paths.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn line(&mut self, line: &BaseLine) -> Result<()> {
        let text = serde_json::to_string(line).expect("a line is a plain struct");
        writeln!(self.out, "{:016x}{text}", checksum(text.as_bytes())).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|error| Error::io("write", &self.path, error))
    }

    /// Completes the file, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish_durably(mut self) -> Result<()> {
        let complete = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        complete.map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Reads what a [`LineWriter`] wrote, up to the first line that is not whole.
pub struct GuardedLines {
    inner: Option<BufReader<File>>,
    buffer: Vec<u8>,
}

impl GuardedLines {
    /// The lines in `path`; none when there is no such file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        match File::open(path) {
            Ok(file) => Ok(Self { inner: Some(BufReader::new(file)), buffer: Vec::new() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { inner: None, buffer: Vec::new() }),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    fn read(&mut self) -> Option<BaseLine> {
        self.buffer.clear();
        self.inner.as_mut()?.read_until(b'\n', &mut self.buffer).ok()?;
        let line = self.buffer.strip_suffix(b"\n")?;
        let (sum, text) = line.split_at_checked(16)?;
        let sum = u64::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
        (sum == checksum(text)).then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

impl Iterator for GuardedLines {
    type Item = BaseLine;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.read();
        if line.is_none() {
            self.inner = None;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::base_cache::PageMarks;
    use crate::repo::manifest::{FileKind, FileLine};

    fn line(path: &str) -> BaseLine {
        let path = RelPath::new(path).unwrap();
        BaseLine { line: FileLine::bare(path, FileKind::File), holder: 0, stamp: None, marks: PageMarks::default() }
    }

    fn write(dir: &ResumeDir, paths: &[&str]) {
        let mut out = LineWriter::create(&dir.lines_path()).unwrap();
        paths.iter().for_each(|path| out.line(&line(path)).unwrap());
        out.finish().unwrap();
    }

    #[test]
    fn each_run_goes_on_where_the_one_before_it_ended() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = ResumeDir(scratch.path().to_owned());
        let roll = || dir.roll(|line| line).unwrap().map(|line| line.line.path.to_string()).collect::<Vec<_>>();
        assert!(roll().is_empty());
        write(&dir, &["a", "b", "d"]);
        assert_eq!(roll(), ["a", "b", "d"]);
        write(&dir, &["a", "aa"]);
        assert_eq!(roll(), ["a", "aa", "b", "d"]);
    }

    #[test]
    fn what_is_not_believed_once_never_comes_back() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = ResumeDir(scratch.path().to_owned());
        write(&dir, &["a", "b"]);
        let doubted = |line: BaseLine| BaseLine { holder: 7, ..line };
        assert!(dir.roll(doubted).unwrap().all(|line| line.holder == 7));
        write(&dir, &["a"]);
        let holders: Vec<u32> = dir.roll(|line| line).unwrap().map(|line| line.holder).collect();
        assert_eq!(holders, [0, 7], "of the new run, and of the one that was doubted");
    }

    #[test]
    fn lines_are_read_up_to_the_first_that_is_not_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = ResumeDir(scratch.path().to_owned());
        write(&dir, &["a", "b", "c"]);
        let whole = fs::read(dir.lines_path()).unwrap();
        let read = |content: &[u8]| {
            fs::write(dir.lines_path(), content).unwrap();
            GuardedLines::open(&dir.lines_path()).unwrap().count()
        };
        let line_length = whole.len() / 3;
        for length in 0..=whole.len() {
            assert_eq!(read(&whole[..length]), length / line_length, "{length}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            assert_eq!(read(&flipped), at / line_length, "byte {at}");
        }
    }
}
