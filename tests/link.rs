//! A backup that saturates the link, and the log that must get through it: measured with a link of a fixed rate, which its
//! connections share fairly, as the ratio to a push that has the link for itself.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use support::process::{self, Running};
use support::proxy::Proxy;
use support::scenario::{Place, SOURCE, Scenario};

/// What the link carries in both directions together: little enough for a busy machine.
const LINK_BYTES_PER_SECOND: u64 = 8 << 20;

/// `--limit-rate` of the backup that leaves something over.
const LIMIT_RATE: &str = "2MiB";

/// `LIMIT_RATE` as a part of the link.
const LIMITED_PART: f64 = 0.25;

/// Packs that a backup sends at one time, each on a connection of its own.
const BACKUP_CONNECTIONS: f64 = 2.0;

/// What the machine may add to a ratio of times.
const SLACK: f64 = 1.6;

/// Segments of 4 MiB of noise.
const SEGMENTS: usize = 44;

/// A pack goes out at the speed of the link, and its pause follows: as long as this several have gone out.
const LIMITED_FOR: Duration = Duration::from_secs(25);

struct Stage {
    scenario: Scenario,
    proxy: Proxy,
    segments: std::vec::IntoIter<PathBuf>,
}

impl Stage {
    fn start() -> Option<Self> {
        let installation = Installation::require(15)?;
        let options = Options { wal_segment_mib: 4, ..Options::default() }.with("max_wal_size = 4GB");
        let scenario = Scenario::start_in(Place::Bucket, &installation, &options);
        // Until it is measured the log goes to a directory.
        let left = scenario.cluster.dir().create_dir("left");
        let command = format!("archive_command = 'cp \"%p\" {0}/.%f && mv {0}/.%f {0}/%f'", left.display());
        scenario.cluster.configure([command]);
        let mut sql = scenario.cluster.sql();
        process::wait_until("the setting is read", RECOVERY_TIMEOUT, || sql.value("SHOW archive_command").contains("cp "));
        // Noise that no compression sees through, for the backup and for the log.
        sql.execute(
            "CREATE TABLE ballast AS SELECT n, string_agg(sha512((n::text || '-' || part::text)::bytea), ''::bytea) AS bytes
             FROM generate_series(1, 30000) AS n, generate_series(1, 16) AS part GROUP BY n",
        );
        (0..2).for_each(|_| sql.execute("INSERT INTO ballast SELECT * FROM ballast"));
        sql.execute("CHECKPOINT");
        let first = scenario.cluster.switch_wal();
        for _ in 0..SEGMENTS {
            sql.execute("SELECT pg_logical_emit_message(false, 'noise', string_agg(bytes, ''::bytea)) FROM (SELECT bytes FROM ballast ORDER BY random() LIMIT 4096) AS picked");
        }
        let last = scenario.cluster.switch_wal();
        process::wait_until("the log to be left", RECOVERY_TIMEOUT, || left.join(&last).exists());
        let mut segments: Vec<PathBuf> =
            support::listing::files(&left).into_iter().filter(|path| path > &left.join(&first)).collect();
        segments.sort();
        assert!(segments.len() >= SEGMENTS, "{} segments", segments.len());

        let server = scenario.server.as_ref().expect("in a bucket");
        let proxy = Proxy::to(server.address());
        proxy.throttle(LINK_BYTES_PER_SECOND);
        let text = scenario.protected.configuration().replace(&server.endpoint(), &proxy.endpoint());
        scenario.protected.configure_text(&text);
        Some(Self { scenario, proxy, segments: segments.into_iter() })
    }

    /// How long a push of one segment takes.
    fn push(&mut self) -> f64 {
        let segment = self.segments.next().expect("there are enough");
        let began = Instant::now();
        self.scenario.protected.ok(&["archive", "push", SOURCE, segment.to_str().expect("plain")]);
        began.elapsed().as_secs_f64()
    }

    /// The mean time of pushes while `more` says that there are to be more.
    fn pushes(&mut self, mut more: impl FnMut(usize) -> bool) -> f64 {
        let mut took = Vec::new();
        while more(took.len()) {
            took.push(self.push());
        }
        took.iter().sum::<f64>() / took.len() as f64
    }

    fn packs(&self) -> usize {
        let requests = self.proxy.requests();
        requests.iter().filter(|request| request.starts_with("PUT") && request.contains("/pack-")).count()
    }

    /// A backup that is sending packs.
    fn backup(&self, arguments: &[&str]) -> Running {
        let before = self.packs();
        let mut backup = self.scenario.protected.start(&[&["backup", SOURCE, "--type", "full"], arguments].concat());
        process::wait_until("packs are being sent", RECOVERY_TIMEOUT, || {
            assert!(!backup.has_ended(), "{}", backup.stderr_so_far());
            self.packs() >= before + 2
        });
        backup
    }
}

#[test]
fn a_backup_leaves_the_log_its_part_of_the_link() {
    let Some(mut stage) = Stage::start() else { return };
    // The first push puts identity and key on record.
    stage.push();
    let alone = stage.pushes(|pushes| pushes < 5);

    let mut backup = stage.backup(&[]);
    let (began, before_bytes) = (Instant::now(), stage.proxy.passed_bytes());
    let beside = stage.pushes(|pushes| pushes < 6);
    let passed_bytes = stage.proxy.passed_bytes() - before_bytes;
    let used = passed_bytes as f64 / (began.elapsed().as_secs_f64() * LINK_BYTES_PER_SECOND as f64);
    assert!(!backup.has_ended(), "the backup was too short to measure anything");
    drop(backup);

    let mut backup = stage.backup(&["--limit-rate", LIMIT_RATE]);
    let until = Instant::now() + LIMITED_FOR;
    let limited = stage.pushes(|pushes| Instant::now() < until && pushes < SEGMENTS - 12);
    assert!(!backup.has_ended(), "the backup was too short to measure anything");
    drop(backup);

    println!(
        "a push takes {alone:.2} s alone, {beside:.2} s beside a backup (× {:.2}; {:.0} % of the link in use), {limited:.2} s beside one that is limited to a \
         quarter of the link (× {:.2})",
        beside / alone,
        100.0 * used,
        limited / alone
    );
    assert!(used > 0.7, "the link was not saturated");
    assert!(beside < (1.0 + BACKUP_CONNECTIONS) * SLACK * alone, "a push gets less than its part of the link");
    assert!(limited < SLACK / (1.0 - LIMITED_PART) * alone, "a push gets less than the backup's limit leaves over");
}
