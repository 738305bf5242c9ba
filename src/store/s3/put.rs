//! Writing: put-if-absent by `If-None-Match: *`, replacing by `If-Match`.
//!
//! Order of a put: (look, where the store may overwrite) → PUT with the condition → on a lost answer look again. A
//! refusal (412) after an attempt of our own whose answer was lost may be our own success: then the object's content
//! decides. One PUT an object, no parts, so that nothing half done is ever left in a bucket.

use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption as SdkEncryption, StorageClass};
use aws_sigv4::http_request::SignableBody;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::S3Store;
use super::body::{Payload, Progress};
use super::call::Attempts;
use super::failure::{Failure, Kind, speaks_no_s3};
use super::get::Stamp;
use super::lock;
use super::options::ServerSideEncryption;
use crate::base::killpoint;
use crate::store::{Body, Lock, PutOutcome, Store, StoreError, StoreResult};

/// What must hold for a put to happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition<'e> {
    /// There is no object of that name.
    Absent,
    /// The object is the version with this ETag.
    Unchanged(&'e str),
}

/// How a conditional put ended.
enum Written {
    /// The object is ours.
    Done(Stamp),
    /// The condition did not hold.
    Refused,
}

impl S3Store {
    pub(super) async fn put_new(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        let name = self.address.name_of(key)?;
        let payload = Payload::describe(body).await?;
        match self.write(key, &name, &payload, Condition::Absent).await? {
            // What a marker hides is there all the same, and the store does not refuse.
            Written::Done(stamp) if self.reads_oldest(key) => match self.came_first(key, stamp.version.as_deref()).await? {
                true => Ok(PutOutcome::Created),
                false => Ok(PutOutcome::AlreadyExists),
            },
            Written::Done(_) => Ok(PutOutcome::Created),
            Written::Refused => Ok(PutOutcome::AlreadyExists),
        }
    }

    /// Replaces the version `expected` of an object, or creates it when `expected` is `None`; the new version's ETag.
    /// `None` when the object is another version, or is (not) there against expectation: nothing was written then.
    ///
    /// On a store that ignores conditions, two writers at one moment can both succeed.
    ///
    /// # Errors
    /// As [`crate::store::Store::put_if_absent`].
    pub(super) async fn replace(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        let name = self.address.name_of(key)?;
        let payload = Payload::describe(Body::Bytes(content)).await?;
        let condition = expected.map_or(Condition::Absent, Condition::Unchanged);
        match self.write(key, &name, &payload, condition).await? {
            Written::Done(stamp) => Ok(Some(stamp.etag)),
            Written::Refused => Ok(None),
        }
    }

    async fn write(&self, key: &str, name: &str, payload: &Payload, condition: Condition<'_>) -> StoreResult<Written> {
        let mut attempts = Attempts::new();
        // Whether an earlier attempt may have succeeded unseen.
        let mut unsure = false;
        let lock = match condition {
            Condition::Absent => self.lock_at_put(key),
            Condition::Unchanged(_) => None,
        };
        loop {
            if (unsure || self.may_overwrite())
                && let Some(end) = self.look(key, payload, condition, unsure).await?
            {
                return Ok(end);
            }
            attempts.begin();
            // Nothing is visible of it yet, as of a file under its temporary name.
            killpoint::reach("store.temporary-written");
            let failure = match self.put(name, payload, Some(condition), lock).await? {
                Ok(stamp) => return Ok(Written::Done(stamp)),
                Err(failure) => failure,
            };
            match failure.kind {
                Kind::Refused => {
                    self.saw_condition_honoured();
                    let end = if unsure { self.look(key, payload, condition, unsure).await? } else { None };
                    return Ok(end.unwrap_or(Written::Refused));
                }
                // What was to be replaced is gone.
                Kind::Missing if matches!(condition, Condition::Unchanged(_)) => return Ok(Written::Refused),
                Kind::Missing | Kind::BeyondEnd => return Err(speaks_no_s3().of_call("write", key, &self.address)),
                Kind::Passing | Kind::Lasting => {}
            }
            if !attempts.again(&failure).await {
                return Err(failure.of_call("write", key, &self.address));
            }
            unsure = true;
        }
    }

    /// Puts without looking first; `false` when the store refused.
    pub(super) async fn put_blindly(&self, key: &str, content: &'static str) -> StoreResult<bool> {
        let name = self.address.name_of(key)?;
        let payload = Payload::describe(Body::Bytes(Bytes::from_static(content.as_bytes()))).await?;
        match self.put(&name, &payload, Some(Condition::Absent), None).await? {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind == Kind::Refused => Ok(false),
            Err(failure) => Err(failure.of_call("write", key, &self.address)),
        }
    }

    /// Whether what is there already decides: our own object, when an attempt of ours may have made it, or one that
    /// refuses the condition. `None` when a put may be tried.
    async fn look(&self, key: &str, payload: &Payload, condition: Condition<'_>, unsure: bool) -> StoreResult<Option<Written>> {
        let (info, stamp) = match self.head_newest(key).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => {
                return Ok(matches!(condition, Condition::Unchanged(_)).then_some(Written::Refused));
            }
            Err(error) => return Err(error),
        };
        if let Condition::Unchanged(expected) = condition
            && stamp.etag == expected
        {
            return Ok(None);
        }
        if unsure && info.size_bytes == payload.length_bytes {
            let (content, etag) = self.get_versioned(key).await?;
            if hex::encode(Sha256::digest(&content)) == payload.sha256 {
                return Ok(Some(Written::Done(Stamp { etag, ..stamp })));
            }
        }
        Ok(Some(Written::Refused))
    }

    /// One PUT; what the store calls the new object. The outer error is not the store's: a file that cannot be read.
    pub(super) async fn put(
        &self,
        name: &str,
        payload: &Payload,
        condition: Option<Condition<'_>>,
        lock: Option<Lock>,
    ) -> StoreResult<Result<Stamp, Failure>> {
        let client = match self.client().await {
            Ok(client) => client,
            Err(failure) => return Ok(Err(failure)),
        };
        let progress = Progress::new();
        let body = ByteStream::new(payload.stream(&progress)?);
        let request = client.put_object().bucket(&self.address.bucket).key(name).body(body);
        let request = self.with_put_headers(request, payload, condition, lock);
        let request = signed(request.customize(), payload);
        let sent = self.upload(&progress, payload.length_bytes, request.send()).await;
        // Every store that has taken an object names its version.
        Ok(sent.and_then(|done| {
            let etag = done.e_tag.ok_or_else(|| Failure::passing("the store did not confirm that it has the object"))?;
            Ok(Stamp { etag, version: done.version_id.filter(|version| version != "null") })
        }))
    }

    /// The one place where the headers of a put are chosen.
    fn with_put_headers(
        &self,
        request: PutObjectFluentBuilder,
        payload: &Payload,
        condition: Option<Condition<'_>>,
        lock: Option<Lock>,
    ) -> PutObjectFluentBuilder {
        let mut request = request.content_length(i64::try_from(payload.length_bytes).unwrap_or(i64::MAX));
        request = match condition {
            Some(Condition::Absent) => request.if_none_match("*"),
            Some(Condition::Unchanged(etag)) => request.if_match(etag),
            None => request,
        };
        if self.is_aws() || lock.is_some() {
            // Kept with the object, and demanded of a put with a lock. Without one, others know the content's SHA-256 from
            // the signature, and some refuse this header.
            request = request.checksum_crc32_c(&payload.crc32c);
        }
        if let Some(lock) = lock {
            request = request.object_lock_mode(lock::put_mode(lock.mode));
            request = request.object_lock_retain_until_date(lock::date(lock.until));
        }
        if let Some(class) = &self.options.storage_class {
            request = request.storage_class(StorageClass::from(class.as_str()));
        }
        match &self.options.encryption {
            None => request,
            Some(ServerSideEncryption::Managed) => request.server_side_encryption(SdkEncryption::Aes256),
            Some(ServerSideEncryption::Kms { key_id }) => {
                request.server_side_encryption(SdkEncryption::AwsKms).set_ssekms_key_id(key_id.clone())
            }
        }
    }
}

/// The request, its body signed by its digest: a store refuses what arrives otherwise.
fn signed<T, E, B>(request: CustomizableOperation<T, E, B>, payload: &Payload) -> CustomizableOperation<T, E, B> {
    request.interceptor(SignedPayload(payload.sha256.clone()))
}

/// Signs a streamed body by its SHA-256; the SDK by itself leaves streams unsigned.
#[derive(Debug)]
struct SignedPayload(String);

impl Intercept for SignedPayload {
    fn name(&self) -> &'static str {
        "SignedPayload"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut signing = config.load::<SigV4OperationSigningConfig>().cloned().unwrap_or_default();
        signing.signing_options.payload_override = Some(SignableBody::Precomputed(self.0.clone()));
        config.interceptor_state().store_put(signing);
        Ok(())
    }
}
