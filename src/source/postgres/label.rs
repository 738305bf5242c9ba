//! The two files that make a copy of a data directory a backup: `backup_label` and `tablespace_map`.
//!
//! Source: PostgreSQL `build_backup_content` in `src/backend/access/transam/xlogbackup.c`, `read_backup_label` and
//! `read_tablespace_map` in `xlogrecovery.c`.

use crate::base::{Error, Lsn, Result, TimelineId};

/// The fields of a `backup_label`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Redo LSN (`START WAL LOCATION`).
    pub start_lsn: Lsn,
    /// Name of the segment that holds it.
    pub start_file: String,
    /// The checkpoint record (`CHECKPOINT LOCATION`).
    pub checkpoint_lsn: Lsn,
    /// `BACKUP FROM: standby`.
    pub from_standby: bool,
    /// When, in the server's own zone and words: `2026-11-20 21:40:02 UTC`.
    pub start_time: String,
    /// What the backup was called.
    pub label: String,
    /// `START TIMELINE`.
    pub start_timeline: TimelineId,
}

/// One tablespace in a `tablespace_map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// The tablespace's number: its name below `pg_tblspc`.
    pub oid: u32,
    /// Where the server finds it.
    pub directory: Vec<u8>,
}

impl BackupLabel {
    /// Parses the file's content; anything missing is [`crate::base::ErrorKind::Damaged`].
    pub fn parse(content: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(content);
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.ok_or_else(|| damaged(&format!("it has no {name}")))
        };
        let (start, file) = field("START WAL LOCATION")?.split_once(" (file ").ok_or_else(|| damaged("it names no file"))?;
        Ok(Self {
            start_lsn: start.parse().map_err(|why: String| damaged(&why))?,
            start_file: file.trim_end_matches(')').to_owned(),
            checkpoint_lsn: field("CHECKPOINT LOCATION")?.parse().map_err(|why: String| damaged(&why))?,
            from_standby: field("BACKUP FROM")? == "standby",
            start_time: field("START TIME")?.to_owned(),
            label: field("LABEL")?.to_owned(),
            start_timeline: TimelineId(field("START TIMELINE")?.parse().map_err(|_| damaged("its START TIMELINE is no number"))?),
        })
    }
}

/// Parses a `tablespace_map`: `16384 /path` a line; `\` before a line break or a backslash of the path.
pub fn parse_tablespace_map(content: &[u8]) -> Result<Vec<TablespaceMapping>> {
    let mut mappings = Vec::new();
    let mut line = Vec::new();
    let mut bytes = content.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => line.extend(bytes.next()),
            b'\n' | b'\r' => {
                if !line.is_empty() {
                    mappings.push(parse_mapping(&std::mem::take(&mut line))?);
                }
            }
            other => line.push(other),
        }
    }
    if line.is_empty() { Ok(mappings) } else { Err(Error::damaged("the tablespace_map is cut off")) }
}

/// The content of a `tablespace_map`.
pub fn format_tablespace_map(mappings: &[TablespaceMapping]) -> Vec<u8> {
    let mut content = Vec::new();
    for mapping in mappings {
        content.extend_from_slice(format!("{} ", mapping.oid).as_bytes());
        for byte in &mapping.directory {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                content.push(b'\\');
            }
            content.push(*byte);
        }
        content.push(b'\n');
    }
    content
}

fn parse_mapping(line: &[u8]) -> Result<TablespaceMapping> {
    let space = line.iter().position(|byte| *byte == b' ');
    let oid = |at: usize| std::str::from_utf8(&line[..at]).ok()?.parse().ok();
    space
        .and_then(|at| Some(TablespaceMapping { oid: oid(at)?, directory: line[at + 1..].to_vec() }))
        .ok_or_else(|| Error::damaged("the tablespace_map is damaged").detail("line", String::from_utf8_lossy(line)))
}

fn damaged(why: &str) -> Error {
    Error::damaged(format!("the backup_label is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 21:40:02 UTC\n\
        LABEL: nightly: full\n\
        START TIMELINE: 1\n";

    #[test]
    fn a_label_is_read_whole_or_not_at_all() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!((label.start_lsn, label.checkpoint_lsn), (Lsn(0x200_0028), Lsn(0x200_0060)));
        assert_eq!(label.start_file, "000000010000000000000002");
        assert_eq!((label.label.as_str(), label.from_standby), ("nightly: full", false));
        for line in LABEL.lines().filter(|line| !line.starts_with("BACKUP METHOD")) {
            assert!(BackupLabel::parse(LABEL.replace(line, "").as_bytes()).is_err(), "without {line}");
        }
    }

    #[test]
    fn tablespace_maps_round_trip_with_odd_paths() {
        let mappings = vec![
            TablespaceMapping { oid: 16384, directory: b"/srv/fast disk".to_vec() },
            TablespaceMapping { oid: 16385, directory: b"/odd\nline\\back\xff".to_vec() },
        ];
        let content = format_tablespace_map(&mappings);
        assert_eq!(parse_tablespace_map(&content).unwrap(), mappings);
        assert_eq!(parse_tablespace_map(b"").unwrap(), []);
        for bad in [&b"16384"[..], b"16384\n", b"x /srv\n", b"16384 /srv"] {
            assert!(parse_tablespace_map(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
