//! A source of 1.6 TB of log and hundreds of backups: what `list`, `check` and `expire` ask of the repository is counted,
//! and what they keep in memory is measured.

mod support;

#[path = "scale/world.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat::base::progress::Silent;
use lifeboat::base::{Cancel, Error};
use lifeboat::codec::encrypt::Identity;
use lifeboat::engine::check::{self, Cluster, Subject, System};
use lifeboat::engine::expire::run as expire;
use lifeboat::engine::{Scope, Writing, head, list};
use lifeboat::repo::{Repository, Role};
use lifeboat::store::layer::metrics::Requests;
use lifeboat::store::layer::{LayerOptions, layered};
use lifeboat::store::memory::MemoryStore;

use support::lifeboat::{Config, Host};
use support::process;
use support::s3::S3Server;
use world::{BACKUPS, EXPIRED, World, source};

/// Objects of log.
const SEGMENTS: u64 = 100_000;

/// Keys that a page of a listing holds.
const PAGE: u64 = 1000;

/// Whatever the size: descriptor, keys, identity, marks, directories of backups, digests of the log.
const FIXED: u64 = 12;

/// Commit entries: one a backup, one tombstone.
const ENTRIES: u64 = BACKUPS as u64 + 1;

/// A host, and a repository whose requests are counted.
struct Stage {
    world: World,
    store: Arc<MemoryStore>,
    state: tempfile::TempDir,
}

impl Stage {
    /// What `verb` asks of the repository.
    async fn requests(&self, what: &str, verb: impl AsyncFnOnce(&Scope)) -> Requests {
        let options = LayerOptions::short();
        let store = layered(self.store.clone(), &options);
        let began = Instant::now();
        let repository = Repository::open("main", store, None).await.expect("a repository");
        verb(&Scope::new(repository, source(), self.state.path())).await;
        let requests = options.metrics.requests();
        let of = |kind: &str| requests.operations.get(kind).map_or(0, |requests| requests.requests);
        println!(
            "{what}: {} lists, {} gets, {} others, {:.1} s",
            of("list"),
            of("get"),
            others(&requests),
            began.elapsed().as_secs_f64()
        );
        requests
    }
}

fn of(requests: &Requests, kind: &str) -> u64 {
    requests.operations.get(kind).map_or(0, |requests| requests.requests)
}

fn others(requests: &Requests) -> u64 {
    requests.requests - of(requests, "list") - of(requests, "get")
}

#[track_caller]
fn assert_asks(requests: &Requests, lists: u64, what: &str) {
    assert!(of(requests, "list") <= lists + FIXED, "{what}: {} lists", of(requests, "list"));
    assert!(of(requests, "get") <= ENTRIES + FIXED, "{what}: {} gets", of(requests, "get"));
    assert_eq!(others(requests), 0, "{what} looks only");
}

async fn survey(scope: &Scope) {
    let seen = head::look(scope).await.expect("it answers");
    let survey = list::survey(scope, &seen.log).await.expect("it answers");
    let [incarnation] = &survey.incarnations[..] else { panic!("one cluster: {survey:?}") };
    assert_eq!((incarnation.segments as u64, incarnation.backups.len()), (SEGMENTS, BACKUPS - EXPIRED));
    let window = incarnation.timelines[0].window.as_ref().expect("no history is needed");
    assert_eq!((window.intervals.len(), window.unusable.len()), (1, 0));
    assert_eq!(window.intervals[0].backups.len(), BACKUPS - EXPIRED);
    assert_eq!(window.intervals[0].end_lsn, world::end_of_log(SEGMENTS), "the frontier");
}

#[tokio::test]
async fn requests_do_not_grow_with_the_log_once_it_was_listed() {
    let store = Arc::new(MemoryStore::new());
    let world = World::of(SEGMENTS).await;
    world.put(&*store).await;
    let stage = Stage { world, store, state: tempfile::tempdir().expect("a directory") };
    let pages = SEGMENTS / PAGE;

    let cold = stage.requests("list, cold", survey).await;
    assert_asks(&cold, pages, "cold list");
    assert!(of(&cold, "list") >= pages, "it was really listed");
    let warm = stage.requests("list, warm", survey).await;
    assert_asks(&warm, 0, "warm list");

    let writing = Writing { signer: stage.world.signer.clone(), recipients: None, compression_level: 1 };
    let error = Error::failed("the store is not tried out");
    let check = async |scope: &Scope| {
        let seen = head::look(scope).await.expect("it answers");
        let identities: Vec<Identity> = Vec::new();
        let subject = Subject {
            system: System::Postgres(Cluster {
                conninfo: "host=/nonexistent",
                data_directory: None,
                archive_timeout: Duration::ZERO,
                slot: "lifeboat",
            }),
            log_mode: None,
            writing: Ok(&writing),
            identities: &identities,
            probe: Err(&error),
            pinned: true,
        };
        let findings = check::run(scope, &seen.log, &subject, &Silent, &Cancel::new()).await.expect("findings");
        let window = findings.iter().find(|finding| finding.subject == "recovery window").expect("a window");
        assert!(window.message.contains("on timeline 1"), "{window:?}");
    };
    assert_asks(&stage.requests("check, warm", check).await, 0, "warm check");

    // What decides lists afresh: once to decide, once to delete.
    let expiry = async |scope: &Scope| {
        scope.repository.keyring().require(&writing.signer, Role::Expire).expect("it may");
        let report = expire::run(scope, None, &expire::Wish::default(), Arc::new(Silent), &Cancel::new()).await;
        let report = report.expect("it answers");
        assert_eq!(report.backups.len(), BACKUPS - EXPIRED);
        assert_eq!(report.logs[0].kept_objects, SEGMENTS, "{:?}", report.logs);
    };
    let dry = stage.requests("expire --dry-run", expiry).await;
    assert_asks(&dry, 2 * pages, "expire --dry-run");
}

/// Peak resident memory of `lifeboat list` on a host that never listed, and on the same host again, in KiB; and the requests.
fn listed(segments: u64) -> [(u64, usize); 2] {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = S3Server::start();
    process::add_environment(server.environment());
    for (key, content) in runtime.block_on(World::of(segments)).objects {
        server.plant(&format!("backups/{key}"), &content);
    }
    let proxy = support::proxy::Proxy::to(server.address());
    let host = Host::new(&Config::bucket(&server, "backups"));
    host.configure_text(&host.configuration().replace(&server.endpoint(), &proxy.endpoint()));
    [(); 2].map(|()| {
        let before = proxy.requests().len();
        let peak_kib = host.peak_kib(&["list"]);
        (peak_kib, proxy.requests().len() - before)
    })
}

#[test]
fn memory_and_requests_of_a_list_of_a_bucket_are_bounded() {
    let (few, many) = (listed(SEGMENTS / 10), listed(SEGMENTS));
    println!("peak KiB and requests of a cold and of a warm list: {few:?} for a tenth of the log, {many:?} for all of it");
    for ((few_kib, _), (many_kib, _)) in few.into_iter().zip(many) {
        assert!(many_kib < 256 << 10, "{many_kib} KiB");
        let bytes_per_object = many_kib.saturating_sub(few_kib) * 1024 / (SEGMENTS - SEGMENTS / 10);
        assert!(bytes_per_object < 1500, "{bytes_per_object} bytes of memory for each object of log");
    }
    let [(_, cold), (_, warm)] = many;
    assert!(cold as u64 >= SEGMENTS / PAGE && cold as u64 <= SEGMENTS / PAGE + ENTRIES + FIXED, "{cold} requests");
    assert!(warm as u64 <= ENTRIES + FIXED, "{warm} requests");
}
