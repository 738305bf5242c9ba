//! What a server may send that it should not: nothing of it is stored as if it were log, nothing is reported as safe that
//! is not there, and the operator is told.

use std::time::Duration;

use rustix::process::Signal;

use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process::{self, Running};
use super::support::scenario::{SOURCE, Scenario};
use super::tampering::{Between, LOG, Verdict, encoded, is_log, replaced};
use super::{SLOT, Writer, assert_stored, scenario, stop_archiving, stored_end, wait_streaming};

/// Goes through `between` from now on; the configuration as it was.
fn lead_through(scenario: &Scenario, between: &Between) {
    let text = scenario.protected.configuration();
    let line = text.lines().find(|line| line.starts_with("conninfo")).expect("a conninfo").to_owned();
    scenario.protected.configure_text(&text.replace(&line, &format!("conninfo = \"{}\"", between.conninfo())));
}

/// Starts a stream that is waited for to say `words`; still running, or ended by itself.
fn told(scenario: &Scenario, words: &[&str]) -> Running {
    let mut running = scenario.protected.start(&["archive", "stream", SOURCE, "--flush", "100ms"]);
    process::wait_until(&words.join(", "), RECOVERY_TIMEOUT, || {
        let said = words.iter().all(|word| running.stderr_so_far().contains(word));
        assert!(said || !running.has_ended(), "{words:?}: {}", running.stderr_so_far());
        said
    });
    running
}

/// Says that the log in a message begins elsewhere.
fn move_start(body: &mut [u8], to: impl Fn(u64) -> u64) {
    let start = to(u64::from_be_bytes(body[1..9].try_into().expect("eight bytes")));
    body[1..9].copy_from_slice(&start.to_be_bytes());
}

/// Streams for a moment with nobody in between.
fn store_some(scenario: &Scenario) {
    let mut sound = super::stream(scenario, &scenario.cluster, "100ms");
    Writer::run(&scenario.cluster, Duration::from_millis(100));
    super::wait_stored(&scenario.cluster, &mut sound);
    sound.signal(Signal::TERM);
    sound.finish(Duration::from_secs(60)).success();
}

/// What the repository holds is what the server has, and reaches as far as was reported.
fn assert_nothing_false(scenario: &Scenario, between: &Between, first: &str, what: &str) {
    assert_stored(scenario, &scenario.cluster, first, false);
    let stored = stored_end(scenario);
    assert!(between.reported() <= stored, "{what}: {:X} was reported, {stored:X} is stored", between.reported());
}

#[test]
fn what_is_not_as_it_should_be_is_told_and_nothing_false_is_stored_or_reported() {
    let Some(scenario) = scenario(16) else { return };
    let cluster = &scenario.cluster;
    stop_archiving(cluster);
    store_some(&scenario);
    let own = scenario.protected.configuration();
    let first: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    type Case = (&'static str, &'static [&'static str], bool, fn(usize, &mut Vec<u8>) -> Verdict);
    // What happens to a message with log, by how many came before; what is told; whether the stream ends by that.
    let cases: [Case; 6] = [
        ("a jump forward", &["the server sent the log at", "was to come"], true, |_, body| {
            move_start(body, |start| start + 8192);
            Verdict::Pass
        }),
        ("a jump back", &["the server sent the log at", "was to come"], true, |at, body| {
            move_start(body, |start| if at > 0 { start - 8192 } else { start });
            Verdict::Pass
        }),
        ("a torn message", &["the stream was interrupted", "unexpected form"], false, |_, body| {
            body.truncate(12);
            Verdict::Pass
        }),
        ("the end in the middle of a message", &["the stream was interrupted", "closed the connection"], false, |_, body| {
            let whole = encoded(b'd', body);
            Verdict::Break(whole[..whole.len() / 2].to_vec())
        }),
        ("a page of another cluster", &["is no log of this cluster", "hint:"], true, |at, body| {
            // The system identifier in the first page's header.
            if at == 0 {
                body[LOG + 24] ^= 0xFF;
            }
            Verdict::Pass
        }),
        ("a length of nonsense", &["the stream was interrupted", "unexpected form"], false, |_, _| {
            Verdict::Break(vec![b'd', 0x7F, 0xFF, 0xFF, 0xFF, b'w'])
        }),
    ];
    for (what, words, ends, change) in cases {
        println!("{what}");
        let mut logs = 0;
        let between = Between::of(cluster, move |tag, body| match is_log(tag, body) {
            true => {
                logs += 1;
                change(logs - 1, body)
            }
            false => {
                if tag == b'W' {
                    logs = 0;
                }
                Verdict::Pass
            }
        });
        lead_through(&scenario, &between);
        let writer = Writer::start(cluster);
        let running = told(&scenario, words);
        writer.finish();
        if !ends {
            running.signal(Signal::TERM);
        }
        let ended = running.finish(Duration::from_secs(60)).exits(i32::from(ends));
        println!("{}", ended.stderr);
        assert_nothing_false(&scenario, &between, &first, what);
        scenario.protected.configure_text(&own);
    }
    assert!(cluster.sql().number(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")) == 1);
}

/// A bit that flips on the way is asked for again, and what is stored is right; a server that wants an answer gets one.
#[test]
fn a_bit_that_flips_on_the_way_is_asked_for_again() {
    let Some(scenario) = scenario(17) else { return };
    let cluster = &scenario.cluster;
    stop_archiving(cluster);
    store_some(&scenario);
    let first: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let (mut logs, mut asked) = (0, 0);
    let between = Between::of(cluster, move |tag, body| {
        if is_log(tag, body) {
            logs += 1;
            if logs == 3 {
                let at = LOG + (body.len() - LOG) / 2;
                body[at] ^= 0x10;
            }
            if logs > 3 && asked < 5 {
                asked += 1;
                let alive = [&b"k"[..], &[0; 16], &[1]].concat();
                return Verdict::And(encoded(b'd', &alive));
            }
        }
        Verdict::Pass
    });
    lead_through(&scenario, &between);
    let writer = Writer::start(cluster);
    let mut running = told(&scenario, &["cannot be read at", "is asked for again"]);
    wait_streaming(cluster, &mut running);
    assert!(writer.finish().len() > 3);
    super::wait_stored(cluster, &mut running);
    process::wait_until("answers", RECOVERY_TIMEOUT, || between.replies() >= 5);
    running.signal(Signal::TERM);
    let ended = running.finish(Duration::from_secs(60)).success();
    assert!(!ended.stderr.contains("is stored as the server has it"), "{ended}");
    assert_nothing_false(&scenario, &between, &first, "a bit that flipped");
}

#[test]
fn a_server_that_is_not_the_sources_or_too_old_is_refused() {
    let Some(scenario) = scenario(15) else { return };
    let cluster = &scenario.cluster;
    // The right one is on record.
    scenario.archive_now();
    let own = scenario.protected.configuration();
    let number: String = cluster.sql().value("SELECT system_identifier::text FROM pg_control_system()");
    let other = format!("{}{}", if number.starts_with('6') { '7' } else { '6' }, &number[1..]);
    let version: String = cluster.sql().value("SHOW server_version_num");
    let old = format!("120{}", &version[3..]);
    for (from, to, words) in [
        (&number, &other, ["belongs to another cluster than orders", "hint:"]),
        (&version, &old, ["PostgreSQL 12", "13 to 18 are"]),
    ] {
        let (from, to) = (from.clone(), to.clone());
        let between = Between::of(cluster, move |tag, body| {
            replaced(tag, body, &from, &to);
            Verdict::Pass
        });
        lead_through(&scenario, &between);
        scenario.protected.run(&["archive", "stream", SOURCE]).refuses(1, &words);
        assert_eq!((between.reported(), cluster.sql().number("SELECT count(*) FROM pg_replication_slots")), (0, 0));
        scenario.protected.configure_text(&own);
    }

    cluster.configure(["max_wal_senders = 0"]);
    let mut scenario = scenario;
    scenario.cluster.restart();
    scenario.protected.run(&["archive", "stream", SOURCE]).refuses(1, &["max_wal_senders"]);
}
