//! The document `timeline`, version 1.

use serde::Serialize;

use super::names::Naming;
use crate::base::{Engine, Timestamp};
use crate::cli::config::RepositorySettings;
use crate::engine::activity::acts::{Act, ActKind};
use crate::engine::activity::around::Listing;
use crate::engine::activity::collect::{Before, Leftover, RowCounts, Table, Transaction};
use crate::engine::activity::detail::{Detail, Noted, What};
use crate::engine::activity::plan::{Axis, Elsewhere, GapReason};
use crate::engine::activity::run::{Account, Archive};
use crate::source::postgres::wal::Relation;

#[derive(Serialize)]
pub struct Document {
    pub source: String,
    pub repository: String,
    pub incarnation: String,
    /// `postgres`, `sqlite` or `directory`.
    pub kind: Engine,
    /// Of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Timelines off the way to it that have this time, too, when none was chosen.
    pub other_timelines: Vec<OtherTimeline>,
    /// What was asked for.
    pub from: Timestamp,
    pub to: Timestamp,
    /// Length of a row; none with `--around`.
    pub interval_seconds: Option<f64>,
    pub rows: Vec<Row>,
    pub gaps: Vec<Gap>,
    /// Files that were archived with different contents.
    pub contradictions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<DetailPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub around: Option<AroundPart>,
    /// Segments that are damaged.
    pub unread: Vec<Unread>,
    pub unattributed_rows: u64,
    pub unknown_records: u64,
}

#[derive(Serialize)]
pub struct OtherTimeline {
    pub timeline: u32,
    /// Its latest known commit or rollback, in the segments of that time.
    pub last: Option<Timestamp>,
}

#[derive(Serialize)]
pub struct Row {
    pub from: Timestamp,
    pub commits: u64,
    pub stored_bytes: u64,
    /// Segments that end here whose commits are not known.
    pub unknown_segments: u64,
    pub backups: Vec<String>,
    /// Gaps that begin here, by their place in `gaps`.
    pub gaps: Vec<usize>,
}

#[derive(Serialize)]
pub struct Gap {
    pub first_segment: String,
    pub last_segment: String,
    pub segments: u64,
    /// `missing`, `expired` or `contradicted`.
    pub reason: &'static str,
    pub after: Option<Timestamp>,
    pub before: Option<Timestamp>,
}

#[derive(Serialize)]
pub struct DetailPart {
    pub commits: u64,
    /// Rollbacks, those of subtransactions too.
    pub aborts: u64,
    /// Whether all of every transaction was read; else rows are at least so many.
    pub is_whole: bool,
    /// By relation, those with most rows first.
    pub relations: Vec<Written>,
    pub other_rows: u64,
    pub events: Vec<Event>,
    pub more_events: u64,
}

#[derive(Serialize)]
pub struct AroundPart {
    pub time: Timestamp,
    pub transactions: Vec<Listed>,
    pub more_commits: u64,
    /// The transaction that the command leaves out.
    pub chosen_xid: Option<u32>,
    pub restore: Option<RestoreCommand>,
}

/// Rows of one relation.
#[derive(Serialize)]
pub struct Written {
    pub relation: RelationPart,
    /// One of the server's own.
    pub is_system: bool,
    pub inserted_rows: u64,
    pub updated_rows: u64,
    pub deleted_rows: u64,
}

#[derive(Serialize)]
pub struct RelationPart {
    pub tablespace_oid: u32,
    pub database_oid: u32,
    pub relfilenode: u32,
    /// As the running server calls it.
    pub name: Option<String>,
    #[serde(skip)]
    pub shown: String,
}

#[derive(Serialize)]
pub struct Event {
    pub time: Timestamp,
    pub lsn: String,
    /// `restore_point`, `checkpoint`, `shutdown_checkpoint`, or that of an act.
    pub kind: &'static str,
    pub name: Option<String>,
    pub xid: Option<u32>,
    #[serde(flatten)]
    pub act: Option<ActPart>,
    /// Brings back the moment before it; for what loses rows.
    pub restore: Option<RestoreCommand>,
}

#[derive(Serialize)]
pub struct ActPart {
    #[serde(skip)]
    pub kind: ActKind,
    /// Whose files were removed, or whose rows were deleted.
    pub relations: Vec<RelationPart>,
    /// Names of the tables meant, where the log tells them and they still have one.
    pub tables: Vec<String>,
    /// Names of tables that were locked meanwhile, where the log does not show what was done to which.
    pub locked_tables: Vec<String>,
    pub rows: Option<u64>,
    pub database: Option<String>,
    /// Whether all of the transaction was read; else `rows` is at least so many.
    pub is_whole: bool,
}

#[derive(Serialize)]
pub struct Listed {
    pub xid: u32,
    pub time: Timestamp,
    /// First byte of the record that ended it.
    pub lsn: String,
    /// Where a restore must stop, exclusive, to have nothing of it.
    pub before_lsn: String,
    pub prepared: bool,
    pub is_whole: bool,
    pub relations: Vec<Written>,
    pub created_relations: usize,
    pub dropped_relations: usize,
    pub acts: Vec<ListedAct>,
}

#[derive(Serialize)]
pub struct ListedAct {
    pub kind: &'static str,
    #[serde(flatten)]
    pub act: ActPart,
}

#[derive(Serialize)]
pub struct RestoreCommand {
    /// To be pasted.
    #[serde(rename = "command")]
    pub line: String,
    pub to_lsn: String,
    /// What is left to do on the restored server, before anybody connects.
    pub then: Option<String>,
    /// The backup it would start from; none when the moment cannot be restored.
    pub backup: Option<String>,
}

#[derive(Serialize)]
pub struct Unread {
    pub segment: String,
    pub why: String,
}

/// An act's name in the document and in the text.
pub fn kind_name(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Dropped => "drop",
        ActKind::DatabaseDropped => "drop_database",
        ActKind::Truncated => "truncate",
        ActKind::Deleted => "delete",
        ActKind::Rewritten => "rewrite",
        ActKind::Replaced => "replace",
        ActKind::Rebuilt => "rebuild",
        ActKind::IndexDropped => "drop_index",
        ActKind::DatabaseCreated => "create_database",
    }
}

/// What the restored server still holds of the transaction, and what to do about it.
pub fn remedy(leftover: &Leftover) -> String {
    match leftover {
        Leftover::Prepared { gid: Some(gid), .. }
            if !gid.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) =>
        {
            format!("ROLLBACK PREPARED '{}'", gid.replace('\'', "''"))
        }
        Leftover::Prepared { xid, .. } => {
            format!("ROLLBACK PREPARED what this shows: SELECT gid FROM pg_prepared_xacts WHERE transaction = '{xid}'")
        }
        Leftover::InvalidDatabase => {
            "if pg_database.datconnlimit is -2, the database is invalid: restore to an earlier --to-lsn".to_owned()
        }
    }
}

impl Document {
    /// What is known from names: `interval` is what was asked for.
    pub fn new(source: &str, chosen: &RepositorySettings, archive: &Archive, interval: (Timestamp, Timestamp)) -> Self {
        let size = archive.segment_size();
        let gap = |gap: &crate::engine::activity::plan::Gap| Gap {
            first_segment: gap.first.name(size),
            last_segment: gap.last.name(size),
            segments: gap.segments(),
            reason: match gap.reason {
                GapReason::Missing => "missing",
                GapReason::Expired => "expired",
                GapReason::Contradicted => "contradicted",
            },
            after: gap.after,
            before: gap.before,
        };
        let (from, to) = interval;
        Self {
            source: source.to_owned(),
            repository: chosen.name.clone(),
            incarnation: archive.identity.incarnation.to_string(),
            kind: archive.engine(),
            timeline: (archive.engine() == Engine::Postgres).then(|| archive.path.timeline().0),
            other_timelines: Vec::new(),
            from,
            to,
            interval_seconds: None,
            rows: Vec::new(),
            gaps: archive.track.gaps.iter().map(gap).collect(),
            contradictions: archive.catalog.split_brains.iter().map(|split| split.file.clone()).collect(),
            detail: None,
            around: None,
            unread: Vec::new(),
            unattributed_rows: 0,
            unknown_records: 0,
        }
    }

    /// Gaps that touch the interval asked for.
    pub fn gaps_inside(&self) -> impl Iterator<Item = &Gap> {
        let outside =
            |gap: &&Gap| gap.before.is_some_and(|end| end < self.from) || gap.after.is_some_and(|begin| begin > self.to);
        self.gaps.iter().filter(move |gap| !outside(gap))
    }

    pub fn elsewhere(&mut self, elsewhere: &[Elsewhere]) {
        let others = elsewhere.iter().map(|other| OtherTimeline { timeline: other.timeline.0, last: other.last });
        self.other_timelines = others.collect();
    }

    pub fn axis(&mut self, axis: &Axis) {
        self.interval_seconds = Some(axis.interval.as_secs_f64());
        let rows = axis.rows.iter().map(|row| Row {
            from: row.from,
            commits: row.commits,
            stored_bytes: row.stored_bytes,
            unknown_segments: row.unknown_segments,
            backups: row.backups.iter().map(ToString::to_string).collect(),
            gaps: row.gaps.clone(),
        });
        self.rows = rows.collect();
    }

    pub fn detail(&mut self, detail: &Detail, naming: &Naming, restore: impl Fn(&Before) -> RestoreCommand) {
        let mut relations: Vec<Written> =
            detail.writes.iter().map(|(relation, counts)| written(*relation, *counts, naming)).collect();
        relations.sort_by_key(|written| std::cmp::Reverse(written.inserted_rows + written.updated_rows + written.deleted_rows));
        self.detail = Some(DetailPart {
            commits: detail.commits,
            aborts: detail.aborts,
            is_whole: detail.is_whole,
            relations,
            other_rows: detail.other_writes.total(),
            events: detail.events().into_iter().map(|noted| event(noted, naming, &restore)).collect(),
            more_events: detail.more_events,
        });
    }

    pub fn around(&mut self, time: Timestamp, listing: &Listing, naming: &Naming, restore: Option<RestoreCommand>) {
        self.around = Some(AroundPart {
            time,
            transactions: listing.transactions.iter().map(|transaction| listed(transaction, naming)).collect(),
            more_commits: listing.more_commits,
            chosen_xid: listing.chosen.map(|at| listing.transactions[at].xid),
            restore,
        });
    }

    pub fn account(&mut self, account: &Account) {
        let unread = account.unread.iter().map(|unread| Unread { segment: unread.segment.clone(), why: unread.why.clone() });
        self.unread = unread.collect();
        self.unattributed_rows = account.unattributed_rows;
        self.unknown_records = account.unknown_records;
    }
}

fn relation_part(relation: Relation, naming: &Naming) -> RelationPart {
    RelationPart {
        tablespace_oid: relation.tablespace,
        database_oid: relation.database,
        relfilenode: relation.file_node,
        name: naming.known(relation),
        shown: naming.relation(relation),
    }
}

fn written(relation: Relation, counts: RowCounts, naming: &Naming) -> Written {
    Written {
        relation: relation_part(relation, naming),
        is_system: naming.is_system(relation),
        inserted_rows: counts.inserted,
        updated_rows: counts.updated,
        deleted_rows: counts.deleted,
    }
}

fn act_part(act: &Act, is_whole: bool, naming: &Naming) -> ActPart {
    let named = |tables: &[Table], or_index| tables.iter().filter_map(|table| naming.table(*table, or_index)).collect();
    ActPart {
        kind: act.kind,
        relations: act.relations.iter().map(|relation| relation_part(*relation, naming)).collect(),
        tables: named(&act.tables, act.kind == ActKind::Rebuilt),
        locked_tables: named(&act.locked, false),
        rows: act.rows,
        database: act.database.map(|id| naming.database(id)),
        is_whole,
    }
}

fn event(noted: &Noted, naming: &Naming, restore: impl Fn(&Before) -> RestoreCommand) -> Event {
    let event =
        |kind| Event { time: noted.time, lsn: noted.lsn.to_string(), kind, name: None, xid: None, act: None, restore: None };
    match &noted.what {
        What::RestorePoint(name) => Event { name: Some(name.clone()), ..event("restore_point") },
        What::Checkpoint { shutdown } => event(if *shutdown { "shutdown_checkpoint" } else { "checkpoint" }),
        What::Act { xid, before, act, is_whole } => Event {
            xid: Some(*xid),
            act: Some(act_part(act, *is_whole, naming)),
            restore: act.kind.loses_rows().then(|| restore(before)),
            ..event(kind_name(act.kind))
        },
    }
}

fn listed(transaction: &Transaction, naming: &Naming) -> Listed {
    let acts = transaction.acts.iter();
    Listed {
        xid: transaction.xid,
        time: transaction.time,
        lsn: transaction.lsn.to_string(),
        before_lsn: transaction.before.lsn.to_string(),
        prepared: transaction.kind == crate::source::postgres::wal::EndKind::CommitPrepared,
        is_whole: transaction.is_whole,
        relations: transaction.rows.iter().map(|(relation, counts)| written(*relation, *counts, naming)).collect(),
        created_relations: transaction.created,
        dropped_relations: transaction.dropped.len(),
        acts: acts.map(|act| ListedAct { kind: kind_name(act.kind), act: act_part(act, transaction.is_whole, naming) }).collect(),
    }
}
