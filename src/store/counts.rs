//! How many requests there were, by kind: what object stores charge for.
//!
//! Counted in two places that differ: by the layers ([`super::layer::metrics`]), call by call as a verb makes them; and by a
//! store in a bucket itself, which may look before it puts, and repeats what failed at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request, as object stores price them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// Writes an object.
    Put,
    /// Reads an object or a part of one.
    Get,
    /// Asks for size and time of one object, or for a bucket.
    Head,
    /// Lists one page of objects or directories.
    List,
    /// Removes an object.
    Delete,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete];

    /// `put`, `get`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// Requests so far, by kind. Those that failed and those that were repeated count too.
#[derive(Debug, Default)]
pub struct RequestCounts([AtomicU64; RequestKind::ALL.len()]);

impl RequestCounts {
    /// Counts one request.
    pub fn add(&self, kind: RequestKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The requests of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }

    /// The requests of all kinds.
    pub fn total(&self) -> u64 {
        RequestKind::ALL.into_iter().map(|kind| self.of(kind)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_by_itself() {
        let counts = RequestCounts::default();
        for (times, kind) in RequestKind::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counts.add(kind));
        }
        assert_eq!(RequestKind::ALL.map(|kind| counts.of(kind)), [0, 1, 2, 3, 4]);
        assert_eq!(counts.total(), 10);
    }
}
