//! What the S3 store makes of a network and a server that fail: every planted fault ends in the right result or in an
//! error that says what it is, within its time.

#[path = "support/proxy.rs"]
#[allow(dead_code)] // Used in part.
mod proxy;
#[path = "support/s3.rs"]
#[allow(dead_code)] // Used in part.
mod s3;

use std::io::Write;
use std::time::{Duration, Instant};

use lifeboat::base::{Error, ErrorKind};
use lifeboat::store::s3::{Credentials, S3Options, S3Store, Timeouts};
use lifeboat::store::{Body, PutOutcome, RequestKind, Store, StoreError};

use proxy::{Fault, Proxy};
use s3::{Quirks, S3Server};

/// Short enough for a test, long enough for a busy machine.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    answer: Duration::from_millis(1500),
    stall: Duration::from_millis(1500),
    slowest_bytes_per_second: 64 << 10,
};

/// No call may take longer, however the network behaves.
const LIMIT: Duration = Duration::from_secs(30);

/// A server that is as good as AWS, a proxy before it, and a store that uses it through the proxy.
struct Stage {
    server: S3Server,
    proxy: Proxy,
    store: S3Store,
}

impl Stage {
    fn new() -> Self {
        Self::with(Quirks::default())
    }

    fn with(quirks: Quirks) -> Self {
        let server = S3Server::with(quirks);
        let proxy = Proxy::to(server.address());
        let store = store_at(&proxy.endpoint());
        Self { server, proxy, store }
    }

    /// A call of the store, which must end in time.
    fn run<T>(&self, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let result = block_on(call);
        assert!(began.elapsed() < LIMIT, "took {:?}", began.elapsed());
        result
    }

    fn put(&self, key: &str, content: &[u8]) -> Result<PutOutcome, StoreError> {
        self.run(self.store.put_if_absent(key, Body::from(content.to_vec())))
    }

    fn get(&self, key: &str) -> Result<bytes::Bytes, StoreError> {
        self.run(self.store.get(key))
    }

    /// How often a method came through so far.
    fn sent(&self, method: &str) -> usize {
        self.proxy.requests().iter().filter(|request| request.starts_with(method)).count()
    }
}

fn store_at(endpoint: &str) -> S3Store {
    let options = S3Options { timeouts: TIMEOUTS, ..s3::options_for(endpoint) };
    S3Store::new(&format!("s3://{}/orders", s3::BUCKET), options).unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// An error that an operator can understand: what, on which object, why, without markup.
#[track_caller]
fn assert_told(error: &StoreError, words: &[&str]) {
    let text = error.to_string();
    for word in words.iter().chain(&["s3://lifeboat-test/orders"]) {
        assert!(text.contains(word), "'{word}' is not told: {text}");
    }
    assert!(!text.contains('<') && !text.contains("lifeboat-test-secret") && text.len() < 400, "{text}");
}

#[test]
fn bursts_of_server_faults_are_sat_out_and_longer_ones_are_told() {
    let stage = Stage::new();
    stage.proxy.fail(None, 2, Fault::Answer(503, "SlowDown"));
    assert_eq!(stage.put("a", b"x").unwrap(), PutOutcome::Created);
    stage.proxy.fail(None, 2, Fault::Answer(500, "InternalError"));
    assert_eq!(stage.get("a").unwrap(), "x");
    stage.proxy.fail(None, usize::MAX, Fault::Answer(503, "SlowDown"));
    let before = stage.proxy.requests().len();
    let error = stage.get("a").unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_told(&error, &["cannot read a in", "try again later (SlowDown)"]);
    assert_eq!(stage.proxy.requests().len() - before, 3, "the layers above decide how long it goes on");
    assert_eq!(stage.store.requests().total() as usize, stage.proxy.requests().len());
}

#[test]
fn connections_that_break_before_an_answer_are_made_again() {
    let stage = Stage::new();
    stage.proxy.fail("PUT", 1, Fault::CloseBefore);
    assert_eq!(stage.put("a", b"x").unwrap(), PutOutcome::Created);
    for method in ["GET", "HEAD", "DELETE"] {
        stage.proxy.fail(method, 2, Fault::CloseBefore);
    }
    assert_eq!(stage.get("a").unwrap(), "x");
    assert_eq!(stage.run(stage.store.head("a")).unwrap().size_bytes, 1);
    stage.run(stage.store.delete("a")).unwrap();
    assert_eq!(stage.server.names(), [""; 0]);
}

#[test]
fn a_lost_answer_to_our_own_put_is_our_success() {
    for fault in [Fault::LoseAnswer, Fault::DenySuccess] {
        for quirks in [Quirks::default(), Quirks { ignores_conditions: true, ..Quirks::default() }] {
            let stage = Stage::with(quirks);
            stage.proxy.fail("PUT", 1, fault);
            assert_eq!(stage.put("a", &noise(100_000)).unwrap(), PutOutcome::Created, "{fault:?}");
            assert_eq!(stage.sent("PUT"), 1, "{fault:?}: what is there already is not sent again");
            assert_eq!(stage.put("a", &noise(100_000)).unwrap(), PutOutcome::AlreadyExists);
            assert_eq!(stage.get("a").unwrap(), noise(100_000));
        }
    }
}

#[test]
fn a_lost_answer_to_a_put_that_came_too_late_is_not_our_success() {
    let stage = Stage::new();
    stage.server.plant("orders/a", b"another's");
    stage.proxy.fail("HEAD", 1, Fault::Answer(404, "NotFound"));
    stage.proxy.fail("PUT", 1, Fault::LoseAnswer);
    assert_eq!(stage.put("a", b"our own x").unwrap(), PutOutcome::AlreadyExists);
    assert_eq!(stage.get("a").unwrap(), "another's");
}

#[test]
fn a_lost_answer_to_a_replacement_is_our_success() {
    let stage = Stage::new();
    let content = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
    stage.proxy.fail("PUT", 1, Fault::LoseAnswer);
    let first = stage.run(stage.store.replace_if("lease", content("one"), None)).unwrap().unwrap();
    stage.proxy.fail("PUT", 1, Fault::DenySuccess);
    let second = stage.run(stage.store.replace_if("lease", content("two"), Some(&first))).unwrap().unwrap();
    assert_ne!(first, second);
    assert_eq!(stage.run(stage.store.get_versioned("lease")).unwrap(), (content("two"), second));
    assert_eq!(stage.run(stage.store.replace_if("lease", content("three"), Some(&first))).unwrap(), None);
}

#[test]
fn broken_bodies_are_resumed_where_they_broke() {
    let whole = noise(3_000_000);
    for fault in [Fault::ResetAfter(1_000_000), Fault::EndAfter(1_000_000), Fault::StallAfter(1_000_000)] {
        let stage = Stage::new();
        stage.put("a", &whole).unwrap();
        let before = stage.sent("GET");
        stage.proxy.fail("GET", 2, fault);
        assert_eq!(stage.get("a").unwrap(), whole, "{fault:?}");
        assert_eq!(stage.sent("GET") - before, 3, "{fault:?}");
        stage.proxy.fail("GET", 1, fault);
        let part = stage.run(stage.store.get_range("a", 500_000..2_500_000)).unwrap();
        assert_eq!(part, whole[500_000..2_500_000], "{fault:?}");
    }
}

#[test]
fn a_body_that_breaks_again_and_again_is_an_error() {
    let stage = Stage::new();
    stage.put("a", &noise(100_000)).unwrap();
    stage.proxy.fail("GET", usize::MAX, Fault::EndAfter(0));
    let error = stage.get("a").unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_told(&error, &["cannot read a in"]);
}

/// A store that honours `If-Match` says so, and of one that does not the version is compared.
#[test]
fn an_object_replaced_while_it_is_read_is_never_mixed() {
    for (quirks, word) in
        [(Quirks::default(), "changed"), (Quirks { ignores_conditions: true, ..Quirks::default() }, "replaced while it was read")]
    {
        let stage = Stage::with(quirks);
        let before = noise(1_000_000);
        stage.put("a", &before).unwrap();
        // Of the same length, and other at every place: no mixture of the two is one of them.
        let after: Vec<u8> = before.iter().map(|byte| !byte).collect();
        stage.proxy.fail("GET", 1, Fault::StallAfter(500_000));
        let error = std::thread::scope(|scope| {
            let reading = scope.spawn(|| stage.get("a"));
            let deadline = Instant::now() + LIMIT;
            // The first half is on its way, and nothing more of that version will come.
            while stage.proxy.stalled() == 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            stage.server.plant("orders/a", &after);
            reading.join().unwrap().unwrap_err()
        });
        assert!(error.is_retryable(), "{error:?}");
        assert_told(&error, &[word]);
        assert_eq!(stage.get("a").unwrap(), after, "the next read has one version");
    }
}

#[test]
fn silence_ends_in_time() {
    let stage = Stage::new();
    stage.put("a", b"x").unwrap();
    stage.proxy.fail(None, usize::MAX, Fault::Latency(LIMIT * 2));
    let begun = Instant::now();
    for error in [
        stage.get("a").unwrap_err(),
        stage.run(stage.store.head("a")).unwrap_err(),
        stage.run(stage.store.list("", None)).unwrap_err(),
        stage.run(stage.store.delete("a")).unwrap_err(),
        stage.put("b", b"x").unwrap_err(),
    ] {
        assert!(error.is_retryable(), "{error:?}");
        assert_told(&error, &["no answer within 1.5 s"]);
    }
    assert!(begun.elapsed() >= 4 * TIMEOUTS.answer, "{:?}", begun.elapsed());
}

#[test]
fn an_upload_that_stalls_ends_in_time() {
    let stage = Stage::new();
    stage.run(stage.store.probe_conditional_puts()).unwrap();
    // More than the kernel's buffers hold, so that the client can see it.
    stage.proxy.fail("PUT", usize::MAX, Fault::StallUploadAfter(1_000_000));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&noise(32 << 20)).unwrap();
    for body in [Body::from(noise(32 << 20)), Body::File(file.path().to_owned())] {
        let error = stage.run(stage.store.put_if_absent("a", body)).unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert_told(&error, &["cannot write a in"]);
    }
    assert_eq!(stage.server.names(), [""; 0]);
}

#[test]
fn a_slow_link_is_borne_and_a_crawling_one_is_not() {
    let stage = Stage::new();
    let whole = noise(300_000);
    stage.proxy.fail(None, usize::MAX, Fault::Bandwidth(200_000));
    assert_eq!(stage.put("a", &whole).unwrap(), PutOutcome::Created);
    assert_eq!(stage.get("a").unwrap(), whole);
    stage.proxy.heal();
    stage.proxy.fail("GET", usize::MAX, Fault::Bandwidth(8_000));
    // Each attempt ends in an error when its time is up, and the next one goes on from there.
    let short = S3Options {
        timeouts: Timeouts { slowest_bytes_per_second: 1 << 20, answer: Duration::from_millis(700), ..TIMEOUTS },
        ..s3::options_for(&stage.proxy.endpoint())
    };
    let store = S3Store::new(&format!("s3://{}/orders", s3::BUCKET), short).unwrap();
    let error = stage.run(store.get("a")).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_told(&error, &["cannot read a in", "too slowly"]);
}

#[test]
fn an_error_in_place_of_an_answer_is_no_success() {
    let stage = Stage::new();
    stage.put("a", b"x").unwrap();
    stage.proxy.fail(None, usize::MAX, Fault::ErrorInSuccess);
    let listed = stage.run(stage.store.list("", None)).unwrap_err();
    assert!(listed.is_retryable(), "{listed:?}");
    assert_told(&listed, &["cannot list", "(InternalError)"]);
    for error in [stage.get("a").unwrap_err(), stage.run(stage.store.head("a")).unwrap_err(), stage.put("b", b"x").unwrap_err()] {
        assert!(error.is_retryable(), "{error:?}");
    }
    assert_eq!(stage.server.names(), ["orders/a"]);
}

#[test]
fn what_is_no_object_store_is_told_apart() {
    let stage = Stage::new();
    for status in [200, 404] {
        stage.proxy.heal();
        stage.proxy.fail(None, usize::MAX, Fault::WebPage(status));
        for error in [stage.get("a").unwrap_err(), stage.run(stage.store.list("", None)).unwrap_err()] {
            assert!(matches!(error, StoreError::Permanent { .. }), "{status}: {error:?}");
            assert_told(&error, &["does not speak S3"]);
            assert!(Error::from(error).hints()[0].contains("endpoint"));
        }
    }
    // A gateway before the store that cannot reach it.
    stage.proxy.heal();
    stage.proxy.fail(None, usize::MAX, Fault::WebPage(502));
    assert!(stage.get("a").unwrap_err().is_retryable());
}

#[test]
fn a_refused_connection_is_retryable_and_names_the_cause() {
    let mut stage = Stage::new();
    stage.put("a", b"x").unwrap();
    stage.proxy.refuse();
    let error = stage.get("a").unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_told(&error, &["nothing accepts connections"]);
    let error = Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.hints()[0].contains("endpoint"), "{error:?}");
}

#[test]
fn missing_rights_and_wrong_keys_are_permanent_and_not_repeated() {
    let stage = Stage::new();
    stage.put("a", b"x").unwrap();
    for (method, code, words, hint) in [
        ("GET", "AccessDenied", "access is denied (AccessDenied)", "s3:GetObject"),
        ("GET", "ExpiredToken", "have expired", "renew"),
        ("GET", "RequestTimeTooSkewed", "clock", "timedatectl"),
        ("GET", "PermanentRedirect", "another region", "region"),
    ] {
        stage.proxy.heal();
        stage.proxy.fail(method, usize::MAX, Fault::Answer(if code == "PermanentRedirect" { 301 } else { 403 }, code));
        let before = stage.proxy.requests().len();
        let error = stage.get("a").unwrap_err();
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        assert_told(&error, &[words]);
        assert_eq!(stage.proxy.requests().len() - before, 1);
        let error = Error::from(error);
        assert!(error.hints()[0].contains(hint), "{error:?}");
    }
    // One verb denied, and the others go on.
    stage.proxy.heal();
    stage.proxy.fail("PUT", usize::MAX, Fault::Answer(403, "AccessDenied"));
    assert!(matches!(stage.put("b", b"x").unwrap_err(), StoreError::Permanent { .. }));
    assert_eq!(stage.get("a").unwrap(), "x");
}

#[test]
fn credentials_that_the_store_does_not_know_are_told() {
    let server = S3Server::start();
    for (key, secret, words) in
        [("NOBODY", "x", "does not know the access key"), ("LIFEBOATTESTKEY", "hunter2", "secret access key is wrong")]
    {
        let options = S3Options { credentials: Some(Credentials::new(key, secret)), ..server.options() };
        let store = S3Store::new(&server.url("orders"), options).unwrap();
        let error = block_on(store.get("a")).unwrap_err();
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        assert_told(&error, &[words]);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[test]
fn a_missing_bucket_is_permanent_and_never_created() {
    let server = S3Server::start();
    let store = S3Store::new("s3://no-such-bucket/orders", server.options()).unwrap();
    block_on(async {
        for error in [
            store.get("a").await.unwrap_err(),
            store.list("", None).await.unwrap_err(),
            store.put_if_absent("a", Body::from(vec![1])).await.unwrap_err(),
            store.check_bucket().await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
            assert!(error.to_string().contains("there is no bucket no-such-bucket"), "{error}");
            assert!(Error::from(error).hints()[0].contains("never creates one"));
        }
        server.store("orders").check_bucket().await.unwrap();
    });
}

#[test]
fn a_damaged_upload_is_refused_by_the_store() {
    let whole = noise(3 << 20);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&whole).unwrap();
    for (name, body) in [("bytes", Body::from(whole.clone())), ("file", Body::File(file.path().to_owned()))] {
        let stage = Stage::new();
        // Once on its way: it is sent again, and is there whole.
        stage.proxy.fail("PUT", 1, Fault::FlipUpload(1 << 20));
        assert_eq!(stage.run(stage.store.put_if_absent("a", body.clone())).unwrap(), PutOutcome::Created, "{name}");
        assert_eq!(stage.sent("PUT"), 2, "{name}");
        assert_eq!(stage.get("a").unwrap(), whole, "{name}");
        // Every time: it is told, and nothing is there.
        stage.proxy.fail("PUT", usize::MAX, Fault::FlipUpload(whole.len() - 1));
        let error = stage.run(stage.store.put_if_absent("b", body)).unwrap_err();
        assert!(error.is_retryable(), "{name}: {error:?}");
        assert_told(&error, &["cannot write b in"]);
        assert_eq!(stage.server.names(), ["orders/a"], "{name}");
        assert_eq!(stage.store.requests().of(RequestKind::Delete), 0, "{name}: nothing had to be taken back");
    }
}
