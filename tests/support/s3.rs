//! A real S3 server inside the test's process: protocol and signatures by `s3s`, objects in memory.
//!
//! Not on `s3s-fs`: its conditional puts race with each other, and names of Lifeboat's length make it fail (it derives a
//! file name from each that is longer than file systems take). [`Quirks`] make it the stores that fall short of AWS,
//! [`Keeping`] a bucket with versions, locks or a policy.

#[path = "s3_bucket.rs"]
mod bucket;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use lifeboat::store::StoreOptions;
use lifeboat::store::s3::{Credentials, S3Options, S3Store};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::path::S3Path;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::sync::oneshot;

use bucket::{Bucket, matches};
pub use bucket::{Keeping, Rights, Version};

/// The only bucket.
pub const BUCKET: &str = "lifeboat-test";

const ACCESS_KEY: &str = "LIFEBOATTESTKEY";
const SECRET_KEY: &str = "lifeboat-test-secret";

/// What may put and get, and delete nothing.
const PUT_AND_GET_KEY: &str = "LIFEBOATTESTHOST";

/// What may do everything, and end locks in governance mode.
const BYPASSING_KEY: &str = "LIFEBOATTESTROOT";

/// What may hide objects beside that.
const HIDING_KEY: &str = "LIFEBOATTESTHIDER";

/// What `encoding-type=url` leaves as it is, besides the space, which becomes `+`.
const PLAIN_IN_LISTINGS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b' ');

/// Where a store falls short of AWS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Takes `If-None-Match` and `If-Match` and overwrites all the same.
    pub ignores_conditions: bool,
    /// Answers a range with the whole object.
    pub ignores_ranges: bool,
    /// Answers a range with 200 and no word about which bytes these are.
    pub hides_ranges: bool,
    /// Lists from the beginning whatever it is asked to start after.
    pub ignores_start_after: bool,
    /// Does not know `encoding-type`.
    pub encodes_nothing: bool,
    /// Says 409 to a put while another of the same name is under way: this many times for each name.
    pub conflicts: u64,
}

/// Requests that are refused, as by a policy of the bucket.
#[derive(Clone, Debug)]
struct Refusal {
    /// `PutObject`; every one when it is empty.
    operation: &'static str,
    /// What the names begin with, or the prefix of a listing.
    prefix: String,
    code: S3ErrorCode,
}

type Refusals = Arc<Mutex<Vec<Refusal>>>;

/// A server on a port of its own; it ends with this value.
pub struct S3Server {
    address: SocketAddr,
    bucket: Arc<Bucket>,
    refusals: Refusals,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3Server {
    /// A server that does what AWS does, with an empty bucket.
    pub fn start() -> Self {
        Self::with(Quirks::default())
    }

    /// A server that falls short of AWS.
    pub fn with(quirks: Quirks) -> Self {
        Self::serving(Bucket::with(quirks, Keeping::default()))
    }

    /// A server that does what AWS does, with an empty bucket that is set up in this way.
    pub fn keeping(keeping: Keeping) -> Self {
        Self::serving(Bucket::with(Quirks::default(), keeping))
    }

    fn serving(bucket: Bucket) -> Self {
        let (bucket, refusals) = (Arc::new(bucket), Refusals::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("own socket");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let (served, refused) = (Arc::clone(&bucket), Arc::clone(&refusals));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served, refused) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { address, bucket, refusals, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// What a process that uses the server needs in its environment.
    pub fn environment(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }

    /// As [`Self::environment`], for a process with these rights.
    pub fn environment_of(&self, rights: Rights) -> [(&'static str, &'static str); 2] {
        let (key, secret) = Self::access(rights);
        [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)]
    }

    /// As [`Self::options`], for a store with these rights.
    pub fn options_of(&self, rights: Rights) -> S3Options {
        let (key, secret) = Self::access(rights);
        S3Options { credentials: Some(Credentials::new(key, secret)), ..self.options() }
    }

    /// Access key and secret of credentials with these rights, for other clients.
    pub fn access(rights: Rights) -> (&'static str, &'static str) {
        match rights {
            Rights::All => (ACCESS_KEY, SECRET_KEY),
            Rights::PutAndGet => (PUT_AND_GET_KEY, SECRET_KEY),
            Rights::NoVersionDeletion => (HIDING_KEY, SECRET_KEY),
            Rights::Bypass => (BYPASSING_KEY, SECRET_KEY),
        }
    }

    /// Lines for `[repository.NAME]` beside `url`.
    pub fn settings(&self) -> String {
        format!("endpoint = \"{}\"\n", self.endpoint())
    }

    /// Options for a store of this process.
    pub fn options(&self) -> S3Options {
        options_for(&self.endpoint())
    }

    /// As [`Self::options`], to open any address with.
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions { s3: self.options() }
    }

    /// A store of this process in the bucket.
    pub fn store(&self, prefix: &str) -> S3Store {
        S3Store::new(&self.url(prefix), self.options()).expect("a right address")
    }

    /// The names of all objects that can be seen.
    pub fn names(&self) -> Vec<String> {
        self.bucket.current().into_iter().map(|(name, _)| name).collect()
    }

    /// The content of one object.
    pub fn content(&self, name: &str) -> Option<Bytes> {
        self.bucket.get(name, None).ok()?.content
    }

    /// Every version and delete marker, oldest first, by name.
    pub fn versions(&self) -> Vec<(String, Vec<Version>)> {
        self.bucket.lock().iter().map(|(name, versions)| (name.clone(), versions.clone())).collect()
    }

    /// Makes every version whose name begins like this older.
    pub fn backdate(&self, prefix: &str, by: std::time::Duration) {
        let mut stored = self.bucket.lock();
        let versions = stored.iter_mut().filter(|(name, _)| name.starts_with(prefix)).flat_map(|(_, versions)| versions);
        versions.for_each(|version| version.modified -= by);
    }

    /// Lets the time of every lock on names that begin like this be over.
    pub fn end_locks(&self, prefix: &str) {
        let mut stored = self.bucket.lock();
        let versions = stored.iter_mut().filter(|(name, _)| name.starts_with(prefix)).flat_map(|(_, versions)| versions);
        versions.for_each(|version| version.lock = None);
    }

    /// Removes an object behind everybody's back.
    pub fn remove(&self, name: &str) {
        self.bucket.lock().remove(name);
    }

    /// Refuses `operation` (`PutObject`; every one when it is empty) on names below `prefix` with this error's code.
    pub fn refuse(&self, operation: &'static str, prefix: &str, code: &str) {
        let code = S3ErrorCode::from_bytes(code.as_bytes()).expect("a known code");
        let refusal = Refusal { operation, prefix: prefix.to_owned(), code };
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).push(refusal);
    }

    /// Refuses nothing any more.
    pub fn relent(&self) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Puts or replaces an object behind everybody's back.
    pub fn plant(&self, name: &str, content: &[u8]) {
        self.bucket.insert(name.to_owned(), Bytes::copy_from_slice(content));
    }
}

/// Options of a store at this endpoint, with the server's credentials.
pub fn options_for(endpoint: &str) -> S3Options {
    let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY);
    S3Options { endpoint: Some(endpoint.to_owned()), credentials: Some(credentials), ..S3Options::default() }
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Server({})", self.address)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Either may be gone already, when the server panicked.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn serve(listener: std::net::TcpListener, bucket: Arc<Bucket>, refusals: Refusals) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("own socket");
    let mut service = S3ServiceBuilder::new(Server(bucket));
    let mut keys = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
    keys.register(PUT_AND_GET_KEY.to_owned(), SECRET_KEY.into());
    keys.register(HIDING_KEY.to_owned(), SECRET_KEY.into());
    keys.register(BYPASSING_KEY.to_owned(), SECRET_KEY.into());
    service.set_auth(keys);
    service.set_access(Access(refusals));
    let service = service.build();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
        // A client that goes away is no failure of the server.
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

struct Server(Arc<Bucket>);

struct Access(Refusals);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        // As by s3s itself: what is not signed is nobody's.
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = match context.s3_path() {
            S3Path::Object { key, .. } => key.to_string(),
            _ => prefix_in(context.uri().query().unwrap_or_default()),
        };
        let refused = refusals.into_iter().find(|refusal| {
            (refusal.operation.is_empty() || refusal.operation == context.s3_op().name()) && name.starts_with(&refusal.prefix)
        });
        refused.map_or(Ok(()), |refusal| Err(S3Error::new(refusal.code)))
    }
}

/// The prefix that a listing asks for.
fn prefix_in(query: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

fn rights<T>(request: &S3Request<T>) -> Rights {
    match request.credentials.as_ref().map(|credentials| credentials.access_key.as_str()) {
        Some(PUT_AND_GET_KEY) => Rights::PutAndGet,
        Some(HIDING_KEY) => Rights::NoVersionDeletion,
        Some(BYPASSING_KEY) => Rights::Bypass,
        _ => Rights::All,
    }
}

impl Server {
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

#[async_trait::async_trait]
impl S3 for Server {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let mut body: Body = request.input.body.take().map(Body::from).unwrap_or_else(Body::empty);
        // Reading it checks the digest in the signature.
        let content = body.store_all_limited(1 << 30).await.map_err(|error| match error.downcast::<S3Error>() {
            Ok(error) => *error,
            Err(error) => s3_error!(IncompleteBody, "{error}"),
        })?;
        let Version { id, etag, .. } = self.0.put(&request.input, content)?;
        let version_id = Some(id).filter(|_| self.0.keeping.versions);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), version_id, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let (input, quirks) = (request.input, self.0.quirks);
        self.check_bucket(&input.bucket)?;
        let stored = self.0.get(&input.key, input.version_id.as_deref())?;
        if let Some(expected) = &input.if_match
            && !quirks.ignores_conditions
            && !matches(expected, &stored.etag)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let (mut content, mut range) = (stored.content.clone().unwrap_or_default(), None);
        if let Some(asked) = input.range.filter(|_| !quirks.ignores_ranges) {
            let whole_bytes = content.len() as u64;
            let part = asked.check(whole_bytes)?;
            range = Some(format!("bytes {}-{}/{whole_bytes}", part.start, part.end - 1)).filter(|_| !quirks.hides_ranges);
            content = content.slice(part.start as usize..part.end as usize);
        }
        let output = GetObjectOutput {
            content_length: Some(content.len() as i64),
            content_range: range,
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            version_id: Some(stored.id).filter(|_| self.0.keeping.versions),
            body: Some(Body::from(content).into()),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let stored = self.0.get(&request.input.key, request.input.version_id.as_deref())?;
        let (mode, until) = stored.lock.unzip();
        let output = HeadObjectOutput {
            content_length: Some(stored.content.map_or(0, |content| content.len() as i64)),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            object_lock_mode: mode.map(ObjectLockMode::from),
            object_lock_retain_until_date: until,
            version_id: Some(stored.id).filter(|_| self.0.keeping.versions),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let bypasses = request.input.bypass_governance_retention == Some(true);
        self.0.delete(&request.input.key, request.input.version_id.as_deref(), bypasses, rights(&request))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let (input, quirks) = (request.input, self.0.quirks);
        self.check_bucket(&input.bucket)?;
        let encodes = input.encoding_type.is_some() && !quirks.encodes_nothing;
        let shown = |name: &str| if encodes { encoded(name) } else { name.to_owned() };
        let prefix = input.prefix.clone().unwrap_or_default();
        let start_after = input.start_after.clone().filter(|_| !quirks.ignores_start_after);
        let token = input.continuation_token.as_deref().map(decode_token).transpose()?;
        let after = token.or(start_after).unwrap_or_default();
        let max_keys = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(0).min(1000);
        let (mut contents, mut directories, mut last) = (Vec::new(), BTreeSet::new(), None);
        let mut truncated = false;
        for (name, stored) in self.0.current().iter().filter(|(name, _)| name.starts_with(&prefix) && *name > after) {
            let directory = input.delimiter.as_ref().and_then(|delimiter| directory_of(name, &prefix, delimiter));
            if directory.as_ref().is_some_and(|directory| directories.contains(directory) || after.starts_with(directory)) {
                last = Some(name.clone());
                continue;
            }
            if contents.len() + directories.len() == max_keys {
                truncated = true;
                break;
            }
            match directory {
                Some(directory) => drop(directories.insert(directory)),
                None => contents.push(Object {
                    key: Some(shown(name)),
                    size: stored.content.as_ref().map(|content| content.len() as i64),
                    last_modified: Some(stored.modified.into()),
                    ..Default::default()
                }),
            }
            last = Some(name.clone());
        }
        let directories = directories.iter().map(|name| CommonPrefix { prefix: Some(shown(name)) }).collect();
        let output = ListObjectsV2Output {
            contents: Some(contents),
            common_prefixes: Some(directories),
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated).map(hex::encode),
            encoding_type: input.encoding_type.filter(|_| encodes),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let shown = |name: &str| if input.encoding_type.is_some() { encoded(name) } else { name.to_owned() };
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.key_marker.as_deref().filter(|marker| !marker.is_empty());
        let after = after.map(|marker| (marker, input.version_id_marker.as_deref()));
        let max_keys = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(0).min(1000);
        let mut output = ListObjectVersionsOutput { encoding_type: input.encoding_type.clone(), ..Default::default() };
        let (mut versions, mut markers, mut directories) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (name, version, is_latest) in self.0.versions_after(&prefix, after) {
            let directory = input.delimiter.as_ref().and_then(|delimiter| directory_of(&name, &prefix, delimiter));
            let marked = |directory: &String| after.is_some_and(|(marker, _)| marker.starts_with(directory.as_str()));
            if directory.as_ref().is_some_and(|directory| directories.contains(directory) || marked(directory)) {
                continue;
            }
            if versions.len() + markers.len() + directories.len() == max_keys {
                output.is_truncated = Some(true);
                break;
            }
            let id = Some(version.id.clone());
            (output.next_key_marker, output.next_version_id_marker) = match &directory {
                Some(directory) => (Some(shown(directory)), None),
                None => (Some(shown(&name)), id.clone()),
            };
            let (key, last_modified, is_latest) = (Some(shown(&name)), Some(version.modified.into()), Some(is_latest));
            match (directory, version.content) {
                (Some(directory), _) => drop(directories.insert(directory)),
                (None, None) => markers.push(DeleteMarkerEntry { key, is_latest, last_modified, version_id: id, owner: None }),
                (None, Some(content)) => versions.push(ObjectVersion {
                    key,
                    is_latest,
                    last_modified,
                    version_id: id,
                    size: Some(content.len() as i64),
                    ..Default::default()
                }),
            }
        }
        if output.is_truncated != Some(true) {
            (output.next_key_marker, output.next_version_id_marker) = (None, None);
        }
        let prefixes = directories.iter().map(|name| CommonPrefix { prefix: Some(shown(name)) }).collect();
        (output.versions, output.delete_markers, output.common_prefixes) = (Some(versions), Some(markers), Some(prefixes));
        Ok(S3Response::new(output))
    }

    async fn put_object_retention(
        &self,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        self.check_bucket(&request.input.bucket)?;
        self.0.retain(&request.input)?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }

    async fn get_object_retention(
        &self,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let retention = Some(self.0.retention(&request.input)?);
        Ok(S3Response::new(GetObjectRetentionOutput { retention }))
    }

    async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        if !self.0.keeping.object_lock {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
        let object_lock_configuration = Some(ObjectLockConfiguration { object_lock_enabled: Some(enabled), rule: None });
        Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration }))
    }
}

/// `a/b/` of `a/b/c/d` below `a/`.
fn directory_of(name: &str, prefix: &str, delimiter: &str) -> Option<String> {
    let (first, _) = name.strip_prefix(prefix)?.split_once(delimiter)?;
    Some(format!("{prefix}{first}{delimiter}"))
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, PLAIN_IN_LISTINGS).to_string().replace(' ', "+")
}

fn decode_token(token: &str) -> S3Result<String> {
    let refused = || S3Error::new(S3ErrorCode::InvalidArgument);
    String::from_utf8(hex::decode(token).map_err(|_| refused())?).map_err(|_| refused())
}
