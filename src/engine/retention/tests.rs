//! Random histories against an oracle that knows nothing of the decision: it enumerates the moments of the window, on every
//! timeline, and tries every backup.

mod case;
mod named;
mod replay;
mod show;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt};

use self::case::Case;
use self::show::ShownOnFailure;
use self::world::{SIZE, World, history, incarnation, moment, size};
use super::{Catalogs, Present, Rules};
use crate::base::{BackupId, Lsn, Segment, TimelineId, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::repo::BackupSummary;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::repo::log::{LogCatalog, SegmentObject, SplitBrain};

/// What was looked at.
#[derive(Debug, Default)]
struct Seen {
    moments: u64,
    gone: usize,
    kept: usize,
    cut: usize,
    oddities: BTreeMap<&'static str, u64>,
}

impl Seen {
    /// Decides on a history, and again after it went on from what is left.
    fn history(&mut self, seed: u64) {
        let case = Case::of(World::random(seed));
        self.check(&case);
        let mut world = case.carried_out();
        if world.random.random_bool(0.7) {
            world.resolve();
        }
        // A restore to one of the islands that are left, or to a place of which the log went.
        if world.random.random_bool(0.5) {
            world.branch();
        }
        let steps = world.random.random_range(0..15);
        world.live(steps);
        self.check(&Case::of(world));
    }

    fn check(&mut self, case: &Case) {
        let shown = ShownOnFailure(case);
        self.moments += case.assert_all();
        drop(shown);
        self.gone += case.verdicts.len() - case.kept.len();
        self.kept += case.kept.len();
        self.cut += case.cuts.len();
        for oddity in case.oddities() {
            *self.oddities.entry(oddity).or_default() += 1;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn what_the_window_promises_stays_and_what_nothing_wants_goes() {
    let seed = number("LIFEBOAT_TEST_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let histories = number("LIFEBOAT_TEST_HISTORIES").unwrap_or(2000);
    println!("LIFEBOAT_TEST_SEED={seed}");
    let mut seen = Seen::default();
    for history in 0..histories {
        let seed = seed.wrapping_add(history);
        println!("history {history}: LIFEBOAT_TEST_SEED={seed} LIFEBOAT_TEST_HISTORIES=1");
        seen.history(seed);
    }
    println!("{seen:#?}");
    let Seen { moments, gone, kept, cut, oddities } = seen;
    let all = oddities.len() == 11 && oddities.values().all(|count| *count > histories / 100);
    let enough =
        all && moments > 10 * histories && gone as u64 > histories && kept as u64 > 5 * histories && cut as u64 > histories;
    assert!(enough || histories < 1000, "hardly anything was looked at");
}

/// Three old fulls that have their places, on two timelines, with all the log.
fn old_chains() -> (Vec<BackupSummary>, LogCatalog) {
    let summary = |(day, timeline, number): &(&str, u32, u64)| {
        let stop = Timestamp::parse_compact(&format!("{day}T010000Z")).expect("a time");
        let sample =
            BackupSummary::sample(&format!("{day}T010000Z-full-aaaa"), (Lsn(number * SIZE + 10), Lsn(number * SIZE + 500)));
        let (incarnation, timeline) = (incarnation(0), TimelineId(*timeline));
        BackupSummary { incarnation, timeline, start_time: stop, stop_time: stop, segment_bytes: size(), ..sample }
    };
    let backups = [("20260110", 1, 2), ("20260210", 2, 6), ("20260310", 2, 8)].iter().map(summary).collect();
    let mut catalog = LogCatalog::default();
    for number in 1..10 {
        let segment = Segment { timeline: TimelineId(if number < 5 { 1 } else { 2 }), number };
        let name =
            SegmentName { segment, first: CommitTime::None, last: CommitTime::None, commits: Some(0), digest: "0".repeat(16) };
        let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: moment(0) };
        catalog.segments.insert(segment, object);
    }
    let name = HistoryName { timeline: TimelineId(2), parent: TimelineId(1), switch_lsn: Lsn(5 * SIZE), digest: "0".repeat(16) };
    catalog.histories.insert(TimelineId(2), history(name, moment(0)));
    (backups, catalog)
}

/// What is there when no backup is proven, locked, held or being taken.
fn plain<'a>(
    backups: &'a [BackupSummary],
    restorable: &'a BTreeSet<BackupId>,
    catalogs: &'a Catalogs,
    now: Timestamp,
) -> Present<'a> {
    static NONE: BTreeSet<BackupId> = BTreeSet::new();
    Present {
        backups: backups.iter().collect(),
        restorable,
        proven: BTreeSet::new(),
        locked_until: BTreeMap::new(),
        held: &NONE,
        begun: Vec::new(),
        catalogs,
        now,
    }
}

/// The backups that a policy with 12 monthly places keeps, and whether it keeps all log.
fn kept_of(backups: &[BackupSummary], catalog: LogCatalog) -> (usize, bool) {
    let serves = |backup: &&BackupSummary| {
        TimelinePath::to(backup.timeline, &catalog, size()).is_ok_and(|path| path.serves(&catalog, backup))
    };
    let restorable: BTreeSet<BackupId> = backups.iter().filter(serves).map(|backup| backup.id.clone()).collect();
    let catalogs = Catalogs::from([(incarnation(0), (size(), catalog))]);
    let present = plain(backups, &restorable, &catalogs, moment(0));
    let retention = Retention { window: Duration::from_secs(3600), monthly: 12, thin_log: true, ..Retention::NOTHING };
    let rules = Rules { policy: "monthly", retention: &retention };
    let kept = rules.judge(&present).iter().filter(|verdict| verdict.kept).count();
    (kept, rules.judge_log(&present).iter().all(|log| log.kept))
}

#[test]
fn what_is_contradicted_takes_no_backup_with_it() {
    let (backups, catalog) = old_chains();
    assert_eq!(kept_of(&backups, catalog.clone()), (3, false), "all have places, and thinned log goes");
    let split = |file: &str| SplitBrain { file: file.to_owned(), digests: vec!["0".repeat(16), "1".repeat(16)] };
    // Somebody puts another content beside the segment that a backup needs, or beside the history of its timeline.
    let (mut planted, segment) = (catalog.clone(), Segment { timeline: TimelineId(2), number: 6 });
    planted.segments.remove(&segment);
    planted.split_brains.push(split(&segment.name(size())));
    assert_eq!(kept_of(&backups, planted), (3, true));
    let mut lost = catalog.clone();
    lost.histories.clear();
    assert_eq!(kept_of(&backups, lost.clone()), (3, true), "a lost history");
    lost.split_brains.push(split("00000002.history"));
    assert_eq!(kept_of(&backups, lost), (3, true));
    // A segment that is just lost makes its backup useless, and nothing else.
    let mut gap = catalog;
    gap.segments.remove(&segment);
    assert_eq!(kept_of(&backups, gap), (2, false));
}
