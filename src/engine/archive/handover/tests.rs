//! What the ledger says, and what is made of it: files are a few bytes.

use super::*;

const SHORT: Duration = Duration::from_millis(20);

fn config(number: u8) -> Sha256Digest {
    Sha256Digest::of(&[number])
}

fn under(number: u8, repositories: &[&str], needed: usize) -> Under {
    let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
    Under { config_sha256: config(number), repositories, needed }
}

struct Stage {
    dir: tempfile::TempDir,
    ledger: Ledger,
}

impl Stage {
    fn new(segments: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("archive_status")).unwrap();
        let stage = Self { dir, ledger: Ledger::default() };
        stage.ledger.note_repository(config(1), "main", "id-1");
        (1..=segments).for_each(|number| stage.write(number, "content"));
        stage
    }

    fn file(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("0000000100000000000000{number:02X}"))
    }

    fn write(&self, number: u32, content: &str) {
        let file = self.file(number);
        fs::write(&file, content).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        fs::write(self.dir.path().join(format!("archive_status/{name}.ready")), "").unwrap();
    }

    fn stored(&self, number: u32, settled: bool) -> Stored {
        let archived = Archived { repository: "main".into(), key: "orders/log/key".into(), already_there: false };
        let durable = Durable { archived: vec![archived], queued: Vec::new(), warnings: Vec::new() };
        let raw = fs::read(self.file(number)).unwrap();
        let (raw_sha256, content) = (Sha256Digest::of(&raw), FrameDigest::of(&raw));
        let stamp = stamp(&self.file(number)).unwrap();
        let repository_ids = BTreeMap::from([("main".to_owned(), "id-1".to_owned())]);
        let (config_sha256, since) = (config(1), Instant::now());
        Stored { stamp, settled, raw_sha256, content, durable, config_sha256, repository_ids, since }
    }

    fn ask(&self, number: u32) -> Option<Answer> {
        self.ledger.ask(&self.file(number), &under(1, &["main"], 1), SHORT)
    }

    fn is_durable(&self, number: u32) -> bool {
        matches!(self.ask(number), Some(Answer::Durable(_)))
    }

    fn is_left_to_whoever_asks(&self, number: u32) -> bool {
        matches!(self.ask(number), Some(Answer::Yourself { .. }))
    }

    /// The next file to store, and its age.
    fn next(&self) -> (PathBuf, u64) {
        self.ledger.next().unwrap()
    }
}

#[test]
fn what_was_asked_for_comes_first_and_then_what_waits_behind_it() {
    let stage = Stage::new(5);
    assert_eq!(stage.ledger.next(), None, "nobody asked for anything");
    assert_eq!(stage.ask(2), None);
    for number in [2, 3, 4] {
        assert_eq!(stage.next().0, stage.file(number));
    }
    stage.ledger.settle(stage.file(3), 0, Ok(stage.stored(3, true)));
    assert!(stage.is_durable(3));
    assert_eq!(stage.ask(1), None);
    assert_eq!((stage.next().0, stage.next().0), (stage.file(1), stage.file(5)));
}

#[test]
fn nothing_is_durable_that_is_not_what_was_stored() {
    for settled in [true, false] {
        let stage = Stage::new(1);
        stage.ask(1);
        let age = stage.next().1;
        let stored = stage.stored(1, settled);
        stage.ledger.settle(stage.file(1), age, Ok(stored.clone()));
        assert!(stage.is_durable(1));
        stage.ledger.settle(stage.file(1), age, Ok(stored.clone()));
        // Written anew, longer, and another file of the same name.
        stage.ledger.settle(stage.file(1), age, Ok(stored.clone()));
        stage.write(1, "another content");
        assert!(stage.is_left_to_whoever_asks(1));
        stage.ledger.settle(stage.file(1), age, Ok(stored));
        fs::remove_file(stage.file(1)).unwrap();
        assert!(stage.is_left_to_whoever_asks(1));
    }
}

/// No reload is told to the ledger here: what an entry says of itself must be enough.
#[test]
fn what_was_stored_by_a_configuration_counts_for_it_and_its_repositories_alone() {
    let stage = Stage::new(1);
    let ask = |stored: Stored, under: Under| {
        stage.ask(1);
        let age = stage.next().1;
        stage.ledger.settle(stage.file(1), age, Ok(stored));
        match stage.ledger.ask(&stage.file(1), &under, SHORT) {
            Some(Answer::Durable(_)) => "durable".to_owned(),
            Some(Answer::Yourself { why }) => why,
            None => panic!("an answer"),
        }
    };
    let stored = || stage.stored(1, true);
    assert_eq!(ask(stored(), under(1, &["main"], 1)), "durable");
    assert_eq!(ask(stored(), under(2, &["main"], 1)), "it was stored by another configuration");
    assert_eq!(ask(stored(), under(1, &["main", "far"], 2)), "more repositories must have it now");
    assert_eq!(ask(stored(), under(1, &["main", "far"], 1)), "other repositories must have it now");
    assert_eq!(ask(stored(), under(1, &["far"], 1)), "other repositories must have it now");
    let mut queued = stored();
    queued.durable.queued.push("far".into());
    assert_eq!(ask(queued.clone(), under(1, &["main", "far"], 1)), "durable");
    assert_eq!(ask(queued, under(1, &["main"], 1)), "other repositories must have it now");
    let nameless = Stored { repository_ids: BTreeMap::new(), ..stored() };
    assert_eq!(ask(nameless, under(1, &["main"], 1)), "a repository is another than when it was stored");
    let old = Stored { since: Instant::now().checked_sub(COUNTS_FOR * 2).expect("up for minutes"), ..stored() };
    assert_eq!(ask(old, under(1, &["main"], 1)), "it was stored a while ago");
    // The same id under the name in another configuration says nothing of this one.
    stage.ledger.note_repository(config(2), "main", "id-2");
    assert_eq!(ask(stored(), under(1, &["main"], 1)), "durable");
    stage.ledger.note_repository(config(1), "main", "id-2");
    assert_eq!(ask(stored(), under(1, &["main"], 1)), "a repository is another than when it was stored");
}

/// Whoever asks believes an answer only where it fits all that is known without it.
#[test]
fn an_answer_that_does_not_fit_is_no_answer() {
    let stage = Stage::new(2);
    let assured = |number: u32| {
        stage.ask(number);
        let age = stage.ledger.next().unwrap().1;
        stage.ledger.settle(stage.file(number), age, Ok(stage.stored(number, true)));
        match stage.ask(number) {
            Some(Answer::Durable(assurance)) => assurance,
            other => panic!("{other:?}"),
        }
    };
    let source: SourceName = "orders".parse().unwrap();
    let request =
        Request { version: String::new(), source, config_file: PathBuf::new(), config_sha256: config(1), file: stage.file(1) };
    let good = assured(1);
    let objection = |assurance: &Assurance, under: Under| assurance.objection(&request, &under);
    assert_eq!(objection(&good, under(1, &["main"], 1)), None);
    // As it travels.
    let text = serde_json::to_string(&Answer::Durable(good.clone())).unwrap();
    assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), Answer::Durable(good.clone()));
    let (more, others) = ("more repositories must have it now", "other repositories must have it now");
    assert_eq!(objection(&good, under(1, &["main", "far"], 2)), Some(more));
    assert_eq!(objection(&good, under(1, &["main", "far"], 1)), Some(others));
    assert_eq!(objection(&good, under(1, &["far"], 1)), Some(others));
    let lie = |change: &dyn Fn(&mut Assurance)| {
        let mut lie = good.clone();
        change(&mut lie);
        objection(&lie, under(1, &["main"], 1))
    };
    assert_eq!(lie(&|lie| lie.durable.archived.clear()), Some(more));
    assert_eq!(lie(&|lie| lie.durable.queued.push("far".into())), Some(others));
    assert_eq!(lie(&|lie| lie.durable.archived[0].repository = "far".into()), Some(others));
    assert_eq!(lie(&|lie| lie.durable.archived[0].key = "ordres/log/key".into()), Some("it is stored as another source's"));
    assert_eq!(lie(&|lie| lie.config_sha256 = config(2)), Some("it was not asked that"));
    assert_eq!(lie(&|lie| *lie = assured(2)), Some("it was not asked that"));
    assert_eq!(lie(&|lie| lie.content = FrameDigest::of(b"other")), Some("it stored something else"));
    assert_eq!(lie(&|lie| lie.stamp.inode += 1), Some("it stored something else"));
    stage.write(1, "written since");
    assert_eq!(objection(&good, under(1, &["main"], 1)), Some("it stored something else"));
    fs::remove_file(stage.file(1)).unwrap();
    assert_eq!(objection(&good, under(1, &["main"], 1)), Some("it stored something else"));
}

#[test]
fn a_link_is_as_old_as_what_it_leads_to() {
    let stage = Stage::new(1);
    let link = stage.dir.path().join("link");
    std::os::unix::fs::symlink(stage.file(1), &link).unwrap();
    assert_eq!(stamp(&link).unwrap(), stamp(&stage.file(1)).unwrap());
}

#[test]
fn a_young_file_is_compared_by_its_content() {
    let stage = Stage::new(1);
    stage.ask(1);
    let age = stage.next().1;
    // As if it had been written within the same step of the clock.
    let lie = Stored { raw_sha256: Sha256Digest::of(b"what was there"), ..stage.stored(1, false) };
    stage.ledger.settle(stage.file(1), age, Ok(lie));
    assert!(stage.is_left_to_whoever_asks(1));
    let stamp = stage.stored(1, false).stamp;
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_nanos((stamp.changed_nanos + seconds * 1_000_000_000) as u64);
    assert!(!is_settled(&stamp, at(0)) && !is_settled(&stamp, at(1)) && is_settled(&stamp, at(2)));
    assert!(!is_settled(&stamp, UNIX_EPOCH), "its times lie in the future");
}

#[test]
fn a_failure_a_change_of_configuration_and_the_end_are_told_at_once() {
    let stage = Stage::new(4);
    stage.ask(1);
    let age = stage.next().1;
    stage.ledger.next();
    stage.ledger.settle(stage.file(1), age, Err("no answer".into()));
    assert!(stage.is_left_to_whoever_asks(1) && stage.is_left_to_whoever_asks(3), "it rests");
    let stage = Stage::new(4);
    stage.ask(1);
    let age = stage.next().1;
    stage.ledger.start_anew();
    stage.ledger.settle(stage.file(1), age, Ok(stage.stored(1, true)));
    assert!(stage.is_left_to_whoever_asks(1), "what was begun before does not count");
    stage.ledger.close();
    assert!(stage.is_left_to_whoever_asks(2));
}
