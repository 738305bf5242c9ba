//! The text form of `timeline`: a histogram, events, or transactions; at most 80 columns but for commands to paste.

use super::document::{
    ActPart, AroundPart, DetailPart, Document, Event, Gap, Listed, RelationPart, RestoreCommand, Row, Written,
};
use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Timestamp};
use crate::cli::output::{Align, table};
use crate::engine::activity::acts::ActKind;

/// Width of a screen.
const COLUMNS: usize = 80;
/// Columns left for bars.
const BAR_COLUMNS: u64 = 34;
/// Relations listed by name; the rest is summed up.
const MOST_RELATIONS: usize = 20;
/// Relations named in one line.
const MOST_NAMES: usize = 2;

impl Document {
    /// For people.
    pub fn text(&self) -> String {
        let Self { source, repository, incarnation, timeline, .. } = self;
        let timeline = timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
        let mut text = format!("{source} in repository {repository} ({incarnation}){timeline}\n");
        for other in &self.other_timelines {
            let until = other.last.map(|last| format!(", until {}", last.human_seconds())).unwrap_or_default();
            text += &format!("  timeline {0} went on beside it{until}: --timeline {0}\n", other.timeline);
        }
        match (self.interval_seconds, self.kind) {
            (Some(seconds), Engine::Directory) => text += &self.moments(seconds),
            (Some(seconds), _) => text += &self.histogram(seconds),
            (None, _) => {}
        }
        if self.detail.is_some() || self.around.is_some() {
            text += &self.shortcomings();
        }
        if let Some(detail) = &self.detail {
            text += &detail_text(detail);
        }
        if let Some(around) = &self.around {
            text += &around_text(around);
        }
        text
    }

    /// What is shown, and in rows of which length.
    fn head(&self, interval_seconds: f64) -> String {
        let length = match interval_seconds {
            ..60.0 => format!("{interval_seconds} s"),
            _ => format_duration(std::time::Duration::from_secs_f64(interval_seconds)),
        };
        format!("  {} to {}, {length} a row\n", seconds(self.from), self.to.human_seconds())
    }

    /// The backups alone, where nothing is known of what happens between them.
    fn moments(&self, interval_seconds: f64) -> String {
        let mut text = self.head(interval_seconds);
        text += &format!("  {:19}  backups\n", "from (UTC)");
        for row in &self.rows {
            let line = format!("  {}  {:>7}  {}", seconds(row.from), row.backups.len(), "#".repeat(row.backups.len()));
            text += line.trim_end();
            text.push('\n');
            row.backups.iter().for_each(|id| text += &format!("      backup {id}\n"));
        }
        text + &format!("what changed between two of them: lifeboat diff {} OLD NEW\n", self.source)
    }

    fn histogram(&self, interval_seconds: f64) -> String {
        let mut text = self.head(interval_seconds);
        let most = self.rows.iter().map(|row| row.commits).max().unwrap_or(0).max(1);
        let numbers = self.rows.iter().map(|row| commits(row).len()).max().unwrap_or(0).max("commits".len());
        text += &format!("  {:19}  {:>numbers$}  {:>9}\n", "from (UTC)", "commits", "stored");
        for row in &self.rows {
            let bar = "#".repeat((row.commits * BAR_COLUMNS).div_ceil(most) as usize);
            let line =
                format!("  {}  {:>numbers$}  {:>9}  {bar}", seconds(row.from), commits(row), format_bytes(row.stored_bytes));
            text += line.trim_end();
            text.push('\n');
            row.backups.iter().for_each(|id| text += &format!("      backup {id}\n"));
            row.gaps.iter().for_each(|at| text += &format!("      {}\n", self.gap_text(&self.gaps[*at])));
        }
        if self.rows.iter().any(|row| row.unknown_segments > 0) {
            text += "  +: not all commits are known: the names of some segments do not tell\n";
        }
        let timeless = self.contradictions.iter().filter(|file| file.ends_with(".history"));
        timeless.for_each(|file| text += &format!("  contradicted: {file}\n"));
        text
    }

    /// What keeps the rest from being the whole truth.
    fn shortcomings(&self) -> String {
        let mut text = String::new();
        // The histogram has told them.
        if self.interval_seconds.is_none() {
            self.gaps_inside().for_each(|gap| text += &format!("  {}\n", self.gap_text(gap)));
        }
        self.unread.iter().for_each(|unread| text += &format!("  damaged: {}: {}\n", unread.segment, unread.why));
        if self.unattributed_rows > 0 {
            text += &format!("  {} rows are not counted below: too much went on at once\n", self.unattributed_rows);
        }
        if self.unknown_records > 0 {
            text += &format!("  {} records of a kind that is not known\n", self.unknown_records);
        }
        text
    }

    fn gap_text(&self, gap: &Gap) -> String {
        match (self.kind, gap.reason) {
            // A number is left out where commits were not followed; no piece of that name ever was.
            (Engine::Sqlite, "missing") => "gap: its commits were not followed without a break".to_owned(),
            _ => gap_text(gap),
        }
    }
}

/// `2026-11-20 21:40:02`.
fn seconds(time: Timestamp) -> String {
    time.human_seconds().trim_end_matches(" UTC").to_owned()
}

/// `2026-11-20 21:40:02.123456`.
fn micros(time: Timestamp) -> String {
    time.rfc3339().replace('T', " ").trim_end_matches('Z').to_owned()
}

fn commits(row: &Row) -> String {
    format!("{}{}", row.commits, if row.unknown_segments > 0 { "+" } else { "" })
}

fn gap_text(gap: &Gap) -> String {
    let Gap { first_segment, last_segment, segments, reason, .. } = gap;
    match segments {
        1 => format!("gap: {first_segment} {reason}"),
        _ => format!("gap: {first_segment} to {last_segment} {reason}"),
    }
}

fn detail_text(detail: &DetailPart) -> String {
    let mut text = format!("\n{} commits, {} rollbacks (subtransactions' too)\n", detail.commits, detail.aborts);
    if !detail.is_whole {
        text += "rows are at least these: some transactions began before what was read\n";
    }
    let (system, users): (Vec<&Written>, Vec<&Written>) = detail.relations.iter().partition(|written| written.is_system);
    let columns = [("relation", Align::Left), ("inserted", Align::Right), ("updated", Align::Right), ("deleted", Align::Right)];
    let row = |name: String, all: &[&Written]| {
        let sum = |of: fn(&Written) -> u64| all.iter().map(|written| of(written)).sum::<u64>().to_string();
        vec![name, sum(|written| written.inserted_rows), sum(|written| written.updated_rows), sum(|written| written.deleted_rows)]
    };
    let (named, more) = users.split_at(users.len().min(MOST_RELATIONS));
    let mut rows: Vec<Vec<String>> = named.iter().map(|written| row(written.relation.shown.clone(), &[written])).collect();
    if !more.is_empty() {
        rows.push(row(format!("{} more", more.len()), more));
    }
    if !system.is_empty() {
        rows.push(row("(system catalogues)".into(), &system));
    }
    if !rows.is_empty() {
        text += "\n";
        text += &table(&columns, &rows);
    }
    if detail.other_rows > 0 {
        text += &format!("{} rows of other relations\n", detail.other_rows);
    }
    if !detail.events.is_empty() {
        text += "\n";
    }
    detail.events.iter().for_each(|event| text += &event_text(event));
    if detail.more_events > 0 {
        text += &format!("… and {} more\n", detail.more_events);
    }
    text
}

fn event_text(event: &Event) -> String {
    let what = match (&event.act, &event.name) {
        (Some(act), _) => act_text(act),
        (None, Some(name)) => format!("restore point '{name}'"),
        (None, None) => event.kind.replace('_', " "),
    };
    let xid = event.xid.map(|xid| format!("  xid {xid}")).unwrap_or_default();
    let head = format!("{}  {}{xid}", micros(event.time), event.lsn);
    let fits = head.chars().count() + 2 + what.chars().count() <= COLUMNS;
    let mut text = if fits { format!("{head}  {what}\n") } else { format!("{head}\n    {what}\n") };
    if let Some(restore) = &event.restore {
        text += &restore_text(restore, "    ");
    }
    text
}

/// What was done, to what.
fn act_text(act: &ActPart) -> String {
    let at_least = if act.is_whole { "" } else { "at least " };
    let what = match act.kind {
        ActKind::Dropped => "dropped",
        ActKind::DatabaseDropped => "dropped the database",
        ActKind::Truncated => "truncated",
        ActKind::Deleted => return format!("deleted {at_least}{} rows of {}", act.rows.unwrap_or(0), subjects(act)),
        ActKind::Rewritten => "rewrote",
        ActKind::Replaced => "dropped, truncated or rewrote",
        ActKind::Rebuilt => "rebuilt",
        ActKind::IndexDropped => "dropped the index or sequence",
        ActKind::DatabaseCreated => "created the database",
    };
    let mut text = match &act.database {
        Some(database) => format!("{what} {database}"),
        None => format!("{what} {}", subjects(act)),
    };
    if !act.locked_tables.is_empty() {
        text += &format!("; locked: {}", some_of(&act.locked_tables));
    }
    if act.kind == ActKind::Replaced && !act.is_whole {
        text += " (its beginning was not read)";
    }
    text
}

/// The tables by name, else the relations by number.
fn subjects(act: &ActPart) -> String {
    let relations = |relation: &RelationPart| relation.shown.clone();
    let names: Vec<String> =
        if act.tables.is_empty() { act.relations.iter().map(relations).collect() } else { act.tables.clone() };
    some_of(&names)
}

/// The first few names, and how many more there are.
fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn around_text(around: &AroundPart) -> String {
    let mut text = format!("  transactions that committed around {}\n\n", around.time);
    if around.transactions.is_empty() {
        text += "none that wrote anything\n";
    }
    for transaction in &around.transactions {
        text += &listed_text(transaction, around.chosen_xid == Some(transaction.xid));
    }
    if around.more_commits > 0 {
        text += &format!("  … and {} more commits in that time\n", around.more_commits);
    }
    if let Some(restore) = &around.restore {
        let xid = around.chosen_xid.unwrap_or_default();
        text += &format!("\nwhat was there before transaction {xid}:\n{}", restore_text(restore, ""));
    }
    text
}

fn listed_text(transaction: &Listed, is_chosen: bool) -> String {
    let Listed { xid, time, lsn, .. } = transaction;
    let (mark, prepared) = (if is_chosen { '>' } else { ' ' }, if transaction.prepared { "  prepared" } else { "" });
    let mut text = format!("{mark} {}  {lsn}  xid {xid}{prepared}\n", micros(*time));
    transaction.acts.iter().for_each(|act| text += &format!("    {}\n", act_text(&act.act)));
    let (system, users): (Vec<&Written>, Vec<&Written>) = transaction.relations.iter().partition(|written| written.is_system);
    for written in users.iter().take(MOST_RELATIONS) {
        text += &format!("    {}: {}\n", written.relation.shown, counts_text(&[written], transaction.is_whole));
    }
    if users.len() > MOST_RELATIONS {
        let more = &users[MOST_RELATIONS..];
        text += &format!("    {} more relations: {}\n", more.len(), counts_text(more, transaction.is_whole));
    }
    if !system.is_empty() {
        text += &format!("    system catalogues: {}\n", counts_text(&system, transaction.is_whole));
    }
    text
}

fn counts_text(all: &[&Written], is_whole: bool) -> String {
    let sum = |of: fn(&Written) -> u64| all.iter().map(|written| of(written)).sum::<u64>();
    let kinds = [
        (sum(|written| written.inserted_rows), "inserted"),
        (sum(|written| written.updated_rows), "updated"),
        (sum(|written| written.deleted_rows), "deleted"),
    ];
    let told = kinds.iter().filter(|(rows, _)| *rows > 0).map(|(rows, kind)| format!("{rows} {kind}"));
    let told = told.collect::<Vec<_>>().join(", ");
    format!("{}{told}", if is_whole { "" } else { "at least " })
}

/// The command on a line of its own, or why there is none.
fn restore_text(restore: &RestoreCommand, indent: &str) -> String {
    let then = restore.then.as_ref().map(|then| format!("{indent}then, before anybody connects: {then}\n"));
    match restore.backup {
        Some(_) => format!("{indent}{}\n{}", restore.line, then.unwrap_or_default()),
        None => format!("{indent}no backup leads to {}: it cannot be restored\n", restore.to_lsn),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::remedy;
    use super::*;
    use crate::engine::activity::collect::Leftover;

    #[test]
    fn what_stays_prepared_is_told_below_the_command() {
        let prepared = |gid: Option<&str>| Leftover::Prepared { xid: 20, gid: gid.map(str::to_owned) };
        assert_eq!(remedy(&prepared(Some("it's"))), "ROLLBACK PREPARED 'it''s'");
        for unsafe_gid in [None, Some("a\u{1b}[2J"), Some("\u{fffd}")] {
            assert!(remedy(&prepared(unsafe_gid)).ends_with("SELECT gid FROM pg_prepared_xacts WHERE transaction = '20'"));
        }
        let restore = |then: Option<String>| RestoreCommand {
            line: "lifeboat restore orders".into(),
            to_lsn: "0/10".into(),
            then,
            backup: Some("b".into()),
        };
        assert_eq!(restore_text(&restore(None), ""), "lifeboat restore orders\n");
        let told = restore_text(&restore(Some(remedy(&prepared(Some("cash"))))), "  ");
        assert_eq!(told, "  lifeboat restore orders\n  then, before anybody connects: ROLLBACK PREPARED 'cash'\n");
    }
}
