//! How many requests a store has sent: what object stores charge for.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request, as object stores price them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Requests sent since the store was opened, by kind. Those that failed and those that were repeated count too.
#[derive(Debug, Default)]
pub struct RequestCounts([AtomicU64; 5]);

impl RequestCounts {
    /// All kinds.
    pub const KINDS: [RequestKind; 5] =
        [RequestKind::Put, RequestKind::Get, RequestKind::Head, RequestKind::List, RequestKind::Delete];

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
        Self::KINDS.into_iter().map(|kind| self.of(kind)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_by_itself() {
        let counts = RequestCounts::default();
        for (times, kind) in RequestCounts::KINDS.into_iter().enumerate() {
            (0..times).for_each(|_| counts.add(kind));
        }
        assert_eq!(RequestCounts::KINDS.map(|kind| counts.of(kind)), [0, 1, 2, 3, 4]);
        assert_eq!(counts.total(), 10);
    }
}
