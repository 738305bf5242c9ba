//! From a policy file's keys to a [`Policy`].

use std::path::Path;
use std::time::Duration;

use chrono_tz::Tz;

use super::cron::Cron;
use super::{
    BackupPolicy, ChangedPages, Copies, DrillPolicy, Expect, LogMode, LogPolicy, Objectives, Policy, Retention, Schedule, Spoil,
    SqlCheck,
};
use crate::base::document::{Document, Found, Table, nearest};
use crate::base::units::{parse_duration, parse_rate};
use crate::base::{DrillLevel, Result};

const DAY: Duration = Duration::from_secs(86_400);
/// The longest month, and time for a drill that is late.
const DEFAULT_DRILL_MAX_AGE: Duration = Duration::from_secs(35 * 86_400);

/// Reads `text`, the content of the file `path`, as the policy `name`; complaints are collected and returned together.
///
/// # Errors
/// One usage error with file and line of every mistake.
pub fn parse(name: &str, path: &Path, text: &str) -> Result<Policy> {
    let document = Document::new(path, text);
    let parsed = document.parse()?;
    let root = document.root(&parsed);
    let reader = Reader { document: &document };
    let objectives = reader.objectives(&root);
    let log = reader.log(root.table("log"), &objectives);
    let policy = Policy {
        name: name.to_owned(),
        objectives,
        schedule: reader.schedule(root.table("schedule")),
        log,
        backup: reader.backup(root.table("backup")),
        retention: reader.retention(root.table("retention"), log.mode),
        copies: reader.copies(root.table("copies")),
        drill: reader.drill(root.table("drill")),
    };
    root.reject_unknown_keys();
    document.finish()?;
    Ok(policy)
}

struct Reader<'d, 'a> {
    document: &'d Document<'a>,
}

impl Reader<'_, '_> {
    /// What `text` is read as by `read`, with a complaint when it is not.
    fn read<T>(&self, key: &str, found: &Found<String>, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match read(&found.value) {
            Ok(value) => Some(value),
            Err(why) => {
                self.document.complain(&found.span, format!("'{key}': {why}"), None);
                None
            }
        }
    }

    fn duration(&self, table: &Table<'_, '_>, key: &'static str) -> Option<Duration> {
        self.read(key, &table.string(key)?, parse_duration)
    }

    fn cron(&self, table: &Table<'_, '_>, key: &'static str) -> Option<Cron> {
        self.read(key, &table.string(key)?, str::parse)
    }

    /// One of `names`.
    fn choice<T: Copy>(&self, found: &Found<String>, key: &str, names: &[(&str, T)]) -> Option<T> {
        let chosen = names.iter().find(|(name, _)| *name == found.value);
        if chosen.is_none() {
            let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let hint = nearest(&found.value, known.iter().copied()).map(|near| format!("did you mean '{near}'?"));
            let message = format!("'{key}' must be one of {}, not '{}'", known.join(", "), found.value);
            self.document.complain(&found.span, message, hint);
        }
        chosen.map(|(_, value)| *value)
    }

    fn objectives(&self, root: &Table<'_, '_>) -> Objectives {
        let none = Objectives { rto: DAY, rpo: DAY, detection: Duration::ZERO, drill_max_age: DEFAULT_DRILL_MAX_AGE };
        let Some(table) = root.table("objectives") else {
            self.document.complain(
                &(0..0),
                "there is no [objectives]",
                Some("add rto = \"30min\" and rpo = \"15min\"".to_owned()),
            );
            return none;
        };
        let required = |key: &'static str, example: &str| {
            let found = table.required_string(key, example);
            found.and_then(|found| self.read(key, &found, parse_duration))
        };
        let objectives = Objectives {
            rto: required("rto", "rto = \"30min\"").unwrap_or(none.rto),
            rpo: required("rpo", "rpo = \"15min\"").unwrap_or(none.rpo),
            detection: self.duration(&table, "detection").unwrap_or(none.detection),
            drill_max_age: self.duration(&table, "drill_max_age").unwrap_or(none.drill_max_age),
        };
        table.reject_unknown_keys();
        objectives
    }

    fn schedule(&self, table: Option<Table<'_, '_>>) -> Schedule {
        let none = Schedule { timezone: Tz::UTC, full: None, diff: None, incr: None, verify: None, drill: None };
        let Some(table) = table else { return none };
        let timezone = table.string("timezone").and_then(|found| {
            self.read("timezone", &found, |text| {
                text.parse::<Tz>().map_err(|_| format!("'{text}' is no time zone; write UTC or Europe/Zurich"))
            })
        });
        let schedule = Schedule {
            timezone: timezone.unwrap_or(none.timezone),
            full: self.cron(&table, "full"),
            diff: self.cron(&table, "diff"),
            incr: self.cron(&table, "incr"),
            verify: self.cron(&table, "verify"),
            drill: self.cron(&table, "drill"),
        };
        table.reject_unknown_keys();
        schedule
    }

    fn log(&self, table: Option<Table<'_, '_>>, objectives: &Objectives) -> LogPolicy {
        let none = LogPolicy { mode: LogMode::Segments, max_lag: objectives.rpo / 2 };
        let Some(table) = table else { return none };
        let modes = [LogMode::None, LogMode::Segments, LogMode::Stream].map(|mode| (mode.as_str(), mode));
        let log = LogPolicy {
            mode: table.string("mode").and_then(|found| self.choice(&found, "mode", &modes)).unwrap_or(none.mode),
            max_lag: self.duration(&table, "max_lag").unwrap_or(none.max_lag),
        };
        table.reject_unknown_keys();
        log
    }

    fn backup(&self, table: Option<Table<'_, '_>>) -> BackupPolicy {
        let none = BackupPolicy::default();
        let Some(table) = table else { return none };
        let places = [ChangedPages::Log, ChangedPages::Read].map(|place| (place.as_str(), place));
        let found = table.string("changed_pages");
        let backup = BackupPolicy {
            changed_pages: found.and_then(|found| self.choice(&found, "changed_pages", &places)).unwrap_or(none.changed_pages),
            audit: self.duration(&table, "audit").unwrap_or(none.audit),
        };
        table.reject_unknown_keys();
        backup
    }

    fn retention(&self, table: Option<Table<'_, '_>>, mode: LogMode) -> Retention {
        let none = Retention {
            window: if mode == LogMode::None { Duration::ZERO } else { 7 * DAY },
            keep_chains: 2,
            ..Retention::NOTHING
        };
        let Some(table) = table else { return none };
        let count = |key: &'static str| table.integer(key, 0..=10_000, "").map(|count| count as u32);
        let retention = Retention {
            window: self.duration(&table, "window").unwrap_or(none.window),
            keep_chains: count("keep_chains").unwrap_or(none.keep_chains),
            keep_for: self.duration(&table, "keep_for"),
            daily: count("daily").unwrap_or_default(),
            weekly: count("weekly").unwrap_or_default(),
            monthly: count("monthly").unwrap_or_default(),
            yearly: count("yearly").unwrap_or_default(),
            legal_minimum: self.duration(&table, "legal_minimum"),
            thin_log: table.boolean("thin_log").is_some_and(|found| found.value),
        };
        table.reject_unknown_keys();
        retention
    }

    fn copies(&self, table: Option<Table<'_, '_>>) -> Copies {
        let Some(table) = table else { return Copies::default() };
        let names = |key: &'static str| table.strings(key).map(texts).unwrap_or_default();
        let count = |key: &'static str| table.integer(key, 1..=100, "repositories").map(|count| count as usize);
        let copies = Copies {
            log: count("log"),
            backup: count("backup"),
            repositories: names("repositories"),
            locked: names("locked"),
            thaw: self.duration(&table, "thaw"),
        };
        table.reject_unknown_keys();
        copies
    }

    fn drill(&self, table: Option<Table<'_, '_>>) -> DrillPolicy {
        let none = DrillPolicy { levels: vec![DrillLevel::Component], ..DrillPolicy::default() };
        let Some(table) = table else { return none };
        let levels = table.strings("levels").map(|list| {
            list.value.iter().filter_map(|found| self.read("levels", found, str::parse)).collect::<Vec<DrillLevel>>()
        });
        let policy = DrillPolicy {
            levels: levels.filter(|levels| !levels.is_empty()).unwrap_or(none.levels),
            checks: table.tables("check").iter().filter_map(|check| self.check(check)).collect(),
            limit_rate_bytes: table.string("limit_rate").and_then(|found| self.read("limit_rate", &found, parse_rate)),
            statement_timeout: self.duration(&table, "statement_timeout"),
            preload_libraries: table.strings("preload_libraries").map(texts).unwrap_or_default(),
            spoil: self.spoil(&table),
        };
        table.reject_unknown_keys();
        policy
    }

    fn spoil(&self, table: &Table<'_, '_>) -> Option<Spoil> {
        let (sql, database) = (table.string("spoil"), table.string("spoil_database"));
        if let (None, Some(database)) = (&sql, &database) {
            self.document.complain(&database.span, "'spoil_database' says nothing without 'spoil'", None);
        }
        Some(Spoil { sql: sql?.value, database: database.map_or_else(default_database, |found| found.value) })
    }

    fn check(&self, table: &Table<'_, '_>) -> Option<SqlCheck> {
        let sql = table.required_string("sql", "sql = \"SELECT count(*) FROM orders\"");
        let (value, at_least) = (table.string("expect"), table.integer("at_least", 0..=i64::MAX as u64, ""));
        let (rows, fresh) = (table.boolean("rows"), table.string("fresh_within"));
        let expect = match (value, at_least, rows, fresh) {
            (Some(value), None, None, None) => Some(Expect::Value(value.value)),
            (None, Some(least), None, None) => Some(Expect::AtLeast(least as i64)),
            (None, None, Some(rows), None) => Some(if rows.value { Expect::Rows } else { Expect::NoRows }),
            (None, None, None, Some(fresh)) => self.read("fresh_within", &fresh, parse_duration).map(Expect::FreshWithin),
            _ => {
                let hint = "add expect = \"0\", at_least = 1, rows = true, rows = false or fresh_within = \"10min\"".to_owned();
                self.document.complain(table.span(), "a [[drill.check]] says one thing that its query must answer", Some(hint));
                None
            }
        };
        let database = table.string("database").map_or_else(default_database, |found| found.value);
        let name = table.string("name").map(|found| found.value);
        table.reject_unknown_keys();
        let sql = sql?.value;
        Some(SqlCheck { name: name.unwrap_or_else(|| sql.clone()), database, sql, expect: expect? })
    }
}

/// The strings of a list, without their places.
fn texts(list: Found<Vec<Found<String>>>) -> Vec<String> {
    list.value.into_iter().map(|text| text.value).collect()
}

fn default_database() -> String {
    "postgres".to_owned()
}

#[cfg(test)]
mod drill_tests {
    use super::*;

    fn drill(keys: &str) -> Result<DrillPolicy> {
        let text = format!("[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n[drill]\n{keys}");
        parse("gold", Path::new("gold.toml"), &text).map(|policy| policy.drill)
    }

    #[test]
    fn canaries_spoils_and_limits_are_read() {
        let policy = drill(
            "statement_timeout = \"1min\"\npreload_libraries = [\"timescaledb\"]\nspoil = \"DELETE FROM t\"\n\
             spoil_database = \"shop\"\n[[drill.check]]\nsql = \"SELECT max(seen) FROM canary\"\nfresh_within = \"10min\"\n",
        );
        let policy = policy.unwrap();
        assert_eq!(policy.statement_timeout, Some(Duration::from_secs(60)));
        assert_eq!(policy.preload_libraries, ["timescaledb"]);
        assert_eq!(policy.spoil, Some(Spoil { sql: "DELETE FROM t".into(), database: "shop".into() }));
        assert_eq!(policy.checks[0].expect, Expect::FreshWithin(Duration::from_secs(600)));
        assert_eq!(drill("").unwrap().levels, [DrillLevel::Component]);
    }

    #[test]
    fn where_changed_pages_are_looked_for_is_read() {
        let backup = |keys: &str| {
            let text = format!("[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n{keys}");
            parse("gold", Path::new("gold.toml"), &text).map(|policy| policy.backup)
        };
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!(backup("").unwrap(), BackupPolicy { changed_pages: ChangedPages::Log, audit: week });
        let read = backup("[backup]\nchanged_pages = \"read\"\naudit = \"3d\"\n").unwrap();
        assert_eq!(read, BackupPolicy { changed_pages: ChangedPages::Read, audit: Duration::from_secs(3 * 86_400) });
        assert!(backup("[backup]\nchanged_pages = \"logs\"\n").unwrap_err().message().contains("one of log, read"));
        assert!(backup("[backup]\naudits = \"3d\"\n").is_err());
    }

    #[test]
    fn a_check_says_one_thing_and_a_database_alone_spoils_nothing() {
        let check = "[[drill.check]]\nsql = \"SELECT 1\"\nrows = true\nfresh_within = \"1h\"\n";
        assert!(drill(check).unwrap_err().message().contains("one thing"));
        assert!(drill("spoil_database = \"shop\"\n").unwrap_err().message().contains("spoil_database"));
    }
}
