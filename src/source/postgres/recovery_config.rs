//! Telling a restored cluster how far to recover: `postgresql.auto.conf` and the signal file.
//!
//! Write order: leftovers of the copied server go first, then the settings, then the signal file, each durable before
//! the next, so a crash in between leaves no cluster that recovers with someone else's target.
//!
//! Decisions:
//! - Every recovery setting is written, unused ones as empty and before the used one, because `postgresql.conf` may hold
//!   leftovers too: an empty later value overrides an earlier one, and PostgreSQL refuses two targets.
//! - `recovery_end_command` and `archive_cleanup_command` are emptied: on the wrong host they delete.
//! - `primary_conninfo` and `primary_slot_name` are stripped unless the cluster becomes a standby.
//! - `standby.signal`, which a copy of a standby brings along, would win over `recovery.signal`, so it is removed.
//! - `recovery_min_apply_delay`, which a copy of a delayed standby brings along, would hold a restore back, so it is none
//!   unless asked for.
//! - A standby is given a target the other way round ([`retarget`]): `standby.signal` goes last, so that at no moment the
//!   directory would start as a primary of its own.
//!
//! Source: PostgreSQL documentation, "Archive Recovery", "Recovery Target"; `guc-file.l` for the file's grammar.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::base::durable;
use crate::base::{Error, Lsn, Result, TimelineId, Timestamp};

/// Where recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the archived log.
    Latest,
    /// As soon as the backup is consistent.
    Immediate {
        /// One past the last record that the backup needs. The server finds it in the log by itself.
        backup_end: Lsn,
    },
    /// At a record's start.
    Lsn {
        /// The record.
        lsn: Lsn,
        /// Whether the record itself is replayed.
        inclusive: bool,
    },
    /// At a transaction's end.
    Time {
        /// The moment.
        time: Timestamp,
        /// Whether commits at exactly that moment are replayed.
        inclusive: bool,
    },
    /// At the end of one transaction.
    Xid {
        /// Its number, with or without epoch.
        xid: u64,
        /// Whether the transaction itself is replayed.
        inclusive: bool,
    },
    /// At a named restore point.
    Name(String),
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Wait, readable.
    Pause,
    /// Become a primary on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

/// How a restored cluster recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Shell command with `%f` and `%p`.
    pub restore_command: String,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// The timeline to follow; always written as a number.
    pub timeline: TimelineId,
    /// What happens there.
    pub action: TargetAction,
    /// Stay a standby (`standby.signal`) instead of becoming a primary.
    pub standby: bool,
    /// A copy for a look or a drill: never archives.
    pub clone: bool,
    /// More settings, written last: name and value.
    pub extra: Vec<(String, String)>,
}

/// Where the settings are written, below the data directory.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// Makes the server a standby as long as it stands in the data directory.
pub const STANDBY_SIGNAL: &str = "standby.signal";
/// Makes the server recover, to its target.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";
const HEADER: &str = "# Written by lifeboat restore.";
const BACKUP_END: &str = "# The backup ends at ";

/// Settings that an earlier recovery may have left.
const RECOVERY_NAMES: [&str; 13] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "recovery_min_apply_delay",
    "promote_trigger_file",
];
const STANDBY_NAMES: [&str; 2] = ["primary_conninfo", "primary_slot_name"];
const TARGET_NAMES: [&str; 5] =
    ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn"];

/// Files that a copied server may have left and that would mislead a restored one. `backup_label` is not among them.
const LEFTOVERS: [&str; 6] =
    [RECOVERY_SIGNAL, STANDBY_SIGNAL, "backup_label.old", "tablespace_map.old", "postmaster.pid", "postmaster.opts"];

/// Writes the recovery settings of a restored, not running cluster, which has no `pg_control` under its name yet.
///
/// New files belong to the owner of `data_directory`. A value with a line break, or a restore command that is empty, is
/// [`crate::base::ErrorKind::Usage`].
pub fn write_recovery_settings(data_directory: &Path, settings: &RecoverySettings) -> Result<()> {
    let lines = setting_lines(settings)?;
    for name in LEFTOVERS {
        remove_if_there(&data_directory.join(name))?;
    }
    write_settings(data_directory, settings, &lines)?;
    let signal = if settings.standby { STANDBY_SIGNAL } else { RECOVERY_SIGNAL };
    write_owned(data_directory, signal, b"", 0o600)
}

/// Gives the standby in `data_directory`, whose server does not run, settings that end its recovery: the settings first,
/// then `recovery.signal`, and last `standby.signal` goes.
///
/// # Errors
/// When something cannot be written.
pub fn retarget(data_directory: &Path, settings: &RecoverySettings) -> Result<()> {
    let lines = setting_lines(settings)?;
    write_settings(data_directory, settings, &lines)?;
    write_owned(data_directory, RECOVERY_SIGNAL, b"", 0o600)?;
    remove_if_there(&data_directory.join(STANDBY_SIGNAL))
}

/// The value that the configuration files in `data_directory` give a setting, without the files that they include; the
/// last one counts.
///
/// # Errors
/// When one of them cannot be read.
pub fn configured(data_directory: &Path, name: &str) -> Result<Option<String>> {
    let mut found = None;
    for file in ["postgresql.conf", AUTO_CONF] {
        let path = data_directory.join(file);
        match fs::read(&path) {
            Ok(content) => found = setting(&content, name).or(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &path, error)),
        }
    }
    Ok(found)
}

/// Replaces what `settings` replace in `postgresql.auto.conf`, and adds `lines`.
fn write_settings(data_directory: &Path, settings: &RecoverySettings, lines: &str) -> Result<()> {
    let path = data_directory.join(AUTO_CONF);
    let (old, mode) = match fs::read(&path) {
        Ok(content) => {
            let metadata = fs::metadata(&path).map_err(|error| Error::io("look at", &path, error))?;
            (content, metadata.permissions().mode() & 0o777)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), 0o600),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    let mut content = strip_settings(&old, |name| is_replaced(name, settings));
    content.extend_from_slice(lines.as_bytes());
    write_owned(data_directory, AUTO_CONF, &content, mode)
}

/// `value` as the configuration file's grammar quotes it. A line break or a zero byte cannot be written there.
pub fn quote_value(value: &str) -> Result<String> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(
            Error::usage("a setting's value must not contain a line break").detail("value", value.escape_debug().to_string())
        );
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// The lines of a configuration file without the settings that `unwanted` names (in lower case), and without the
/// comments of an earlier restore.
///
/// The grammar knows no value over several lines, so a setting is the line that starts with its name.
pub fn strip_settings(content: &[u8], unwanted: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut kept = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let ours = line.trim_ascii() == HEADER.as_bytes() || line.starts_with(BACKUP_END.as_bytes());
        if !ours && !setting_name(line).is_some_and(|name| unwanted(&name)) {
            kept.extend_from_slice(line);
        }
    }
    if kept.last().is_some_and(|byte| *byte != b'\n') {
        kept.push(b'\n');
    }
    kept
}

/// The position that the settings in `content`, as [`write_recovery_settings`] writes them, end recovery at, and whether a
/// record that starts there is replayed; none when they name another target, or none.
pub fn replayed_until(content: &[u8]) -> Option<(Lsn, bool)> {
    if setting(content, "recovery_target").is_some_and(|value| value == "immediate") {
        let text = String::from_utf8_lossy(content);
        let backup_end = text.lines().rev().find_map(|line| line.strip_prefix(BACKUP_END))?;
        return Some((backup_end.trim().parse().ok()?, false));
    }
    let lsn = setting(content, "recovery_target_lsn")?.parse().ok()?;
    Some((lsn, setting(content, "recovery_target_inclusive").is_none_or(|value| value != "off")))
}

/// The value of a setting; the last one counts.
fn setting(content: &[u8], wanted: &str) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let line = text.lines().rfind(|line| setting_name(line.as_bytes()).is_some_and(|name| name == wanted))?;
    let value = line.trim_start().get(wanted.len()..)?.trim_start();
    // The sign may be left out.
    let value = value.strip_prefix('=').unwrap_or(value).trim_start();
    let Some(quoted) = value.strip_prefix('\'') else {
        let end = value.find(|letter: char| letter.is_whitespace() || letter == '#').unwrap_or(value.len());
        return Some(value[..end].to_owned());
    };
    let (mut found, mut letters) = (String::new(), quoted.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => found.extend(letters.next()),
            '\'' if letters.next_if_eq(&'\'').is_none() => break,
            other => found.push(other),
        }
    }
    Some(found)
}

/// The name a line sets, in lower case; names are compared without case.
fn setting_name(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_start();
    let part_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.') || *byte >= 0x80;
    let length = line.iter().take_while(|byte| part_of_name(byte)).count();
    (length > 0).then(|| String::from_utf8_lossy(&line[..length]).to_ascii_lowercase())
}

fn is_replaced(name: &str, settings: &RecoverySettings) -> bool {
    RECOVERY_NAMES.contains(&name)
        || (!settings.standby && STANDBY_NAMES.contains(&name))
        || (settings.clone && name == "archive_mode")
        || settings.extra.iter().any(|(extra, _)| extra.eq_ignore_ascii_case(name))
}

fn setting_lines(settings: &RecoverySettings) -> Result<String> {
    if settings.restore_command.trim().is_empty() {
        return Err(Error::usage("the restore command is empty"));
    }
    let used = target_setting(&settings.target);
    let used_name = used.as_ref().map(|(name, _, _)| *name);
    let mut lines: Vec<(&str, String)> = vec![
        ("restore_command", settings.restore_command.clone()),
        ("recovery_end_command", String::new()),
        ("archive_cleanup_command", String::new()),
    ];
    lines.extend(TARGET_NAMES.iter().filter(|name| used_name != Some(**name)).map(|name| (*name, String::new())));
    let inclusive = used.as_ref().is_none_or(|(_, _, inclusive)| *inclusive);
    lines.extend(used.map(|(name, value, _)| (name, value)));
    let action = match settings.action {
        TargetAction::Pause => "pause",
        TargetAction::Promote => "promote",
        TargetAction::Shutdown => "shutdown",
    };
    lines.push(("recovery_target_inclusive", if inclusive { "on" } else { "off" }.into()));
    lines.push(("recovery_target_timeline", settings.timeline.to_string()));
    lines.push(("recovery_target_action", action.into()));
    lines.push(("recovery_min_apply_delay", "0".into()));
    if settings.clone {
        lines.push(("archive_mode", "off".into()));
    }
    lines.retain(|(name, _)| !settings.extra.iter().any(|(extra, _)| extra == name));
    lines.extend(settings.extra.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let mut text = format!("{HEADER}\n");
    if let RecoveryTarget::Immediate { backup_end } = settings.target {
        text.push_str(&format!("{BACKUP_END}{backup_end}\n"));
    }
    for (name, value) in lines {
        text.push_str(&format!("{name} = {}\n", quote_value(&value)?));
    }
    Ok(text)
}

/// Name, value and inclusiveness of the one target that is set.
fn target_setting(target: &RecoveryTarget) -> Option<(&'static str, String, bool)> {
    match target {
        RecoveryTarget::Latest => None,
        RecoveryTarget::Immediate { .. } => Some(("recovery_target", "immediate".into(), true)),
        RecoveryTarget::Lsn { lsn, inclusive } => Some(("recovery_target_lsn", lsn.to_string(), *inclusive)),
        RecoveryTarget::Time { time, inclusive } => {
            let zoned = time.rfc3339().replacen('T', " ", 1).replace('Z', "+00");
            Some(("recovery_target_time", zoned, *inclusive))
        }
        RecoveryTarget::Xid { xid, inclusive } => Some(("recovery_target_xid", xid.to_string(), *inclusive)),
        RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone(), true)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => durable::sync_parent(path).map_err(|error| Error::io("sync the directory of", path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Writes a file durably and gives it to the directory's owner: PostgreSQL must read what root restored.
///
/// # Errors
/// When it cannot be written or given away.
pub fn write_owned(directory: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = directory.join(name);
    durable::write_file(&path, content, mode).map_err(|error| Error::io("write", &path, error))?;
    let owner = fs::metadata(directory).map_err(|error| Error::io("look at", directory, error))?;
    let written = fs::metadata(&path).map_err(|error| Error::io("look at", &path, error))?;
    if (owner.uid(), owner.gid()) == (written.uid(), written.gid()) {
        return Ok(());
    }
    chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(|error| Error::io("change the owner of", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(target: RecoveryTarget) -> RecoverySettings {
        RecoverySettings {
            restore_command: r#"lifeboat archive get 'my source' %f "%p" \x"#.into(),
            target,
            timeline: TimelineId(26),
            action: TargetAction::Promote,
            standby: false,
            clone: false,
            extra: Vec::new(),
        }
    }

    const OLD: &str = "# Do not edit this file manually!\n\
        shared_buffers = '128MB'\n\
        \tRESTORE_COMMAND='cp /old/%f ''%p'''\n\
        recovery_target_xid = 12 # recovery\n\
        recovery_target_time='2020-01-01'\n\
        primary_conninfo = 'host=old'\n\
        my.recovery_target = 'kept'\n\
        # recovery_target_name = 'a comment stays'\n\
        archive_mode = 'always'";

    #[test]
    fn leftovers_go_and_the_target_is_the_last_of_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(AUTO_CONF), OLD).unwrap();
        for name in ["standby.signal", "postmaster.opts", "backup_label"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let wanted = settings(RecoveryTarget::Lsn { lsn: Lsn(0xA3_F100_0028), inclusive: false });
        write_recovery_settings(dir.path(), &wanted).unwrap();
        let once = fs::read_to_string(dir.path().join(AUTO_CONF)).unwrap();
        let expected = "# Do not edit this file manually!\n\
            shared_buffers = '128MB'\n\
            my.recovery_target = 'kept'\n\
            # recovery_target_name = 'a comment stays'\n\
            archive_mode = 'always'\n\
            # Written by lifeboat restore.\n\
            restore_command = 'lifeboat archive get ''my source'' %f \"%p\" \\\\x'\n\
            recovery_end_command = ''\n\
            archive_cleanup_command = ''\n\
            recovery_target = ''\n\
            recovery_target_name = ''\n\
            recovery_target_time = ''\n\
            recovery_target_xid = ''\n\
            recovery_target_lsn = 'A3/F1000028'\n\
            recovery_target_inclusive = 'off'\n\
            recovery_target_timeline = '26'\n\
            recovery_target_action = 'promote'\n\
            recovery_min_apply_delay = '0'\n";
        assert_eq!(once, expected);
        assert!(dir.path().join("recovery.signal").exists());
        assert!(!dir.path().join("standby.signal").exists());
        assert!(!dir.path().join("postmaster.opts").exists());
        assert!(dir.path().join("backup_label").exists());
        write_recovery_settings(dir.path(), &wanted).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(AUTO_CONF)).unwrap(), once, "a second time changes nothing");
    }

    #[test]
    fn clones_do_not_archive_and_standbys_keep_their_primary() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(AUTO_CONF), OLD).unwrap();
        let extra = vec![("port".to_owned(), "6000".to_owned())];
        let wanted = RecoverySettings { standby: true, clone: true, extra, ..settings(RecoveryTarget::Latest) };
        write_recovery_settings(dir.path(), &wanted).unwrap();
        let text = fs::read_to_string(dir.path().join(AUTO_CONF)).unwrap();
        assert!(text.contains("primary_conninfo = 'host=old'\n"));
        assert!(text.ends_with("archive_mode = 'off'\nport = '6000'\n") && !text.contains("'always'"), "{text}");
        assert!(dir.path().join("standby.signal").exists() && !dir.path().join("recovery.signal").exists());
    }

    #[test]
    fn every_kind_of_target_has_its_setting() {
        let time = Timestamp::from_unix_micros(1_795_210_802_123_456).unwrap();
        for (target, expected) in [
            (
                RecoveryTarget::Immediate { backup_end: Lsn(0x900_0100) },
                "recovery_target = 'immediate'\nrecovery_target_inclusive = 'on'",
            ),
            (RecoveryTarget::Time { time, inclusive: true }, "recovery_target_time = '2026-11-20 21:40:02.123456+00'\n"),
            (RecoveryTarget::Xid { xid: 7, inclusive: false }, "recovery_target_xid = '7'\nrecovery_target_inclusive = 'off'"),
            (RecoveryTarget::Name("it's".into()), "recovery_target_name = 'it''s'\n"),
        ] {
            let text = setting_lines(&settings(target)).unwrap();
            assert!(text.contains(expected), "{text}");
            assert_eq!(text.matches("recovery_target_timeline").count(), 1);
        }
    }

    #[test]
    fn where_recovery_ends_is_read_back() {
        let written = |target| setting_lines(&settings(target)).unwrap().into_bytes();
        let lsn = Lsn(0x900_0100);
        let immediate = written(RecoveryTarget::Immediate { backup_end: lsn });
        assert_eq!(replayed_until(&immediate), Some((lsn, false)));
        for inclusive in [false, true] {
            let at_record = [immediate.clone(), written(RecoveryTarget::Lsn { lsn, inclusive })].concat();
            assert_eq!(replayed_until(&at_record), Some((lsn, inclusive)), "the last settings count");
        }
        assert_eq!(replayed_until(&written(RecoveryTarget::Latest)), None);
        assert_eq!(replayed_until(&written(RecoveryTarget::Name("0/9000100".into()))), None);
        assert_eq!(replayed_until(&strip_settings(&immediate, |_| true)), None);
        assert!(strip_settings(&immediate, |_| true).is_empty(), "nothing of it stays behind");
    }

    #[test]
    fn a_value_is_read_as_the_grammar_writes_it() {
        for (line, expected) in [
            ("archive_mode = always # for both", "always"),
            ("archive_mode always", "always"),
            ("  Archive_Mode='always'", "always"),
            ("archive_mode = ''", ""),
            (r"archive_mode = 'a # b ''c'' \\ d' # e", r"a # b 'c' \ d"),
            ("archive_mode = off\narchive_mode on\n#archive_mode = always", "on"),
        ] {
            assert_eq!(setting(line.as_bytes(), "archive_mode").as_deref(), Some(expected), "{line}");
        }
        assert_eq!(setting(b"archive_modes = on", "archive_mode"), None);
    }

    #[test]
    fn values_that_cannot_be_written_are_refused_before_anything_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("standby.signal"), "").unwrap();
        for command in ["", "  ", "a\nb"] {
            let wanted = RecoverySettings { restore_command: command.into(), ..settings(RecoveryTarget::Latest) };
            assert!(write_recovery_settings(dir.path(), &wanted).is_err());
        }
        assert!(dir.path().join("standby.signal").exists());
    }
}
