//! What of a backup is restored: paths with all below them, and globs.
//!
//! A selection that matches nothing is told by name ([`Selection::unmatched`]): a restore of a misspelt path must not end
//! as if all were well.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{GlobBuilder, GlobMatcher};

use super::entry::Entry;
use crate::base::{Error, RelPath, Result};

/// Paths and globs. Nothing given selects everything.
#[derive(Debug)]
pub struct Selection {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    pattern: Pattern,
    has_matched: AtomicBool,
}

#[derive(Debug)]
enum Pattern {
    /// This path, and what it holds.
    Path(RelPath),
    /// Whatever it matches, and what that holds. `*` stays within a component, `**` does not. And the path that is written
    /// just so, for names may have such characters.
    Glob(GlobMatcher, Option<RelPath>),
}

impl Selection {
    /// Selects what `patterns` name, relative to the protected directory. A pattern with `*`, `?`, `[` or `{` is a glob
    /// unless it begins with `./`, which says that it is a path as it stands and nothing else.
    ///
    /// # Errors
    /// Usage: names the pattern that is none.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        let rules = patterns.iter().map(|text| Rule::new(text.as_ref())).collect::<Result<_>>()?;
        Ok(Self { rules })
    }

    /// Whether the entry at `path` is wanted.
    pub fn wants(&self, path: &RelPath) -> bool {
        // Every rule is asked: each has to know whether it matched.
        self.rules.iter().filter(|rule| rule.matches(path)).count() > 0 || self.rules.is_empty()
    }

    /// Patterns that no path asked about so far has matched.
    pub fn unmatched(&self) -> Vec<&str> {
        self.rules.iter().filter(|rule| !rule.has_matched.load(Ordering::Relaxed)).map(|rule| rule.text.as_str()).collect()
    }
}

impl Rule {
    fn new(text: &str) -> Result<Self> {
        let refused = |why: String| {
            Error::usage(format!("'{text}' is neither a path nor a pattern: {why}"))
                .hint("write it relative to the protected directory, for example: docs   photos/2026/*.jpg   ./a[1].txt")
        };
        let literal = text.strip_prefix("./");
        let is_glob = literal.is_none() && text.contains(['*', '?', '[', '{']);
        let pattern = if is_glob {
            let text = text.trim_end_matches('/');
            let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
            let glob = glob.map_err(|error| refused(error.to_string()))?.compile_matcher();
            Pattern::Glob(glob, RelPath::new(text).ok())
        } else {
            let path = literal.unwrap_or(text).trim_end_matches('/');
            Pattern::Path(RelPath::new(path).map_err(refused)?)
        };
        Ok(Self { text: text.to_owned(), pattern, has_matched: AtomicBool::new(false) })
    }

    fn matches(&self, path: &RelPath) -> bool {
        let path = path.as_path();
        let matched = match &self.pattern {
            Pattern::Path(wanted) => path.starts_with(wanted.as_path()),
            Pattern::Glob(glob, literal) => {
                let is_named = literal.as_ref().is_some_and(|wanted| path.starts_with(wanted.as_path()));
                is_named || above(path).any(|above| glob.is_match(above))
            }
        };
        if matched {
            self.has_matched.store(true, Ordering::Relaxed);
        }
        matched
    }
}

/// `path` itself and the directories that it lies in.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().filter(|above| !above.as_os_str().is_empty())
}

/// For a restore of a part: hard links whose first name is not wanted get their content under the first name that is.
///
/// Memory grows with the files of which that is so, not with the backup.
#[derive(Debug, Default)]
pub struct StandIns(BTreeMap<RelPath, RelPath>);

impl StandIns {
    /// The path at which the content of `first`, which is not wanted itself, is to be; none when no link to it is wanted.
    pub fn of(&self, first: &RelPath) -> Option<&RelPath> {
        self.0.get(first)
    }

    /// For a wanted `link`, an entry with a first name: the path that it is to be linked to, or none when it is itself the
    /// one to get that first name's content.
    pub fn place(&mut self, selection: &Selection, link: &Entry) -> Option<RelPath> {
        let first = link.first_link.as_ref()?;
        if selection.wants(first) {
            return Some(first.clone());
        }
        if let Some(stand_in) = self.0.get(first) {
            return Some(stand_in.clone());
        }
        self.0.insert(first.clone(), link.path.clone());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(patterns: &[&str], path: &str) -> bool {
        Selection::new(patterns).unwrap().wants(&RelPath::new(path).unwrap())
    }

    #[test]
    fn paths_take_all_below_them_and_nothing_beside_them() {
        for (pattern, path, expected) in [
            ("docs", "docs", true),
            ("docs/", "docs/a/b", true),
            ("docs", "docs-old/a", false),
            ("docs/a", "docs", false),
            ("*.txt", "a.txt", true),
            ("*.txt", "deep/a.txt", false),
            ("**/*.txt", "deep/er/a.txt", true),
            ("**/*.txt", "a.txt", true),
            ("ph*/20?6", "photos/2026/summer/1.jpg", true),
            ("ph*/20?6", "photos/2016x/1.jpg", false),
            ("./a[1].txt", "a[1].txt", true),
            ("a[1].txt", "a1.txt", true),
            ("a[1].txt", "a[1].txt", true),
            ("a[1]/b", "a[1]/b/c", true),
            ("./a[1].txt", "a1.txt", false),
        ] {
            assert_eq!(wants(&[pattern], path), expected, "{pattern} {path}");
        }
        assert!(wants(&[], "anything") && wants(&["x", "docs"], "docs/a"));
        for bad in ["", "/etc", "../up", "a//b", "a[", "."] {
            assert!(Selection::new(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_matched_nothing_is_told() {
        let selection = Selection::new(&["docs", "phtoos", "*.jpg"]).unwrap();
        for path in ["docs", "docs/a.txt", "photos/a.txt"] {
            selection.wants(&RelPath::new(path).unwrap());
        }
        assert_eq!(selection.unmatched(), ["phtoos", "*.jpg"]);
    }
}
