//! What the tables must hold after a recovery to a moment, worked out by PostgreSQL's rule from the server's own
//! commit times in log order.
//!
//! The rule (`recoveryStopsBefore` in `xlogrecovery.c`): recovery to time T stops before the first COMMIT or ABORT,
//! plain or prepared, in log order whose time is after T. Logical decoding shows commits only, so an abort could stop
//! recovery earlier than this oracle sees; [`Oracle::is_ambiguous`] tells when, on the safe side.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use lifeboat::base::{Lsn, Timestamp};
use rand::RngExt;
use rand::rngs::StdRng;

use super::ledger::{Attempt, Outcome};
use super::pgoutput::{Change, Commit, Value, key};
use super::sql::{Row, Sql};

/// The tables that are compared; the first column of each is its key.
pub const TABLES: [&str; 2] = ["ledger", "account"];

/// A commit that no client reported is taken to have reached the log within this time of its own.
const UNREPORTED_DELAY: Duration = Duration::from_secs(5);

/// The rows of every table: table → key → columns.
pub type Tables = BTreeMap<String, BTreeMap<String, Row>>;

/// Reads the compared tables.
#[track_caller]
pub fn read_tables(sql: &mut Sql) -> Tables {
    let read = |table: &&str| {
        let rows = sql.rows(&format!("SELECT * FROM {table}")).into_iter();
        ((*table).to_owned(), rows.map(|row| (row[0].clone().expect("a key"), row)).collect())
    };
    TABLES.iter().map(read).collect()
}

/// The truth about one stretch of one timeline.
#[derive(Clone, Debug)]
pub struct Oracle {
    base: Tables,
    commits: Vec<Commit>,
    /// When each commit's client had its answer, at the latest.
    answered: Vec<Timestamp>,
    /// Client-side brackets of transaction ends that decoding does not show.
    invisible: Vec<(Timestamp, Timestamp)>,
}

impl Oracle {
    /// From the rows before the first commit, the commits in log order and what the clients saw.
    ///
    /// Fails the test when a client was told of a commit or an abort that the server's log contradicts.
    #[track_caller]
    pub fn new(base: Tables, commits: Vec<Commit>, attempts: &[Attempt]) -> Self {
        let mut attempt_of: HashMap<String, &Attempt> = HashMap::new();
        for attempt in attempts {
            attempt_of.extend(attempt.ids.iter().map(|id| (id.to_string(), attempt)));
        }
        let mut seen = BTreeSet::new();
        let mut answered = Vec::with_capacity(commits.len());
        for commit in &commits {
            let ids = commit.changes.iter().filter_map(|change| match change {
                Change::Insert { table, row } if table == "ledger" => Some(key(row)),
                _ => None,
            });
            let ids: Vec<String> = ids.collect();
            let attempt = ids.iter().find_map(|id| attempt_of.get(id));
            if let Some(attempt) = attempt {
                assert_ne!(attempt.outcome, Outcome::Aborted, "{commit:?} is in the log, but was aborted: {attempt:?}");
                let expected: BTreeSet<String> = attempt.ids.iter().map(ToString::to_string).collect();
                assert_eq!(ids.iter().cloned().collect::<BTreeSet<_>>(), expected, "rows of {attempt:?}");
            }
            answered.push(attempt.map_or(commit.time.plus(UNREPORTED_DELAY), |attempt| attempt.ended));
            seen.extend(ids);
        }
        let told = attempts.iter().filter(|attempt| attempt.outcome == Outcome::Committed);
        let lost: Vec<&Attempt> = told.filter(|attempt| attempt.ids.iter().any(|id| !seen.contains(&id.to_string()))).collect();
        assert!(lost.is_empty(), "commits that clients were told of are not in the log: {lost:?}");
        let invisible = attempts.iter().filter(|attempt| attempt.outcome != Outcome::Committed);
        let invisible = invisible.map(|attempt| (attempt.began, attempt.ended));
        Self { base, commits, answered, invisible: invisible.collect() }
    }

    /// Every commit, in log order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The earliest and the latest commit time.
    pub fn span(&self) -> RangeInclusive<Timestamp> {
        let times = || self.commits.iter().map(|commit| commit.time);
        times().min().expect("there are commits")..=times().max().expect("there are commits")
    }

    /// How many commits a recovery to `time` replays: those before the first, in log order, whose time is after it.
    pub fn commits_until(&self, time: Timestamp) -> usize {
        self.commits.iter().position(|commit| commit.time > time).unwrap_or(self.commits.len())
    }

    /// The rows after a recovery to `time`.
    pub fn rows_at(&self, time: Timestamp) -> Tables {
        self.rows_after(self.commits_until(time))
    }

    /// The rows after a recovery to just before the record that starts at or after `lsn` (`inclusive = false`);
    /// also those at a restore point whose function returned `lsn`.
    pub fn rows_before_lsn(&self, lsn: Lsn) -> Tables {
        self.rows_after(self.commits.partition_point(|commit| commit.start < lsn))
    }

    /// The rows after a recovery through the record that starts at `lsn` (`inclusive = true`).
    pub fn rows_through_lsn(&self, lsn: Lsn) -> Tables {
        self.rows_after(self.commits.partition_point(|commit| commit.start <= lsn))
    }

    /// The rows after a recovery through the commit of `xid`, which must be there.
    #[track_caller]
    pub fn rows_through_xid(&self, xid: u32) -> Tables {
        let at = self.commits.iter().position(|commit| commit.xid == xid).expect("the transaction has committed");
        self.rows_after(at + 1)
    }

    /// The rows after every commit.
    pub fn rows_at_end(&self) -> Tables {
        self.rows_after(self.commits.len())
    }

    /// The rows after the first `count` commits in log order.
    pub fn rows_after(&self, count: usize) -> Tables {
        let mut tables = self.base.clone();
        for commit in &self.commits[..count] {
            commit.changes.iter().for_each(|change| apply(&mut tables, change));
        }
        tables
    }

    /// Whether an abort (or another transaction end that decoding does not show) may end a recovery to `time`
    /// before a commit that [`Oracle::rows_at`] counts. Errs towards `true`.
    ///
    /// That takes an end E with a time after `time` and a commit C that counts but lies behind E in the log. E's time is
    /// after `time` only if its client was answered after it; C lies behind E only if E was begun before C was answered.
    pub fn is_ambiguous(&self, time: Timestamp) -> bool {
        let counted = 0..self.commits_until(time);
        let matters = counted.filter(|at| !self.commits[*at].changes.is_empty());
        let Some(answered) = matters.map(|at| self.answered[at]).max() else { return false };
        self.invisible.iter().any(|(began, ended)| *ended > time && *began < answered)
    }

    /// `count` different moments within `within` at which the rows are known for sure: random ones, exact commit times,
    /// one microsecond before a commit, and idle moments between two bursts.
    ///
    /// All lie before the last commit, so that every recovery has a record to stop at.
    #[track_caller]
    pub fn pick_moments(&self, count: usize, within: RangeInclusive<Timestamp>, random: &mut StdRng) -> Vec<Timestamp> {
        let inside: Vec<usize> = (0..self.commits.len()).filter(|at| within.contains(&self.commits[*at].time)).collect();
        assert!(inside.len() >= 2, "only {} commits within {within:?}", inside.len());
        let (first, last) = (self.commits[inside[0]].time, *self.span().end().min(within.end()));
        let microsecond = Duration::from_micros(1);
        let mut moments = BTreeSet::new();
        for attempt in 0..count * 1000 {
            if moments.len() == count {
                break;
            }
            let at = inside[random.random_range(0..inside.len() - 1)];
            let moment = match attempt % 4 {
                0 => Timestamp::from_unix_micros(random.random_range(first.unix_micros()..last.unix_micros())).expect("in range"),
                1 => self.commits[at].time,
                2 => self.commits[at].time.minus(microsecond),
                _ => match self.idle_after(at) {
                    Some(idle) => idle,
                    None => continue,
                },
            };
            if moment < last && within.contains(&moment) && !self.is_ambiguous(moment) {
                moments.insert(moment);
            }
        }
        assert_eq!(moments.len(), count, "too few moments within {within:?} are certain");
        moments.into_iter().collect()
    }

    /// The middle of an idle stretch that follows commit `at`, if one of 20 ms or more does.
    fn idle_after(&self, at: usize) -> Option<Timestamp> {
        let (before, after) = (self.commits[at].time, self.commits.get(at + 1)?.time);
        let idle = after.since(before);
        (idle >= Duration::from_millis(20)).then(|| before.plus(idle / 2))
    }

    /// Fails the test, with a few of the differences, unless the tables hold exactly `expected` and the books balance.
    #[track_caller]
    pub fn assert_tables(&self, sql: &mut Sql, expected: &Tables, what: &str) {
        let actual = read_tables(sql);
        let differences = self.differences(expected, &actual);
        let shown = differences.iter().take(12).map(|line| format!("\n  {line}")).collect::<String>();
        assert!(differences.is_empty(), "{what}: {} rows differ{shown}", differences.len());
        let books = "SELECT (SELECT coalesce(sum(amount), 0) FROM ledger) = (SELECT coalesce(sum(balance), 0) FROM account)";
        assert_eq!(sql.value(books), "t", "{what}: the accounts do not add up to the ledger");
    }

    /// [`Oracle::assert_tables`] with the rows of a recovery to `time`.
    #[track_caller]
    pub fn assert_at(&self, sql: &mut Sql, time: Timestamp) {
        self.assert_tables(sql, &self.rows_at(time), &format!("recovered to {}", time.rfc3339()));
    }

    fn differences(&self, expected: &Tables, actual: &Tables) -> Vec<String> {
        let mut lines = Vec::new();
        let empty = BTreeMap::new();
        for table in TABLES {
            let (expected, actual) = (expected.get(table).unwrap_or(&empty), actual.get(table).unwrap_or(&empty));
            for key in expected.keys().chain(actual.keys()).collect::<BTreeSet<_>>() {
                let line = match (expected.get(key), actual.get(key)) {
                    (Some(wanted), None) => format!("missing {table} {}", shorten(wanted)),
                    (None, Some(found)) => format!("unexpected {table} {}", shorten(found)),
                    (Some(wanted), Some(found)) if wanted != found => {
                        format!("different {table} {} instead of {}", shorten(found), shorten(wanted))
                    }
                    _ => continue,
                };
                lines.push(format!("{line}; {}", self.history(table, key)));
            }
        }
        lines
    }

    /// Which commits touched a row.
    fn history(&self, table: &str, wanted: &str) -> String {
        let touches = |change: &Change| match change {
            Change::Insert { table: name, row } | Change::Update { table: name, row, .. } => name == table && key(row) == wanted,
            Change::Delete { table: name, key } => name == table && key == wanted,
            Change::Truncate { table: name } => name == table,
        };
        let commits = self.commits.iter().filter(|commit| commit.changes.iter().any(touches));
        let shown = commits.map(|commit| format!("xid {} at {} {}", commit.xid, commit.start, commit.time.rfc3339()));
        match shown.collect::<Vec<_>>().as_slice() {
            [] => "touched by no commit".to_owned(),
            [only] => format!("touched by {only}"),
            [first, .., last] => format!("touched first by {first}, last by {last}"),
        }
    }
}

fn apply(tables: &mut Tables, change: &Change) {
    match change {
        Change::Insert { table, row } => put(tables, table, None, row),
        Change::Update { table, old_key, row } => put(tables, table, Some(old_key.clone().unwrap_or_else(|| key(row))), row),
        Change::Delete { table, key } => {
            tables.entry(table.clone()).or_default().remove(key).expect("a deleted row was there");
        }
        Change::Truncate { table } => tables.entry(table.clone()).or_default().clear(),
    }
}

fn put(tables: &mut Tables, table: &str, replaced: Option<String>, row: &[Value]) {
    let rows = tables.entry(table.to_owned()).or_default();
    let old = replaced.map(|key| rows.remove(&key).expect("an updated row was there"));
    let columns = row.iter().enumerate().map(|(column, value)| match value {
        Value::Text(text) => text.clone(),
        Value::Unchanged => old.as_ref().expect("only updates leave a column unchanged")[column].clone(),
    });
    let before = rows.insert(key(row), columns.collect());
    assert!(before.is_none(), "{table} has two rows with key {}", key(row));
}

fn shorten(row: &Row) -> String {
    let columns = row.iter().map(|column| match column {
        Some(text) if text.len() > 24 => format!("{}… ({} bytes)", text.chars().take(16).collect::<String>(), text.len()),
        Some(text) => text.clone(),
        None => "NULL".to_owned(),
    });
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}
