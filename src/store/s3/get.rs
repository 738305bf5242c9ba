//! Reading: whole objects and ranges, resumed where a connection breaks, and never shorter than the store said.
//!
//! A resumed read asks for the same version (`If-Match`), so that no object is ever patched together from two.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::S3Store;
use super::call::Attempts;
use super::failure::{Failure, Kind, speaks_no_s3};
use super::list::timestamp;
use crate::store::{ObjectInfo, RequestKind, StoreResult};

/// Nothing that S3 stores begins or ends beyond this.
const LARGEST_OFFSET: u64 = 1 << 62;

/// Buffers for objects of unknown or unbelievable length begin with this.
const LARGEST_FIRST_BUFFER_BYTES: u64 = 64 << 20;

/// How often one read is resumed.
const RESUMES: usize = 5;

/// A read under way.
struct Reading {
    /// The version that is read; the newest when there is none.
    version: Option<String>,
    /// What was asked for; open-ended for a whole object.
    start: u64,
    end: u64,
    content: BytesMut,
    etag: Option<String>,
}

/// What a store calls one version of an object.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) etag: String,
    /// Where the bucket keeps versions.
    pub(super) version: Option<String>,
}

/// Where the bytes of an answer lie.
struct Placed {
    /// Bytes to skip, where the store sends more than it was asked for.
    skip_bytes: u64,
    /// Bytes that are wanted after those; `None` when the store does not say how long the object is.
    wanted_bytes: Option<u64>,
}

impl S3Store {
    /// The whole object, and the ETag of its version.
    ///
    /// # Errors
    /// As [`crate::store::Store::get`].
    pub(super) async fn read_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        let name = self.address.name_of(key)?;
        self.read(key, &name, 0..u64::MAX, None).await
    }

    /// The whole object, by its version that counts.
    pub(super) async fn get_whole(&self, key: &str) -> StoreResult<Bytes> {
        let name = self.address.name_of(key)?;
        let version = self.version_to_read(key).await?;
        Ok(self.read(key, &name, 0..u64::MAX, version).await?.0)
    }

    /// The version to read; none where it is the newest.
    async fn version_to_read(&self, key: &str) -> StoreResult<Option<String>> {
        if self.reads_oldest(key) { self.oldest_id(key).await.map(Some) } else { Ok(None) }
    }

    /// Size and time of the version that counts.
    pub(super) async fn look_up(&self, key: &str) -> StoreResult<ObjectInfo> {
        match self.reads_oldest(key) {
            true => Ok(self.oldest(key).await?.info),
            false => Ok(self.head_versioned(key).await?.0),
        }
    }

    pub(super) async fn get_part(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        let name = self.address.name_of(key)?;
        if range.is_empty() || range.start >= LARGEST_OFFSET {
            return self.look_up(key).await.map(|_| Bytes::new());
        }
        let version = self.version_to_read(key).await?;
        Ok(self.read(key, &name, range, version).await?.0)
    }

    /// Size, time and ETag of the newest version of an object.
    pub(super) async fn head_versioned(&self, key: &str) -> StoreResult<(ObjectInfo, String)> {
        let (info, stamp) = self.head_newest(key).await?;
        Ok((info, stamp.etag))
    }

    /// Size, time and names of the newest version of an object.
    pub(super) async fn head_newest(&self, key: &str) -> StoreResult<(ObjectInfo, Stamp)> {
        let name = self.address.name_of(key)?;
        let failed = |failure: Failure| failure.of_call("look up", key, &self.address);
        let client = self.client().await.map_err(failed)?;
        let request = || client.head_object().bucket(&self.address.bucket).key(&name).send();
        let found = match self.call(RequestKind::Head, request).await {
            Ok(found) => found,
            Err(failure) => return Err(failed(self.explained(failure).await)),
        };
        let (Some(size), Some(etag)) = (found.content_length.and_then(|size| u64::try_from(size).ok()), found.e_tag) else {
            return Err(failed(no_object(found.content_type.as_deref())));
        };
        let info = ObjectInfo { key: key.to_owned(), size_bytes: size, modified: timestamp(found.last_modified) };
        Ok((info, Stamp { etag, version: found.version_id }))
    }

    async fn read(&self, key: &str, name: &str, range: Range<u64>, version: Option<String>) -> StoreResult<(Bytes, String)> {
        let failed = |failure: Failure| failure.of_call("read", key, &self.address);
        let mut reading = Reading { version, start: range.start, end: range.end, content: BytesMut::new(), etag: None };
        let mut pauses = Attempts::new();
        for resumes_left in (0..=RESUMES).rev() {
            let answer = match self.ask(name, &reading).await {
                Ok(answer) => answer,
                Err(failure) if failure.kind == Kind::BeyondEnd => match reading.etag {
                    Some(_) => return Err(failed(Failure::passing("it became shorter while it was read"))),
                    // The object ends before the range begins.
                    None if reading.version.is_some() => return Ok((Bytes::new(), String::new())),
                    None => return Ok((Bytes::new(), self.head_versioned(key).await?.1)),
                },
                Err(failure) => return Err(failed(failure)),
            };
            let Some(etag) = answer.e_tag.clone() else {
                return Err(failed(no_object(answer.content_type.as_deref())));
            };
            if reading.etag.get_or_insert_with(|| etag.clone()) != &etag {
                return Err(failed(Failure::passing("it was replaced while it was read")));
            }
            let placed = self.place(key, &answer, &reading).await?;
            let before_bytes = reading.content.len();
            match self.collect(answer.body, &placed, &mut reading.content).await {
                Ok(()) => return Ok((reading.content.freeze(), etag)),
                Err(failure) if failure.kind != Kind::Passing || resumes_left == 0 => return Err(failed(failure)),
                Err(_) if reading.content.len() > before_bytes => {}
                Err(_) => pauses.rest().await,
            }
        }
        Err(failed(Failure::passing("the connection broke again and again")))
    }

    /// Asks for what is still missing.
    async fn ask(&self, name: &str, reading: &Reading) -> Result<GetObjectOutput, Failure> {
        let client = self.client().await?;
        let from = reading.start + reading.content.len() as u64;
        let range = match reading.end {
            end if end < LARGEST_OFFSET => Some(format!("bytes={from}-{}", end - 1)),
            _ if from > 0 => Some(format!("bytes={from}-")),
            _ => None,
        };
        let request = || {
            let request = client.get_object().bucket(&self.address.bucket).key(name).set_range(range.clone());
            request.set_version_id(reading.version.clone()).set_if_match(reading.etag.clone()).send()
        };
        self.call(RequestKind::Get, request).await
    }

    /// Finds where the bytes of an answer lie: a store may ignore the range, or give it without saying so.
    async fn place(&self, key: &str, answer: &GetObjectOutput, reading: &Reading) -> StoreResult<Placed> {
        let from = reading.start + reading.content.len() as u64;
        let sent_bytes = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let strange =
            || Failure::passing("the store sent another range than it was asked for").of_call("read", key, &self.address);
        let cut = |first: u64, sent_bytes: u64| {
            let last = (first + sent_bytes).min(reading.end);
            Placed { skip_bytes: from - first, wanted_bytes: Some(last.saturating_sub(from)) }
        };
        if let Some(range) = &answer.content_range {
            let (first, last) = parse_content_range(range).ok_or_else(strange)?;
            let length_bytes = (last + 1).saturating_sub(first);
            if first > from || last < from || sent_bytes.is_some_and(|sent| sent != length_bytes) {
                return Err(strange());
            }
            return Ok(cut(first, length_bytes));
        }
        let Some(sent_bytes) = sent_bytes else {
            return if from == 0 && reading.end == u64::MAX {
                Ok(Placed { skip_bytes: 0, wanted_bytes: None })
            } else {
                Err(strange())
            };
        };
        if from == 0 {
            return Ok(cut(0, sent_bytes));
        }
        // Either the whole object or exactly the right bytes: its size tells.
        let size_bytes = self.look_up(key).await?.size_bytes;
        match sent_bytes {
            whole if whole == size_bytes => Ok(cut(0, whole)),
            exact if from + exact == size_bytes.min(reading.end) => Ok(cut(from, exact)),
            _ => Err(strange()),
        }
    }

    /// Appends the wanted bytes of a body; fails when it stalls, crawls, breaks or ends early.
    async fn collect(&self, mut body: ByteStream, placed: &Placed, content: &mut BytesMut) -> Result<(), Failure> {
        let timeouts = &self.options.timeouts;
        let expected_bytes = placed.wanted_bytes.unwrap_or(0) + placed.skip_bytes;
        let last_moment = Instant::now() + timeouts.whole(expected_bytes);
        let first_buffer_bytes = placed.wanted_bytes.unwrap_or(0).min(LARGEST_FIRST_BUFFER_BYTES);
        content.reserve(usize::try_from(first_buffer_bytes).unwrap_or(0));
        let (mut skip_bytes, mut left_bytes) = (placed.skip_bytes, placed.wanted_bytes);
        while left_bytes != Some(0) {
            let part = match timeout(timeouts.stall, body.next()).await {
                Err(_) => return Err(Failure::passing(format!("nothing came for {} s", timeouts.stall.as_secs_f32()))),
                Ok(Some(Err(_))) => return Err(Failure::passing("the connection broke")),
                Ok(None) if left_bytes.is_some() => return Err(Failure::passing("it ended early")),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(part))) => part,
            };
            let skipped = usize::try_from(skip_bytes).unwrap_or(usize::MAX).min(part.len());
            skip_bytes -= skipped as u64;
            let mut part = &part[skipped..];
            if let Some(left) = &mut left_bytes {
                part = &part[..usize::try_from(*left).unwrap_or(usize::MAX).min(part.len())];
                *left -= part.len() as u64;
            }
            content.extend_from_slice(part);
            if Instant::now() > last_moment && left_bytes != Some(0) {
                return Err(Failure::passing("it comes too slowly"));
            }
        }
        Ok(())
    }

    /// Whether the bucket is there and may be listed. Asked by a listing: the answer to a HEAD gives no reasons.
    ///
    /// # Errors
    /// Permanent, with what to do, when it is not.
    pub async fn check_bucket(&self) -> StoreResult<()> {
        self.list_one().await.map_err(|failure| failure.of_call("use", "", &self.address))
    }

    async fn list_one(&self) -> Result<(), Failure> {
        let client = self.client().await?;
        let request = || {
            let request = client.list_objects_v2().bucket(&self.address.bucket);
            request.prefix(self.address.name_start("")).max_keys(1).send()
        };
        self.call(RequestKind::List, request).await.map(|_| ())
    }

    /// The reason for a HEAD's lasting failure, which comes without one.
    async fn explained(&self, failure: Failure) -> Failure {
        match failure.kind {
            Kind::Lasting => self.list_one().await.err().filter(|found| found.kind == Kind::Lasting).unwrap_or(failure),
            _ => failure,
        }
    }
}

/// What it means when an object comes without an ETag, which every store names.
fn no_object(content_type: Option<&str>) -> Failure {
    match content_type {
        Some(kind) if kind.contains("xml") => Failure::passing("the store reported an error in place of the object"),
        _ => speaks_no_s3(),
    }
}

/// First and last byte of `bytes 0-9/100`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, _) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?)).filter(|(first, last)| first <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_understood() {
        assert_eq!(parse_content_range("bytes 5-9/100"), Some((5, 9)));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, 0)));
        for odd in ["", "bytes */100", "bytes 9-5/100", "bytes=5-9", "items 5-9/10", "bytes 5-/9"] {
            assert_eq!(parse_content_range(odd), None, "{odd}");
        }
    }
}
