//! Repositories of every declared format, kept beside the tests, still list, verify and restore; and each kind of object
//! in them is read, and would be written today, byte for byte as it is. See `tests/samples/README.md`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lifeboat::base::{Incarnation, Timestamp};
use lifeboat::codec::Sha256Digest;
use lifeboat::codec::encrypt::{DataKey, Opener, parse_identity_file};
use lifeboat::repo::backup::{Begin, packs_text};
use lifeboat::repo::commit::CommitEntry;
use lifeboat::repo::expiry::Expiry;
use lifeboat::repo::identity::Identity;
use lifeboat::repo::lease::Lease;
use lifeboat::repo::log::index::IndexLine;
use lifeboat::repo::log::resolution::Resolution;
use lifeboat::repo::manifest::{ManifestLine, ManifestReader, ManifestWriter};
use lifeboat::repo::pack::PackLine;
use lifeboat::repo::probe::ProbeReport;
use lifeboat::repo::signed::Place;
use lifeboat::repo::{Descriptor, KeyEntry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use support::dirs::{self, Dir};
use support::lifeboat::{Config, Host};
use support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT, Stop};
use support::repository::{Place as Kind, Repository};
use support::scenario::{SOURCE, Scenario};

/// What `notes.json` of a sample says.
#[derive(Debug, Deserialize, Serialize)]
struct Notes {
    format: u32,
    written_by: String,
    postgres_major: u32,
    /// The pin of the repository's keys.
    root: Sha256Digest,
    /// Ids of the backups, oldest first.
    backups: Vec<String>,
    /// The id of the backup that was expired.
    expired: String,
    timelines: Vec<u32>,
    /// Targets of a restore, as its options, and the rows that are there then.
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Target {
    options: Vec<String>,
    rows: Vec<i64>,
}

/// A sample, unpacked where `LIFEBOAT_TEST_STORE` says.
struct Sample {
    notes: Notes,
    repository: Repository,
    rescue: Host,
    identity: String,
    restored: Dir,
}

impl Sample {
    fn unpack(format: u32) -> Self {
        let sample = samples().join(format!("format-{format}"));
        let read = |name: &str| fs::read(sample.join(name)).unwrap_or_else(|error| panic!("{name} of the sample: {error}"));
        let notes: Notes = serde_json::from_slice(&read("notes.json")).expect("the sample's notes");
        let unpacked = Dir::new();
        let tar = unpacked.write("repository.tar", zstd::decode_all(&read("repository.tar.zst")[..]).expect("a zstd file"));
        run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(unpacked.path()));
        let repository = Repository::empty(Kind::from_environment());
        let root = unpacked.join("repository");
        for file in support::listing::files(&root) {
            let key = file.strip_prefix(&root).expect("below it").to_str().expect("a key").to_owned();
            repository.write(&key, fs::read(&file).expect("unpacked"));
        }
        let mut config = Config::of(&repository);
        config.repositories[0].2 += &format!("root = \"{}\"\n", notes.root);
        let rescue = Host::new(&config);
        let identity = String::from_utf8(read("identity.age")).expect("text");
        config.identity_file = Some(rescue.write("identity.age", &identity));
        rescue.configure(&config.source(SOURCE, "host=/nowhere"));
        Self { notes, repository, rescue, identity, restored: Dir::new() }
    }

    /// The only object whose key begins and ends so.
    #[track_caller]
    fn only(&self, start: &str, end: &str) -> (String, Vec<u8>) {
        let found = self.all(start, end);
        assert_eq!(found.len(), 1, "{start}…{end}");
        found.into_iter().next().expect("one")
    }

    #[track_caller]
    fn all(&self, start: &str, end: &str) -> Vec<(String, Vec<u8>)> {
        let below = self.repository.names_below(start);
        let found: Vec<(String, Vec<u8>)> =
            below.into_iter().filter(|key| key.ends_with(end)).map(|key| (key.clone(), self.repository.read(&key))).collect();
        assert!(!found.is_empty(), "the sample has no {start}…{end}");
        found
    }

    /// Restores to a target, starts the server, and compares the rows.
    fn assert_restores(&self, number: usize, target: &Target, installation: &Installation) {
        let into = self.restored.join(format!("target-{number}"));
        let fixed = ["restore", SOURCE, "--clone", "--into", into.to_str().expect("plain")];
        let options: Vec<&str> = target.options.iter().map(String::as_str).collect();
        self.rescue.ok(&[&fixed[..], &options].concat());
        let mut cluster = Cluster::open(installation, &into);
        cluster.launch();
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        assert_eq!(rows(&cluster), target.rows, "{}", options.join(" "));
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn rows(cluster: &Cluster) -> Vec<i64> {
    let rows = cluster.sql().rows("SELECT n FROM rows ORDER BY n");
    rows.iter().map(|row| row[0].as_deref().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

#[test]
fn format_1_still_restores() {
    let sample = Sample::unpack(1);
    let notes = &sample.notes;
    let list = sample.rescue.json(&["list", SOURCE]);
    let source = &list["repositories"][0]["sources"][0];
    assert_eq!(source["problems"].as_array().map(Vec::len), Some(0), "{list:#}");
    let incarnation = &source["incarnations"][0];
    let backups = incarnation["backups"].as_array().expect("backups");
    let ids: Vec<&str> = backups.iter().filter_map(|backup| backup["id"].as_str()).collect();
    assert_eq!(ids, notes.backups, "the expired {} is not among them", notes.expired);
    assert!(backups.iter().all(|backup| backup["restorable"] == true && backup["marked"].is_null()), "{list:#}");
    let timelines = incarnation["timelines"].as_array().expect("timelines");
    let mut timelines: Vec<u64> = timelines.iter().filter_map(|timeline| timeline["timeline"].as_u64()).collect();
    timelines.sort_unstable();
    assert_eq!(timelines, notes.timelines.iter().copied().map(u64::from).collect::<Vec<_>>(), "{list:#}");

    let verified = sample.rescue.json(&["verify", SOURCE, "--deep"]);
    let verified = &verified["repositories"][0]["sources"][0];
    assert_eq!(verified["findings"].as_array().map(Vec::len), Some(0), "{verified:#}");
    assert_eq!(verified["backups"].as_array().map(Vec::len), Some(ids.len()), "{verified:#}");

    let Some(installation) = Installation::require(notes.postgres_major) else { return };
    assert!(notes.targets.len() >= 3);
    for (number, target) in notes.targets.iter().enumerate() {
        sample.assert_restores(number, target, &installation);
    }
}

/// The payload of a signed document of this kind, which is its place and then what `T` becomes, and nothing else.
#[track_caller]
fn pin<T: Serialize + DeserializeOwned>(document: &str, (key, content): &(String, Vec<u8>)) -> T {
    let text = std::str::from_utf8(content).expect("text");
    let [payload, signature] = text.lines().collect::<Vec<_>>()[..] else { panic!("{key} has not two lines") };
    assert!(text.ends_with('\n') && signature.starts_with("{\"key\":\""), "{key}: {signature}");
    let place: Place = serde_json::from_str(payload).expect("a place");
    assert_eq!(place.document, document, "{key}");
    let body: T = serde_json::from_str(payload).unwrap_or_else(|error| panic!("{key}: {error}"));
    let (place, body_text) = (serde_json::to_string(&place).expect("plain"), serde_json::to_string(&body).expect("plain"));
    assert_eq!(payload, format!("{},{}", place.trim_end_matches('}'), &body_text[1..]), "{key}");
    body
}

/// The line of a document that is not signed.
#[track_caller]
fn pin_line<T: Serialize + DeserializeOwned>((key, content): &(String, Vec<u8>)) -> T {
    let text = std::str::from_utf8(content).expect("text");
    let body: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{key}: {error}"));
    assert_eq!(text.trim_end_matches('\n'), serde_json::to_string(&body).expect("plain"), "{key}");
    body
}

#[derive(Deserialize, Serialize)]
struct Keys {
    version: u32,
    created: Timestamp,
    previous: Option<Sha256Digest>,
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize, Serialize)]
struct IndexBody {
    incarnation: Incarnation,
    segments: Vec<IndexLine>,
}

#[derive(Deserialize, Serialize)]
struct ExpiryBody {
    name: String,
    #[serde(flatten)]
    expiry: Expiry,
}

#[test]
fn every_kind_of_document_of_format_1_is_read_and_written_as_it_is() {
    let sample = Sample::unpack(1);
    let descriptor: Descriptor = pin_line(&sample.only("lifeboat.json", ""));
    assert_eq!(descriptor.format, 1);
    let keys = sample.only("keys/1", ".json");
    assert_eq!(Sha256Digest::of(&keys.1), sample.notes.root);
    assert_eq!(pin::<Keys>("keys", &keys).keys.len(), 2);
    sample.all("probe/", ".json").iter().for_each(|object| drop(pin_line::<ProbeReport>(object)));
    let identity = pin::<Identity>("identity", &sample.only("orders/identity/", ".json"));
    assert_eq!(identity.major_version, sample.notes.postgres_major);
    let entries: Vec<CommitEntry> = sample.all("orders/commit/", ".json").iter().map(|object| pin("commit", object)).collect();
    assert_eq!(entries.iter().filter(|entry| entry.backup().is_some()).count(), sample.notes.backups.len() + 1);
    assert_eq!(entries.iter().filter(|entry| entry.backup().is_none()).count(), 1, "one tombstone");
    for object in sample.all("orders/backup/", "/begin.json") {
        assert!(pin::<Begin>("begin", &object).log_start.is_some(), "{}", object.0);
    }
    for (key, content) in sample.all("orders/backup/", "/packs.jsonl") {
        let lines = content.split_inclusive(|byte| *byte == b'\n');
        let packs: Vec<PackLine> = lines.map(|line| serde_json::from_slice(line).expect("a pack's line")).collect();
        assert_eq!(packs_text(&packs), content, "{key}");
    }
    let expiries: Vec<ExpiryBody> = sample.all("orders/expire/", ".json").iter().map(|object| pin("expire", object)).collect();
    assert!(expiries.iter().any(|body| matches!(body.expiry, Expiry::Mark(_))));
    assert!(expiries.iter().any(|body| matches!(body.expiry, Expiry::Withdrawal(_))));
    let lease = pin::<Lease>("lease", &sample.only("orders/lease.json", ""));
    assert!(lease.token > 0);
    for object in sample.all("orders/log/", ".json").iter().filter(|(key, _)| key.contains("/index/")) {
        assert!(!pin::<IndexBody>("log-index", object).segments.is_empty());
    }
    let log = sample.all("orders/log/", ".json");
    let resolutions: Vec<_> = log.iter().filter(|(key, _)| key.contains("/resolution/")).collect();
    assert_eq!(resolutions.len(), 1);
    pin::<Resolution>("log-resolution", resolutions[0]);
}

/// age around zstd around JSON lines, each of which is written today as it was then.
#[test]
fn manifests_of_format_1_are_read_and_written_as_they_are() {
    let sample = Sample::unpack(1);
    let identities = parse_identity_file(&sample.identity).expect("the sample's identity");
    let (mut refs, mut patches) = (0, 0);
    for id in &sample.notes.backups {
        let backup = format!("{SOURCE}/backup/{id}/");
        let (_, wrapped) = sample.only(&format!("{backup}key-1"), ".age");
        let key = DataKey::unwrap(&wrapped, &identities).expect("the identity opens it");
        let (_, sealed) = sample.only(&format!("{backup}manifest"), ".jsonl.zst.age");
        let compressed = Opener::Age(vec![key.identity().clone()]).open(&sealed).expect("the backup's key opens it");
        let text = zstd::decode_all(&compressed[..]).expect("a zstd stream");
        let mut reader = ManifestReader::new(&text[..]).expect("a manifest");
        let mut writer = ManifestWriter::new(Vec::new(), reader.header()).expect("in memory");
        for line in reader.by_ref() {
            match line.expect("a line") {
                ManifestLine::Entry(line) => {
                    patches += line.patches.len();
                    writer.entry(&line).expect("in memory");
                }
                ManifestLine::Ref { path, owner } => {
                    refs += 1;
                    writer.reference(&path, owner).expect("in memory");
                }
            }
        }
        let (written, _) = writer.finish().expect("in memory");
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&text), "{id}");
    }
    assert!(refs > 0 && patches > 0, "{refs} references, {patches} patches: the sample shows nothing");
}

/// Writes a sample into the directory that `LIFEBOAT_WRITE_SAMPLE` names, once and never again.
#[test]
#[ignore = "writes a sample; see tests/samples/README.md"]
fn write_sample() {
    let into = PathBuf::from(std::env::var("LIFEBOAT_WRITE_SAMPLE").expect("LIFEBOAT_WRITE_SAMPLE names a directory"));
    let into = Path::new(env!("CARGO_MANIFEST_DIR")).join(into);
    assert!(!into.exists(), "{} is there: a sample is never written again", into.display());
    let installation = Installation::require(15).expect("samples hold PostgreSQL 15");
    let mut scenario = Scenario::start_in(Kind::Directory, &installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.add_sections("[backup]\ncompression_level = 19\n");
    let mut sql = scenario.cluster.sql();
    sql.execute("UPDATE pg_database SET datistemplate = false");
    ["template0", "template1"].iter().for_each(|template| sql.execute(&format!("DROP DATABASE {template}")));
    sql.execute("CREATE TABLE rows (n int PRIMARY KEY)");
    // Pages enough for a few of them to be stored apart.
    sql.execute("CREATE TABLE wide AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 2000) AS n");
    drop(sql);
    let insert = |cluster: &Cluster, n: i64| {
        cluster.sql().execute(&format!("INSERT INTO rows VALUES ({n})"));
        cluster.sql().execute(&format!("UPDATE wide SET text = 'changed {n}' WHERE n = {}", n * 100));
    };
    let take = |backup_type: &str| {
        let report = scenario.protected.json(&["backup", SOURCE, "--type", backup_type]);
        assert_eq!(report["backups"][0]["type"], backup_type, "{report:#}");
        report["backups"][0]["id"].as_str().expect("an id").to_owned()
    };
    insert(&scenario.cluster, 1);
    let expired = take("full");
    insert(&scenario.cluster, 2);
    let full = take("full");
    insert(&scenario.cluster, 3);
    let diff = take("diff");
    insert(&scenario.cluster, 4);
    let moment = quiet_moment();
    insert(&scenario.cluster, 5);
    let incr = take("incr");
    insert(&scenario.cluster, 6);
    let segment = scenario.archive_now();
    expire(&scenario, &expired, &incr, &segment);
    scenario.cluster.stop(Stop::Fast);
    let branched = second_timeline(&scenario, &insert);
    let target = |options: &[&str], rows: &[i64]| Target {
        options: options.iter().map(|word| (*word).to_owned()).collect(),
        rows: rows.to_vec(),
    };
    let notes = Notes {
        format: 1,
        written_by: env!("CARGO_PKG_VERSION").into(),
        postgres_major: installation.major,
        root: Sha256Digest::of(&scenario.repository.read("keys/1.json")),
        backups: vec![full.clone(), diff.clone(), incr],
        expired,
        timelines: vec![1, 2],
        targets: vec![
            target(&["--to", &moment.rfc3339()], &[1, 2, 3, 4]),
            target(&["--to", &branched.rfc3339()], &[1, 2, 3, 4, 5, 6, 7]),
            target(&["--to", "latest"], &[1, 2, 3, 4, 5, 6, 7, 8]),
            target(&["--to", "latest", "--timeline", "1"], &[1, 2, 3, 4, 5, 6]),
            target(&["--to-immediate", "--backup", &full], &[1, 2]),
            target(&["--to-immediate", "--backup", &diff], &[1, 2, 3]),
        ],
    };
    write_files(&scenario, &notes, &into);
}

/// A moment with nothing within a second of it.
fn quiet_moment() -> Timestamp {
    let pause = Duration::from_millis(1200);
    std::thread::sleep(pause);
    let moment = Timestamp::now();
    std::thread::sleep(pause);
    moment
}

/// Lets the first backup go, marks another one and withdraws that, and has the operator's word on a segment.
fn expire(scenario: &Scenario, expired: &str, spared: &str, segment: &str) {
    let key = scenario.operator_key.display().to_string();
    let expire = |more: &[&str]| scenario.rescue.ok(&[&["expire", SOURCE, "--key", &key], more].concat());
    expire(&["--backup", spared, "--grace", "1h"]);
    expire(&["--backup", spared, "--withdraw"]);
    expire(&["--backup", expired, "--grace", "0s"]);
    expire(&[]);
    let path = scenario.cluster.data.join("pg_wal").join(segment);
    let keep = Sha256Digest::of(&fs::read(path).expect("not yet recycled")).short();
    scenario.rescue.ok(&["archive", "resolve", SOURCE, segment, "--keep", &keep, "--key", &key]);
}

/// Two rows more on a second timeline, and a moment between them.
fn second_timeline(scenario: &Scenario, insert: &impl Fn(&Cluster, i64)) -> Timestamp {
    let mut second = scenario.open(&scenario.restore("second", &[]));
    insert(&second, 7);
    let moment = quiet_moment();
    insert(&second, 8);
    let last = second.switch_wal();
    second.wait_archived(&last, RECOVERY_TIMEOUT);
    second.stop(Stop::Fast);
    moment
}

fn write_files(scenario: &Scenario, notes: &Notes, into: &Path) {
    let work = Dir::new();
    dirs::copy_tree(scenario.repository.path(), &work.join("repository"));
    let _ = fs::remove_dir_all(work.join("repository/.lifeboat-tmp"));
    let tar = work.join("repository.tar");
    let fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-cf"];
    run(Command::new("tar").args(fixed).arg(&tar).arg("-C").arg(work.path()).arg("repository"));
    fs::create_dir_all(into).expect("the samples' directory");
    let write = |name: &str, content: &[u8]| fs::write(into.join(name), content).expect("own directory");
    write("repository.tar.zst", &zstd::encode_all(&fs::read(&tar).expect("written")[..], 19).expect("in memory"));
    write("identity.age", format!("{}\n", scenario.identity.secret).as_bytes());
    write("operator.key", &fs::read(&scenario.operator_key).expect("own key"));
    write("signing.key", &fs::read(scenario.protected.dir().join("signing.key")).expect("own key"));
    let mut text = serde_json::to_string_pretty(notes).expect("plain");
    text.push('\n');
    write("notes.json", text.as_bytes());
}
