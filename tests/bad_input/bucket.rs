//! Buckets that are not what they should be: without a permission, somewhere else, with other tools' objects in them, or
//! no bucket at all. Each command tells what is wrong and what to change, in hints that fit on a line, and loses nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use crate::support::lifeboat::{Config, Host, Identity};
use crate::support::listing::backups;
use crate::support::postgres::{Installation, Options};
use crate::support::process::{self, Output};
use crate::support::s3::S3Server;
use crate::support::scenario::{Place, SOURCE, Scenario};

/// Longest hint: a terminal's width.
const HINT_COLUMNS: usize = 80;

/// A cluster with the row 1, backed up twice and archived into a bucket, where the first backup is marked to go; and an
/// empty repository beside it.
struct Stage {
    scenario: Scenario,
    server: Arc<S3Server>,
    doomed: String,
}

impl Stage {
    fn start() -> Option<Self> {
        let installation = Installation::require(15)?;
        let options = Options { wal_segment_mib: 1, ..Options::default() };
        let scenario = Scenario::start_in(Place::Bucket, &installation, &options);
        let second = scenario.repository.another("second");
        for host in [&scenario.protected, &scenario.rescue] {
            let only = format!("[source.{SOURCE}]\narchive_timeout_seconds = 2\nrepositories = [\"main\"]\n");
            let text = host.configuration().replace(&format!("[source.{SOURCE}]\n"), &only);
            host.configure_text(&format!("{text}\n{}", second.section("second")));
        }
        let keys = scenario.rescue.dir().join("keys-of-second").display().to_string();
        scenario.protected.ok(&["init", "--repository", "second", "--generate-keys", &keys]);
        scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
        let server = scenario.repository.server().expect("in a bucket");
        let stage = Self { scenario, server, doomed: String::new() };
        let stage = Self { doomed: stage.another_doomed(), ..stage };
        stage.scenario.archive_now();
        Some(stage)
    }

    /// A backup that is marked to go, with another one that stays.
    fn another_doomed(&self) -> String {
        self.scenario.full_backup();
        self.scenario.full_backup();
        let doomed = backups(&self.scenario.rescue).remove(0);
        let key = self.scenario.operator_key.display().to_string();
        self.scenario.rescue.ok(&["expire", SOURCE, "--key", &key, "--backup", &doomed, "--grace", "0s"]);
        doomed
    }

    /// Every command, in an order in which none undoes another's work: name, host and arguments.
    fn commands(&self) -> Vec<(&'static str, &Host, Vec<String>)> {
        let Scenario { protected, rescue, cluster, .. } = &self.scenario;
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
        let log = self.scenario.repository.log_objects();
        let segments = log.iter().filter_map(|key| key.rsplit('/').next()?.split('_').next());
        let archived = segments.filter(|name| name.len() == 24).max().expect("a segment is archived");
        cluster.sql().execute("SELECT pg_create_restore_point('one more')");
        let segment = cluster.data.join("pg_wal").join(cluster.switch_wal()).display().to_string();
        let (into, fetched) = (self.into().display().to_string(), self.fetched().display().to_string());
        let key = self.scenario.operator_key.display().to_string();
        vec![
            ("push", protected, words(&format!("archive push {SOURCE} {segment}"))),
            ("backup", protected, words(&format!("backup {SOURCE} --type full"))),
            ("get", rescue, words(&format!("archive get {SOURCE} {archived} {fetched}"))),
            ("restore", rescue, words(&format!("restore {SOURCE} --to-immediate --into {into}"))),
            ("list", rescue, words("list")),
            ("verify", rescue, words(&format!("verify {SOURCE}"))),
            ("check", protected, words(&format!("check {SOURCE}"))),
            ("copy", protected, words(&format!("copy --from main --to second {SOURCE}"))),
            ("expire", rescue, words(&format!("expire {SOURCE} --key {key}"))),
        ]
    }

    fn into(&self) -> std::path::PathBuf {
        self.scenario.restored.join("restored")
    }

    fn fetched(&self) -> std::path::PathBuf {
        self.scenario.rescue.dir().join("fetched")
    }

    /// Runs every command while `operations` are refused; `allowed` are those that need none of them.
    fn without(&self, permission: &str, operations: &[&'static str], allowed: &[&str]) {
        let known = backups(&self.scenario.rescue);
        let commands = self.commands();
        operations.iter().for_each(|operation| self.server.refuse(operation, "", "AccessDenied"));
        for (name, host, arguments) in &commands {
            let output = host.run(arguments);
            println!("--- without {permission}: {name}\n{output}");
            if allowed.contains(name) {
                output.success();
                continue;
            }
            let code = match *name {
                "get" => 255,
                "check" => 1,
                _ => 20,
            };
            let output = output.exits(code);
            let told = format!("{}{}", output.stdout, output.stderr);
            for word in ["access is denied (AccessDenied)", &format!("hint: allow {permission}")] {
                assert!(told.contains(word), "without {permission} {name} does not say '{word}'\n{output}");
            }
            assert_fits(&output, "allow ");
        }
        self.server.relent();
        assert_eq!(self.into().exists(), allowed.contains(&"restore"), "a refused restore has touched its target");
        assert_eq!(self.fetched().exists(), allowed.contains(&"get"));
        let _ = std::fs::remove_dir_all(self.into());
        let _ = std::fs::remove_file(self.fetched());
        // Nothing is lost, and nothing half-made is in the way.
        let now = backups(&self.scenario.rescue);
        assert!(known.iter().all(|id| now.contains(id) || *id == self.doomed), "{known:?}, now {now:?}");
        self.scenario.protected.ok(&["backup", SOURCE, "--type", "full"]);
        self.scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    }
}

/// Hints with this word are for reading at three in the morning.
#[track_caller]
fn assert_fits(output: &Output, word: &str) {
    let lines = output.stdout.lines().chain(output.stderr.lines());
    let hints = lines.filter_map(|line| line.trim_start().strip_prefix("hint: "));
    for hint in hints.filter(|hint| hint.contains(word)) {
        assert!(hint.len() + "hint: ".len() <= HINT_COLUMNS, "{} columns: {hint}\n{output}", hint.len());
    }
}

#[test]
fn each_permission_that_is_missing_is_named_by_each_command() {
    let Some(stage) = Stage::start() else { return };
    stage.scenario.cluster.configure(["archive_timeout = 0"]);
    stage.without("s3:ListBucket", &["ListObjectsV2", "HeadBucket"], &[]);
    // One permission for both.
    stage.without("s3:GetObject", &["GetObject", "HeadObject"], &[]);
    stage.without("s3:PutObject", &["PutObject"], &["get", "restore", "list", "verify"]);
    let no_deletes = ["push", "backup", "get", "restore", "list", "verify", "check", "copy"];
    stage.without("s3:DeleteObject", &["DeleteObject"], &no_deletes);
    assert!(!backups(&stage.scenario.rescue).contains(&stage.doomed), "it was gone before anything was deleted");
    let left = format!("{SOURCE}/backup/{}/", stage.doomed);
    assert_ne!(stage.scenario.repository.names_below(&left), [""; 0], "nothing could be deleted");
    // What could not be deleted is deleted by the next one that may.
    let key = stage.scenario.operator_key.display().to_string();
    stage.scenario.rescue.ok(&["expire", SOURCE, "--key", &key]);
    assert_eq!(stage.scenario.repository.names_below(&left), [""; 0]);
    let restored = stage.scenario.restore_and_start("after", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 1);
}

/// A bucket that others use too, with names as consoles and careless people make them, also below the prefix.
#[test]
fn what_other_tools_put_into_the_bucket_is_neither_used_nor_touched() {
    let Some(stage) = Stage::start() else { return };
    let (server, scenario) = (&stage.server, &stage.scenario);
    let below = |name: &str| format!("backups/main/{name}");
    let mut foreign = vec!["readme.txt".to_owned(), "backups/".to_owned(), "backups/mainly/lifeboat.json".to_owned()];
    let incarnation = scenario.repository.names_below(&format!("{SOURCE}/log/")).remove(0);
    let incarnation = incarnation.split('/').nth(2).expect("an incarnation").to_owned();
    foreign.extend(
        ["", "notes.txt", "//", "orders", "orders/", "orders/backup/", "keys/readme", "probe/x", "other/commit/00000001.json"]
            .map(below),
    );
    foreign.extend(
        ["backup/latest", "backup/x/pack-00000001.zst.age", "expire/notes.txt"].map(|name| below(&format!("{SOURCE}/{name}"))),
    );
    foreign.extend(
        ["", "00000001/", "00000001/core.dump", "index/", "key/"]
            .map(|name| below(&format!("{SOURCE}/log/{incarnation}/{name}"))),
    );
    foreign.iter().for_each(|name| server.plant(name, b"another tool's"));
    for (name, host, arguments) in stage.commands() {
        let output = host.run(&arguments);
        println!("--- {name}\n{output}");
        output.success();
    }
    let restored = scenario.restore_and_start("beside others", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 1);
    assert!(!backups(&scenario.rescue).contains(&stage.doomed));
    for name in foreign {
        assert_eq!(server.content(&name).as_deref(), Some(&b"another tool's"[..]), "{name} was touched");
    }
}

/// Answers everybody the same, whatever is asked, until the test ends.
fn answering(answer: impl Into<Vec<u8>>, waits_for_request: bool) -> String {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            if waits_for_request {
                let _ = socket.read(&mut [0; 16384]);
            }
            let _ = socket.write_all(&answer);
        }
    });
    address.to_string()
}

/// An S3 error with these headers besides.
fn s3_error(status: &str, headers: &str, code: &str, rest: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code>{rest}</Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[test]
fn what_answers_at_the_endpoint_is_told_from_a_store() {
    let server = S3Server::start();
    process::add_environment(server.environment());
    let host = Host::new(&Config::bucket(&server, "backups").recipient(&Identity::generate()));
    let right = host.configuration();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let page = "<html><body>Welcome to nginx!</body></html>";
    let html = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
            page.len()
        )
    };
    let expecting =
        "<Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-3'</Message>";
    let elsewhere = "x-amz-bucket-region: eu-central-1\r\n";
    let http = |address: &str| format!("http://{address}");
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("a web page", http(&answering(html("200 OK"), true)), &["does not speak S3", "'endpoint'"]),
        ("a web page for 404", http(&answering(html("404 Not Found"), true)), &["does not speak S3", "'endpoint'"]),
        ("a web page for 403", http(&answering(html("403 Forbidden"), true)), &["does not speak S3", "'endpoint'"]),
        ("ssh", http(&answering("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", false)), &["does not speak HTTP", "'endpoint'"]),
        ("TLS", http(&answering([0x15, 3, 3, 0, 2, 2, 0x46], true)), &["does not speak HTTP", "https://"]),
        ("no TLS", format!("https://{}", answering(html("400 Bad Request"), true)), &["does not speak TLS", "http://"]),
        ("nobody", http(&nobody.to_string()), &["nothing accepts connections", "'endpoint'"]),
        (
            "301",
            http(&answering(s3_error("301 Moved Permanently", elsewhere, "PermanentRedirect", ""), true)),
            &["in another region (PermanentRedirect)", "region = \"eu-central-1\""],
        ),
        (
            "a signature for elsewhere",
            http(&answering(s3_error("400 Bad Request", "", "AuthorizationHeaderMalformed", expecting), true)),
            &["in another region", "region = \"eu-west-3\""],
        ),
        (
            "expired credentials",
            http(&answering(s3_error("400 Bad Request", "", "ExpiredToken", ""), true)),
            &["the credentials have expired (ExpiredToken)", "renew"],
        ),
        (
            "a clock that is wrong",
            http(&answering(s3_error("403 Forbidden", "", "RequestTimeTooSkewed", ""), true)),
            &["clock", "timedatectl"],
        ),
        (
            "a wrong key",
            http(&answering(s3_error("403 Forbidden", "", "InvalidAccessKeyId", ""), true)),
            &["does not know the access key", "AWS_ACCESS_KEY_ID"],
        ),
    ];
    let keys = host.dir().join("keys").display().to_string();
    for (what, endpoint, words) in cases {
        host.configure_text(&right.replace(&server.endpoint(), &endpoint));
        for command in [&["list"][..], &["init", "--generate-keys", &keys]] {
            let output = host.run(command);
            println!("--- {what}: {}\n{output}", command.join(" "));
            assert_fits(&output, "");
            let output = output.refuses(20, words);
            assert!(!output.stderr.contains('<') && !output.stderr.contains("nginx"), "{what}: {output}");
        }
        assert!(!host.dir().join("keys").exists(), "{what}: keys for a repository that cannot be");
    }
    for (url, words) in [
        ("s3://", &["names no bucket", "s3://bucket/prefix"][..]),
        ("s3:lifeboat-test", &["s3://bucket/prefix"]),
        ("s3://lifeboat-test/a//b", &["single slashes"]),
        ("s3://key:hunter2@lifeboat-test/x", &["holds credentials"]),
        ("https://lifeboat-test.s3.amazonaws.com/x", &["s3://bucket/prefix"]),
    ] {
        host.configure_text(&right.replace(&server.url("backups"), url));
        let output = host.run(&["list"]);
        println!("--- {url}\n{output}");
        assert!(!output.stderr.contains("hunter2"), "{output}");
        assert_fits(&output, "");
        output.refuses(2, words);
    }
    assert_eq!(server.names(), [""; 0]);
}
