//! From an address to a store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::local::LocalStore;
use super::s3::{S3Options, S3Store};
use super::{Store, StoreResult};
use crate::base::{Error, Result};

/// What a file URL can hold as it is.
const PLAIN_IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+');

const EXAMPLE: &str = "write an absolute path: file:///srv/backups";

/// What an operator may say of a repository's store beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// For addresses of the kind `s3:`.
    pub s3: S3Options,
}

/// The store at an address: `file:///absolute/path`, percent-encoded where needed, or `s3://bucket/prefix`.
///
/// Nothing is touched yet: whether the store is there shows at the first call.
///
/// # Errors
/// [`crate::base::ErrorKind::Usage`] for an address that this version does not support, naming what it does.
pub fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>> {
    match is_s3(url) {
        true => Ok(Arc::new(bucket(url, options)?)),
        false => Ok(Arc::new(LocalStore::with_url(local_path(url)?, url.to_owned()))),
    }
}

/// Prepares an address for its first use: creates the directory of a `file:` store, and looks whether the bucket of an
/// `s3:` store is there, which is never created. Succeeds when it is there.
///
/// # Errors
/// As [`open`], and [`crate::base::ErrorKind::Unreachable`] when the directory cannot be created or the bucket used.
pub async fn create_root(url: &str, options: &StoreOptions) -> Result<()> {
    let ready: StoreResult<()> = match is_s3(url) {
        true => bucket(url, options)?.check_bucket().await,
        false => LocalStore::create_root(&local_path(url)?),
    };
    Ok(ready?)
}

fn is_s3(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("s3"))
}

fn bucket(url: &str, options: &StoreOptions) -> Result<S3Store> {
    S3Store::new(url, options.s3.clone())
        .map_err(|(message, hint)| Error::usage(format!("repository address: {message}")).hint(hint))
}

/// The `file:` address of an absolute path.
pub fn file_url(path: &Path) -> String {
    format!("file://{}", percent_encode(path.as_os_str().as_bytes(), PLAIN_IN_PATHS))
}

fn local_path(url: &str) -> Result<PathBuf> {
    // Never the whole address where the scheme is not ours: it may hold a secret.
    let Some((scheme, rest)) = url.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        let error = Error::usage(format!("repository address '{url}' has no scheme"));
        let example = if url.starts_with('/') { format!("write {}", file_url(Path::new(url))) } else { EXAMPLE.to_owned() };
        return Err(error.hint(example));
    };
    if !scheme.eq_ignore_ascii_case("file") {
        let what = format!("repository addresses of the kind '{scheme}:' are not supported by this version");
        return Err(Error::usage(what).hint("supported: file:///absolute/path and s3://bucket/prefix"));
    }
    let refuse = |why: &str, hint: &str| Err(Error::usage(format!("repository address '{url}' {why}")).hint(hint));
    let Some(path) = rest.strip_prefix("//").map(|rest| rest.strip_prefix("localhost").unwrap_or(rest)) else {
        return refuse("is not of the form file:///absolute/path", EXAMPLE);
    };
    if !path.starts_with('/') {
        return refuse("names a host or a relative path", EXAMPLE);
    }
    if path.contains(['?', '#']) {
        return refuse("holds a '?' or '#'", "in a path, write '?' as %3F and '#' as %23");
    }
    if !escapes_are_whole(path) {
        return refuse("holds a '%' without two hexadecimal digits", "in a path, write '%' as %25");
    }
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    if decoded.contains(&0) {
        return refuse("holds a NUL byte", EXAMPLE);
    }
    let path = PathBuf::from(OsStr::from_bytes(&decoded));
    // Rebuilt from its components, without trailing and doubled slashes.
    let path: PathBuf = path.components().collect();
    if path == Path::new("/") {
        return refuse("is the root of the file system", "name a directory of its own: file:///srv/backups");
    }
    Ok(path)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn escapes_are_whole(path: &str) -> bool {
    let mut parts = path.split('%');
    parts.next();
    parts.all(|part| part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn file_addresses_name_absolute_paths() {
        for (url, path) in [
            ("file:///srv/backups", "/srv/backups"),
            ("file:///srv//backups/", "/srv/backups"),
            ("FILE://localhost/srv/backups", "/srv/backups"),
            ("file:///srv/my%20backups/100%25/%C3%BC", "/srv/my backups/100%/ü"),
            ("file:///srv/my backups/ü", "/srv/my backups/ü"),
        ] {
            assert_eq!(local_path(url).unwrap(), Path::new(path), "{url}");
            assert_eq!(open(url, &StoreOptions::default()).unwrap().url(), url);
        }
    }

    #[test]
    fn buckets_are_opened_without_being_asked() {
        for url in ["s3://bucket", "s3://bucket/prefix/", "S3://bucket/prefix"] {
            assert_eq!(open(url, &StoreOptions::default()).unwrap().url(), url);
        }
    }

    #[test]
    fn odd_paths_survive_being_written_as_addresses() {
        for bytes in [b"/a b/%25/?#\n".as_slice(), b"/\xff\xfe", "/ü".as_bytes()] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(local_path(&file_url(path)).unwrap(), path);
        }
        assert_eq!(file_url(Path::new("/srv/my backups")), "file:///srv/my%20backups");
    }

    #[test]
    fn other_addresses_are_refused_with_what_is_supported() {
        for (url, message) in [
            ("file:backups", "'file:backups' is not of the form"),
            ("file:/srv", "is not of the form"),
            ("file://backups/x", "names a host or a relative path"),
            ("file://localhostile/x", "names a host or a relative path"),
            ("file:///", "is the root of the file system"),
            ("file:///100%", "without two hexadecimal digits"),
            ("file:///a%0", "without two hexadecimal digits"),
            ("file:///a%00", "NUL byte"),
            ("file:///a?b", "'?' or '#'"),
            ("s3://key:secret@bucket/prefix", "holds credentials"),
            ("s4://key:secret@bucket/prefix", "of the kind 's4:' are not supported by this version"),
            ("memory:", "not supported by this version"),
            ("/srv/my backups", "has no scheme"),
            ("", "has no scheme"),
        ] {
            let error = open(url, &StoreOptions::default()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
            assert!(error.message().contains(message), "{url}: {error:?}");
            assert!(error.hints().iter().any(|hint| hint.contains("file://") || hint.contains("write")), "{url}: {error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        assert_eq!(open("/srv/my backups", &StoreOptions::default()).err().unwrap().hints(), ["write file:///srv/my%20backups"]);
    }
}
