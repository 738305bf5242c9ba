//! What the spool says and does, without a server: segments are bytes.

use super::*;
use crate::codec::Sha256Digest;
use crate::codec::compress::Compressor;
use crate::codec::encrypt::Opener;
use crate::source::postgres::wal::fixture::Log;

const SHORT: Duration = Duration::from_millis(20);

struct Stage {
    dir: tempfile::TempDir,
    spool: Arc<Spool>,
}

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn name(timeline: u32, number: u64) -> String {
    Segment { timeline: TimelineId(timeline), number }.name(size())
}

/// The segment `name` as it is fetched.
fn whole(name: &str, content: &[u8]) -> Fetched {
    let stored = Compressor::new(1).unwrap().compress(content).unwrap().into();
    let (key, digest) = (format!("{name}.zst"), Sha256Digest::of(content).short());
    Fetched::Whole(name.to_owned(), Sealed { key, stored, opener: Opener::Plain, digest })
}

impl Stage {
    /// The recovery has just been given segment 1 of timeline 1.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let position = Segment { timeline: TimelineId(1), number: 1 };
        let (data, state) = (data_directory().unwrap(), Mutex::new(State::at(position)));
        let spool = Spool { directory: dir.path().to_owned(), size: size(), data, state, changed: Condvar::new() };
        Self { dir, spool: Arc::new(spool) }
    }

    fn question(&self, name: &str) -> Question {
        let landing = self.dir.path().join(format!(".{name}.tmp"));
        Question { name: name.to_owned(), landing, data: data_directory().unwrap() }
    }

    /// Whether it was handed over, with this content; none while it is being fetched.
    fn ask(&self, name: &str, content: u8) -> Option<bool> {
        let question = self.question(name);
        let landed = match self.spool.answer(&question, SHORT)? {
            Reply::Landed { bytes } => {
                let found = fs::read(&question.landing).unwrap();
                assert!(found.len() as u64 == bytes && found.iter().all(|byte| *byte == content), "other content");
                fs::remove_file(&question.landing).unwrap();
                true
            }
            Reply::Yourself => false,
        };
        assert!(!question.landing.exists());
        Some(landed)
    }

    /// Fetches the next segment, whose names must be these: each byte of it is `content`.
    fn fetch(&self, names: &[String], content: u8) {
        let task = self.spool.next().unwrap();
        assert_eq!(task.names, names);
        task.done(whole(&names[0], &vec![content; size().bytes() as usize]), &mut Vec::new());
    }

    /// That nothing is to be fetched now.
    fn assert_idle(&self) {
        assert!(self.spool.state().wanted(self.spool.depth(), size()).is_none());
    }
}

#[test]
fn segments_come_in_their_order_and_are_handed_over_once() {
    let stage = Stage::new();
    for number in 2..2 + MOST_SEGMENTS {
        stage.fetch(&[name(1, number)], number as u8);
    }
    stage.assert_idle();
    assert_eq!(stage.ask(&name(1, 2), 2), Some(true));
    assert_eq!(stage.ask(&name(1, 2), 2), Some(false), "it is gone");
    // What was passed by is let go, and the next ones come.
    assert_eq!(stage.ask(&name(1, 9), 9), Some(true));
    assert_eq!(stage.ask(&name(1, 5), 5), Some(false));
    stage.fetch(&[name(1, 6)], 6);
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 0, "nothing has a name");
}

#[test]
fn what_is_being_fetched_is_waited_for_and_what_fails_is_not() {
    let stage = Stage::new();
    let (second, third) = (stage.spool.next().unwrap(), stage.spool.next().unwrap());
    assert_eq!(stage.ask(&name(1, 2), 2), None);
    drop(second);
    assert_eq!(stage.ask(&name(1, 2), 2), Some(false), "whoever fetched it has died");
    third.done(Fetched::Absent, &mut Vec::new());
    stage.assert_idle();
    assert_eq!(stage.ask(&name(1, 3), 3), Some(false));
    stage.fetch(&[name(1, 4)], 4);
    let fifth = stage.spool.next().unwrap();
    // Cut short: no segment.
    fifth.done(whole(&name(1, 5), &[5; 4096]), &mut Vec::new());
    assert_eq!((stage.ask(&name(1, 4), 4), stage.ask(&name(1, 5), 5)), (Some(true), Some(false)));
    stage.spool.close();
    assert!(stage.spool.next().is_none());
}

#[test]
fn what_is_not_what_its_name_says_is_not_held() {
    let (content, mut raw) = (vec![7; size().bytes() as usize], vec![1; 100]);
    let spoil: [fn(&mut Sealed); 4] = [
        |_| {},
        |sealed| sealed.digest = Sha256Digest::of(b"other").short(),
        |sealed| sealed.stored = sealed.stored.slice(..sealed.stored.len() - 1),
        |sealed| sealed.stored = [&sealed.stored[..], &sealed.stored[..]].concat().into(),
    ];
    for (at, spoil) in spoil.into_iter().enumerate() {
        let stage = Stage::new();
        let Fetched::Whole(name, mut sealed) = whole(&name(1, 2), &content) else { unreachable!("it is whole") };
        spoil(&mut sealed);
        stage.spool.next().unwrap().done(Fetched::Whole(name.clone(), sealed), &mut raw);
        assert_eq!(stage.ask(&name, 7), Some(at == 0), "{at}");
        assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_log_goes_on_on_the_next_timeline() {
    let stage = Stage::new();
    let switch = format!("1\t{}\tno reason\n", crate::base::Lsn(3 * size().bytes() + 512));
    fs::write(stage.dir.path().join("00000002.history"), switch).unwrap();
    // Nobody has it: the history is read when the recovery goes on.
    stage.spool.state().history = stage.spool.history(Segment { timeline: TimelineId(1), number: 1 });
    stage.fetch(&[name(1, 2)], 2);
    stage.fetch(&[name(2, 3), name(1, 3)], 3);
    stage.fetch(&[name(2, 4), name(1, 4)], 4);
    assert_eq!(stage.ask(&name(1, 2), 2), Some(true));
    // A recovery that stays on its timeline is given nothing of the other one, and what it asks for from now on.
    assert_eq!(stage.ask(&name(1, 3), 3), Some(false));
    let task = stage.spool.next().unwrap();
    assert_eq!(task.names, [name(1, 5)]);
    drop(task);
    assert_eq!(stage.ask(&name(2, 4), 4), Some(true), "and one that goes on is");
    stage.fetch(&[name(2, 5)], 5);
    assert_eq!(stage.ask(&name(2, 5), 5), Some(true));
}

/// Another content of the same name may have come to light since it was fetched.
#[test]
fn what_was_fetched_long_ago_is_fetched_again() {
    let stage = Stage::new();
    for (number, age, is_handed_over) in [(2, HELD_FOR * 2, false), (3, HELD_FOR / 2, true)] {
        let mut task = stage.spool.next().unwrap();
        task.began = Instant::now().checked_sub(age).expect("up for minutes");
        task.done(whole(&name(1, number), &vec![number as u8; size().bytes() as usize]), &mut Vec::new());
        assert_eq!(stage.ask(&name(1, number), number as u8), Some(is_handed_over), "{age:?}");
    }
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 0, "nothing is left of either");
}

#[test]
fn strangers_are_sent_away() {
    let stage = Stage::new();
    stage.fetch(&[name(1, 2)], 2);
    let good = stage.question(&name(1, 2));
    let elsewhere = tempfile::tempdir().unwrap();
    for question in [
        Question { data: (good.data.0, good.data.1 + 1), ..good.clone() },
        Question { landing: elsewhere.path().join("landing"), ..good.clone() },
        Question { name: "00000002.history".to_owned(), ..good.clone() },
        Question { name: name(2, 2), ..good.clone() },
    ] {
        assert_eq!(stage.spool.answer(&question, SHORT), Some(Reply::Yourself), "{question:?}");
        assert!(!question.landing.exists());
    }
    // A landing that is taken is left alone.
    fs::write(&good.landing, "somebody's").unwrap();
    assert_eq!(stage.spool.answer(&good, SHORT), Some(Reply::Yourself));
    assert_eq!(fs::read(&good.landing).unwrap(), b"somebody's");
}

#[test]
fn what_nobody_took_is_removed() {
    let stage = Stage::new();
    stage.fetch(&[name(1, 2)], 2);
    stage.fetch(&[name(1, 3)], 3);
    let (second, third) = (stage.question(&name(1, 2)), stage.question(&name(1, 3)));
    assert!(matches!(stage.spool.answer(&second, SHORT), Some(Reply::Landed { .. })));
    assert!(matches!(stage.spool.answer(&third, SHORT), Some(Reply::Landed { .. })));
    assert!(!second.landing.exists() && third.landing.exists());
    stage.spool.sweep();
    assert!(!third.landing.exists());
}

#[test]
fn a_real_segment_is_handed_over_unread_and_another_is_looked_at() {
    let mut log = Log::new();
    log.commit(1, 1);
    let (segment, raw) = log.segments().remove(0);
    assert!(!Creations::of(segment, log.size, &raw).may_create(Some(false)));
    assert!(Creations::of(segment, log.size, &[0; 8192]).may_create(Some(false)), "what cannot be read is looked at");
}
