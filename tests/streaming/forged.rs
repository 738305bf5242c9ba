//! A piece that somebody put there who has the public key: it fits, its digest is right, and it is no log.

use std::time::Duration;

use rustix::process::Signal;

use super::support::scenario::SOURCE;
use super::{Writer, last_row, scenario, stop_archiving, stream, wait_stored};

#[test]
fn a_forged_piece_is_told_and_never_a_silent_end_of_the_log() {
    let Some(scenario) = scenario(16) else { return };
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    let mut running = stream(&scenario, &scenario.cluster, "100ms");
    let mut sql = scenario.cluster.sql();
    for id in 1..4 {
        sql.execute(&format!("INSERT INTO kept VALUES ({id}, '')"));
        wait_stored(&scenario.cluster, &mut running);
    }
    running.signal(Signal::TERM);
    running.finish(Duration::from_secs(60)).success();
    let segment: String = scenario.cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    let names = scenario.repository.names();
    let pieces: Vec<&String> =
        names.iter().filter(|key| key.contains("/tail/") && key.contains(&format!("/{segment}/"))).collect();
    let (from, to) = pieces.iter().map(|key| span(key)).max_by_key(|(_, to)| *to).expect("a piece");
    println!("{pieces:#?}");

    // Another piece of the same log, in a place that is not its own: opened by the same keys, and of the right digest.
    let taken = pieces.iter().find(|key| span(key).0 == 0).expect("the first piece");
    let length = span(taken).1;
    let (directory, name) = taken.rsplit_once('/').expect("a directory");
    let forged = format!("{directory}/{to:08X}-{:08X}{}", to + length, &name[17..]);
    scenario.repository.write(&forged, scenario.repository.read(taken));
    let destination = scenario.rescue.dir().join("fetched").display().to_string();
    let get = ["archive", "get", SOURCE, &segment, &destination];
    let answered = scenario.rescue.run(&get).refuses(255, &["is no log from", &forged, "remove the wrong piece"]);
    println!("{answered}");
    assert!(!std::path::Path::new(&destination).exists(), "nothing is handed over");
    let planned = scenario.rescue.ok(&["restore", SOURCE, "--to", "latest", "--into", "/nowhere", "--dry-run"]);
    assert!(planned.stdout.contains(&format!("what was streamed of {segment} from ")), "{planned}");
    assert!(scenario.rescue.run(&["verify", "--deep"]).exits(22).stdout.contains("is no log from"));

    // It costs a restore nothing that comes before it.
    let with_it = scenario.restore_and_start("with", &["--to", "latest"]);
    assert_eq!(last_row(&with_it), 3);
    drop(with_it);

    // Zeros would read as the end of the log where it was written on.
    scenario.repository.remove(&forged);
    scenario.rescue.ok(&get);
    scenario.rescue.ok(&["verify", "--deep"]);
    let mut scenario = scenario;
    assert!(from < to);
    scenario.cluster.kill9();
    let restored = scenario.restore_and_start("without", &["--to", "latest"]);
    assert_eq!(last_row(&restored), 3);
    let _ = Writer::run(&restored, Duration::from_millis(50));
}

fn span(key: &str) -> (u64, u64) {
    let piece = key.rsplit('/').next().expect("a name");
    let number = |text: &str| u64::from_str_radix(text, 16).expect("an offset");
    (number(&piece[..8]), number(&piece[9..17]))
}
