use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// Friday.
fn at(seconds: u64) -> Timestamp {
    Timestamp::parse_compact("20261120T000000Z").unwrap().plus(Duration::from_secs(seconds))
}

fn table(lines: &[(Job, &str)]) -> Timetable {
    Timetable { zone: Tz::UTC, lines: lines.iter().map(|(job, line)| (*job, line.parse().unwrap())).collect() }
}

fn weekly() -> Timetable {
    table(&[(Job::Full, "0 2 * * 0"), (Job::Diff, "0 2 * * *"), (Job::Incr, "0 * * * *")])
}

fn due(table: &Timetable, record: &Record, now: Timestamp) -> Vec<(Job, Timestamp)> {
    plan(table, record, now).due.into_iter().map(|due| (due.job, due.slot)).collect()
}

#[test]
fn the_heaviest_job_comes_first_and_does_what_it_covers() {
    let (table, mut record) = (weekly(), Record::default());
    let sunday = 2 * DAY + 2 * HOUR;
    assert_eq!(due(&table, &record, at(sunday)), [(Job::Full, at(sunday))]);
    record.ran(Job::Full, at(sunday + 1));
    assert_eq!(plan(&table, &record, at(sunday + 1)), Plan { due: vec![], wake: Some(at(sunday + HOUR)) });
    assert_eq!(due(&table, &record, at(sunday + HOUR)), [(Job::Incr, at(sunday + HOUR))]);
    record.ran(Job::Incr, at(sunday + HOUR));
    // What does less settles nothing that does more.
    assert_eq!(due(&table, &record, at(sunday + DAY)), [(Job::Diff, at(sunday + DAY))]);
    record.ran(Job::Incr, at(sunday + DAY));
    assert_eq!(due(&table, &record, at(sunday + DAY)), [(Job::Diff, at(sunday + DAY))]);
}

#[test]
fn expiry_does_not_wait_for_ever_behind_incrementals_that_outlast_their_interval() {
    let mut table = table(&[(Job::Incr, "*/10 * * * *")]);
    table.insert(Job::Expire, "17 5 * * *".parse().unwrap());
    let now = Timestamp::parse_compact("20261120T053500Z").unwrap();
    let due: Vec<Job> = plan(&table, &Record::default(), now).due.iter().map(|due| due.job).collect();
    assert_eq!(due, [Job::Expire, Job::Incr]);
    // Of one moment the backup comes first.
    table.insert(Job::Expire, "30 5 * * *".parse().unwrap());
    let due: Vec<Job> = plan(&table, &Record::default(), now).due.iter().map(|due| due.job).collect();
    assert_eq!(due, [Job::Incr, Job::Expire]);
}

#[test]
fn what_passed_and_was_not_run_is_what_comes_next() {
    let table = table(&[(Job::Full, "0 5 * * *")]);
    let at = |text| Timestamp::parse_compact(text).unwrap();
    let now = at("20261120T053500Z");
    let mut record = Record::default();
    assert_eq!(record.pending(&table, Job::Full, now), Some(at("20261120T050000Z")));
    record.settled(Job::Full, at("20261120T050000Z"));
    assert_eq!(record.pending(&table, Job::Full, now), Some(at("20261121T050000Z")));
}

#[test]
fn after_an_outage_the_newest_slot_alone_is_due_and_the_others_are_told() {
    let (table, mut record) = (table(&[(Job::Incr, "0 * * * *")]), Record::default());
    assert_eq!(record.missed(&table, Job::Incr, at(HOUR)), None, "nothing is known of the time before");
    record.settled(Job::Incr, at(HOUR));
    record.ran(Job::Incr, at(HOUR));
    assert_eq!(due(&table, &record, at(6 * HOUR + 5)), [(Job::Incr, at(6 * HOUR))]);
    let missed = Missed { count: 4, first: at(2 * HOUR), last: at(5 * HOUR) };
    assert_eq!(record.missed(&table, Job::Incr, at(6 * HOUR)), Some(missed));
    // One by hand in between counts.
    record.ran(Job::Incr, at(3 * HOUR + 60));
    assert_eq!(record.missed(&table, Job::Incr, at(6 * HOUR)).unwrap().count, 3);
    // Told once.
    record.judged(Job::Incr, at(6 * HOUR));
    assert_eq!(record.missed(&table, Job::Incr, at(6 * HOUR)), None);
    // A year of minutes is not counted to its end.
    let minutes = self::table(&[(Job::Incr, "* * * * *")]);
    let counted = record.missed(&minutes, Job::Incr, at(365 * DAY)).unwrap();
    assert_eq!((counted.count, counted.first), (MISSED_AT_MOST, at(6 * HOUR + MINUTE)));
}

#[test]
fn while_a_full_waits_after_a_failure_the_lighter_ones_run() {
    let (table, mut record) = (weekly(), Record::default());
    let sunday = 2 * DAY + 2 * HOUR;
    record.failed(Job::Full, at(sunday + 10));
    let now = plan(&table, &record, at(sunday + 11));
    assert_eq!((now.due[0].job, now.due[0].heavier_waits), (Job::Diff, true));
    assert_eq!(now.wake, Some(at(sunday + 70)));
    record.ran(Job::Diff, at(sunday + 11));
    assert_eq!(due(&table, &record, at(sunday + 69)), []);
    assert_eq!(due(&table, &record, at(sunday + 70)), [(Job::Full, at(sunday))]);
}

#[test]
fn while_a_full_runs_elsewhere_the_lighter_ones_wait_for_it() {
    let (table, mut record) = (weekly(), Record::default());
    let sunday = 2 * DAY + 2 * HOUR;
    record.hold(Job::Full, at(sunday + 10));
    assert_eq!(plan(&table, &record, at(sunday + 1)), Plan { due: vec![], wake: Some(at(sunday + 10)) });
    assert_eq!(due(&table, &record, at(sunday + 10)), [(Job::Full, at(sunday))]);
}

#[test]
fn a_failure_is_waited_after_although_the_next_slot_comes_first() {
    let (table, mut record) = (table(&[(Job::Incr, "* * * * *")]), Record::default());
    let mut now = MINUTE;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(due(&table, &record, at(now)).len(), 1);
        record.failed(Job::Incr, at(now));
        let next = now + pause * MINUTE;
        assert!((now..next).step_by(30).all(|second| due(&table, &record, at(second)).is_empty()), "after {pause} minutes");
        now = next;
    }
    record.ran(Job::Incr, at(now));
    assert_eq!(due(&table, &record, at(now + MINUTE)).len(), 1);
}

#[test]
fn a_clock_that_was_wrong_is_told_and_stops_nothing() {
    let (table, mut record) = (table(&[(Job::Incr, "0 * * * *")]), Record::default());
    record.settled(Job::Incr, at(3000 * DAY));
    record.ran(Job::Incr, at(3000 * DAY));
    record.wait(Job::Incr, at(3000 * DAY));
    assert_eq!(record.distrust(at(HOUR)), [(Job::Incr, at(3000 * DAY))]);
    assert_eq!(record.distrust(at(HOUR)), []);
    assert_eq!(due(&table, &record, at(HOUR)), [(Job::Incr, at(HOUR))]);
    // A step back of less than the trust runs nothing again.
    record.settled(Job::Incr, at(5 * HOUR));
    assert_eq!(record.distrust(at(4 * HOUR)), []);
    assert_eq!(due(&table, &record, at(4 * HOUR)), []);
    assert_eq!(due(&table, &record, at(6 * HOUR)), [(Job::Incr, at(6 * HOUR))]);
}

#[test]
fn a_schedule_without_lines_never_wakes() {
    assert_eq!(plan(&table(&[]), &Record::default(), at(0)), Plan { due: vec![], wake: None });
}

/// One lane as it lives: it sleeps as its plans say, runs what is due, sleeps through outages, and its clock jumps.
struct Life {
    table: Timetable,
    record: Record,
    /// The clock it sees, in seconds.
    clock: u64,
    /// Every run that came to its end: job, slot and when it began.
    runs: Vec<(Job, Timestamp, u64)>,
    /// Begins of all attempts, with whether they succeeded.
    attempts: BTreeMap<Job, Vec<(u64, bool)>>,
}

impl Life {
    /// One round: what is due first, or sleep until something may be, at most `until`.
    fn step(&mut self, until: u64, takes: u64, fails: bool) {
        let now = at(self.clock);
        self.record.distrust(now);
        let plan = plan(&self.table, &self.record, now);
        let Some(due) = plan.due.first() else {
            let wake = plan.wake.map_or(until, |wake| wake.since(at(0)).as_secs().max(self.clock + 1));
            self.clock = wake.min(until);
            return;
        };
        self.record.judged(due.job, due.slot);
        let began = self.clock;
        self.clock += takes;
        self.attempts.entry(due.job).or_default().push((began, !fails));
        if fails {
            self.record.failed(due.job, at(self.clock));
        } else {
            self.record.settled(due.job, due.slot);
            self.record.ran(due.job, at(began));
            self.runs.push((due.job, due.slot, began));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// It is up for so many minutes; each run takes so many seconds.
    Up { minutes: u64, takes: u64, fails_every: usize },
    /// It is down for so many minutes.
    Down { minutes: u64 },
    /// Its clock steps back by so many minutes.
    Back { minutes: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..2000u64, 1..900u64, 0..6usize).prop_map(|(minutes, takes, fails_every)| Event::Up { minutes, takes, fails_every }),
        2 => (1..5000u64).prop_map(|minutes| Event::Down { minutes }),
        1 => (1..300u64).prop_map(|minutes| Event::Back { minutes }),
    ]
}

fn lines() -> impl Strategy<Value = Timetable> {
    let incr = prop::sample::select(vec!["*/5 * * * *", "7 * * * *", "30 */6 * * *", "0 3 * * 1-5"]);
    let diff = prop::option::of(prop::sample::select(vec!["0 1 * * *", "0 */12 * * *"]));
    let full = prop::option::of(prop::sample::select(vec!["0 1 * * 0", "0 1 1 * *", "0 0 * * *"]));
    let zone = prop::sample::select(vec![Tz::UTC, Tz::Europe__Zurich, Tz::America__New_York]);
    (incr, diff, full, zone).prop_map(|(incr, diff, full, zone)| {
        let all = [(Job::Incr, Some(incr)), (Job::Diff, diff), (Job::Full, full)];
        let lines = all.into_iter().filter_map(|(job, line)| Some((job, line?.parse().unwrap()))).collect();
        Timetable { zone, lines }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens: no slot is run twice, no run is for a slot that has not come or is not the newest, failures are
    /// waited after, and whoever was up long enough has run the newest slot.
    #[test]
    fn slots_run_once_and_the_newest_is_never_left(table in lines(), events in prop::collection::vec(event(), 1..25)) {
        let mut life = Life { table, record: Record::default(), clock: 100 * DAY, runs: vec![], attempts: BTreeMap::new() };
        let mut attempts = 0usize;
        for event in events {
            match event {
                Event::Down { minutes } => life.clock += minutes * MINUTE,
                Event::Back { minutes } => life.clock -= minutes * MINUTE,
                Event::Up { minutes, takes, fails_every } => {
                    let until = life.clock + minutes * MINUTE;
                    let mut all_well = true;
                    while life.clock < until {
                        let before = life.attempts.values().map(Vec::len).sum::<usize>();
                        let fails = fails_every > 0 && attempts % fails_every == fails_every - 1;
                        life.step(until, takes, fails);
                        if life.attempts.values().map(Vec::len).sum::<usize>() > before {
                            attempts += 1;
                            all_well &= !fails;
                        }
                    }
                    // Up for longer than any pause or distrusted step takes, and without failures, nothing is left undone
                    // but what came in the last moment.
                    if all_well && minutes * MINUTE > 6 * HOUR + 8 * takes {
                        let then = at(life.clock.saturating_sub(8 * takes + MINUTE));
                        for job in life.table.jobs() {
                            if let Some(slot) = life.table.slot(job, then) {
                                let newest = life.table.slot(job, at(life.clock)).unwrap();
                                prop_assert!(life.record.is_settled(job, slot, at(life.clock)), "{job} {slot} of {newest} at {}", at(life.clock));
                            }
                        }
                    }
                }
            }
        }
        let mut seen = BTreeSet::new();
        for (job, slot, began) in &life.runs {
            prop_assert!(seen.insert((*job, *slot)), "{job} {slot} ran twice");
            prop_assert_eq!(life.table.slot(*job, at(*began)), Some(*slot), "not the newest slot of its moment");
        }
    }

    /// With a steady clock: between two attempts of a job lies at least the pause that its failures ask for.
    #[test]
    fn failures_are_never_retried_sooner(table in lines(), fails in prop::collection::vec(any::<bool>(), 1..60), takes in 1..300u64) {
        let mut life = Life { table, record: Record::default(), clock: 100 * DAY, runs: vec![], attempts: BTreeMap::new() };
        for fail in fails {
            let until = life.clock + 40 * DAY;
            let before = life.attempts.values().map(Vec::len).sum::<usize>();
            while life.attempts.values().map(Vec::len).sum::<usize>() == before && life.clock < until {
                life.step(until, takes, fail);
            }
        }
        for (job, attempts) in &life.attempts {
            let mut failures = 0;
            for pair in attempts.windows(2) {
                failures = if pair[0].1 { 0 } else { failures + 1 };
                let pause = backoff(failures).as_secs();
                prop_assert!(pair[1].0 >= pair[0].0 + takes + pause, "{job}: {pair:?} after {failures} failures");
            }
        }
    }
}
