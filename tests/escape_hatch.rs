//! The escape hatch: the script printed in `docs/RECOVERY-WITHOUT-LIFEBOAT.md`, taken out of the page and run on real
//! repositories with `age`, `zstd` and `jq`. The program under test takes no part in the recovery.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::base::Timestamp;
use lifeboat::codec::Sha256Digest;
use lifeboat::codec::compress::Compressor;
use lifeboat::codec::encrypt::{Seal, fresh_identity_file};

use support::dirs::Dir;
use support::ledger::Ledger;
use support::lifeboat::{Config, Host};
use support::oracle::Oracle;
use support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT, skip};
use support::scenario::{SOURCE, Scenario};
use support::{amcheck, process, random};

const PAGE: &str = include_str!("../docs/RECOVERY-WITHOUT-LIFEBOAT.md");
const RESCUE_TIMEOUT: Duration = Duration::from_secs(120);

/// The one block of the page that is a whole script.
fn script() -> &'static str {
    let mut scripts = PAGE.split("```bash\n").skip(1).filter_map(|block| block.split("\n```").next());
    let script = scripts.find(|block| block.starts_with("#!/bin/bash\n# rescue ")).expect("the page has the script");
    assert!(!scripts.any(|block| block.starts_with("#!")), "a second script, which nobody tests");
    script
}

/// The block of the page that puts together what was streamed of a segment.
fn pieces() -> &'static str {
    let mut blocks = PAGE.split("```bash\n").skip(1).filter_map(|block| block.split("\n```").next());
    blocks.find(|block| block.contains("orders/tail/")).expect("the page says how pieces are put together")
}

/// Says which of the page's tools are missing.
fn has_tools() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = ["bash", "age", "zstd", "jq", "awk"]
        .into_iter()
        .find(|tool| !std::env::split_paths(&path).any(|directory| directory.join(tool).is_file()));
    missing.inspect(|tool| skip(&format!("{tool} is not installed"))).is_none()
}

/// A host that has the page's script, and nothing of ours.
struct Bystander {
    dir: Dir,
    script: PathBuf,
    identity: PathBuf,
}

impl Bystander {
    fn new(identity: Option<&str>) -> Self {
        let dir = Dir::new();
        let script = dir.write("rescue", script());
        let identity = identity.map_or(PathBuf::from("-"), |secret| dir.write("identity.age", format!("{secret}\n")));
        Self { dir, script, identity }
    }

    fn run(&self, repository: &Path, backup: &str, name: &str, tablespaces: &str, settings: &[&str]) -> process::Output {
        let mut command = process::command(Path::new("/bin/bash"), self.dir.path());
        command.arg(&self.script).arg(repository).args([SOURCE, backup]).arg(&self.identity).arg(self.dir.join(name));
        process::run(
            {
                command.args(settings).env("TABLESPACES", tablespaces);
                command
            },
            RESCUE_TIMEOUT,
        )
    }

    /// Rescues into a directory called `name` and starts a server there.
    fn rescue(&self, installation: &Installation, name: &str, run: impl FnOnce() -> process::Output) -> Cluster {
        run().success();
        let mut cluster = Cluster::open(installation, &self.dir.join(name));
        cluster.launch();
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        cluster
    }
}

/// PostgreSQL's own words for a moment.
fn target_time(moment: Timestamp) -> String {
    format!("recovery_target_time = '{}'", moment.rfc3339().replace('T', " ").replace('Z', "+00"))
}

/// A load after a backup, all of it archived.
fn archived_load(cluster: &Cluster, ledger: &mut Ledger, seconds: u64) -> Oracle {
    ledger.run(Duration::from_secs(seconds));
    ledger.commit_one();
    let last = cluster.switch_wal();
    cluster.wait_archived(&last, RECOVERY_TIMEOUT);
    ledger.oracle()
}

fn newest_backup(host: &Host) -> String {
    let listed = host.json(&["list", SOURCE]);
    let backups = listed["repositories"][0]["sources"][0]["incarnations"][0]["backups"].as_array().expect("a list");
    backups.last().expect("a backup")["id"].as_str().expect("an id").to_owned()
}

/// A tablespace in a directory of its own, with one table in it.
fn make_tablespace(cluster: &Cluster) -> PathBuf {
    let directory = cluster.dir().create_dir("fast disk");
    let mut sql = cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", directory.display()));
    sql.execute("CREATE TABLE elsewhere TABLESPACE fast AS SELECT generate_series(1, 20000) AS id");
    directory
}

fn an_encrypted_repository_opens_with_stock_tools(major: u32) {
    let Some(installation) = Installation::require(major).filter(|_| has_tools()) else { return };
    let seed = random::seed("escape hatch");
    let scenario = Scenario::start(&installation, &Options::default());
    let fast = make_tablespace(&scenario.cluster);
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    ledger.run(Duration::from_secs(1));
    scenario.full_backup();
    let protected_from = Timestamp::now();
    let oracle = archived_load(&scenario.cluster, &mut ledger, 2);
    let backup = newest_backup(&scenario.protected);

    let bystander = Bystander::new(Some(&scenario.identity.secret));
    let mut random = random::generator(seed, 0);
    let moment = oracle.pick_moments(1, protected_from..=*oracle.span().end(), &mut random)[0];
    let moved = format!("{}={}", fast.display(), bystander.dir.join("moved disk").display());
    let settings = [target_time(moment), "recovery_target_timeline = '1'".to_owned()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let files = scenario.repository.as_files();
    let rescue = || bystander.run(&files.path, &backup, "past one", &moved, &settings);
    let rescued = bystander.rescue(&installation, "past one", rescue);
    oracle.assert_at(&mut rescued.sql(), moment);
    assert_eq!(rescued.sql().number("SELECT count(*) FROM elsewhere"), 20000);
    let place = rescued.sql().value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'");
    assert_eq!(Path::new(&place), bystander.dir.join("moved disk"));
    amcheck::assert_clean(&rescued);

    // A second timeline: the archive's end is found through its history.
    let second = scenario
        .restore("second", &["--tablespace", &format!("{}={}", fast.display(), scenario.restored.join("fast").display())]);
    let second = scenario.open(&second);
    let after = archived_load(&second, &mut Ledger::attach(&second, seed), 1);
    let moved = format!("{}={}", fast.display(), bystander.dir.join("moved again").display());
    let files = scenario.repository.as_files();
    let rescue = || bystander.run(&files.path, &backup, "end", &moved, &["recovery_target_timeline = '2'"]);
    let rescued = bystander.rescue(&installation, "end", rescue);
    after.assert_tables(&mut rescued.sql(), &after.rows_at_end(), "the end of timeline 2");
}

#[test]
fn an_encrypted_repository_of_15_opens_with_stock_tools() {
    an_encrypted_repository_opens_with_stock_tools(15);
}

#[test]
fn an_encrypted_repository_of_18_opens_with_stock_tools() {
    an_encrypted_repository_opens_with_stock_tools(18);
}

#[test]
fn a_plain_repository_needs_no_identity_and_damage_is_refused() {
    let Some(installation) = Installation::require(13).filter(|_| has_tools()) else { return };
    let repository = Dir::new();
    let mut cluster = Cluster::create(&installation, &Options::default());
    let mut config = Config::local(repository.path()).source(SOURCE, &cluster.conninfo());
    config.sections = "[encryption]\nmode = \"off\"\n".to_owned();
    let host = Host::new(&config);
    let signing_key = lifeboat::repo::signed::Signer::generate();
    config.signing_key_file = Some(host.write("signing.key", &signing_key.to_pem()));
    host.configure(&config);
    host.ok(&["init"]);
    cluster.configure(["archive_mode = on".to_owned(), host.archive_command(SOURCE)]);
    cluster.start();
    let mut ledger = Ledger::create(&cluster, random::seed("plain escape hatch"));
    host.ok(&["backup", SOURCE, "--type", "full"]);
    let backup = newest_backup(&host);
    ledger.run(Duration::from_secs(1));
    for backup_type in ["diff", "incr"] {
        host.ok(&["backup", SOURCE, "--type", backup_type]);
    }
    let incr = newest_backup(&host);
    assert!(incr.contains("-incr-"), "{incr} was to build on others");
    let oracle = archived_load(&cluster, &mut ledger, 1);

    let bystander = Bystander::new(None);
    let refused = bystander.run(repository.path(), &incr, "rescued", "", &[]).exits(1);
    assert!(refused.stderr.contains(&format!("{incr} is no full backup: take {backup}, ")), "{refused}");
    assert!(!bystander.dir.join("rescued").exists(), "a refusal leaves nothing behind");
    let rescued = bystander.rescue(&installation, "rescued", || bystander.run(repository.path(), &backup, "rescued", "", &[]));
    oracle.assert_tables(&mut rescued.sql(), &oracle.rows_at_end(), "the end of the log");

    bystander.run(repository.path(), &backup, "rescued", "", &[]).exits(1);
    let pack = repository.join(format!("{SOURCE}/backup/{backup}/pack-00000001.zst"));
    let mut content = std::fs::read(&pack).expect("the pack is there");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::remove_file(&pack).and_then(|()| std::fs::write(&pack, content)).expect("own directory");
    let refused = bystander.run(repository.path(), &backup, "damaged", "", &[]).exits(1);
    assert!(refused.stderr.contains("did NOT match"), "{refused}");
    assert!(!bystander.dir.join("damaged/global/pg_control").exists());
}

/// Pieces of a segment as a stream leaves them that was begun again, before and after encryption was turned on.
#[test]
fn pieces_of_a_segment_are_put_where_they_belong() {
    if !has_tools() {
        return;
    }
    let (dir, segment) = (Dir::new(), "00000001000000000000000A");
    let raw: Vec<u8> = (0..50_000_u32).map(|at| (at % 251) as u8 + 1).collect();
    let (identity, recipient) = fresh_identity_file("2026-11-21");
    dir.create_dir("rescued.rescue");
    dir.write("rescued.rescue/keys", identity);
    let place = format!("orders/tail/pg15-7710424414189593293/00000001/{segment}");
    std::fs::create_dir_all(dir.join(&place)).expect("own directory");
    // The last one lies behind a gap.
    for (from, to, sealed) in [(0, 9000, false), (0, 20_000, false), (16_000, 41_000, true), (41_001, 50_000, true)] {
        let seal = if sealed { Seal::Age(recipient.clone()) } else { Seal::Plain };
        let compressed = Compressor::new(1).expect("a level").compress(&raw[from..to]).expect("memory");
        let digest = Sha256Digest::of(&raw[from..to]).short();
        let name = format!("{from:08X}-{to:08X}_-_-_0_{digest}.zst{}", seal.suffix());
        dir.write(format!("{place}/{name}"), seal.seal(&compressed).expect("memory"));
    }
    let run = || {
        let mut command = process::command(Path::new("/bin/bash"), dir.path());
        command.current_dir(dir.path()).args(["-c", pieces(), "pieces", segment]);
        process::run(command, RESCUE_TIMEOUT)
    };
    run().success();
    let made = std::fs::read(dir.join(segment)).expect("a file");
    assert!(made.len() == 16 << 20 && made[..41_000] == raw[..41_000], "what was streamed");
    assert!(made[41_000..].iter().all(|byte| *byte == 0), "what follows");

    let damaged = Compressor::new(1).expect("a level").compress(b"another").expect("memory");
    dir.write(format!("{place}/{:08X}-{:08X}_-_-_0_0123456789abcdef.zst", 30, 37), damaged);
    assert!(run().exits(1).stderr.contains("is damaged"));
}
