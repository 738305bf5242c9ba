//! A network that fails on demand: a loopback proxy between a client and an HTTP server, told request by request what
//! to do. It forwards one request a connection, so that a fault hits exactly what it was meant for. It can also be a link
//! of a fixed rate, which all connections share fairly.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Parts in which a slow link lets bytes through.
const TRICKLE_PART_BYTES: usize = 1 << 10;

/// What a connection sends through a shared link before it is the next one's turn.
const TURN_BYTES: usize = 16 << 10;

/// How often the proxy looks whether it is to end.
const LOOK: Duration = Duration::from_millis(5);

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is forwarded after a while.
    Latency(Duration),
    /// The connection is closed when the request has been read; the server never sees it.
    CloseBefore,
    /// The server acts on it, and its answer is lost with the connection.
    LoseAnswer,
    /// The server acts on it, but the client is told 500.
    DenySuccess,
    /// The client is answered with this status and code, and the server never sees the request.
    Answer(u16, &'static str),
    /// The client is answered 200 with an error in the body.
    ErrorInSuccess,
    /// The client is answered by a web site.
    WebPage(u16),
    /// The connection is reset after so many bytes of the answer's body.
    ResetAfter(usize),
    /// The connection ends in good order after so many bytes of the answer's body, fewer than announced.
    EndAfter(usize),
    /// Nothing comes after so many bytes of the answer's body.
    StallAfter(usize),
    /// Nothing of the request is read after so many bytes of its body.
    StallUploadAfter(usize),
    /// A bit of this byte of the request's body is turned on its way.
    FlipUpload(usize),
    /// So many bytes a second, in both directions.
    Bandwidth(u64),
}

/// Which requests a fault is for, and how many of them.
#[derive(Clone, Debug)]
struct Rule {
    method: Option<&'static str>,
    left: usize,
    fault: Fault,
}

struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    /// `GET /bucket/key?…` of every request so far.
    seen: Mutex<Vec<String>>,
    /// Answers that were sent in part and go no further.
    stalled: AtomicUsize,
    /// What everybody's bytes pass, when the rate is limited.
    link: Mutex<Option<Arc<Link>>>,
    ended: AtomicBool,
}

/// A link of a fixed rate. Whoever has bytes to send asks for one turn after the other, and turns are given in the order in
/// which they were asked for: of `n` connections that are busy each gets its `n`-th part.
struct Link {
    bytes_per_second: u64,
    /// When the bytes of the last turn that was given have passed.
    busy_until: Mutex<Instant>,
    passed_bytes: AtomicU64,
}

impl Link {
    /// Waits until `bytes` have passed.
    fn pass(&self, bytes: usize) {
        let passed = {
            let mut busy_until = lock(&self.busy_until);
            *busy_until = (*busy_until).max(Instant::now()) + time_for(bytes, self.bytes_per_second);
            *busy_until
        };
        std::thread::sleep(passed.saturating_duration_since(Instant::now()));
        self.passed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A proxy in front of one server; it ends with this value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy without faults.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("own socket");
        let address = listener.local_addr().expect("bound");
        let (rules, seen, stalled, link) = Default::default();
        let shared = Arc::new(Shared { upstream, rules, seen, stalled, link, ended: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &serving));
        Self { address, shared, thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests (of a method, or any) meet a fault. Rules are looked at in the order they were made.
    pub fn fail(&self, method: impl Into<Option<&'static str>>, times: usize, fault: Fault) {
        lock(&self.shared.rules).push(Rule { method: method.into(), left: times, fault });
    }

    /// From here on bodies in both directions together pass at this rate.
    pub fn throttle(&self, bytes_per_second: u64) {
        let link = Link { bytes_per_second, busy_until: Mutex::new(Instant::now()), passed_bytes: AtomicU64::new(0) };
        *lock(&self.shared.link) = Some(Arc::new(link));
    }

    /// Bytes that have passed the throttled link.
    pub fn passed_bytes(&self) -> u64 {
        lock(&self.shared.link).as_ref().map_or(0, |link| link.passed_bytes.load(Ordering::Relaxed))
    }

    /// No faults from here on.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// The requests so far, `GET /bucket/key`, without their queries.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.seen).clone()
    }

    /// How many answers were sent in part so far and went no further.
    pub fn stalled(&self) -> usize {
        self.shared.stalled.load(Ordering::SeqCst)
    }

    /// Stops listening: connections are refused until the end.
    pub fn refuse(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy does not panic");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || {
                    client.set_nonblocking(false).expect("own socket");
                    // Clients hang up as they please.
                    let _ = handle(client, &shared);
                });
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// The head of a request or an answer.
struct Head {
    first_line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// `None` when the connection ends instead.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let first_line = lines.next().unwrap_or_default();
        let headers =
            lines.filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
        Ok(Some(Self { first_line, headers: headers.collect() }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn body_bytes(&self) -> Option<usize> {
        self.header("content-length").and_then(|length| length.parse().ok())
    }

    /// With the wish to end the connection after this exchange.
    fn to_bytes(&self) -> Vec<u8> {
        let headers = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection"));
        let lines: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{lines}connection: close\r\n\r\n", self.first_line).into_bytes()
    }
}

fn handle(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let Some(request) = Head::read(&mut reader)? else { return Ok(()) };
    let fault = shared.next_fault(&request);
    let length = request.body_bytes().unwrap_or(0);
    if let Some(Fault::StallUploadAfter(bytes)) = fault {
        io::copy(&mut (&mut reader).take(bytes as u64), &mut io::sink())?;
        return shared.wait_for_end();
    }
    let mut body = vec![0; length];
    match fault {
        Some(Fault::Bandwidth(rate)) => read_slowly(&mut reader, &mut body, rate)?,
        _ => shared.receive(&mut reader, &mut body)?,
    }
    match fault {
        Some(Fault::Latency(pause)) => std::thread::sleep(pause),
        Some(Fault::FlipUpload(at)) => body[at] ^= 1,
        Some(Fault::CloseBefore) => return Ok(()),
        Some(Fault::Answer(status, code)) => return client.write_all(&error_answer(status, code)),
        Some(Fault::WebPage(status)) => {
            return client.write_all(&answer(status, "text/html", "<html><body>It works!</body></html>"));
        }
        Some(Fault::ErrorInSuccess) => return client.write_all(&error_answer(200, "InternalError")),
        _ => {}
    }
    let mut server = TcpStream::connect(shared.upstream)?;
    server.write_all(&request.to_bytes())?;
    server.write_all(&body)?;
    let mut reader = BufReader::new(server);
    let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
    let mut content = Vec::new();
    if !request.first_line.starts_with("HEAD ") {
        reader.read_to_end(&mut content)?;
    }
    match fault {
        Some(Fault::LoseAnswer) => return reset(&client),
        Some(Fault::DenySuccess) => return client.write_all(&error_answer(500, "InternalError")),
        _ => {}
    }
    client.write_all(&head.to_bytes())?;
    deliver(&mut client, &content, fault, shared)
}

/// Sends the answer's body as far as the fault lets it through.
fn deliver(client: &mut TcpStream, content: &[u8], fault: Option<Fault>, shared: &Shared) -> io::Result<()> {
    match fault {
        Some(Fault::ResetAfter(bytes)) => {
            client.write_all(&content[..bytes.min(content.len())])?;
            // What was sent is to arrive before the reset does.
            std::thread::sleep(Duration::from_millis(50));
            reset(client)
        }
        Some(Fault::EndAfter(bytes)) => client.write_all(&content[..bytes.min(content.len())]),
        Some(Fault::StallAfter(bytes)) => {
            client.write_all(&content[..bytes.min(content.len())])?;
            shared.stalled.fetch_add(1, Ordering::SeqCst);
            shared.wait_for_end()
        }
        Some(Fault::Bandwidth(rate)) => {
            for part in content.chunks(TRICKLE_PART_BYTES) {
                client.write_all(part)?;
                std::thread::sleep(time_for(part.len(), rate));
            }
            Ok(())
        }
        _ => shared.send(client, content),
    }?;
    client.shutdown(Shutdown::Write)
}

impl Shared {
    fn next_fault(&self, request: &Head) -> Option<Fault> {
        let (method, path) = request.first_line.split_once(' ').unwrap_or_default();
        let path = path.split(['?', ' ']).next().unwrap_or_default();
        lock(&self.seen).push(format!("{method} {path}"));
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && rule.method.is_none_or(|wanted| wanted == method))?;
        rule.left -= 1;
        Some(rule.fault)
    }

    /// Fills `into`, as fast as the link is.
    fn receive(&self, from: &mut impl Read, into: &mut [u8]) -> io::Result<()> {
        let Some(link) = lock(&self.link).clone() else { return from.read_exact(into) };
        for part in into.chunks_mut(TURN_BYTES) {
            from.read_exact(part)?;
            link.pass(part.len());
        }
        Ok(())
    }

    /// Sends `content`, as fast as the link is.
    fn send(&self, to: &mut impl Write, content: &[u8]) -> io::Result<()> {
        let Some(link) = lock(&self.link).clone() else { return to.write_all(content) };
        for part in content.chunks(TURN_BYTES) {
            link.pass(part.len());
            to.write_all(part)?;
        }
        Ok(())
    }

    fn wait_for_end(&self) -> io::Result<()> {
        while !self.ended.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn read_slowly(from: &mut impl Read, into: &mut [u8], rate: u64) -> io::Result<()> {
    for part in into.chunks_mut(TRICKLE_PART_BYTES) {
        from.read_exact(part)?;
        std::thread::sleep(time_for(part.len(), rate));
    }
    Ok(())
}

fn time_for(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

/// Ends a connection with a reset instead of an end.
fn reset(client: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
    client.shutdown(Shutdown::Read)
}

fn error_answer(status: u16, code: &str) -> Vec<u8> {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>planted</Message></Error>");
    answer(status, "application/xml", &xml)
}

fn answer(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Planted\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}
