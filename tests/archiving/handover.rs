//! `archive push` beside `lifeboat run`, which stores ahead: what it says is durable, is; whatever becomes of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::push::{digest, place, push, variant};
use crate::support::dirs;
use crate::support::lifeboat::Host;
use crate::support::postgres::{Options, RECOVERY_TIMEOUT, Stop};
use crate::support::process::{self, Output, Running};
use crate::support::scenario::{SOURCE, Scenario};

const SEGMENTS: usize = 12;

/// A stopped cluster with segments that nobody archived, and a host that may schedule.
struct Stage {
    scenario: Scenario,
    /// In their order; copies, with the status files that PostgreSQL would keep.
    segments: Vec<PathBuf>,
}

impl Stage {
    fn start(sections: &str) -> Option<Self> {
        let mut scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
        scenario.cluster.sql().execute("CREATE TABLE rows (n int)");
        scenario.full_backup();
        scenario.cluster.configure(["archive_command = 'false'"]);
        let name = |n: usize| {
            scenario.cluster.sql().execute(&format!("INSERT INTO rows VALUES ({n})"));
            scenario.cluster.switch_wal()
        };
        let names: Vec<String> = (0..SEGMENTS).map(name).collect();
        scenario.cluster.stop(Stop::Immediate);
        let policy = "[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n";
        let policy = scenario.protected.write("p.toml", policy);
        let with_policy = format!("kind = \"postgres\"\npolicy = \"{}\"\nlog_copies = 1", policy.display());
        let text = scenario.protected.configuration().replace("kind = \"postgres\"", &with_policy);
        scenario.protected.configure_text(&format!("{text}\n{sections}"));
        let wal = scenario.cluster.data.join("pg_wal");
        let segments = names.iter().map(|name| wal.join(name)).collect();
        Some(Self { scenario, segments })
    }

    fn host(&self) -> &Host {
        &self.scenario.protected
    }

    fn socket(&self) -> PathBuf {
        self.host().state_dir().join(format!("push-{SOURCE}.sock"))
    }

    /// A scheduler that listens.
    fn run(&self) -> Running {
        let mut running = self.host().start(&["run"]);
        process::wait_until("the scheduler listens", RECOVERY_TIMEOUT, || {
            assert!(!running.has_ended(), "{}", running.stderr_so_far());
            UnixStream::connect(self.socket()).is_ok()
        });
        running
    }

    /// What the scheduler answers to a push of `file`, asked for as `archive push` does; `change` changes the question.
    fn ask(&self, file: &Path, change: impl Fn(&mut Value)) -> Value {
        let text = self.host().configuration();
        let mut question = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "source": SOURCE,
            "config_file": self.host().config,
            "config_sha256": lifeboat::codec::Sha256Digest::of(text.as_bytes()),
            "file": file,
        });
        change(&mut question);
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.write_all(format!("{question}\n").as_bytes()).expect("it reads");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("it answers"));
        let answer = lines.into_iter().find(|line| line != "wait").expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn objects_of(&self, segment: &Path) -> Vec<String> {
        let name = segment.file_name().expect("a segment").to_string_lossy().into_owned();
        self.scenario.repository.log_objects().into_iter().filter(|key| key.contains(&format!("/{name}_"))).collect()
    }

    /// Every segment is in the repository once, with its own content.
    #[track_caller]
    fn assert_archived(&self, segments: &[PathBuf]) {
        for segment in segments {
            let found = self.objects_of(segment);
            assert_eq!(found.len(), 1, "{}: {found:?}", segment.display());
            assert!(found[0].contains(&digest(segment)), "{} is not what is stored: {found:?}", segment.display());
        }
    }

    /// Waits until the scheduler has stored them, though nobody asked for them.
    #[track_caller]
    fn wait_ahead(&self, segments: &[PathBuf]) {
        let all = || segments.iter().all(|segment| !self.objects_of(segment).is_empty());
        process::wait_until("segments are stored ahead", RECOVERY_TIMEOUT, all);
    }
}

fn archived(output: &Output) -> Value {
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    document["archived"].clone()
}

/// `archive push --output json`.
fn push_json(host: &Host, file: &Path) -> Output {
    host.run(&["archive".as_ref(), "push".as_ref(), SOURCE.as_ref(), file.as_os_str(), "--output=json".as_ref()])
}

#[test]
fn what_waits_is_stored_ahead_and_answered_by_what_was_stored() {
    let Some(stage) = Stage::start("") else { return };
    let running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    // Those behind it were not asked for.
    stage.wait_ahead(&stage.segments);
    stage.assert_archived(&stage.segments);
    for segment in &stage.segments[1..] {
        let output = push_json(stage.host(), segment).success();
        assert_eq!(archived(&output)[0]["repository"], "main", "{output}");
    }
    assert_eq!(running.stderr_so_far().matches("left to archive push").count(), 0, "{}", running.stderr_so_far());
    // Of the signed digests none is missing, and the log is whole.
    stage.scenario.rescue.ok(&["verify", SOURCE]);
    let restored = stage.scenario.restore_and_start("after", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), SEGMENTS as i64);
    let pushed = stage.host().state_dir();
    running.signal(Signal::TERM);
    running.finish(RECOVERY_TIMEOUT).success();
    assert!(!stage.socket().exists());
    let left = leftovers(&pushed);
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// What is remembered of files that were stored ahead of their turn.
fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("own directory").flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { leftovers(&path) } else { vec![path] })
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ahead-")))
        .collect()
}

#[test]
fn a_segment_that_was_written_anew_is_never_called_durable() {
    let Some(stage) = Stage::start("") else { return };
    let _running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    stage.wait_ahead(&stage.segments);
    let changed = &stage.segments[3];
    let other = variant(changed, stage.host(), "other", 7);
    let before = stage.objects_of(changed);
    // In place, with its time put back; and as another file.
    let modified = std::fs::metadata(changed).and_then(|metadata| metadata.modified()).expect("readable");
    let bytes = std::fs::read(&other).expect("readable");
    let file = std::fs::File::options().write(true).open(changed).expect("own file");
    (&file).write_all(&bytes).expect("own file");
    file.set_modified(modified).expect("own file");
    assert_eq!(stage.ask(changed, |_| {})["answer"], "yourself");
    push(stage.host(), changed).refuses(22, &["two servers write the same log", &digest(changed)]);
    std::fs::rename(&other, &stage.segments[5]).expect("same file system");
    push(stage.host(), &stage.segments[5]).exits(1);
    assert_eq!(stage.objects_of(changed), before);
}

#[test]
fn what_another_configuration_asks_is_not_answered() {
    let Some(stage) = Stage::start("") else { return };
    let _running = stage.run();
    let file = &stage.segments[0];
    assert_eq!(stage.ask(file, |_| {})["answer"], "durable");
    stage.wait_ahead(&stage.segments);
    type Change = fn(&mut Value);
    let changes: [Change; 5] = [
        |question| question["config_sha256"] = lifeboat::codec::Sha256Digest::of(b"").to_string().into(),
        |question| question["config_file"] = "/etc/lifeboat.toml".into(),
        |question| question["version"] = "0.0.0".into(),
        |question| question["source"] = "others".into(),
        |question| question["file"] = "pg_wal/000000010000000000000003".into(),
    ];
    for change in changes {
        assert_eq!(stage.ask(&stage.segments[1], change)["answer"], "yourself");
    }
    assert_eq!(stage.ask(Path::new("/etc/passwd"), |_| {})["answer"], "yourself");
    assert_eq!(stage.ask(&stage.segments[1], |_| {})["answer"], "durable");
    // The configuration grows a repository that must have the log: the scheduler knows nothing of it.
    let second = stage.scenario.repository.another("second");
    stage.scenario.add_sections(&second.section("second"));
    stage.host().ok(&["init", "--repository", "second"]);
    let text = stage.host().configuration().replace("log_copies = 1", "log_copies = 2");
    stage.host().configure_text(&text);
    push(stage.host(), &stage.segments[2]).success();
    assert!(second.log_objects().iter().any(|key| key.contains(&digest(&stage.segments[2]))), "{:?}", second.log_objects());
}

#[test]
fn another_servers_log_is_refused_beside_the_scheduler_too() {
    let Some(stage) = Stage::start("") else { return };
    let _running = stage.run();
    let foreign =
        place(stage.host(), "foreign", "00000001000000070000000F", &std::fs::read(&stage.segments[0]).expect("readable"));
    push(stage.host(), &foreign).exits(1);
    let history = place(stage.host(), "a", "00000002.history", b"what is this");
    push(stage.host(), &history).exits(22);
    push(stage.host(), &place(stage.host(), "odd", "pg_control", b"")).refuses(2, &["no file that PostgreSQL archives"]);
}

/// Without an answer, with half of one, and with a lie of a stranger who cannot listen there: the push does its work.
#[test]
fn a_scheduler_that_is_gone_or_mad_costs_nothing() {
    let Some(stage) = Stage::start("") else { return };
    let running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    running.signal(Signal::KILL);
    running.finish(RECOVERY_TIMEOUT).killed();
    assert!(stage.socket().exists(), "it was killed");
    push(stage.host(), &stage.segments[1]).success();
    stage.assert_archived(&stage.segments[..2]);
    // Another comes up in its place.
    let running = stage.run();
    push(stage.host(), &stage.segments[2]).success();
    running.signal(Signal::TERM);
    running.finish(RECOVERY_TIMEOUT).success();
    for (at, words) in
        ["", "wait\n", "{\"answer\":\"dura", "nonsense\n", "{\"answer\":\"yourself\",\"why\":\"\"}\n"].iter().enumerate()
    {
        let listener = UnixListener::bind(stage.socket()).expect("free");
        dirs::give(&stage.socket());
        let serving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody asks");
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).expect("a question");
            (&stream).write_all(words.as_bytes()).expect("somebody listens");
        });
        push(stage.host(), &stage.segments[3 + at]).success();
        stage.assert_archived(&stage.segments[3 + at..4 + at]);
        serving.join().expect("somebody asked");
        std::fs::remove_file(stage.socket()).expect("own file");
    }
}

/// Answers the next question at `socket` with `answer`.
fn answer_once(stage: &Stage, answer: &Value, push: impl FnOnce()) {
    let listener = UnixListener::bind(stage.socket()).expect("free");
    dirs::give(&stage.socket());
    let words = format!("{answer}\n");
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("somebody asks");
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).expect("a question");
        (&stream).write_all(words.as_bytes()).expect("somebody listens");
    });
    push();
    serving.join().expect("somebody asked");
    std::fs::remove_file(stage.socket()).expect("own file");
}

/// Somebody listens in the scheduler's place and says of everything that it is durable.
#[test]
fn whoever_lies_is_not_believed() {
    let Some(stage) = Stage::start("") else { return };
    let running = stage.run();
    let (own, other, file) = (&stage.segments[0], &stage.segments[1], &stage.segments[2]);
    push(stage.host(), own).success();
    stage.wait_ahead(&stage.segments[..3]);
    let of_other = stage.ask(other, |_| {});
    assert_eq!(of_other["answer"], "durable", "{of_other}");
    running.signal(Signal::TERM);
    running.finish(RECOVERY_TIMEOUT).success();
    let truth = |file: &Path| {
        let metadata = std::fs::metadata(file).expect("readable");
        let mut answer = of_other.clone();
        answer["file"] = file.display().to_string().into();
        answer["stamp"] = serde_json::to_value(lifeboat::base::file_stamp::FileStamp::of(&metadata)).expect("JSON");
        let content = lifeboat::codec::FrameDigest::of(&std::fs::read(file).expect("readable"));
        answer["content"] = content.to_string().into();
        answer
    };
    type Lie = fn(&mut Value);
    let lies: [(Lie, &str); 8] = [
        (|answer| answer["file"] = "/pg_wal/000000010000000000000001".into(), "was not asked that"),
        (|answer| answer["config_sha256"] = lifeboat::codec::Sha256Digest::of(b"").to_string().into(), "was not asked that"),
        (|answer| answer["content"] = "0".repeat(32).into(), "stored something else"),
        (|answer| answer["stamp"]["inode"] = 1.into(), "stored something else"),
        (|answer| answer["archived"] = serde_json::json!([]), "more repositories must have it"),
        (|answer| answer["archived"][0]["repository"] = "another".into(), "other repositories must have it"),
        (|answer| answer["queued"] = serde_json::json!(["another"]), "other repositories must have it"),
        (|answer| answer["archived"][0]["key"] = "others/log/key".into(), "another source's"),
    ];
    let forget = |file: &Path| stage.objects_of(file).iter().for_each(|key| stage.scenario.repository.remove(key));
    for (lie, why) in lies {
        forget(file);
        let mut answer = truth(file);
        lie(&mut answer);
        answer_once(&stage, &answer, || {
            let output = push(stage.host(), file).success();
            assert!(output.stderr.contains("is not believed") && output.stderr.contains(why), "{why}: {output}");
        });
        stage.assert_archived(std::slice::from_ref(file));
    }
    // What was said of another file; and what an older program says.
    for answer in [of_other.clone(), serde_json::json!({"answer": "durable", "archived": [], "queued": [], "warnings": []})] {
        forget(file);
        answer_once(&stage, &answer, || drop(push(stage.host(), file).success()));
        stage.assert_archived(std::slice::from_ref(file));
    }
    // With nothing wrong but that it is not so, it is believed: each of the lies above was found.
    forget(file);
    answer_once(&stage, &truth(file), || drop(push(stage.host(), file).success()));
    assert!(stage.objects_of(file).is_empty(), "nobody stored it");
}

/// The scheduler is stopped, and goes on later; others ask it slowly, or nothing at all.
#[test]
fn one_that_is_stopped_or_beset_holds_no_push() {
    let Some(stage) = Stage::start("") else { return };
    let running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    stage.wait_ahead(&stage.segments);
    running.signal(Signal::STOP);
    // What was stored of them is gone: nobody but the pushes can have brought it.
    for key in stage.segments[1..3].iter().flat_map(|segment| stage.objects_of(segment)) {
        stage.scenario.repository.remove(&key);
    }
    let push_soon = |segment: &Path| {
        let output = push(stage.host(), segment).success();
        assert!(output.elapsed < Duration::from_secs(30), "{output}");
    };
    stage.segments[1..3].iter().for_each(|segment| push_soon(segment));
    stage.assert_archived(&stage.segments[1..3]);
    running.signal(Signal::CONT);
    // More than it answers at one time.
    let slow: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(stage.socket()).expect("it listens")).collect();
    slow.iter().for_each(|mut stream| stream.write_all(b"{").expect("it reads"));
    stage.segments[3..5].iter().for_each(|segment| push_soon(segment));
    for mut stream in slow {
        stream.set_read_timeout(Some(RECOVERY_TIMEOUT)).expect("own socket");
        assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)), "nothing was asked");
    }
    // It answers again.
    let answered = || stage.ask(&stage.segments[6], |_| {})["answer"] == "durable";
    process::wait_until("it answers", RECOVERY_TIMEOUT, answered);
}

#[test]
fn a_scheduler_killed_in_the_middle_has_acknowledged_nothing_that_is_not_there() {
    let Some(stage) = Stage::start("") else { return };
    for point in ["push.encoded", "push.stored"] {
        let mut command = stage.host().command(&["run"]);
        command.env("LIFEBOAT_KILL_AT", format!("{point}:3"));
        let mut running = Running::start(command);
        process::wait_until("it listens", RECOVERY_TIMEOUT, || {
            UnixStream::connect(stage.socket()).is_ok() || running.has_ended()
        });
        // One after another, as PostgreSQL does it, each told to be durable.
        for segment in &stage.segments {
            push(stage.host(), segment).success();
            stage.assert_archived(std::slice::from_ref(segment));
        }
        process::wait_until("it is killed", RECOVERY_TIMEOUT, || running.has_ended());
        for segment in stage.objects_of_all() {
            stage.scenario.repository.remove(&segment);
        }
    }
}

impl Stage {
    fn objects_of_all(&self) -> Vec<String> {
        self.segments.iter().flat_map(|segment| self.objects_of(segment)).collect()
    }
}

#[test]
fn while_the_repository_is_away_nothing_is_durable() {
    let Some(stage) = Stage::start("") else { return };
    // Not in PostgreSQL's list, so it is not stored ahead.
    let (last, others) = stage.segments.split_last().expect("segments");
    let name = last.file_name().expect("a segment").to_string_lossy().into_owned();
    std::fs::remove_file(last.with_file_name("archive_status").join(format!("{name}.ready"))).expect("own cluster");
    let running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    stage.wait_ahead(others);
    let fresh = place(stage.host(), "pg_wal", "000000010000000000000099", b"");
    assert_eq!(stage.ask(&fresh, |_| {})["answer"], "yourself", "an empty file");
    stage.scenario.repository.take_away();
    assert_eq!(stage.ask(last, |_| {})["answer"], "yourself", "nobody stored it");
    let label = place(stage.host(), "labels", "000000010000000000000003.00000028.backup", b"START WAL LOCATION");
    let output = push(stage.host(), &label);
    assert!(output.code.is_some_and(|code| (1..=125).contains(&code)), "{output}");
    stage.scenario.repository.bring_back();
    running.signal(Signal::TERM);
    running.finish(RECOVERY_TIMEOUT).success();
    stage.assert_archived(others);
    assert!(stage.objects_of(last).is_empty());
    push(stage.host(), last).success();
    stage.assert_archived(&stage.segments);
}

/// Segments were stored ahead in one repository; then the configuration names another in its place.
#[test]
fn what_was_stored_before_a_reload_does_not_count_after_it() {
    let Some(stage) = Stage::start("") else { return };
    let second = stage.scenario.repository.another("second");
    let running = stage.run();
    push(stage.host(), &stage.segments[0]).success();
    stage.wait_ahead(&stage.segments);
    stage.scenario.add_sections(&second.section("second"));
    stage.host().ok(&["init", "--repository", "second"]);
    let text = stage.host().configuration().replace("log_copies = 1", "log_copies = 1\nrepositories = [\"second\"]");
    stage.host().configure_text(&text);
    running.signal(Signal::HUP);
    // Also while it is being read again.
    for segment in &stage.segments[1..] {
        let output = push_json(stage.host(), segment).success();
        assert_eq!(archived(&output)[0]["repository"], "second", "{output}");
        assert!(second.log_objects().iter().any(|key| key.contains(&digest(segment))), "{:?}", second.log_objects());
    }
    process::wait_until("it was read again", RECOVERY_TIMEOUT, || running.stderr_so_far().contains("configuration read again"));
}

#[test]
fn what_a_repository_lacks_is_queued_before_it_is_acknowledged() {
    let Some(stage) = Stage::start("") else { return };
    let second = stage.scenario.repository.another("second");
    stage.scenario.add_sections(&second.section("second"));
    stage.host().ok(&["init", "--repository", "second"]);
    second.take_away();
    let _running = stage.run();
    for segment in &stage.segments[..4] {
        let output = push_json(stage.host(), segment).success();
        let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(document["queued"], serde_json::json!(["second"]), "{output}");
    }
    let queue = stage.host().json(&["queue", SOURCE]).to_string();
    for segment in &stage.segments[..4] {
        assert!(queue.contains(&segment.file_name().expect("a name").to_string_lossy().into_owned()), "{queue}");
    }
    second.bring_back();
    // One in the background may be at it.
    stage.host().run(&["queue", SOURCE, "--deliver"]);
    let delivered =
        || stage.segments[..4].iter().all(|segment| second.log_objects().iter().any(|key| key.contains(&digest(segment))));
    process::wait_until("the second has them", RECOVERY_TIMEOUT, delivered);
}
