//! The error every verb returns: what failed, on which object, why, and what to type next.
//!
//! An error is data; only the command line turns it into text and an exit code.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure this is: decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operation failed; a retry without a change will fail again.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The repository cannot be reached, or refuses to be read or written.
    Unreachable,
    /// Another process holds what this one needs.
    Busy,
    /// Stored data is damaged, forged or missing.
    Damaged,
    /// Two contents are stored under one name, and nobody has said which is right. Another copy of either settles nothing.
    Contradicted,
    /// The operator or the system asked to stop.
    Interrupted,
}

/// A failure with its context.
///
/// Shown as one line, then aligned details, then hints:
///
/// ```text
/// error: cannot restore orders to 2026-11-20 21:40:00 UTC: the log has a gap
///   missing  00000001000000A3000000F1 … F4 (4 segments)
/// hint: lifeboat restore orders --to '2026-11-20 21:31:07Z' --into DIR
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    details: Vec<(String, String)>,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what failed, on which object and why, in one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), details: Vec::new(), hints: Vec::new(), source: None }))
    }

    /// [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// [`ErrorKind::Unreachable`].
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unreachable, message)
    }

    /// [`ErrorKind::Busy`].
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// [`ErrorKind::Damaged`].
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// [`ErrorKind::Interrupted`].
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// A failed system call on a file: `cannot read /x/y: permission denied`.
    pub fn io(action: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::failed(format!("cannot {action} {}", path.display())).caused_by(source)
    }

    /// Adds a labelled fact, shown below the message.
    #[must_use]
    pub fn detail(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.details.push((label.into(), value.into()));
        self
    }

    /// Adds what to do next: a command to type where there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Records the underlying error, shown once after the message.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts what was being attempted before the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without details, hints and source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Labelled facts in the order they were added.
    pub fn details(&self) -> &[(String, String)] {
        &self.0.details
    }

    /// Hints in the order they were added.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// The message followed by the causes, in one line.
    pub fn summary(&self) -> String {
        let mut text = self.0.message.clone();
        let mut source = StdError::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.summary())?;
        self.0.details.iter().try_for_each(|(label, value)| write!(f, "\n  {label}  {value}"))?;
        self.0.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_each_cause_once() {
        let cause = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "permission denied");
        let error = Error::io("read", std::path::Path::new("/x"), cause).context("backup of orders");
        assert_eq!(error.summary(), "backup of orders: cannot read /x: permission denied");
        let wrapped = Error::failed("outer: permission denied").caused_by(error);
        assert_eq!(wrapped.summary().matches("outer").count(), 1);
    }
}
