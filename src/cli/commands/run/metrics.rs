//! `/metrics` and `/healthz` over HTTP/1.1: what `lifeboat status` says, and what the scheduler says of itself.
//!
//! The status is fetched by a child when somebody asks and the last is older than [`STATUS_LIVES`]; never two at a time. Who
//! asks waits for it a little, and gets the last one else, with its age, unless it is older than [`STATUS_SERVED`].

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::board::Board;
use super::child;
use super::log::{Level, Log};

/// How long a status is fresh.
const STATUS_LIVES: Duration = Duration::from_secs(15);
/// How long the last one is served when none can be had.
const STATUS_SERVED: Duration = Duration::from_secs(5 * 60);
/// How long a fresh one is waited for.
const STATUS_WAIT: Duration = Duration::from_secs(5);
/// How long one may take.
const STATUS_AT_MOST: Duration = Duration::from_secs(120);
/// Connections at one time; more wait.
const CONNECTIONS: usize = 16;
/// Longest life of a connection.
const CONNECTION_LIVES: Duration = Duration::from_secs(60);

/// Serves for as long as the process lives.
pub(super) async fn serve(listener: TcpListener, board: Arc<Board>, config_file: PathBuf, log: Log) {
    let status = Arc::new(Status { config_file, log, last: Mutex::default(), fetching: tokio::sync::Mutex::new(None) });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let (board, status) = (Arc::clone(&board), Arc::clone(&status));
                tokio::spawn(async move {
                    let _permit = permit;
                    // A client that stays or breaks off is no concern of anybody.
                    let _ = tokio::time::timeout(CONNECTION_LIVES, connection(stream, board, status)).await;
                });
            }
            Err(error) => {
                log.say(Level::Warn, None, None, &format!("a connection for metrics was not accepted: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, board: Arc<Board>, status: Arc<Status>) {
    let service = service_fn(|request| {
        let (board, status) = (Arc::clone(&board), Arc::clone(&status));
        async move { Ok::<_, Infallible>(answer(&request, &board, status).await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, board: &Board, status: Arc<Status>) -> Response<String> {
    let (code, kind, body) = match request.uri().path() {
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD\n".to_owned())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", status.metrics().await + &board.metrics()),
        // A stream that is down is started again from here: that is no reason to end this process.
        "/healthz" if board.is_alive() => {
            let down: String = board.streams_down().iter().map(|line| format!("{line}\n")).collect();
            (StatusCode::OK, "text/plain", format!("ok\n{down}"))
        }
        "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the scheduler is stuck\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "/metrics or /healthz\n".to_owned()),
    };
    let response = Response::builder().status(code).header(CONTENT_TYPE, kind).header(ALLOW, "GET, HEAD");
    response.body(body).expect("a status and plain headers")
}

#[derive(Clone, Default)]
struct Last {
    text: String,
    /// When it was fetched; none before the first.
    fetched: Option<Instant>,
    /// Whether the last attempt failed.
    failed: bool,
}

impl Last {
    /// What is served at `now`: nobody should take for present what was so long ago.
    fn page(self, now: Instant) -> String {
        let age = self.fetched.map(|fetched| now.duration_since(fetched));
        let served = age.filter(|age| *age <= STATUS_SERVED);
        let up = u8::from(served.is_some() && !self.failed);
        let mut text = if served.is_some() { self.text } else { String::new() };
        text += "# HELP lifeboat_run_status_up Whether the last status could be had.\n# TYPE lifeboat_run_status_up gauge\n";
        text += &format!("lifeboat_run_status_up {up}\n");
        if let Some(age) = age {
            text += "# HELP lifeboat_run_status_age_seconds Age of the last status.\n";
            text += "# TYPE lifeboat_run_status_age_seconds gauge\n";
            text += &format!("lifeboat_run_status_age_seconds {:.1}\n", age.as_secs_f64());
        }
        text
    }
}

struct Status {
    config_file: PathBuf,
    log: Log,
    last: Mutex<Last>,
    /// Held while one is fetched; when the last fetch began.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

impl Status {
    async fn metrics(self: Arc<Self>) -> String {
        // A task of its own: it goes on when nobody waits any more.
        let fetch = tokio::spawn(Arc::clone(&self).refresh());
        let _ = tokio::time::timeout(STATUS_WAIT, fetch).await;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.page(Instant::now())
    }

    async fn refresh(self: Arc<Self>) {
        let mut began = self.fetching.lock().await;
        if began.is_some_and(|began| began.elapsed() < STATUS_LIVES) {
            return;
        }
        *began = Some(Instant::now());
        let fetched = child::output(&self.config_file, &["status", "--format", "prometheus"], STATUS_AT_MOST).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(text) => *last = Last { text, fetched: Some(Instant::now()), failed: false },
            Err(error) => {
                if !last.failed {
                    self.log.say(Level::Warn, None, None, &format!("no status for the metrics: {}", error.summary()));
                }
                last.failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_status_is_served_for_a_while_and_then_none() {
        let fetched = Instant::now();
        let at = |seconds, failed| {
            let last = Last { text: "lifeboat_up 1\n".to_owned(), fetched: Some(fetched), failed };
            last.page(fetched + Duration::from_secs(seconds))
        };
        let fresh = at(1, false);
        assert!(fresh.starts_with("lifeboat_up 1\n") && fresh.contains("\nlifeboat_run_status_up 1\n"), "{fresh}");
        let old = at(300, true);
        assert!(old.starts_with("lifeboat_up 1\n") && old.contains("\nlifeboat_run_status_up 0\n"), "{old}");
        let stuck = at(301, false);
        assert!(!stuck.contains("lifeboat_up 1\n") && stuck.contains("\nlifeboat_run_status_up 0\n"), "{stuck}");
        assert!(stuck.contains("\nlifeboat_run_status_age_seconds 301.0\n"), "{stuck}");
        assert!(Last::default().page(fetched).ends_with("\nlifeboat_run_status_up 0\n"));
    }
}
