//! The manifest: what a backup consists of, as JSON lines sorted by path.
//!
//! One header, one line a file in [`RelPath`] order, one footer with counts. Read and written as a stream: memory
//! does not grow with the data. A manifest without its footer, out of order, or whose counts disagree is damaged.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::pack::FrameRef;
use crate::base::{BackupId, BackupType, Incarnation, RelPath, SourceName, Timestamp};

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
    /// Backups that physically hold frames, by their index in [`FrameRef::owner`]; this one is index 0.
    pub owners: Vec<BackupId>,
    /// Names of the numeric owners, for a restore on another host.
    pub users: BTreeMap<u32, String>,
    /// Names of the numeric groups.
    pub groups: BTreeMap<u32, String>,
    /// What the engine said of itself.
    pub postgres: PostgresFacts,
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

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileLine {
    /// Where it belongs in the restored tree.
    pub path: RelPath,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification.
    pub modified: Timestamp,
    /// Inode number; 0 for what lifeboat itself made, such as `backup_label`.
    pub inode: u64,
    /// Bytes stored: the sum of the frames' raw lengths.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
    /// Content in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<FrameRef>,
    /// Block numbers of pages that failed their checksum and stayed bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_blocks: Vec<u32>,
}

fn is_zero(size: &u64) -> bool {
    *size == 0
}

/// What a [`FileLine`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A relation's file of 8 KiB pages.
    Pages,
    /// A symbolic link kept as it is.
    Symlink {
        /// Its target; bytes that are not UTF-8 are hex after `hex:`.
        target: String,
    },
    /// A link to a tablespace, which a restore may place elsewhere.
    Tablespace {
        /// The directory it named on the protected host, encoded likewise.
        target: String,
    },
}

impl FileKind {
    /// A link's target as text: UTF-8 as it is, other bytes as `hex:…`.
    pub fn encode_target(target: &[u8]) -> String {
        match std::str::from_utf8(target) {
            Ok(text) if !text.starts_with("hex:") => text.to_owned(),
            _ => format!("hex:{}", hex::encode(target)),
        }
    }

    /// Undoes [`FileKind::encode_target`].
    ///
    /// # Errors
    /// When what follows `hex:` is not hex.
    pub fn decode_target(text: &str) -> Result<Vec<u8>, String> {
        match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map_err(|error| format!("'{text}' is no link target: {error}")),
            None => Ok(text.as_bytes().to_vec()),
        }
    }
}

/// Last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Lines between header and footer.
    pub entries: u64,
    /// Frames in them.
    pub frames: u64,
    /// Raw bytes in the frames.
    pub raw_bytes: u64,
    /// Pages that failed their checksum.
    pub bad_pages: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum LineRef<'a> {
    Header(&'a Header),
    Entry(&'a FileLine),
    Footer(&'a Footer),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(Box<Header>),
    Entry(Box<FileLine>),
    Footer(Footer),
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
        if self.last.as_ref().is_some_and(|last| *last >= line.path) {
            return Err(io::Error::other(format!("{} is listed twice or out of order", line.path)));
        }
        self.last = Some(line.path.clone());
        self.footer.count(line);
        write_line(&mut self.inner, &LineRef::Entry(line))
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
        self.frames += line.frames.len() as u64;
        self.raw_bytes += line.size_bytes;
        self.bad_pages += line.bad_blocks.len() as u64;
    }
}

/// Reads a manifest as a stream: an iterator over its entries that ends after a footer whose counts agree.
pub struct ManifestReader<R> {
    inner: R,
    header: Header,
    buffer: Vec<u8>,
    last: Option<RelPath>,
    /// The last entry that is no directory: nothing may lie below it.
    leaf: Option<RelPath>,
    footer: Footer,
    ended: bool,
}

impl<R: BufRead> ManifestReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(mut inner: R) -> Result<Self, String> {
        let mut buffer = Vec::new();
        match read_line(&mut inner, &mut buffer)? {
            Some(Line::Header(header)) => {
                let header = *header;
                if header.format != super::signed::FORMAT {
                    return Err(format!("the manifest has format {}, unknown to this version of lifeboat", header.format));
                }
                Ok(Self { inner, header, buffer, last: None, leaf: None, footer: Footer::default(), ended: false })
            }
            _ => Err("the manifest does not begin with a header".to_owned()),
        }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read_entry(&mut self) -> Result<Option<FileLine>, String> {
        match read_line(&mut self.inner, &mut self.buffer)? {
            Some(Line::Entry(line)) => {
                self.check(&line)?;
                self.footer.count(&line);
                self.last = Some(line.path.clone());
                if !matches!(line.kind, FileKind::Directory | FileKind::Tablespace { .. }) {
                    self.leaf = Some(line.path.clone());
                }
                Ok(Some(*line))
            }
            Some(Line::Footer(footer)) if footer == self.footer => match read_line(&mut self.inner, &mut self.buffer)? {
                None => Ok(None),
                Some(_) => Err("the manifest goes on after its footer".to_owned()),
            },
            Some(Line::Footer(_)) => Err("the manifest's footer does not agree with its entries".to_owned()),
            Some(Line::Header(_)) => Err("the manifest has a second header".to_owned()),
            None => Err("the manifest is cut short".to_owned()),
        }
    }

    fn check(&self, line: &FileLine) -> Result<(), String> {
        if self.last.as_ref().is_some_and(|last| *last >= line.path) {
            return Err(format!("the manifest is out of order at {}", line.path));
        }
        check_place(line, self.leaf.as_ref())?;
        let frames: u64 = line.frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        if frames != line.size_bytes {
            return Err(format!("the frames of {} hold {frames} bytes where {} are declared", line.path, line.size_bytes));
        }
        match line.frames.iter().find(|frame| frame.owner as usize >= self.header.owners.len()) {
            Some(frame) => Err(format!("{} names an unknown owner {}", line.path, frame.owner)),
            None => Ok(()),
        }
    }
}

/// Whoever may write backups must not be able to write elsewhere on the host that restores one: nothing lies below a
/// link or a file, and links to tablespaces stand where PostgreSQL has them and lead to nothing but its own directories.
fn check_place(line: &FileLine, leaf: Option<&RelPath>) -> Result<(), String> {
    let path = line.path.as_bytes();
    if leaf.is_some_and(|leaf| path.strip_prefix(leaf.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))) {
        return Err(format!("{} lies below something that is no directory", line.path));
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let in_tablespaces = parts[0] == b"pg_tblspc";
    let numbered = parts.get(1).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    match line.kind {
        FileKind::Tablespace { .. } if !(in_tablespaces && numbered && parts.len() == 2) => {
            Err(format!("{} cannot be a tablespace", line.path))
        }
        _ if in_tablespaces && parts.get(2).is_some_and(|part| !part.starts_with(b"PG_")) => {
            Err(format!("{} does not belong into a tablespace", line.path))
        }
        _ => Ok(()),
    }
}

impl<R: BufRead> Iterator for ManifestReader<R> {
    type Item = Result<FileLine, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.read_entry().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

fn read_line<R: BufRead>(inner: &mut R, buffer: &mut Vec<u8>) -> Result<Option<Line>, String> {
    buffer.clear();
    inner.read_until(b'\n', buffer).map_err(|error| format!("the manifest cannot be read: {error}"))?;
    if buffer.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(buffer).map(Some).map_err(|error| format!("the manifest is damaged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameDigest;

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
            postgres: PostgresFacts::default(),
        }
    }

    fn file(path: &str) -> FileLine {
        let frame = FrameRef { owner: 0, pack: 1, offset: 0, stored_len: 10, raw_len: 8192, digest: FrameDigest::of(b"") };
        FileLine {
            path: RelPath::new(path).unwrap(),
            kind: FileKind::Pages,
            mode: 0o600,
            uid: 26,
            gid: 26,
            modified: Timestamp::from_unix_micros(0).unwrap(),
            inode: 5,
            size_bytes: 8192,
            frames: vec![frame],
            bad_blocks: vec![],
        }
    }

    fn written(lines: &[FileLine]) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), &header()).unwrap();
        lines.iter().for_each(|line| writer.entry(line).unwrap());
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<FileLine>, String> {
        ManifestReader::new(bytes)?.collect()
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
