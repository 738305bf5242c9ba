//! The archive over a store in memory, with a log made by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::get::{self, Got, Look};
use super::named::Streamed;
use super::read::{LogFile, identity_of};
use super::{FileKind, file_kind, push, resolve};
use crate::base::{Error, ErrorKind, Incarnation, Segment, TimelineId};
use crate::codec::Sha256Digest;
use crate::codec::compress::Compressor;
use crate::codec::encrypt::{Identity, fresh_identity_file, parse_identity_file};
use crate::engine::{Scope, Writing};
use crate::repo::log::name::CommitTime;
use crate::repo::log::tail::PieceName;
use crate::repo::{KeyEntry, Repository, Role, Signer, identity, layout};
use crate::source::postgres::control;
use crate::source::postgres::wal::Carry;
use crate::source::postgres::wal::fixture::{Log, SYSTEM_IDENTIFIER};
use crate::store::faulty::{Fault, FaultyStore};
use crate::store::memory::MemoryStore;
use crate::store::{Store, list_all};

mod pieces;

struct Stage {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    scope: Scope,
    writing: Writing,
    incarnation: Incarnation,
    log: Log,
}

impl Stage {
    /// A repository that knows the cluster of a log with one whole segment and some of the next.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new();
        log.commit(7, 1_000_000);
        log.switch();
        for xid in 8..300 {
            log.commit(xid, i64::from(xid) * 1_000_000);
        }
        let signer = Signer::generate();
        let entry = KeyEntry {
            name: "host".into(),
            public_key: signer.public_key(),
            roles: vec![Role::Write, Role::Expire, Role::Admin],
        };
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let repository = Repository::create("main", store.clone(), vec![entry], &signer).await.unwrap();
        let scope = Scope::new(repository, "orders".parse().unwrap(), &dir.path().join("state"));
        let known = identity_of(15, SYSTEM_IDENTIFIER, log.size);
        identity::ensure(&scope.repository, &scope.source, &signer, &known).await.unwrap();
        let writing = Writing { signer, recipients: None, compression_level: 1 };
        Self { dir, store, scope, writing, incarnation: known.incarnation, log }
    }

    /// The segment that is not whole, and its content so far.
    fn open(&self) -> (Segment, Vec<u8>) {
        self.log.segments().pop().unwrap()
    }

    /// Stores the stretch of the open segment as a piece; its key.
    async fn put_piece(&self, from: usize, to: usize) -> String {
        let (_, raw) = self.open();
        self.put_piece_of(from, &raw[from..to]).await
    }

    async fn put_piece_of(&self, from: usize, raw: &[u8]) -> String {
        let seal = push::seal(&self.scope, &self.writing, &self.incarnation).await.unwrap();
        let (segment, _) = self.open();
        let name = PieceName {
            from: from as u32,
            to: (from + raw.len()) as u32,
            first: CommitTime::Unknown,
            last: CommitTime::Unknown,
            commits: None,
            digest: Sha256Digest::of(raw).short(),
            within_micros: None,
        };
        let place = layout::tail_segment(&self.scope.source, &self.incarnation, segment.timeline, &segment.name(self.log.size));
        let key = format!("{place}{}", name.text(seal.suffix()));
        let stored = seal.seal(&Compressor::new(1).unwrap().compress(raw).unwrap()).unwrap();
        self.store.put_if_absent(&key, Bytes::from(stored).into()).await.unwrap();
        key
    }

    /// A file of the server's log directory.
    fn file(&self, name: &str, raw: &[u8]) -> PathBuf {
        let directory = self.dir.path().join("pg_wal");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), raw).unwrap();
        directory.join(name)
    }

    /// The server's log up to now, the last segment whole.
    fn whole(&self) -> (Segment, Vec<u8>) {
        let mut log = self.log.clone();
        log.switch();
        log.segments().pop().unwrap()
    }

    async fn get(&self, segment: Segment) -> Result<Got, Error> {
        self.get_from(&self.scope, &Vec::new(), segment).await
    }

    async fn get_from(&self, scope: &Scope, identities: &Vec<Identity>, segment: Segment) -> Result<Got, Error> {
        let name = segment.name(self.log.size);
        get::run(scope, identities, Some(self.incarnation.clone()), &name, super::get::Pieces::All, Look::Here).await
    }

    /// The same source through another store.
    async fn through(&self, store: Arc<dyn Store>) -> Scope {
        let repository = Repository::open("main", store, None).await.unwrap();
        Scope::new(repository, self.scope.source.clone(), &self.dir.path().join("another state"))
    }

    async fn keys(&self, part: &str) -> Vec<String> {
        let listed = list_all(self.store.as_ref(), "orders/", None).await.unwrap();
        listed.into_iter().map(|object| object.key).filter(|key| key.contains(part)).collect()
    }
}

#[tokio::test]
async fn what_was_streamed_of_a_segment_is_not_archived_for_the_whole() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    let name = segment.name(stage.log.size);
    stage.put_piece(0, 8192).await;
    let Ok(Got::Part(part)) = stage.get(segment).await else { panic!("a part") };
    assert_eq!((part.bytes, &part.raw[..8192]), (8192, &raw[..8192]));

    let file = stage.file(&name, &part.raw);
    let error = push::run(&stage.scope, &stage.writing, &file).await.unwrap_err();
    assert!(error.to_string().contains("holds only what was streamed of it so far"), "{error}");
    assert!(stage.keys(&format!("/{name}_")).await.is_empty(), "nothing is stored");

    // The server goes over to another timeline in it: there is no more to come.
    let branch = segment.start(stage.log.size).plus(4096);
    stage.file("00000002.history", format!("1\t{branch}\tno recovery target specified\n").as_bytes());
    let pushed = push::run(&stage.scope, &stage.writing, &file).await.unwrap();
    assert_eq!(pushed.file, format!("{name}.partial"));
    assert!(stage.keys(&format!("/{name}_")).await.is_empty() && stage.keys(&format!("/{name}.partial_")).await.len() == 1);
    std::fs::remove_file(file.with_file_name("00000002.history")).unwrap();

    let (_, whole) = stage.whole();
    let file = stage.file(&name, &whole);
    let pushed = push::run(&stage.scope, &stage.writing, &file).await.unwrap();
    assert!(stage.get(segment).await.unwrap() == Got::Whole(whole), "{}", pushed.key);
}

#[tokio::test]
async fn a_wrong_piece_is_named() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    stage.put_piece(0, 4096).await;
    stage.put_piece(2048, 8192).await;
    let Ok(Got::Part(part)) = stage.get(segment).await else { panic!("a part") };
    assert_eq!((part.bytes, &part.raw[..8192]), (8192, &raw[..8192]));

    let wrong = stage.put_piece_of(4000, &[7; 100]).await;
    let error = stage.get(segment).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Contradicted);
    assert!(format!("{error:?}").contains(&wrong) && format!("{error:?}").contains("--to latest"), "{error:?}");
    stage.store.delete(&wrong).await.unwrap();
    assert!(matches!(stage.get(segment).await, Ok(Got::Part(_))));
}

#[tokio::test]
async fn pieces_from_before_and_after_encryption_was_turned_on_are_one_segment() {
    let mut stage = Stage::new().await;
    let (segment, raw) = stage.open();
    stage.put_piece(0, 4096).await;
    let (identity, recipient) = fresh_identity_file("2026-11-21");
    stage.writing.recipients = Some(vec![recipient]);
    stage.put_piece(4096, 8192).await;
    let identities = parse_identity_file(&identity).unwrap();
    let Ok(Got::Part(part)) = stage.get_from(&stage.scope, &identities, segment).await else { panic!("a part") };
    assert_eq!((part.bytes, &part.raw[..8192]), (8192, &raw[..8192]));
}

/// The part came from another repository, to which the log is streamed.
#[tokio::test]
async fn a_part_is_not_archived_where_there_are_no_pieces_either() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    let name = segment.name(stage.log.size);
    let file = stage.file(&name, &raw);
    let push = || push::run(&stage.scope, &stage.writing, &file);
    let global = stage.dir.path().join("global");
    std::fs::create_dir_all(&global).unwrap();
    std::fs::write(stage.dir.path().join("PG_VERSION"), "15\n").unwrap();
    let state = |state: u8| {
        let mut control = control::tests::sample(1300);
        control[16] = state;
        control::tests::seal(&mut control);
        std::fs::write(global.join("pg_control"), control).unwrap();
    };
    // A standby, running or not.
    for recovering in [5, 2] {
        state(recovering);
        let error = push().await.unwrap_err();
        assert!(error.to_string().contains("holds only what was streamed of it so far"), "{error}");
    }
    let branch = segment.start(stage.log.size).plus(4096);
    let history = stage.file("00000002.history", format!("1\t{branch}\tno recovery target specified\n").as_bytes());
    state(6);
    assert_eq!(push().await.unwrap().file, format!("{name}.partial"));
    assert!(stage.keys(&format!("/{name}_")).await.is_empty());
    // A primary's is archived as it is.
    std::fs::remove_file(history).unwrap();
    assert_eq!(push().await.unwrap().file, name);
}

/// A stream takes the pieces away, one after the other, once the segment is there.
#[tokio::test]
async fn a_segment_that_becomes_whole_while_its_pieces_are_read_is_found() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.whole();
    let pushed = push::run(&stage.scope, &stage.writing, &stage.file(&segment.name(stage.log.size), &raw)).await.unwrap();
    let stored = stage.store.get(&pushed.key).await.unwrap();
    stage.store.delete(&pushed.key).await.unwrap();
    let pieces = [stage.put_piece(0, 4096).await, stage.put_piece(4096, 8192).await];

    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    let scope = stage.through(counting.clone()).await;
    assert!(matches!(stage.get_from(&scope, &Vec::new(), segment).await, Ok(Got::Part(_))));
    let call = counting.calls().iter().position(|call| call.contains("get") && call.contains(&pieces[0])).unwrap();
    let (store, key, first) = (stage.store.clone(), pushed.key, pieces[0].clone());
    let becomes_whole = move || {
        store.put_if_absent(&key, stored.into()).now_or_never().unwrap().unwrap();
        store.delete(&first).now_or_never().unwrap().unwrap();
    };
    let scope = stage.through(Arc::new(FaultyStore::interrupted(stage.store.clone(), call, becomes_whole))).await;
    let got = stage.get_from(&scope, &Vec::new(), segment).await;
    assert!(got.as_ref().is_ok_and(|got| *got == Got::Whole(raw)), "{:?}", got.err());
}

/// On a host that archives and streams.
#[tokio::test]
async fn how_a_segment_was_streamed_is_noted_when_a_push_stored_it_first() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.whole();
    let name = segment.name(stage.log.size);
    push::run(&stage.scope, &stage.writing, &stage.file(&name, &raw)).await.unwrap();
    let mut file = LogFile::of_segment(&stage.scope, &stage.writing, &name, raw.into(), &Carry::Unknown).unwrap();
    file.streamed = Some(Streamed { pieces: Duration::from_secs(2), rest: None });
    assert!(push::received(&stage.scope, &stage.writing, file).await.unwrap().already_there);
    let lines = stage.scope.state.unsigned_lines(&stage.scope.source, &stage.incarnation);
    let told: Vec<Option<u64>> = lines.into_iter().map(|line| line.streamed_within_micros).collect();
    assert_eq!(told, [None, Some(2_000_000)]);
}

/// After an outage the segment before is gone; what straddles out of it is known from here alone.
#[tokio::test]
async fn what_straddles_into_a_segment_is_kept_until_it_is_durable() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.whole();
    let (name, next) = (segment.name(stage.log.size), segment.next().name(stage.log.size));
    let file = stage.file(&name, &raw);
    let (source, incarnation) = (&stage.scope.source, &stage.incarnation);
    let known = |name: &str| stage.scope.state.carry_into(source, incarnation, name);
    stage.scope.state.remember_carry(source, incarnation, &name, b"kept").unwrap();
    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    Repository::open("main", counting.clone(), None).await.unwrap();
    for call in 0..20 {
        let faulty = FaultyStore::failing(stage.store.clone(), counting.calls().len() + call, Fault::ErrorBefore, 0);
        let repository = Repository::open("main", Arc::new(faulty), None).await.unwrap();
        let scope = Scope::new(repository, source.clone(), &stage.dir.path().join("state"));
        if push::beside(&scope, &stage.writing, &file, &push::Company::default()).await.is_ok() {
            assert!(call > 0, "no call failed");
            assert_eq!(known(&name), None);
            assert!(known(&next).is_some());
            return;
        }
        assert_eq!(known(&name), Some(b"kept".to_vec()), "call {call} failed");
    }
    panic!("it never succeeds");
}

#[tokio::test]
async fn no_decision_keeps_a_piece() {
    let stage = Stage::new().await;
    let (segment, _) = stage.open();
    let key = stage.put_piece(0, 4096).await;
    let piece = PieceName::parse(key.rsplit('/').next().unwrap()).unwrap().digest;
    let (name, operator) = (segment.name(stage.log.size), &stage.writing.signer);
    let error = resolve::run(&stage.scope, operator, None, &name, &piece).await.unwrap_err();
    assert!(format!("{error:?}").contains(&key), "{error:?}");
    resolve::run(&stage.scope, operator, None, &name, "0123456789abcdef").await.unwrap();
}

#[test]
fn files_are_told_by_their_names() {
    assert_eq!(file_kind("000000010000000000000003"), Some(FileKind::Segment));
    assert_eq!(file_kind("0000000A.history"), Some(FileKind::History(TimelineId(10))));
    assert_eq!(file_kind("000000010000000000000003.partial"), Some(FileKind::Auxiliary));
    assert_eq!(file_kind("000000010000000000000003.00000028.backup"), Some(FileKind::Auxiliary));
    for bad in [
        "",
        "pg_control",
        "000000010000000000000003.tmp",
        "00000000.history",
        "000000010000000000000003.28.backup",
        "00000001000000000000000g",
    ] {
        assert_eq!(file_kind(bad), None, "{bad}");
    }
}
