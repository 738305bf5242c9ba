//! What PostgreSQL itself says is in the log: `pg_waldump` and `pg_walinspect`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lifeboat::base::{Lsn, Timestamp};
use lifeboat::source::postgres::wal::{Change, EndKind, Event, Record};

use super::blocks::{self, ToldBlock};
use super::changes;
use super::server::Server;

/// A record in PostgreSQL's words. What a tool does not tell is `None`.
#[derive(Clone, Debug)]
pub struct Told {
    pub start: Lsn,
    pub end: Option<Lsn>,
    pub previous: Lsn,
    pub xid: u32,
    pub manager: String,
    pub kind: String,
    pub total_length: u32,
    pub main_data_length: Option<usize>,
    pub description: String,
    pub blocks: Vec<ToldBlock>,
}

/// Names by number. Source: `src/include/access/rmgrlist.h`.
pub const MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// `pg_waldump` from `start` to the end of a timeline, or to a record that it cannot decode.
pub fn waldump(program: &Path, wal: &Path, timeline: u32, start: Lsn) -> Vec<Told> {
    let mut command = Command::new(program);
    command.env("TZ", "UTC").env("LC_ALL", "C").arg("-p").arg(wal).args(["-t", &timeline.to_string(), "-s", &start.to_string()]);
    let output = command.output().expect("pg_waldump starts");
    let text = String::from_utf8(output.stdout).expect("pg_waldump writes text");
    text.lines().filter(|line| line.starts_with("rmgr:")).map(parse_line).collect()
}

/// `rmgr: Heap        len (rec/tot):     59/   299, tx:        740, lsn: 0/01000028, prev 0/01000000, desc: INSERT off 1 …`
fn parse_line(line: &str) -> Told {
    let between = |from: &str, to: &str| {
        let rest = line.split_once(from).unwrap_or_else(|| panic!("{line}")).1;
        rest.split_once(to).unwrap_or_else(|| panic!("{line}")).0.trim().to_string()
    };
    let lengths = between("len (rec/tot):", ", tx:");
    let description = line.split_once("desc: ").unwrap_or_else(|| panic!("{line}")).1;
    let (description, references) = description.split_at(description.find(", blkref #").unwrap_or(description.len()));
    let (kind, description) = description.split_once(' ').unwrap_or((description, ""));
    Told {
        start: lsn(&between("lsn: ", ",")),
        end: None,
        previous: lsn(&between("prev ", ",")),
        xid: between("tx:", ",").parse().unwrap(),
        manager: between("rmgr:", "len (").to_string(),
        kind: kind.to_string(),
        total_length: lengths.split_once('/').unwrap().1.trim().parse().unwrap(),
        main_data_length: None,
        description: description.trim().to_string(),
        blocks: blocks::parse(references),
    }
}

/// `pg_walinspect`'s view of everything from `start` to what is now flushed (15 and later).
pub fn walinspect(server: &Server, start: Lsn) -> Vec<Told> {
    let query = format!(
        "SELECT start_lsn, end_lsn, prev_lsn, xid, resource_manager, record_type, record_length, main_data_length, description,
         coalesce(block_ref, '')
         FROM pg_get_wal_records_info('{start}', pg_current_wal_flush_lsn()) ORDER BY start_lsn"
    );
    let rows = server.query(&query).into_iter();
    rows.map(|row| Told {
        start: lsn(&row[0]),
        end: Some(lsn(&row[1])),
        previous: lsn(&row[2]),
        xid: row[3].parse().unwrap(),
        manager: row[4].clone(),
        kind: row[5].clone(),
        total_length: row[6].parse().unwrap(),
        main_data_length: Some(row[7].parse().unwrap()),
        description: row[8].trim().to_string(),
        blocks: blocks::parse(&row[9]),
    })
    .collect()
}

/// A time as `pg_waldump` writes it and as the server does, both ended as in a description.
fn written(time: Timestamp) -> [String; 2] {
    let utc = time.rfc3339().replace('T', " ");
    let plain = utc.trim_end_matches('Z');
    [format!("{plain} UTC"), format!("{}+00", plain.trim_end_matches('0').trim_end_matches('.'))]
}

/// Kind and parts of the description that PostgreSQL must give a record that means `event`; of each part one form must occur.
fn expectation(event: &Event) -> Option<(&'static str, Vec<Vec<String>>)> {
    let one = |text: String| vec![text];
    Some(match event {
        Event::Other => return None,
        Event::TransactionEnd(end) => {
            let (kind, prepared) = match end.kind {
                EndKind::Commit => ("COMMIT", false),
                EndKind::Abort => ("ABORT", false),
                EndKind::CommitPrepared => ("COMMIT_PREPARED", true),
                EndKind::AbortPrepared => ("ABORT_PREPARED", true),
            };
            let xid = if prepared { format!("{}: ", end.xid) } else { String::new() };
            (kind, vec![written(end.time).map(|time| format!("{xid}{time}")).to_vec()])
        }
        Event::Prepare(prepare) => {
            ("PREPARE", vec![written(prepare.time).map(|time| format!("gid {}: {time}", prepare.gid)).to_vec()])
        }
        Event::RestorePoint { name, .. } => ("RESTORE_POINT", vec![one(name.clone())]),
        Event::Checkpoint(checkpoint) => {
            let kind = if checkpoint.shutdown { "CHECKPOINT_SHUTDOWN" } else { "CHECKPOINT_ONLINE" };
            let (timeline, previous) = (checkpoint.timeline, checkpoint.previous_timeline);
            let first =
                format!("redo {}; tli {timeline}; prev tli {previous}; fpw {};", checkpoint.redo, checkpoint.full_page_writes);
            let xid = format!("xid {}:{};", checkpoint.next_xid >> 32, checkpoint.next_xid & 0xFFFF_FFFF);
            let level = checkpoint.wal_level.map(|level| one(format!("wal_level {level};")));
            (kind, [one(first), one(xid)].into_iter().chain(level).collect())
        }
        Event::CheckpointRedo { wal_level } => ("CHECKPOINT_REDO", vec![one(format!("wal_level {wal_level}"))]),
        Event::EndOfRecovery { timeline, previous_timeline, time, wal_level } => {
            let times = written(*time).map(|time| format!("tli {timeline}; prev tli {previous_timeline}; time {time}"));
            let level = wal_level.map(|level| one(format!("wal_level {level}")));
            ("END_OF_RECOVERY", [times.to_vec()].into_iter().chain(level).collect())
        }
        Event::ParameterChange { wal_level, wal_log_hints } => {
            let hints = if *wal_log_hints { "on" } else { "off" };
            ("PARAMETER_CHANGE", vec![one(format!("wal_level={wal_level} wal_log_hints={hints}"))])
        }
        Event::BackupEnd { start } => ("BACKUP_END", vec![one(start.to_string())]),
        Event::Switch => ("SWITCH", vec![]),
        Event::TablespaceCreate { oid, path } => ("CREATE", vec![one(format!("{oid} \"{path}\""))]),
        Event::ContinuationOverwritten { abandoned, time } => {
            ("OVERWRITE_CONTRECORD", vec![written(*time).map(|time| format!("lsn {abandoned}; time {time}")).to_vec()])
        }
    })
}

/// Kinds of records that must be events.
pub fn interpreted_kinds() -> BTreeSet<&'static str> {
    BTreeSet::from([
        "COMMIT",
        "ABORT",
        "COMMIT_PREPARED",
        "ABORT_PREPARED",
        "PREPARE",
        "RESTORE_POINT",
        "CHECKPOINT_ONLINE",
        "CHECKPOINT_SHUTDOWN",
        "CHECKPOINT_REDO",
        "END_OF_RECOVERY",
        "PARAMETER_CHANGE",
        "BACKUP_END",
        "SWITCH",
        "OVERWRITE_CONTRECORD",
    ])
}

impl Told {
    /// Panics unless the record, as read, is this one.
    pub fn assert_is(&self, record: &Record<'_>, event: &Event) {
        let context = format!("{self:?}\n{event:?}");
        assert_eq!(record.start, self.start, "{context}");
        assert_eq!(record.total_length, self.total_length, "{context}");
        assert_eq!((record.previous, record.xid), (self.previous, self.xid), "{context}");
        assert_eq!(MANAGERS[usize::from(record.resource_manager)], self.manager, "{context}");
        if let Some(end) = self.end {
            assert_eq!(record.end, end, "{context}");
        }
        if let Some(length) = self.main_data_length.filter(|_| record.is_whole()) {
            assert_eq!(record.main_data().unwrap().len(), length, "{context}");
        }
        blocks::assert_are(&self.blocks, record, &context);
        if record.is_whole() {
            let change = Change::decode(record, &record.parts().unwrap());
            let change = change.unwrap_or_else(|error| panic!("{error} in {context}"));
            changes::assert_is(record, &change, &self.kind, &self.description, &context);
        }
        match expectation(event) {
            // 13 and 14 wrote prepared transactions in another form than the pg_waldump of 15 expects.
            Some((kind, _)) if kind == "PREPARE" && record.major_version < 15 => assert_eq!(kind, self.kind, "{context}"),
            Some((kind, parts)) => {
                assert_eq!(kind, self.kind, "{context}");
                for forms in parts {
                    assert!(forms.iter().any(|form| self.description.contains(form)), "none of {forms:?} in {context}");
                }
            }
            None => {
                let of_interest =
                    matches!(self.manager.as_str(), "XLOG" | "Transaction") && interpreted_kinds().contains(self.kind.as_str());
                assert!(!of_interest, "{context}");
            }
        }
    }
}
