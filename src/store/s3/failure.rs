//! What a failed request means: whether it may pass, and what an operator can do about it.
//!
//! Sentences are our own; the store's codes are named, its XML never is.

use std::error::Error as StdError;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::address::Address;
use crate::store::{Guidance, StoreError};

/// Longest text of a store that is repeated.
const MAX_FOREIGN_CHARACTERS: usize = 200;

/// What a caller must know of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object.
    Missing,
    /// A condition did not hold (412).
    Refused,
    /// A range begins after the end (416).
    BeyondEnd,
    /// It may pass.
    Passing,
    /// It stays until somebody changes something.
    Lasting,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    why: String,
    hint: Option<String>,
    /// What the store called it.
    code: Option<String>,
}

impl Failure {
    /// Whether the store called it by one of these names.
    pub(super) fn is_called(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the credentials may not do this, or a lock stands against it.
    pub(super) fn is_denied(&self) -> bool {
        self.is_called(&["AccessDenied", "Forbidden", "UnauthorizedAccess", "ObjectLocked"])
    }

    /// What failed, in the store's words.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self { kind: Kind::Passing, why: why.into(), hint: None, code: None }
    }

    pub(super) fn lasting(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: Kind::Lasting, why: why.into(), hint: Some(hint.into()), code: None }
    }

    fn bare(kind: Kind) -> Self {
        Self { kind, why: String::new(), hint: None, code: None }
    }

    /// As the error of a call: `cannot read a/b in s3://bucket/prefix: access is denied (AccessDenied)`.
    pub(super) fn of_call(self, action: &str, key: &str, address: &Address) -> StoreError {
        let name = if key.is_empty() { String::new() } else { format!("{key} in ") };
        let is_denied = self.is_denied();
        let why = match self.kind {
            Kind::Missing => return StoreError::NotFound { key: key.to_owned() },
            Kind::Refused => "it was changed meanwhile".to_owned(),
            Kind::BeyondEnd => "the store refuses the range".to_owned(),
            Kind::Passing | Kind::Lasting => self.why,
        };
        let message = format!("cannot {action} {name}{}: {why}", address.url);
        let hint = if is_denied { Some(permission_for(action).to_owned()) } else { self.hint };
        let source = hint.map(Guidance::boxed);
        match self.kind {
            Kind::Lasting => StoreError::Permanent { message, source },
            _ => StoreError::Retryable { message, source },
        }
    }

    /// What the SDK's error says.
    pub(super) fn of_sdk<E>(error: SdkError<E, HttpResponse>, address: &Address) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(failed) => {
                let raw = failed.raw();
                let header = |name: &str| raw.headers().get(name).map(str::to_owned);
                let answer = Answer {
                    status: raw.status().as_u16(),
                    code: failed.err().code().map(str::to_owned),
                    message: failed.err().message().map(str::to_owned),
                    bucket_region: header("x-amz-bucket-region"),
                    has_foreign_body: raw.body().bytes().is_some_and(is_foreign),
                };
                let (code, failure) = (answer.code.clone(), answer.failure(address));
                Self { code: code.or(failure.code), ..failure }
            }
            SdkError::ResponseError(failed) => of_strange_answer(failed.raw()),
            SdkError::TimeoutError(_) => Self::passing("the request timed out"),
            other => of_chain(&other),
        }
    }
}

/// What has to be allowed for an action.
fn permission_for(action: &str) -> &'static str {
    match action {
        "list" | "use" => "allow s3:ListBucket on the bucket",
        // Without the second, S3 denies also what does not exist.
        "read" | "look up" => "allow s3:GetObject below the prefix (and s3:ListBucket on the bucket)",
        "write" => "allow s3:PutObject below the prefix",
        "delete" => "allow s3:DeleteObject below the prefix, to those who expire",
        _ => "allow s3:ListBucket on the bucket, and s3:GetObject and s3:PutObject below the prefix",
    }
}

/// The failure when the answer is a success that cannot be understood.
fn of_strange_answer(raw: &HttpResponse) -> Failure {
    match raw.body().bytes() {
        // Some stores begin to answer before they know how it ends.
        Some(body) if contains(body, b"<Error") => Failure::passing("the store reported an error in place of the answer"),
        Some(body) if is_foreign(body) => speaks_no_s3(),
        _ => Failure::passing("the answer ended too early or cannot be understood"),
    }
}

/// The failure when something answers that is no object store.
pub(super) fn speaks_no_s3() -> Failure {
    Failure::lasting("what answers there does not speak S3", "is 'endpoint' right? it names the S3 API, not a console")
}

fn is_foreign(body: &[u8]) -> bool {
    let text = body.trim_ascii_start();
    let is_xml = text.starts_with(b"<?xml") || text.starts_with(b"<Error") || text.starts_with(b"<List");
    !text.is_empty() && !is_xml
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// An error that the store answered with.
struct Answer {
    status: u16,
    code: Option<String>,
    message: Option<String>,
    bucket_region: Option<String>,
    has_foreign_body: bool,
}

impl Answer {
    fn failure(&self, address: &Address) -> Failure {
        let code = self.code.as_deref().unwrap_or_default();
        match (code, self.status) {
            ("NoSuchBucket", _) => Failure::lasting(
                format!("there is no bucket {} (NoSuchBucket)", address.bucket),
                "create the bucket, or correct 'url'; lifeboat never creates one",
            ),
            ("NoSuchKey" | "NoSuchVersion" | "NotFound", _) => Failure::bare(Kind::Missing),
            ("PreconditionFailed", _) | (_, 412) => Failure::bare(Kind::Refused),
            ("InvalidRange", _) | (_, 416) => Failure::bare(Kind::BeyondEnd),
            _ if self.is_passing(code) => Failure::passing(self.told("the store asks to try again later")),
            _ => self.credentials(code).or_else(|| self.place(code, address)).unwrap_or_else(|| self.other(code)),
        }
    }

    fn is_passing(&self, code: &str) -> bool {
        const CODES: &[&str] = &[
            "BadDigest",
            "ConditionalRequestConflict",
            "IncompleteBody",
            "InternalError",
            "OperationAborted",
            "RequestLimitExceeded",
            "RequestTimeout",
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
            "XAmzContentSHA256Mismatch",
        ];
        CODES.contains(&code) || matches!(self.status, 408 | 409 | 425 | 429) || (self.status >= 500 && !self.is_lasting_fault())
    }

    /// Faults of a server that will not go away by themselves: 501, 505, 507.
    fn is_lasting_fault(&self) -> bool {
        matches!(self.status, 501 | 505 | 507)
    }

    fn credentials(&self, code: &str) -> Option<Failure> {
        let (why, hint) = match code {
            "InvalidAccessKeyId" | "NotSignedUp" => {
                ("the store does not know the access key", "check AWS_ACCESS_KEY_ID, or the profile, of the user of lifeboat")
            }
            "SignatureDoesNotMatch" => {
                ("the secret access key is wrong", "check AWS_SECRET_ACCESS_KEY, or the profile, of the user of lifeboat")
            }
            "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException" | "RequestExpired" => {
                ("the credentials have expired", "renew them; a role of the instance or container renews itself")
            }
            "InvalidToken" | "InvalidClientTokenId" => {
                ("the session token is wrong", "check AWS_SESSION_TOKEN: unset it for a lasting access key")
            }
            "RequestTimeTooSkewed" => {
                ("this host's clock and the store's are too far apart", "set the clock: timedatectl set-ntp true")
            }
            "InvalidObjectState" => (
                "the object lies in an archive class",
                "restore it from the archive class first; a repository cannot live in one",
            ),
            "AllAccessDisabled" | "AccountProblem" => ("the account is disabled", "ask who runs the store"),
            "AccessDenied" | "Forbidden" | "UnauthorizedAccess" => return Some(self.denied()),
            _ if matches!(self.status, 401 | 403) && !self.has_foreign_body => return Some(self.denied()),
            _ => return None,
        };
        Some(Failure::lasting(self.told(why), hint))
    }

    fn denied(&self) -> Failure {
        Failure { code: Some("AccessDenied".to_owned()), ..Failure::lasting(self.told("access is denied"), permission_for("")) }
    }

    /// The bucket is elsewhere.
    fn place(&self, code: &str, address: &Address) -> Option<Failure> {
        let elsewhere = matches!(
            code,
            "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
        );
        if !elsewhere && !matches!(self.status, 301 | 307) && (self.status != 400 || self.bucket_region.is_none()) {
            return None;
        }
        let why = self.told(&format!("the bucket {} is in another region", address.bucket));
        Some(match self.bucket_region.as_deref().or_else(|| self.expected_region()) {
            Some(region) => {
                Failure::lasting(why, format!("set region = \"{}\" for the repository in lifeboat.toml", plain(region)))
            }
            None => Failure::lasting(why, "set 'region' in lifeboat.toml to the bucket's own"),
        })
    }

    /// The region that the message names: `…; the region 'us-east-1' is wrong; expecting 'eu-west-3'`.
    fn expected_region(&self) -> Option<&str> {
        let (region, _) = self.message.as_deref()?.split_once("expecting '")?.1.split_once('\'')?;
        Some(region).filter(|region| region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    }

    fn other(&self, code: &str) -> Failure {
        if code.is_empty() && self.has_foreign_body {
            return speaks_no_s3();
        }
        if code.is_empty() && self.status == 404 {
            return Failure::bare(Kind::Missing);
        }
        let (why, hint) = match code {
            "InvalidStorageClass" => ("the store does not have this storage class", "correct 'storage_class'"),
            "EntityTooLarge" => ("the object is larger than the store takes", "a smaller [backup] pack_size_mib helps"),
            "InvalidBucketName" => ("the store takes this for no bucket's name", "correct 'url'"),
            "NotImplemented" | "MethodNotAllowed" => {
                ("the store cannot do this", "storage_class and encryption by the store may be left out")
            }
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                ("the store is full", "make room there; nothing stored before is lost")
            }
            _ if code.starts_with("KMS.") => {
                ("the store cannot use the key it is to encrypt with", "check 'kms_key_id', and that the key may be used")
            }
            _ if self.status == 507 => ("the store is full", "make room there; nothing stored before is lost"),
            _ => ("the store refuses", "lifeboat check   tries every step of the way to the repository"),
        };
        let mut why = self.told(why);
        if let Some(message) = &self.message {
            why = format!("{why}: {}", plain(message));
        }
        Failure::lasting(why, hint)
    }

    /// `what` with the store's code, or the status where there is none.
    fn told(&self, what: &str) -> String {
        match self.code.as_deref() {
            Some(code) if !code.is_empty() => format!("{what} ({})", plain(code)),
            _ => format!("{what} (HTTP {})", self.status),
        }
    }
}

/// Foreign text in one line, without markup.
fn plain(text: &str) -> String {
    let flat = |c: char| if c.is_control() { ' ' } else { c };
    let text = text.split('<').next().unwrap_or_default();
    text.trim().chars().map(flat).take(MAX_FOREIGN_CHARACTERS).collect()
}

/// The failure when no answer came: what lies deepest in the chain of causes says why.
fn of_chain(error: &(dyn StdError + 'static)) -> Failure {
    let chain: Vec<&(dyn StdError + 'static)> = chain(error).collect();
    if let Some(failure) = chain.iter().find_map(|error| of_credentials(*error)) {
        return failure;
    }
    if let Some(failure) = chain.iter().find_map(|error| error.downcast_ref::<rustls::Error>()).map(of_tls) {
        return failure;
    }
    let deepest = chain.last().map(|error| plain(&error.to_string())).unwrap_or_default();
    match chain.iter().find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => Failure {
            hint: Some("is the store running, and 'endpoint' right?".to_owned()),
            ..Failure::passing(format!("nothing accepts connections there: {deepest}"))
        },
        // The second: it speaks before it is asked, as SSH does.
        _ if deepest.starts_with("invalid HTTP") || deepest.contains("unexpected message from connection") => Failure {
            hint: Some("is 'endpoint' right? it begins with https:// where the store has TLS".to_owned()),
            ..Failure::passing("what answers there does not speak HTTP")
        },
        _ if deepest.contains("lookup address") => Failure {
            hint: Some("are 'endpoint' and 'region' right? does name resolution work here?".to_owned()),
            ..Failure::passing(format!("the host's name is not known: {deepest}"))
        },
        _ => Failure::passing(format!("no answer came: {deepest}")),
    }
}

fn of_tls(error: &rustls::Error) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(why) => Failure::lasting(
            format!("its certificate is not trusted: {}", plain(&format!("{why}"))),
            "for a store with a certificate of your own, set 'ca_file' to the PEM file of its authority",
        ),
        rustls::Error::InvalidMessage(_) => Failure::lasting(
            "what answers there does not speak TLS",
            "is 'endpoint' right? it begins with http:// where the store has no TLS",
        ),
        other => Failure::passing(format!("TLS failed: {}", plain(&other.to_string()))),
    }
}

fn of_credentials(error: &(dyn StdError + 'static)) -> Option<Failure> {
    use aws_credential_types::provider::error::CredentialsError;
    let found = error.downcast_ref::<CredentialsError>()?;
    let reason = chain(found).last().map(|cause| plain(&cause.to_string())).unwrap_or_default();
    Some(match found {
        CredentialsError::CredentialsNotLoaded(_) => {
            Failure::lasting("there are no AWS credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or 'profile'")
        }
        CredentialsError::InvalidConfiguration(_) => Failure::lasting(
            format!("the AWS credentials are set up wrongly: {reason}"),
            "look at 'profile' and ~/.aws of the user that runs lifeboat",
        ),
        _ => Failure::passing(format!("the AWS credentials could not be fetched: {reason}")),
    })
}

/// An error and its causes; also those that `io::Error` hides.
fn chain<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;

    fn address() -> Address {
        Address::parse("s3://orders-backup/main").unwrap()
    }

    fn answer(status: u16, code: &str) -> Answer {
        let code = Some(code.to_owned()).filter(|code| !code.is_empty());
        Answer { status, code, message: None, bucket_region: None, has_foreign_body: false }
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        for (status, code) in [
            (503, "SlowDown"),
            (500, "InternalError"),
            (502, ""),
            (504, ""),
            (429, ""),
            (409, "ConditionalRequestConflict"),
            (400, "RequestTimeout"),
            (400, "XAmzContentSHA256Mismatch"),
            (503, "Whatever"),
        ] {
            assert_eq!(answer(status, code).failure(&address()).kind, Kind::Passing, "{status} {code}");
        }
        for (status, code, why, hint) in [
            (403, "AccessDenied", "access is denied (AccessDenied)", "s3:ListBucket"),
            (403, "", "access is denied (HTTP 403)", "s3:GetObject"),
            (403, "InvalidAccessKeyId", "does not know the access key", "AWS_ACCESS_KEY_ID"),
            (403, "SignatureDoesNotMatch", "secret access key is wrong", "AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", "have expired", "renew"),
            (403, "RequestTimeTooSkewed", "clock", "timedatectl"),
            (404, "NoSuchBucket", "no bucket orders-backup", "never creates one"),
            (301, "PermanentRedirect", "another region", "set 'region'"),
            (400, "KMS.NotFoundException", "key it is to encrypt with", "kms_key_id"),
            (400, "InvalidStorageClass", "storage class", "storage_class"),
            (501, "NotImplemented", "cannot do this", "storage_class"),
            (507, "", "is full", "make room"),
            (400, "Unheard", "the store refuses (Unheard)", "lifeboat check"),
        ] {
            let failure = answer(status, code).failure(&address());
            assert_eq!(failure.kind, Kind::Lasting, "{status} {code}");
            let error = Error::from(failure.of_call("read", "a/b", &address()));
            assert!(error.message().starts_with("cannot read a/b in s3://orders-backup/main: "), "{error:?}");
            assert!(error.summary().contains(why), "{error:?}");
            assert!(error.hints().len() == 1 && error.hints()[0].contains(hint), "{error:?}");
        }
    }

    #[test]
    fn the_permission_that_is_missing_is_named() {
        for (action, permission) in [
            ("list", "s3:ListBucket"),
            ("use", "s3:ListBucket"),
            ("read", "s3:GetObject"),
            ("look up", "s3:GetObject"),
            ("write", "s3:PutObject"),
            ("delete", "s3:DeleteObject"),
        ] {
            let error = Error::from(answer(403, "AccessDenied").failure(&address()).of_call(action, "a", &address()));
            assert!(error.hints()[0].starts_with(&format!("allow {permission} ")), "{error:?}");
        }
        let website = Answer { has_foreign_body: true, ..answer(403, "") }.failure(&address());
        assert!(website.of_call("read", "a", &address()).to_string().contains("does not speak S3"));
    }

    #[test]
    fn a_bucket_elsewhere_is_named_with_its_region() {
        for (status, code) in [(301, "PermanentRedirect"), (400, ""), (400, "AuthorizationHeaderMalformed")] {
            let elsewhere = Answer { bucket_region: Some("eu-central-1".to_owned()), ..answer(status, code) };
            let error = Error::from(elsewhere.failure(&address()).of_call("list", "", &address()));
            assert!(error.hints()[0].contains("region = \"eu-central-1\""), "{error:?}");
        }
        for (message, hint) in [
            ("the region 'us-east-1' is wrong; expecting 'eu-west-3'", "region = \"eu-west-3\""),
            ("expecting 'x\"y'", "set 'region'"),
            ("expecting 'eu", "set 'region'"),
        ] {
            let elsewhere = Answer { message: Some(message.to_owned()), ..answer(400, "AuthorizationHeaderMalformed") };
            let error = Error::from(elsewhere.failure(&address()).of_call("list", "", &address()));
            assert!(error.hints()[0].contains(hint), "{error:?}");
        }
    }

    #[test]
    fn kinds_that_callers_wait_for_are_recognised() {
        for (status, code, kind) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "NotFound", Kind::Missing),
            (404, "", Kind::Missing),
            (412, "PreconditionFailed", Kind::Refused),
            (416, "InvalidRange", Kind::BeyondEnd),
        ] {
            assert_eq!(answer(status, code).failure(&address()).kind, kind, "{status} {code}");
        }
        let website = Answer { has_foreign_body: true, ..answer(404, "") };
        assert_eq!(website.failure(&address()).kind, Kind::Lasting);
    }

    #[test]
    fn no_markup_and_no_control_character_is_repeated() {
        let message = Some("no\u{1b}[2J<?xml version=\"1.0\"?><Error>".to_owned());
        let error = Answer { message, ..answer(400, "Odd<Code>") }.failure(&address()).of_call("read", "a", &address());
        let text = error.to_string();
        assert!(text.contains("(Odd): no [2J") && !text.contains('<') && !text.contains('\u{1b}'), "{text}");
    }
}
