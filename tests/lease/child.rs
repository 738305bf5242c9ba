//! A process of its own that takes the lease: this test binary, started again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lifeboat::base::Cancel;
use lifeboat::engine::lease::acquire;

use crate::stage::{block_on, now_millis, open, terms};

const DIR: &str = "LIFEBOAT_LEASE_TEST_DIR";
const HOST: &str = "LIFEBOAT_LEASE_TEST_HOST";
const ROUNDS: &str = "LIFEBOAT_LEASE_TEST_ROUNDS";

/// Life of the lease of a child that will be killed.
pub const TTL: Duration = Duration::from_secs(3);

/// Life of the leases of the others: longer than a busy machine may keep a process waiting.
const LONG_TTL: Duration = Duration::from_secs(60);

/// Starts a process that takes the lease `rounds` times, one after the other; with 0 rounds it takes it once and keeps it.
pub fn spawn(dir: &Path, host: &str, rounds: u32) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(["child::entry", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).env(HOST, host).env(ROUNDS, rounds.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// What the child runs; without a directory it is a test that has nothing to do.
#[test]
fn entry() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let (host, rounds) = (std::env::var(HOST).unwrap(), std::env::var(ROUNDS).unwrap().parse::<u32>().unwrap());
    block_on(async {
        let (scope, signer) = open(dir, &host).await;
        let terms = terms(if rounds == 0 { TTL } else { LONG_TTL }, Duration::from_secs(300));
        for _ in 0..rounds.max(1) {
            let held = acquire(&scope, &signer, "backup", terms, &Cancel::new()).await.unwrap();
            let from = now_millis();
            // Whoever holds the lease is alone in here: a second one would find the file.
            let inside = dir.join("inside");
            OpenOptions::new().write(true).create_new(true).open(&inside).expect("two hold the lease at one time");
            if rounds == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            held.check().await.unwrap();
            std::fs::remove_file(&inside).unwrap();
            let line = format!("{} {from} {} {host}\n", held.token(), now_millis());
            let mut log = OpenOptions::new().append(true).create(true).open(dir.join("turns")).unwrap();
            log.write_all(line.as_bytes()).unwrap();
            held.release().await;
        }
    });
}
