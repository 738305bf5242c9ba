//! Paths inside a backup: relative, `/`-separated, any bytes a file system allows.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A relative path without empty, `.` or `..` components; never empty.
///
/// Ordered component by component, each by its bytes: the order of a sorted directory walk, in which a
/// directory comes before what it holds. Serialised as a string, or as `{"hex": "…"}` when not UTF-8.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Checks that `bytes` is a safe relative path: it cannot lead out of the directory it is joined to.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into();
        let safe =
            bytes.split(|b| *b == b'/').all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0));
        if safe { Ok(Self(bytes)) } else { Err(format!("'{}' is not a plain relative path", String::from_utf8_lossy(&bytes))) }
    }

    /// This path with one more component.
    pub fn child(&self, name: &OsStr) -> Self {
        debug_assert!(!name.as_bytes().contains(&b'/'));
        Self([self.0.as_slice(), b"/", name.as_bytes()].concat())
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the operating system, to be joined to a directory.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.split(|b| *b == b'/').cmp(other.0.split(|b| *b == b'/'))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Hex { hex: String },
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Text::Hex { hex: hex::encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Text::deserialize(deserializer)? {
            Text::Plain(text) => text.into_bytes(),
            Text::Hex { hex } => hex::decode(hex).map_err(serde::de::Error::custom)?,
        };
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_lead_out() {
        for bad in ["", "/", "/etc", "a/../b", "..", "a//b", "a/", ".", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::new("base/5/1259 ü").is_ok());
    }

    #[test]
    fn order_is_that_of_a_directory_walk() {
        let path = |text: &str| RelPath::new(text).unwrap();
        let mut paths = [path("a-b"), path("a/b"), path("a.b"), path("a"), path("a/b/c")];
        paths.sort();
        assert_eq!(paths.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "a/b", "a/b/c", "a-b", "a.b"]);
    }

    #[test]
    fn bytes_that_are_not_text_survive_serialisation() {
        for bytes in [b"plain/\xc3\xbc".to_vec(), b"odd/\xff\xfe".to_vec()] {
            let path = RelPath::new(bytes).unwrap();
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<RelPath>(&json).unwrap(), path, "{json}");
        }
        assert!(serde_json::from_str::<RelPath>(r#"{"hex":"2e2e"}"#).is_err());
    }
}
