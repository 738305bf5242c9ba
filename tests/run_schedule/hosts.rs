//! Several hosts that follow one schedule.

use crate::stage::{MISSED_FULL, assert_one_backup, claims, events, scheduled, stop, wait_settled};
use crate::support::lifeboat::Host;
use crate::support::listing::backups;
use crate::support::process::Running;
use crate::support::scenario::SOURCE;

/// So many schedulers start at the same time; exactly one runs the slot.
#[track_caller]
fn race(hosts: usize, schedule: &str) {
    let Some(scenario) = scheduled(schedule, "") else { return };
    let twins: Vec<Host> = (1..hosts).map(|_| scenario.protected.twin()).collect();
    let all: Vec<&Host> = twins.iter().chain([&scenario.protected]).collect();
    let running: Vec<Running> = all.iter().map(|host| host.start(&["run"])).collect();
    all.iter().for_each(|host| wait_settled(host, "full"));
    running.into_iter().for_each(|running| drop(stop(running)));
    assert_one_backup(&scenario, 1);
    let ran = |host: &&Host| events(host, "full").iter().filter(|event| event["event"] == "ended").count();
    assert_eq!(all.iter().map(ran).sum::<usize>(), 1);
    // All of them started again, nothing is left to do; nor is there for a host that never saw the source.
    let fresh = scenario.protected.twin();
    for host in [all[0], &fresh] {
        let again = host.start(&["run"]);
        if std::ptr::eq(host, &fresh) {
            wait_settled(host, "full");
        }
        stop(again);
    }
    assert_one_backup(&scenario, 1);
}

#[test]
fn two_schedulers_take_one_backup() {
    race(2, MISSED_FULL);
}

#[test]
fn five_schedulers_take_one_backup_and_what_it_covers_is_done() {
    race(5, &format!("{MISSED_FULL}\ndiff = \"0 0 2 1 *\"\nincr = \"0 0 3 1 *\"\ntimezone = \"Europe/Zurich\""));
}

#[test]
fn a_backup_by_hand_settles_the_slot_and_a_forged_claim_none() {
    let Some(scenario) = scheduled(MISSED_FULL, "") else { return };
    scenario.full_backup();
    let running = scenario.protected.start(&["run"]);
    wait_settled(&scenario.protected, "full");
    stop(running);
    assert_eq!((backups(&scenario.protected).len(), claims(&scenario, "full").len()), (1, 0));
    // The same slot in a fresh repository's eyes: a claim that nobody with a key signed keeps nobody from it.
    let Some(scenario) = scheduled(MISSED_FULL, "") else { return };
    let year = &backups_year(&scenario);
    scenario.repository.write(&format!("{SOURCE}/run/full/{year}0101T000000Z-0001.json"), "{}\n{}\n");
    let running = scenario.protected.start(&["run"]);
    wait_settled(&scenario.protected, "full");
    let said = stop(running).stderr;
    assert!(said.contains("is not used"), "{said}");
    assert_one_backup(&scenario, 2);
}

/// The year by the server's clock.
fn backups_year(scenario: &crate::support::scenario::Scenario) -> String {
    scenario.cluster.sql().value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY')")
}
