//! What the operator leaves out, in the syntax of `.gitignore`: later rules win, `!` takes back, a trailing slash means
//! directories, a leading one the top; what lies in an excluded directory is excluded whatever later rules say.

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::path::Path;

use crate::base::{Error, Result};

/// Compiled exclude rules, on paths relative to the protected directory.
#[derive(Clone, Debug)]
pub struct Excludes(Gitignore);

impl Excludes {
    /// Compiles `rules`, one line each.
    ///
    /// # Errors
    /// Usage: names the rule that is none.
    pub fn new<S: AsRef<str>>(rules: &[S]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        for (index, rule) in rules.iter().enumerate() {
            let rule = rule.as_ref();
            builder.add_line(None, rule).map_err(|error| bad_rule(rule, index, &error))?;
        }
        builder.build().map(Self).map_err(|error| Error::usage(format!("the exclude rules cannot be used: {error}")))
    }

    /// No rules: nothing is excluded.
    pub fn none() -> Self {
        Self(Gitignore::empty())
    }

    /// Whether `path`, relative and below no excluded directory, is excluded.
    pub fn leave_out(&self, path: &Path, is_directory: bool) -> bool {
        !self.0.is_empty() && self.0.matched(path, is_directory).is_ignore()
    }
}

fn bad_rule(rule: &str, index: usize, error: &ignore::Error) -> Error {
    Error::usage(format!("exclude rule {} is not a pattern: {rule}", index + 1))
        .detail("why", error.to_string())
        .hint("write it as in a .gitignore file, for example: *.tmp   /cache/   !keep.tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_gitignore() {
        let excludes = Excludes::new(&["# a comment", "", "*.tmp", "!keep.tmp", "/cache/", "build/", "docs/*.pdf"]).unwrap();
        for (path, is_directory, expected) in [
            ("a.tmp", false, true),
            ("deep/er/a.tmp", false, true),
            ("deep/keep.tmp", false, false),
            ("cache", true, true),
            ("cache", false, false),
            ("deep/cache", true, false),
            ("deep/build", true, true),
            ("docs/a.pdf", false, true),
            ("docs/deep/a.pdf", false, false),
            ("plain", false, false),
        ] {
            assert_eq!(excludes.leave_out(Path::new(path), is_directory), expected, "{path}");
        }
        assert!(!Excludes::none().leave_out(Path::new("a.tmp"), false));
        assert!(Excludes::new(&["fine", "a{b"]).unwrap_err().message().contains("a{b"));
    }
}
