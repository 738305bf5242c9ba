//! What a key may look like, the same for every store, so that a repository can be copied from any to any.

use super::{StoreError, StoreResult};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// Longest component of a key, in bytes: what file systems take for one name.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Names at the top of a local store that are not objects: its own temporary files, and what `fsck` keeps
/// at the top of a file system.
pub(super) const RESERVED: [&str; 2] = [TEMPORARY_DIRECTORY, "lost+found"];

/// Where a local store keeps files that are being written.
pub(super) const TEMPORARY_DIRECTORY: &str = ".lifeboat-tmp";

/// Checks a key: non-empty `/`-separated components of at most [`MAX_COMPONENT_BYTES`], none `.` or `..`,
/// no NUL byte, at most [`MAX_KEY_BYTES`] in all, and no reserved first component.
///
/// # Errors
/// [`StoreError::Permanent`], naming the key and the rule it breaks.
pub fn check_key(key: &str) -> StoreResult<()> {
    match broken_rule(key) {
        None => Ok(()),
        Some(rule) => Err(StoreError::Permanent { message: format!("invalid object name {key:?}: {rule}"), source: None }),
    }
}

/// Checks the prefix of [`super::Store::list_dirs`]: empty, or a valid key and a `/`.
///
/// # Errors
/// [`StoreError::Permanent`], naming the prefix.
pub(super) fn check_directory_prefix(prefix: &str) -> StoreResult<()> {
    match prefix.strip_suffix('/') {
        Some(directory) => check_key(directory),
        None if prefix.is_empty() => Ok(()),
        None => Err(StoreError::Permanent { message: format!("directory prefix {prefix:?} does not end in '/'"), source: None }),
    }
}

/// Whether objects can lie below this directory: `""`, or a prefix that ends in `/`.
pub(super) fn can_hold_objects(directory: &str) -> bool {
    directory.is_empty() || directory.strip_suffix('/').is_some_and(|key| broken_rule(key).is_none())
}

fn broken_rule(key: &str) -> Option<&'static str> {
    if key.len() > MAX_KEY_BYTES {
        return Some("longer than 1024 bytes");
    }
    if key.split('/').next().is_some_and(|first| RESERVED.contains(&first)) {
        return Some("its first component is reserved");
    }
    key.split('/').find_map(|component| match component {
        "" => Some("it has an empty component"),
        "." | ".." => Some("it has a component '.' or '..'"),
        long if long.len() > MAX_COMPONENT_BYTES => Some("a component is longer than 255 bytes"),
        nul if nul.contains('\0') => Some("it contains a NUL byte"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_lead_out_or_name_the_stores_own_files() {
        let (long, longest) = ("x".repeat(256), format!("{}/x", "x/".repeat(511)));
        for bad in
            ["", "/", "/a", "a/", "a//b", ".", "a/..", "../a", "a/./b", "a\0b", ".lifeboat-tmp/x", "lost+found", &long, &longest]
        {
            let error = check_key(bad).unwrap_err();
            assert!(matches!(error, StoreError::Permanent { .. }), "{bad:?}: {error}");
        }
        let full = format!("{}/{}/a", vec!["y".repeat(255); 3].join("/"), "z".repeat(254));
        assert_eq!(full.len(), MAX_KEY_BYTES);
        for good in ["a", ".hidden/..x", "a/lost+found", "a/.lifeboat-tmp", "ü/ \n\\%2f", &"x".repeat(255), &full] {
            check_key(good).unwrap();
        }
    }

    #[test]
    fn directory_prefixes_are_whole_components() {
        for good in ["", "a/", "a/b/"] {
            check_directory_prefix(good).unwrap();
        }
        for bad in ["a", "/", "a//", "../", "a/b"] {
            assert!(check_directory_prefix(bad).is_err(), "{bad}");
        }
    }
}
