//! What `expire` says to people.

use super::{ByPolicy, Document, Marking, StandingMark};
use crate::base::units::format_bytes;
use crate::engine::expire::log::{LogAccount, Span};
use crate::engine::expire::orphans::Orphan;
use crate::engine::expire::run::Report;
use crate::engine::expire::{Fate, Verdict};
use crate::policy::retention::{LogVerdict, Verdict as Judged};
use crate::repo::log::LogRange;

pub(super) fn text(document: &Document) -> String {
    let mut text = String::new();
    for part in &document.repositories {
        text += &format!("{} in repository {}", part.source, part.repository);
        match (&part.policy, &part.marked, &part.carried_out) {
            (Some(policy), Some(marking), Some(report)) => {
                text += &format!(", by policy {}: window from {}\n", policy.policy, policy.window_from.human_seconds());
                text += &policy_text(policy, marking, report, document);
                text += &deleted_text(report, document.dry_run);
            }
            (_, marking, report) => {
                text.push('\n');
                text +=
                    &marking.as_ref().map(|marking| marking_text(marking, &part.source, document.dry_run)).unwrap_or_default();
                text += &report.as_ref().map(|report| report_text(report, document.dry_run)).unwrap_or_default();
            }
        }
        if let Some(withdrawing) = &part.withdrawn {
            let would = if document.dry_run { "would stay" } else { "stays: its marks are withdrawn" };
            text += &lines(withdrawing.backups.iter().map(|id| format!("{id}  {would}")));
        }
        if let Some(orphans) = &part.orphans {
            text += &orphans_text(orphans, document.dry_run);
        }
        text += &lines(part.error.iter().map(|why| format!("failed: {why}")));
    }
    text
}

/// Every backup with what becomes of it by policy, and the log.
fn policy_text(policy: &ByPolicy, marking: &Marking, report: &Report, document: &Document) -> String {
    let mut text = String::new();
    for judged in &policy.judgement.backups {
        let carried_out = report.backups.iter().find(|verdict| verdict.id == judged.id);
        text += &match carried_out {
            Some(verdict) if verdict.fate != Fate::Kept || (!judged.kept && !marking.backups.contains(&judged.id)) => {
                format!("  {}\n", verdict_text(verdict, document.dry_run))
            }
            _ => policy_line(judged, policy, marking, document),
        };
        let others = judged.why.iter().skip(1).filter(|_| document.explain);
        text += &others.map(|why| format!("            and {why}\n")).collect::<String>();
    }
    if policy.judgement.backups.is_empty() {
        text += "  there is no backup\n";
    }
    let log = |log: &LogVerdict| {
        let fate = if log.kept { "kept    " } else { "goes    " };
        format!("{fate}  log of {}, {} to {}: {}", log.incarnation, log.from, log.to, log.why)
    };
    let logs = policy.judgement.logs.iter().filter(|_| document.dry_run);
    text += &lines(logs.map(log));
    let marked_log = |range: &LogRange| {
        let (fate, due) = (if document.dry_run { "to mark " } else { "marked  " }, marking.due.human_seconds());
        format!("{fate}  log of {}, {} to {}: it may go from {due} on", range.incarnation, range.from, range.to)
    };
    text += &lines(marking.log_ranges.iter().map(marked_log));
    text
}

/// A backup on which nothing was carried out.
fn policy_line(judged: &Judged, policy: &ByPolicy, marking: &Marking, document: &Document) -> String {
    let (id, why) = (&judged.id, judged.why.first().map(String::as_str).unwrap_or_default());
    let due = marking.due.human_seconds();
    match (judged.kept, document.dry_run) {
        (true, _) if policy.withdrawn.contains(id) => {
            let is = if document.dry_run { "would be" } else { "is" };
            format!("  kept      {id}: {why}; the policy's mark {is} withdrawn\n")
        }
        (true, _) => format!("  kept      {id}: {why}\n"),
        (false, true) => format!("  to mark   {id}: {why}\n"),
        (false, false) => format!("  marked    {id}: {why}; it may go from {due} on\n"),
    }
}

fn marking_text(marking: &Marking, source: &str, dry_run: bool) -> String {
    let mut text = String::new();
    let would = if dry_run { "would be marked" } else { "is marked" };
    let due = marking.due.human_seconds();
    text += &lines(marking.backups.iter().map(|id| format!("{id}  {would}, and may go from {due} on")));
    let before = |standing: &StandingMark| {
        format!("{}  was marked before, and may go from {} on", standing.backup, standing.due.human_seconds())
    };
    text += &lines(marking.standing.iter().map(before));
    if !marking.backups.is_empty() && !dry_run {
        text += "  nothing is deleted yet\n";
        text += &format!("  to carry it out then:  lifeboat expire {source} --key FILE\n");
        let first = &marking.backups[0];
        text += &format!("  to keep it after all:  lifeboat expire {source} --backup {first} --withdraw --key FILE\n");
    }
    text
}

fn report_text(report: &Report, dry_run: bool) -> String {
    let mut text = lines(report.backups.iter().map(|verdict| verdict_text(verdict, dry_run)));
    text += &deleted_text(report, dry_run);
    if report.backups.is_empty() {
        text += "  there is no backup\n";
    }
    text
}

fn verdict_text(verdict: &Verdict, dry_run: bool) -> String {
    let fate = match (verdict.fate, dry_run) {
        (Fate::Kept, _) => "kept    ",
        (Fate::Pending, _) => "pending ",
        (Fate::Expired, false) => "expired ",
        (Fate::Expired, true) => "would go",
    };
    format!("{fate}  {}: {}", verdict.id, verdict.why)
}

fn deleted_text(report: &Report, dry_run: bool) -> String {
    let done = if dry_run { "would be deleted" } else { "deleted" };
    let mut text = String::new();
    if report.deleted_backup_objects > 0 {
        let bytes = format_bytes(report.deleted_backup_bytes);
        text += &format!("  backups: {} objects, {bytes}, {done}\n", report.deleted_backup_objects);
    }
    text += &lines(report.logs.iter().map(|log| log_text(log, done)));
    text + &lines(report.notes.iter().cloned())
}

fn log_text(log: &LogAccount, done: &str) -> String {
    let LogAccount { incarnation, floor_lsn, deleted_objects, deleted_bytes, kept_objects, .. } = log;
    let why = match &log.needed_by {
        Some(id) => format!("{id} needs it from {floor_lsn} on"),
        None => format!("nothing needs what lies before {floor_lsn}"),
    };
    let bytes = format_bytes(*deleted_bytes);
    let mut text = format!("log of {incarnation}: {deleted_objects} objects, {bytes}, {done}; {kept_objects} kept: {why}");
    for Span { from, to } in &log.ranges {
        text += &format!("; nothing needs {from} to {to}");
    }
    if let Some(until) = log.locked_until {
        text += &format!("; {} of them only because they are locked until {}", log.locked_objects, until.human_seconds());
    }
    text
}

fn orphans_text(orphans: &[Orphan], dry_run: bool) -> String {
    if orphans.is_empty() {
        return "  no backup was left unfinished\n".to_owned();
    }
    let line = |orphan: &Orphan| {
        let fate = match (orphan.removed, dry_run) {
            (true, false) => "removed ",
            (true, true) => "would go",
            (false, _) => "kept    ",
        };
        let host = orphan.host.as_deref().unwrap_or("unknown host");
        let bytes = format_bytes(orphan.stored_bytes);
        let why = match (orphan.removed, orphan.locked_until) {
            (true, _) => String::new(),
            (false, Some(until)) => format!(": it is locked until {}", until.human_seconds()),
            (false, None) => ": it may be in flight, or be gone on with".to_owned(),
        };
        let last = orphan.last_written.human_seconds();
        format!("{fate}  {} ({host}, {} objects, {bytes}, last written {last}){why}", orphan.id, orphan.objects)
    };
    lines(orphans.iter().map(line))
}

/// Each indented, on a line of its own.
fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("  {item}\n")).collect()
}
