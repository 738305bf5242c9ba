//! From an address to a store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::Store;
use super::local::LocalStore;
use crate::base::{Error, Result};

/// What a file URL can hold as it is.
const PLAIN_IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+');

const EXAMPLE: &str = "write an absolute path: file:///srv/backups";

/// The store at an address: `file:///absolute/path`, percent-encoded where needed.
///
/// Nothing is touched yet: whether the store is there shows at the first call.
///
/// # Errors
/// [`crate::base::ErrorKind::Usage`] for an address that this version does not support, naming what it does.
pub fn open(url: &str) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(LocalStore::with_url(local_path(url)?, url.to_owned())))
}

/// Prepares an address for its first use: creates the directory of a `file:` store. Succeeds when it is there.
///
/// # Errors
/// As [`open`], and [`crate::base::ErrorKind::Unreachable`] when the directory cannot be created.
pub fn create_root(url: &str) -> Result<()> {
    Ok(LocalStore::create_root(&local_path(url)?)?)
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
        return Err(Error::usage(what).hint("supported: file:///absolute/path"));
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
            assert_eq!(open(url).unwrap().url(), url);
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
            ("s3://key:secret@bucket/prefix", "of the kind 's3:' are not supported by this version"),
            ("memory:", "not supported by this version"),
            ("/srv/my backups", "has no scheme"),
            ("", "has no scheme"),
        ] {
            let error = open(url).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
            assert!(error.message().contains(message), "{url}: {error:?}");
            assert!(error.hints().iter().any(|hint| hint.contains("file://") || hint.contains("write")), "{url}: {error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        assert_eq!(open("/srv/my backups").err().unwrap().hints(), ["write file:///srv/my%20backups"]);
    }
}
