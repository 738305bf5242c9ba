use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::*;
use crate::store::faulty::{Fault, FaultyStore};
use crate::store::memory::MemoryStore;
use crate::store::{Body, ListPage, ObjectInfo, PutOutcome, StoreError, StoreResult};

const SECOND: Duration = Duration::from_secs(1);
const CONTENT: &[u8] = b"what was to be stored";

/// What a call of a [`Scripted`] store does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Works,
    /// Fails, retryably, and nothing is done.
    Fails,
    /// Fails, retryably, after it was done.
    FailsAfter,
    /// Fails for good.
    Refused,
    /// Works after this time.
    Takes(Duration),
}

/// A memory store whose calls follow a script, and work once it ends. Only puts and gets, of ranges too, take a step.
struct Scripted {
    inner: MemoryStore,
    steps: Mutex<VecDeque<Step>>,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    began: Instant,
    times: Mutex<Vec<Duration>>,
}

impl Scripted {
    fn new(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            steps: Mutex::new(steps.into_iter().collect()),
            calls: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            began: Instant::now(),
            times: Mutex::default(),
        })
    }

    fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).extend(steps);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// When each call came.
    fn times(&self) -> Vec<Duration> {
        self.times.lock().unwrap().clone()
    }

    async fn step<T>(&self, work: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let failure = |message: &str| StoreError::Retryable { message: message.to_owned(), source: None };
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.times.lock().unwrap().push(self.began.elapsed());
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let step = self.steps.lock().unwrap().pop_front().unwrap_or(Step::Works);
        let outcome = match step {
            Step::Works => work.await,
            Step::Fails => Err(failure("busy")),
            Step::FailsAfter => work.await.and(Err(failure("the answer was lost"))),
            Step::Refused => Err(StoreError::Permanent { message: "forbidden".into(), source: None }),
            Step::Takes(time) => {
                sleep(time).await;
                work.await
            }
        };
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

#[async_trait]
impl Store for Scripted {
    fn url(&self) -> &str {
        "scripted:"
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        self.step(self.inner.put_if_absent(key, body)).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.step(self.inner.replace_if(key, content, expected)).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.step(self.inner.get_versioned(key)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.step(self.inner.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.step(self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.inner.list(prefix, start_after).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.inner.list_dirs(prefix).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.inner.delete(key).await
    }
}

/// A scripted store inside the layers of `options`, which has answered before.
async fn answered(options: &LayerOptions) -> (Arc<Scripted>, Arc<dyn Store>) {
    let inner = Scripted::new([]);
    let store = layered(inner.clone(), options);
    put(store.as_ref(), "there", CONTENT).await.unwrap();
    (inner, store)
}

async fn put(store: &dyn Store, key: &str, content: &[u8]) -> StoreResult<PutOutcome> {
    store.put_if_absent(key, Body::from(content.to_vec())).await
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_condition_is_never_repeated() {
    let (inner, store) = answered(&LayerOptions::long()).await;
    let (_, version) = store.get_versioned("there").await.unwrap();
    inner.script([Step::FailsAfter]);
    let error = store.replace_if("there", Bytes::from_static(b"new"), Some(&version)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("the answer was lost"), "{error}");
    assert_eq!(store.get("there").await.unwrap(), "new", "repeated it would have said that another one wrote this");
}

#[tokio::test(start_paused = true)]
async fn only_what_may_succeed_is_tried_again_with_growing_pauses() {
    let (inner, store) = answered(&LayerOptions::long()).await;
    inner.script([Step::Fails; 4]);
    assert_eq!(store.get("there").await.unwrap(), CONTENT);
    let times = inner.times();
    let pauses: Vec<f64> = times[1..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert_eq!(pauses.len(), 4);
    for (pause, expected) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((expected * 0.74..=expected * 1.26).contains(pause), "{pauses:?}");
    }
    for (step, is_right) in [(Step::Refused, false), (Step::Works, true)] {
        inner.script([step]);
        let before = inner.calls();
        assert_eq!(store.get("there").await.is_ok(), is_right);
        assert_eq!(inner.calls(), before + 1, "{step:?} is not tried again");
    }
    let before = inner.calls();
    assert!(store.get("missing").await.unwrap_err().is_not_found());
    assert_eq!(inner.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_are_bounded_and_patience_ends() {
    let long = LayerOptions::long();
    let (inner, store) = answered(&long).await;
    inner.script([Step::Fails; 1000]);
    let began = Instant::now();
    assert!(store.get("there").await.unwrap_err().is_retryable());
    let took = began.elapsed();
    assert!((Patience::LONG.limit - 61 * SECOND..=Patience::LONG.limit).contains(&took), "{took:?}");
    let longest = inner.times().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= Patience::LONG.longest_pause, "{longest:?}");
}

#[test]
fn no_pause_is_longer_than_a_quarter_of_the_objective() {
    assert_eq!(Patience::SHORT.within_rpo(8 * SECOND).longest_pause, 2 * SECOND);
    assert_eq!(Patience::SHORT.within_rpo(3600 * SECOND), Patience::SHORT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let options = LayerOptions::new(Patience::LONG.within_rpo(2 * SECOND), Timeouts::LONG);
        let (inner, store) = answered(&options).await;
        inner.script([Step::Fails; 20]);
        store.get("there").await.unwrap();
        assert!(inner.times().windows(2).all(|pair| pair[1] - pair[0] <= SECOND / 2));
    });
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answered_is_given_up_soon() {
    for (options, calls) in [(LayerOptions::short(), 1..=1), (LayerOptions::long(), 3..=3)] {
        let inner = Scripted::new([Step::Fails; 100]);
        assert!(layered(inner.clone(), &options).get("x").await.unwrap_err().is_retryable());
        assert!(calls.contains(&inner.calls()), "{} calls", inner.calls());
    }
    let mut options = LayerOptions::short();
    options.patience = options.patience.also_unanswered();
    let inner = Scripted::new([Step::Fails; 5]);
    assert!(layered(inner.clone(), &options).get("x").await.unwrap_err().is_not_found(), "it was waited for");
}

#[tokio::test(start_paused = true)]
async fn the_wish_to_stop_ends_a_pause() {
    let options = LayerOptions::long();
    let (inner, store) = answered(&options).await;
    inner.script([Step::Fails; 1000]);
    let began = Instant::now();
    let cancel = options.cancel.clone();
    tokio::spawn(async move {
        sleep(20 * SECOND).await;
        cancel.cancel();
    });
    assert!(store.get("there").await.is_err());
    assert_eq!(began.elapsed(), 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answer_was_lost_is_known_by_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("body");
    let large: Vec<u8> = (0..20_000_000u32).map(|n| (n >> 7) as u8).collect();
    std::fs::write(&file, &large).unwrap();
    for (key, body) in [
        ("small", Body::from(CONTENT.to_vec())),
        ("empty", Body::from(Vec::new())),
        ("large", Body::from(large.clone())),
        ("file", Body::File(file.clone())),
        ("boundary", Body::from(large[..8 << 20].to_vec())),
    ] {
        let (inner, store) = answered(&LayerOptions::long()).await;
        inner.script([Step::FailsAfter]);
        assert_eq!(store.put_if_absent(key, body.clone()).await.unwrap(), PutOutcome::Created, "{key}");
        // Nothing was ambiguous here: somebody put it before.
        assert_eq!(store.put_if_absent(key, body.clone()).await.unwrap(), PutOutcome::AlreadyExists, "{key}");
        // The comparison fails too, for a while.
        inner.inner.delete(key).await.unwrap();
        inner.script([Step::FailsAfter, Step::Works, Step::Fails, Step::Fails]);
        assert_eq!(store.put_if_absent(key, body).await.unwrap(), PutOutcome::Created, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_failed_and_finds_another_content_did_not_create_it() {
    let piece = vec![7; 8 << 20];
    let others: [(&[u8], &[u8]); 6] = [
        (CONTENT, b"what somebody else put"),
        (CONTENT, &CONTENT[..5]),
        (CONTENT, b""),
        (b"", CONTENT),
        (&piece, &[&piece[..], b"x"].concat()),
        (&[&piece[..], b"y"].concat(), &[&piece[..], b"x"].concat()),
    ];
    for (ours, theirs) in others {
        let (inner, store) = answered(&LayerOptions::long()).await;
        put(&inner.inner, "contested", theirs).await.unwrap();
        inner.script([Step::Fails]);
        assert_eq!(put(store.as_ref(), "contested", ours).await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(inner.inner.get("contested").await.unwrap(), theirs);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_as_one_that_may_be_tried_again() {
    let inner = Arc::new(MemoryStore::new());
    put(inner.as_ref(), "there", CONTENT).await.unwrap();
    let once = Patience { limit: Duration::ZERO, unanswered_limit: Duration::ZERO, ..Patience::LONG };
    for fatal in [true, false] {
        let options = LayerOptions::new(if fatal { once } else { Patience::LONG.also_unanswered() }, Timeouts::LONG);
        let stalled = || layered(Arc::new(FaultyStore::failing(inner.clone(), 0, Fault::Stall, 0)), &options);
        let limit = Timeouts::LONG.of_bytes(64 << 20) + 2 * Timeouts::LONG.call;
        let began = Instant::now();
        macro_rules! ends {
            ($call:expr) => {{
                let outcome = $call.await;
                assert!(began.elapsed() < 10 * limit);
                match outcome {
                    Ok(_) => assert!(!fatal),
                    Err(error) => assert!(fatal && error.is_retryable() && error.to_string().contains("within"), "{error}"),
                }
            }};
        }
        ends!(stalled().get("there"));
        ends!(stalled().get_range("there", 0..5));
        ends!(stalled().head("there"));
        ends!(stalled().list("", None));
        ends!(stalled().list_all("", None));
        ends!(stalled().list_dirs(""));
        ends!(put(stalled().as_ref(), "new", CONTENT));
        ends!(stalled().delete("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_are_given_time() {
    let mebibyte = vec![0; 1 << 20];
    let slow = Step::Takes(Timeouts::SHORT.of_bytes(1 << 20) - SECOND);
    let too_slow = Step::Takes(Timeouts::SHORT.of_bytes(1 << 20) + SECOND);
    let once = Patience { limit: Duration::ZERO, ..Patience::SHORT };
    let (inner, store) = answered(&LayerOptions::new(once, Timeouts::SHORT)).await;
    for (step, is_right) in [(slow, true), (too_slow, false)] {
        inner.script([step]);
        assert_eq!(put(store.as_ref(), &format!("{is_right}"), &mebibyte).await.is_ok(), is_right, "put, {step:?}");
        inner.script([step]);
        assert_eq!(store.get_range("true", 0..1 << 20).await.is_ok(), is_right, "range, {step:?}");
        // The object's size is asked for.
        inner.script([step]);
        assert_eq!(store.get("true").await.is_ok(), is_right, "get, {step:?}");
    }
    inner.script([slow]);
    assert!(store.get("there").await.is_err(), "a small object is given less");
}

#[test]
fn timeouts_nest() {
    for options in [LayerOptions::short(), LayerOptions::long()] {
        assert!(options.timeouts.call * 2 <= options.patience.limit, "{:?}", options.timeouts);
        assert!(options.patience.longest_pause * 2 <= options.patience.limit);
    }
}

fn failing_fast() -> LayerOptions {
    let once = Patience { limit: Duration::ZERO, unanswered_limit: Duration::ZERO, ..Patience::SHORT };
    LayerOptions::new(once, Timeouts::SHORT)
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_and_lets_one_call_through_after_a_rest() {
    let breaker = Arc::new(Breaker::new());
    let options = LayerOptions { breaker: Some(Arc::clone(&breaker)), ..failing_fast() };
    let (inner, store) = answered(&options).await;
    let other_stream = layered(inner.clone(), &options);
    inner.script([Step::Fails; 4]);
    for _ in 0..4 {
        assert!(store.get("there").await.is_err());
    }
    // What is no failure does not count, nor what a store refuses.
    assert!(store.get("missing").await.is_err());
    assert!(breaker.open_since().is_none());
    inner.script([Step::Refused]);
    assert!(store.get("there").await.is_err());
    assert!(other_stream.get("there").await.is_ok());
    inner.script([Step::Fails]);
    assert!(other_stream.get("there").await.is_err(), "the fifth, of another stream");
    let calls = inner.calls();
    let error = store.get("there").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("left alone since") && error.to_string().contains("busy"));
    assert!(other_stream.head("there").await.is_err());
    sleep(29 * SECOND).await;
    assert!(store.get("there").await.is_err());
    assert_eq!(inner.calls(), calls, "nothing reached the store");
    // The trial fails: another rest.
    sleep(2 * SECOND).await;
    inner.script([Step::Fails]);
    assert!(store.get("there").await.unwrap_err().to_string().contains("busy"));
    assert_eq!(inner.calls(), calls + 1);
    assert!(store.get("there").await.is_err());
    assert_eq!(inner.calls(), calls + 1);
    // While the next trial is under way nobody else is let through; it closes the breaker.
    sleep(31 * SECOND).await;
    inner.script([Step::Takes(SECOND)]);
    let (trial, others) = tokio::join!(store.get("there"), async {
        sleep(SECOND / 2).await;
        other_stream.get("there").await
    });
    assert!(trial.is_ok() && others.is_err());
    assert!(breaker.open_since().is_none() && other_stream.get("there").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn failures_far_apart_open_no_breaker_and_an_abandoned_trial_frees_its_place() {
    let breaker = Arc::new(Breaker::new());
    let options = LayerOptions { breaker: Some(Arc::clone(&breaker)), ..failing_fast() };
    let (inner, store) = answered(&options).await;
    inner.script([Step::Fails; 8]);
    for _ in 0..8 {
        assert!(store.get("there").await.is_err());
        sleep(3 * SECOND).await;
    }
    assert!(breaker.open_since().is_none());
    sleep(10 * SECOND).await;
    inner.script([Step::Fails; 5]);
    for _ in 0..5 {
        assert!(store.get("there").await.is_err());
    }
    assert!(breaker.open_since().is_some());
    sleep(31 * SECOND).await;
    inner.script([Step::Takes(5 * SECOND)]);
    assert!(tokio::time::timeout(SECOND, store.get("there")).await.is_err(), "the trial is given up by its caller");
    assert!(store.get("there").await.is_ok(), "the next call is the trial");
    assert!(breaker.open_since().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_delays_its_own_stream_alone() {
    let bulkhead = Arc::new(Bulkhead::new(2, 3));
    let stream = |stream| LayerOptions { bulkhead: Some((Arc::clone(&bulkhead), stream)), ..LayerOptions::long() };
    let (inner, bulk) = answered(&stream(Stream::Bulk)).await;
    let log = layered(inner.clone(), &stream(Stream::Log));
    inner.script([Step::Takes(20 * SECOND); 9]);
    let mut packs = tokio::task::JoinSet::new();
    for _ in 0..9 {
        let bulk = Arc::clone(&bulk);
        packs.spawn(async move { bulk.get_range("there", 0..1 << 20).await });
    }
    sleep(SECOND).await;
    assert_eq!(inner.most_at_once.load(Ordering::SeqCst), 3);
    inner.steps.lock().unwrap().push_front(Step::Works);
    let began = Instant::now();
    log.get("there").await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "archiving waits for nothing");
    while let Some(pack) = packs.join_next().await {
        pack.unwrap().unwrap();
    }
    assert_eq!(inner.most_at_once.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn bytes_keep_the_rate_whatever_the_size_of_a_body() {
    let options = LayerOptions { limit: Some(Arc::new(Bucket::new(1 << 20))), ..LayerOptions::long() };
    let (_, store) = answered(&options).await;
    let body = vec![0; 5 << 20];
    let began = Instant::now();
    // Larger than what a second fills: each passes, and the next waits.
    for number in 0..4 {
        put(store.as_ref(), &format!("pack-{number}"), &body).await.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    assert!((14.9..15.2).contains(&took), "{took}");
    // Nothing that moves no object waits.
    let before = Instant::now();
    store.list("", None).await.unwrap();
    store.head("pack-0").await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    // A range that is cut short by the object's end costs what came; a whole object, too.
    store.get_range("pack-0", 0..5 << 30).await.unwrap();
    store.get("pack-0").await.unwrap();
    store.get_range("pack-0", 0..10).await.unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!((29.8..30.3).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn several_at_a_time_share_one_rate_and_idle_time_is_not_saved_up() {
    let options = LayerOptions { limit: Some(Arc::new(Bucket::new(1 << 20))), ..LayerOptions::long() };
    let (_, store) = answered(&options).await;
    sleep(1000 * SECOND).await;
    let began = Instant::now();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..8 {
        let store = Arc::clone(&store);
        puts.spawn(async move { put(store.as_ref(), &format!("part-{number}"), &vec![0; 2 << 20]).await });
    }
    while let Some(put) = puts.join_next().await {
        put.unwrap().unwrap();
    }
    // One second was saved, and the last body goes out on credit.
    let took = began.elapsed().as_secs_f64();
    assert!((12.9..13.5).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_and_timed() {
    let options = LayerOptions::long();
    let (inner, store) = answered(&options).await;
    inner.script([Step::Fails, Step::Takes(2 * SECOND), Step::Refused]);
    store.get("there").await.unwrap();
    assert!(store.get("there").await.is_err());
    assert!(store.get("missing").await.is_err());
    store.list_all("", None).await.unwrap();
    let requests = options.metrics.requests();
    assert_eq!((requests.requests, requests.retries, requests.failures), (6, 1, 2));
    assert_eq!((requests.sent_bytes, requests.received_bytes), (CONTENT.len() as u64, CONTENT.len() as u64));
    assert!((2.0..2.1).contains(&requests.seconds), "pauses do not count: {}", requests.seconds);
    let names: Vec<&str> = requests.operations.keys().copied().collect();
    assert_eq!(names, ["get", "list", "put"]);
    assert_eq!(requests.operations["get"].requests, 4);
    let text = serde_json::to_value(&requests).unwrap();
    assert_eq!(text["operations"]["put"]["sent_bytes"], CONTENT.len());
    assert!(text["operations"]["put"].get("operations").is_none());
}
