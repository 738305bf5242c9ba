//! The body of a put: cut into frames, so that a stall can be told from a slow link, and described beforehand, so that
//! the store notices what was damaged on the way.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::SdkBody;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::options::Timeouts;
use crate::store::{Body, StoreError, StoreResult};

const FRAME_BYTES: usize = 64 << 10;

/// Bodies above this are digested away from the runtime's workers.
const DIGESTED_AT_ONCE_BYTES: usize = 256 << 10;

/// What the kernel may hold of a body when all of it has been handed over.
const LARGEST_SEND_BUFFER_BYTES: u64 = 4 << 20;

/// A body with its length and digests.
pub(super) struct Payload {
    body: Body,
    pub(super) length_bytes: u64,
    /// In lower-case hex, as a signature wants it.
    pub(super) sha256: String,
    /// In base64, as a header wants it.
    pub(super) crc32c: String,
}

impl Payload {
    /// Reads all of it once.
    ///
    /// # Errors
    /// Permanent when a file cannot be read, naming it.
    pub(super) async fn describe(body: Body) -> StoreResult<Self> {
        match &body {
            Body::Bytes(bytes) if bytes.len() <= DIGESTED_AT_ONCE_BYTES => describe(body),
            _ => match tokio::task::spawn_blocking(move || describe(body)).await {
                Ok(payload) => payload,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => Err(StoreError::Retryable { message: "shutting down".into(), source: Some(error.into()) }),
            },
        }
    }

    /// A stream of it from the beginning, which tells `progress` how far it is.
    ///
    /// # Errors
    /// Permanent when a file cannot be opened any more.
    pub(super) fn stream(&self, progress: &Arc<Progress>) -> StoreResult<SdkBody> {
        let source = match &self.body {
            Body::Bytes(bytes) => Source::Memory(bytes.clone()),
            Body::File(path) => {
                let file = File::open(path).map_err(|error| unreadable(path, error))?;
                Source::File { file: tokio::fs::File::from_std(file), buffer: vec![0; FRAME_BYTES] }
            }
        };
        progress.restart(self.length_bytes);
        Ok(SdkBody::from_body_1_x(Upload { source, left_bytes: self.length_bytes, progress: Arc::clone(progress) }))
    }
}

fn describe(body: Body) -> StoreResult<Payload> {
    let (mut sha256, mut crc, mut length_bytes) = (Sha256::new(), 0, 0);
    let mut add = |part: &[u8]| {
        sha256.update(part);
        crc = crc32c::crc32c_append(crc, part);
        length_bytes += part.len() as u64;
    };
    match &body {
        Body::Bytes(bytes) => add(bytes),
        Body::File(path) => {
            let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
            let mut buffer = vec![0; DIGESTED_AT_ONCE_BYTES];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read_bytes) => add(&buffer[..read_bytes]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(unreadable(path, error)),
                }
            }
        }
    }
    let crc32c = BASE64_STANDARD.encode(crc.to_be_bytes());
    Ok(Payload { body, length_bytes, sha256: hex::encode(sha256.finalize()), crc32c })
}

fn unreadable(path: &Path, error: io::Error) -> StoreError {
    StoreError::Permanent { message: format!("cannot read {}: {error}", path.display()), source: Some(error.into()) }
}

/// How far the upload of one body is.
pub(super) struct Progress {
    moved: Mutex<Instant>,
    left_bytes: AtomicU64,
    length_bytes: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        let (left_bytes, length_bytes) = Default::default();
        Arc::new(Self { moved: Mutex::new(Instant::now()), left_bytes, length_bytes })
    }

    fn restart(&self, length_bytes: u64) {
        self.length_bytes.store(length_bytes, Ordering::Relaxed);
        self.left_bytes.store(length_bytes, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When to give up unless something moves until then.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Instant {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, length) = (self.left_bytes.load(Ordering::Relaxed), self.length_bytes.load(Ordering::Relaxed));
        moved
            + if left == 0 {
                // The kernel may still be sending.
                timeouts.whole(length.min(LARGEST_SEND_BUFFER_BYTES))
            } else if left == length {
                timeouts.answer
            } else {
                timeouts.stall
            }
    }
}

enum Source {
    Memory(Bytes),
    File { file: tokio::fs::File, buffer: Vec<u8> },
}

struct Upload {
    source: Source,
    left_bytes: u64,
    progress: Arc<Progress>,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left_bytes == 0 {
            return Poll::Ready(None);
        }
        let frame = match &mut this.source {
            Source::Memory(bytes) => bytes.split_to(FRAME_BYTES.min(bytes.len())),
            Source::File { file, buffer } => {
                let wanted_bytes = usize::try_from(this.left_bytes).unwrap_or(FRAME_BYTES).min(FRAME_BYTES);
                let mut read = ReadBuf::new(&mut buffer[..wanted_bytes]);
                if let Err(error) = ready!(Pin::new(file).poll_read(context, &mut read)) {
                    return Poll::Ready(Some(Err(error)));
                }
                Bytes::copy_from_slice(read.filled())
            }
        };
        if frame.is_empty() {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"))));
        }
        this.left_bytes -= frame.len() as u64;
        this.progress.left_bytes.store(this.left_bytes, Ordering::Relaxed);
        this.progress.touch();
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_are_described_as_stores_want_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"123456789").unwrap();
        for body in [Body::from(b"123456789".to_vec()), Body::File(file.path().to_owned())] {
            let payload = Payload::describe(body).await.unwrap();
            assert_eq!(payload.length_bytes, 9);
            assert_eq!(payload.sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
            // The check value of CRC-32C, 0xE3069283.
            assert_eq!(payload.crc32c, "4waSgw==");
        }
        let missing = Payload::describe(Body::File("/nonexistent/pack".into())).await.err().unwrap();
        assert!(!missing.is_retryable() && missing.to_string().contains("/nonexistent/pack"), "{missing}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_body_ends_when_it_stands_still() {
        let timeouts = Timeouts::default();
        let payload = Payload::describe(Body::from(vec![7; 3 * FRAME_BYTES])).await.unwrap();
        let progress = Progress::new();
        let mut body = payload.stream(&progress).unwrap();
        let begun = Instant::now();
        assert_eq!(progress.deadline(&timeouts), begun + timeouts.answer);
        tokio::time::advance(timeouts.answer / 2).await;
        for left_frames in [2, 1, 0] {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), FRAME_BYTES);
            let moved = begun + timeouts.answer / 2;
            let limit = if left_frames == 0 { timeouts.whole(payload.length_bytes) } else { timeouts.stall };
            assert_eq!(progress.deadline(&timeouts), moved + limit);
        }
        assert!(body.is_end_stream());
    }
}
