//! Buckets for the suite: a server in this process as good as AWS, the same with every shortcoming that other stores
//! have, `rclone serve s3` as a process of its own, and whatever the environment names.

use lifeboat::store::s3::{Credentials, S3Options, S3Store};
use lifeboat::store::{Body, PutOutcome, RequestKind, Store};

use crate::rclone_server::{self, Rclone};
use crate::s3_server::{Keeping, Quirks, S3Server};
use crate::support::{Conflicts, Fixture, Names, Racing, Traits, block_on, keys, put, skip};

pub fn s3() -> Option<Fixture> {
    let server = S3Server::start();
    Some(Fixture::new(server.store(""), Traits { names: Names::Visible, ..Traits::S3 }, server))
}

/// A bucket whose oldest versions count.
pub fn s3_with_versions() -> Option<Fixture> {
    use lifeboat::repo::layout;
    let server = S3Server::keeping(Keeping { versions: true, ..Keeping::default() });
    let options = S3Options { versions: true, lifetimes: layout::LIFETIMES, ..server.options() };
    let store = S3Store::new(&server.url("versions"), options).unwrap();
    let key_bytes = Traits::S3.key_bytes - "versions/".len();
    Some(Fixture::new(store, Traits { names: Names::Visible, key_bytes, ..Traits::S3 }, server))
}

pub fn s3_below_a_prefix() -> Option<Fixture> {
    let server = S3Server::start();
    for name in
        ["other", "our prefiy/x", "our prefi", "our prefix", "our prefix/", "our prefix//x", "our prefix/a/", "our prefix0"]
    {
        server.plant(name, b"another tool's");
    }
    let traits = Traits { key_bytes: Traits::S3.key_bytes - "our prefix/".len(), ..Traits::S3 };
    Some(Fixture::new(server.store("our prefix"), traits, server))
}

pub fn s3_that_falls_short() -> Option<Fixture> {
    let quirks = Quirks {
        ignores_conditions: true,
        ignores_ranges: true,
        ignores_start_after: true,
        encodes_nothing: true,
        ..Quirks::default()
    };
    let server = S3Server::with(quirks);
    let key_bytes = Traits::S3.key_bytes - "p/".len();
    let traits = Traits { racing: Racing::LastStays, names: Names::FilesInXml, key_bytes, ..Traits::S3 };
    Some(Fixture::new(server.store("p"), traits, server))
}

/// `rclone serve s3`, which takes `If-None-Match` and overwrites all the same.
pub fn rclone() -> Option<Fixture> {
    let program = rclone_server::program().inspect_err(|missing| {
        skip(&format!("there is no {}; tests/run installs it", missing.display()));
    });
    let server = Rclone::start(&program.ok()?);
    let key_bytes = Traits::S3.key_bytes - "repository/".len();
    let traits = Traits { conflicts: Conflicts::Undefined, racing: Racing::Undefined, key_bytes, names: Names::FilesInXml };
    Some(Fixture::new(store_of(&server), traits, server))
}

fn store_of(server: &Rclone) -> S3Store {
    let credentials = Some(Credentials::new(rclone_server::ACCESS_KEY, rclone_server::SECRET_KEY));
    let options = S3Options { endpoint: Some(server.endpoint.clone()), credentials, ..S3Options::default() };
    S3Store::new(&format!("s3://{}/repository", rclone_server::BUCKET), options).unwrap()
}

/// Removes what a test has left in a bucket that stays.
struct Cleanup(S3Store);

impl Drop for Cleanup {
    fn drop(&mut self) {
        block_on(async {
            for object in self.0.list_all("", None).await.unwrap_or_default() {
                if let Err(error) = self.0.delete(&object.key).await {
                    println!("not removed: {}: {error}", object.key);
                }
            }
        });
    }
}

/// The store that `LIFEBOAT_TEST_S3_ENDPOINT` and `LIFEBOAT_TEST_S3_BUCKET` name, with `AWS_*` credentials: below a prefix
/// of each test's own, which is emptied afterwards.
pub fn elsewhere() -> Option<Fixture> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let bucket = variable("LIFEBOAT_TEST_S3_BUCKET")?;
    let url = format!("s3://{bucket}/lifeboat-conformance/{:016x}", rand::random::<u64>());
    let store =
        || S3Store::new(&url, S3Options { endpoint: variable("LIFEBOAT_TEST_S3_ENDPOINT"), ..S3Options::default() }).unwrap();
    let tested = store();
    let honoured = block_on(tested.probe_conditional_puts()).unwrap();
    let racing = if honoured { Racing::OneWinner } else { Racing::LastStays };
    let key_bytes = 1024 - (url.len() - "s3://".len() - bucket.len());
    Some(Fixture::new(tested, Traits { racing, key_bytes, ..Traits::S3 }, Cleanup(store())))
}

#[test]
fn what_conditional_puts_do_is_found_out() {
    for (quirks, honoured) in [(Quirks::default(), true), (Quirks { ignores_conditions: true, ..Quirks::default() }, false)] {
        let server = S3Server::with(quirks);
        let store = server.store("p");
        assert!(store.may_overwrite(), "nothing is known yet");
        assert_eq!(block_on(store.probe_conditional_puts()).unwrap(), honoured);
        assert_eq!(store.may_overwrite(), !honoured);
        assert_eq!(server.names(), [""; 0], "the probe is removed");
    }
    if let Some(fixture) = rclone() {
        let store = store_of(fixture.kept.downcast_ref::<Rclone>().unwrap());
        assert!(!block_on(store.probe_conditional_puts()).unwrap(), "rclone honours conditions now: its traits have changed");
    }
}

/// A put looks first only where the store may overwrite, and stops once it has seen it refuse.
#[test]
fn looking_first_ends_when_the_store_has_refused() {
    let server = S3Server::start();
    let store = server.store("p");
    let heads = || store.requests().of(RequestKind::Head);
    block_on(async {
        assert_eq!(put(&store, "a", b"x").await, PutOutcome::Created);
        assert_eq!(heads(), 1);
        assert!(store.probe_conditional_puts().await.unwrap());
        assert_eq!(put(&store, "b", b"x").await, PutOutcome::Created);
        assert_eq!(put(&store, "b", b"x").await, PutOutcome::AlreadyExists);
        assert_eq!(heads(), 1);
    });
}

#[test]
fn requests_are_counted() {
    let server = S3Server::start();
    let store = server.store("p");
    assert!(block_on(store.probe_conditional_puts()).unwrap());
    let before = store.requests().total();
    block_on(async {
        put(&store, "a", b"x").await;
        store.get("a").await.unwrap();
        store.get_range("a", 0..1).await.unwrap();
        store.head("a").await.unwrap();
        store.list("", None).await.unwrap();
        store.delete("a").await.unwrap();
    });
    assert_eq!(store.requests().total(), before + 6);
    assert_eq!(store.requests().of(RequestKind::Get), 2);
}

#[test]
fn conflicts_of_two_puts_at_one_moment_are_tried_again() {
    let server = S3Server::with(Quirks { conflicts: 2, ..Quirks::default() });
    let store = server.store("p");
    assert_eq!(block_on(put(&store, "a", b"x")), PutOutcome::Created);
    let server = S3Server::with(Quirks { conflicts: 9, ..Quirks::default() });
    let error = block_on(server.store("p").put_if_absent("a", Body::from(vec![1]))).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("ConditionalRequestConflict"), "{error}");
}

#[test]
fn versions_are_replaced_only_by_who_has_seen_them() {
    for ignores_conditions in [false, true] {
        let server = S3Server::with(Quirks { ignores_conditions, ..Quirks::default() });
        let (store, other) = (server.store("p"), server.store("p"));
        block_on(async {
            let lease = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
            assert_eq!(store.replace_if("lease", lease("none"), Some("\"0\"")).await.unwrap(), None);
            let first = store.replace_if("lease", lease("one"), None).await.unwrap().unwrap();
            assert_eq!(other.replace_if("lease", lease("two"), None).await.unwrap(), None);
            assert_eq!(other.get_versioned("lease").await.unwrap(), (lease("one"), first.clone()));
            let second = other.replace_if("lease", lease("two"), Some(&first)).await.unwrap().unwrap();
            assert_ne!(first, second);
            assert_eq!(store.replace_if("lease", lease("three"), Some(&first)).await.unwrap(), None);
            assert_eq!(store.get_versioned("lease").await.unwrap(), (lease("two"), second));
            assert!(store.get_versioned("none").await.unwrap_err().is_not_found());
        });
    }
}

#[test]
fn ranges_come_right_from_stores_that_answer_them_wrongly() {
    let whole: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
    for quirks in [Quirks { ignores_ranges: true, ..Quirks::default() }, Quirks { hides_ranges: true, ..Quirks::default() }] {
        let server = S3Server::with(quirks);
        let store = server.store("p");
        block_on(async {
            put(&store, "a", &whole).await;
            for range in [0..10, 0..100_000, 5..50_005, 99_990..100_010, 50_000..150_000, 100_000..100_001] {
                let expected = &whole[range.start.min(whole.len())..range.end.min(whole.len())];
                let range = range.start as u64..range.end as u64;
                assert_eq!(store.get_range("a", range.clone()).await.unwrap(), expected, "{quirks:?} {range:?}");
            }
        });
    }
}

#[test]
fn what_other_tools_put_there_is_neither_listed_nor_in_the_way() {
    let server = S3Server::start();
    let store = server.store("p");
    for name in ["p/", "p/a/", "p//x", "p/a//x", "p/./x", "p/.lifeboat-tmp/x", "pp/x", "q"] {
        server.plant(name, b"x");
    }
    block_on(async {
        put(&store, "a/b", b"x").await;
        assert_eq!(keys(&store, "", None).await, ["a/b"]);
        assert_eq!(store.list_dirs("").await.unwrap(), ["a"]);
        assert_eq!(store.list_dirs("a/").await.unwrap(), [""; 0]);
    });
}
