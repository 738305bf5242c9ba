//! The manifest: what a backup consists of, as JSON lines sorted by path.
//!
//! One header, one line a file in [`RelPath`] order, one footer with counts. Read and written as a stream: memory
//! does not grow with the data. A manifest without its footer, out of order, or whose counts disagree is damaged.
//!
//! In the manifest of a diff or an incr an unchanged file is a line that names the manifest with its entry, never one
//! that names a third ([`resolve`]); every other entry tells by itself where each of its bytes lies ([`FileLine`]). What it
//! has of another backup (a frame, a patch) is what that backup's own manifest lists as stored by itself for the same path
//! in the same place: frame n is frame n, and patches are in the same order. A directory's frames may be another backup's
//! under any path and in any place: each has an address of its own ([`tree`]).

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::base::{BackupId, BackupType, Engine, Incarnation, RelPath, SourceName, Timestamp};

mod line;
mod reader;
pub mod resolve;
pub mod tree;

pub use line::{FileKind, FileLine, PAGES_IN_FRAME, PATCH_PAGE_BYTES, Patch, Placement, Stretch};
pub use reader::{ManifestLine, ManifestReader};

/// First line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Repository format.
    pub format: u32,
    /// The backup this manifest belongs to.
    pub backup: BackupId,
    /// Its type.
    pub backup_type: BackupType,
    /// The source.
    pub source: SourceName,
    /// The source's incarnation.
    pub incarnation: Incarnation,
    /// Backups that physically hold frames, by their index in [`FrameRef::owner`](super::pack::FrameRef::owner): this one
    /// is index 0, then its base, then the base's owners: a smaller index is a later backup.
    pub owners: Vec<BackupId>,
    /// Names of the numeric owners, for a restore on another host.
    pub users: BTreeMap<u32, String>,
    /// Names of the numeric groups.
    pub groups: BTreeMap<u32, String>,
    /// What the source said of itself.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What a restore must know of the source or warn about: a field `postgres`, `sqlite` or `directory`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facts {
    /// A PostgreSQL cluster.
    Postgres(PostgresFacts),
    /// A SQLite database.
    Sqlite(SqliteFacts),
    /// A directory.
    Directory(DirectoryFacts),
}

/// What a restore of a SQLite database must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteFacts {
    /// The database's path on the protected host; bytes that are not UTF-8 are hex after `hex:`.
    pub path: String,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Everything whose commit had returned by then is in the backup.
    pub complete_at: Timestamp,
    /// Nothing is in it that was committed later.
    pub captured_at: Timestamp,
    /// Which point of its write-ahead log that is, in the form that the log's segments have.
    #[serde(default)]
    pub position: serde_json::Value,
}

/// What a restore of a directory must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryFacts {
    /// The directory's path on the protected host; bytes that are not UTF-8 are hex after `hex:`.
    pub path: String,
    /// What was left out by rule, as gitignore lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The directory itself, which no line stands for.
    pub root: tree::TreeRoot,
    /// How much was found there and has no line, although it should.
    #[serde(default, skip_serializing_if = "line::is_zero")]
    pub not_stored: u64,
}

/// What a restore of PostgreSQL must know or warn about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PostgresFacts {
    /// Full version, `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// Data directory on the protected host.
    pub data_directory: String,
    /// Collation versions by database: `{"orders": {"libc": "2.36"}}`.
    #[serde(default)]
    pub collations: BTreeMap<String, BTreeMap<String, String>>,
    /// Extension versions by database: `{"orders": {"amcheck": "1.3"}}`.
    #[serde(default)]
    pub extensions: BTreeMap<String, BTreeMap<String, String>>,
}

/// Last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Entries between header and footer.
    pub entries: u64,
    /// Lines that name an entry of another manifest.
    #[serde(default, skip_serializing_if = "line::is_zero")]
    pub refs: u64,
    /// Frames in the entries, those of patches included.
    pub frames: u64,
    /// Sum of the entries' sizes.
    pub raw_bytes: u64,
    /// Pages that failed their checksum; of a directory, entries that are not whole.
    pub bad_pages: u64,
}

impl Facts {
    /// The kind of source that they are of.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Directory(_) => Engine::Directory,
        }
    }
}

impl Header {
    /// Whether it is of a directory: then every entry has a [`FileLine::tree`].
    pub fn is_tree(&self) -> bool {
        matches!(self.facts, Facts::Directory(_))
    }

    /// How much of the source has no line although it should.
    pub fn not_stored(&self) -> u64 {
        match &self.facts {
            Facts::Directory(directory) => directory.not_stored,
            Facts::Postgres(_) | Facts::Sqlite(_) => 0,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum LineRef<'a> {
    Header(&'a Header),
    Entry(&'a FileLine),
    Ref(&'a RefLine),
    Footer(&'a Footer),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(Box<Header>),
    Entry(Box<FileLine>),
    Ref(RefLine),
    Footer(Footer),
}

/// A file that did not change: its entry is the one with this path in the manifest of `owner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RefLine {
    path: RelPath,
    /// Index in the header's table of owners; not 0.
    owner: u32,
}

/// Writes a manifest as a stream.
pub struct ManifestWriter<W> {
    inner: W,
    last: Option<RelPath>,
    footer: Footer,
}

impl<W: Write> ManifestWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// When `inner` fails.
    pub fn new(mut inner: W, header: &Header) -> io::Result<Self> {
        write_line(&mut inner, &LineRef::Header(header))?;
        Ok(Self { inner, last: None, footer: Footer::default() })
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// When `inner` fails, or entries are not in strictly ascending order of their paths.
    pub fn entry(&mut self, line: &FileLine) -> io::Result<()> {
        self.next(&line.path)?;
        self.footer.count(line);
        write_line(&mut self.inner, &LineRef::Entry(line))
    }

    /// Writes that the entry of `path` is the one in the manifest of the backup with index `owner`.
    ///
    /// # Errors
    /// As [`ManifestWriter::entry`].
    pub fn reference(&mut self, path: &RelPath, owner: u32) -> io::Result<()> {
        self.next(path)?;
        self.footer.refs += 1;
        write_line(&mut self.inner, &LineRef::Ref(&RefLine { path: path.clone(), owner }))
    }

    fn next(&mut self, path: &RelPath) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(io::Error::other(format!("{path} is listed twice or out of order")));
        }
        self.last = Some(path.clone());
        Ok(())
    }

    /// Writes the footer and gives it back with the inner writer.
    ///
    /// # Errors
    /// When `inner` fails.
    pub fn finish(mut self) -> io::Result<(W, Footer)> {
        write_line(&mut self.inner, &LineRef::Footer(&self.footer))?;
        Ok((self.inner, self.footer))
    }
}

fn write_line<W: Write>(inner: &mut W, line: &LineRef<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *inner, line)?;
    inner.write_all(b"\n")
}

impl Footer {
    fn count(&mut self, line: &FileLine) {
        self.entries += 1;
        self.frames += (line.frames.len() + line.patches.len()) as u64;
        self.raw_bytes += line.size_bytes;
        self.bad_pages += line.flaws();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameDigest;
    use crate::repo::pack::FrameRef;

    fn header() -> Header {
        let id: BackupId = "20261120T214002Z-full-k3fq".parse().unwrap();
        Header {
            format: 1,
            backup: id.clone(),
            backup_type: BackupType::Full,
            source: "orders".parse().unwrap(),
            incarnation: "pg15-7".parse().unwrap(),
            owners: vec![id],
            users: BTreeMap::from([(26, "postgres".to_owned())]),
            groups: BTreeMap::new(),
            facts: Facts::Postgres(PostgresFacts::default()),
        }
    }

    fn file(path: &str) -> FileLine {
        let frame = FrameRef { owner: 0, pack: 1, offset: 0, stored_len: 10, raw_len: 8192, digest: FrameDigest::of(b"") };
        let path = RelPath::new(path).unwrap();
        FileLine { size_bytes: 8192, frames: vec![frame], ..FileLine::bare(path, FileKind::Pages) }
    }

    fn written(lines: &[FileLine]) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), &header()).unwrap();
        lines.iter().for_each(|line| writer.entry(line).unwrap());
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<FileLine>, String> {
        let lines = ManifestReader::new(bytes)?.map(|line| match line? {
            ManifestLine::Entry(line) => Ok(*line),
            ManifestLine::Ref { path, .. } => Err(format!("{path} is a reference")),
        });
        lines.collect()
    }

    #[test]
    fn a_manifest_reads_as_it_was_written() {
        let lines = [file("base/1/2"), file("base/1/3")];
        let bytes = written(&lines);
        assert_eq!(read(&bytes).unwrap(), lines);
        assert_eq!(ManifestReader::new(bytes.as_slice()).unwrap().header(), &header());
        let link = FileLine {
            kind: FileKind::Tablespace { target: "/mnt/ü b".into() },
            size_bytes: 0,
            frames: vec![],
            ..file("pg_tblspc/5")
        };
        assert_eq!(read(&written(std::slice::from_ref(&link))).unwrap(), [link]);
    }

    #[test]
    fn missing_doubled_and_reordered_lines_are_noticed() {
        let bytes = written(&[file("base/1/2"), file("base/1/3")]);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        let without = |skip: usize| {
            lines.iter().enumerate().filter(|(at, _)| *at != skip).flat_map(|(_, line)| line.to_vec()).collect::<Vec<_>>()
        };
        for skip in 0..lines.len() {
            assert!(read(&without(skip)).is_err(), "without line {skip}");
        }
        assert!(read(&[lines[0], lines[2], lines[1], lines[3]].concat()).is_err());
        assert!(read(&[lines[0], lines[1], lines[1], lines[2], lines[3]].concat()).is_err());
        assert!(read(&[bytes.as_slice(), lines[1]].concat()).is_err());
        let outside = String::from_utf8(bytes.clone()).unwrap().replace("base/1/2", "../../etc");
        assert!(read(outside.as_bytes()).is_err());
    }

    #[test]
    fn a_manifest_cannot_lead_outside_the_restored_tree() {
        let link = |path: &str| FileLine {
            kind: FileKind::Symlink { target: "/etc/cron.d".into() },
            size_bytes: 0,
            frames: vec![],
            ..file(path)
        };
        let space = |path: &str| FileLine { kind: FileKind::Tablespace { target: "/root/.ssh".into() }, ..link(path) };
        for (lines, why) in [
            ([link("x"), file("x/job")], "below something that is no directory"),
            ([file("x"), file("x/y/job")], "below something that is no directory"),
            ([space("base"), file("base/1")], "cannot be a tablespace"),
            ([space("pg_tblspc/16384"), file("pg_tblspc/16384/authorized_keys")], "does not belong into a tablespace"),
        ] {
            let error = read(&written(&lines)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(read(&written(&[space("pg_tblspc/16384"), file("pg_tblspc/16384/PG_15_202209061/5/1")])).is_ok());
        assert!(read(&written(&[link("x"), file("x-y/job")])).is_ok());
    }
}
