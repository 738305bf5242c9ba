//! What is in a directory and not whole in its backup: counted, the first few by name.

use crate::source::directory::entry::{Entry, Left};

/// Kept by name.
const MOST_NAMED: usize = 20;

/// What a backup does not hold as it should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Files, directories and whatever else, each counted once.
    pub count: u64,
    /// Of these, how many have no entry in the backup at all.
    pub not_stored: u64,
    /// The first of them, each with what is wrong: `docs/a.txt: cannot be read: Permission denied (os error 13)`.
    pub first: Vec<String>,
}

impl Trouble {
    /// Counts an entry that has marks.
    pub(super) fn note_entry(&mut self, entry: &Entry) {
        if !entry.marks.is_empty() {
            let marks: Vec<String> = entry.marks.iter().map(ToString::to_string).collect();
            self.note(format!("{}: {}", entry.path, marks.join("; ")));
        }
    }

    /// Counts what has no entry, if it should have one.
    pub(super) fn note_left(&mut self, left: &Left) {
        if left.why.is_trouble() {
            self.not_stored += 1;
            self.note(format!("{}: {}", left.path, left.why));
        }
    }

    fn note(&mut self, text: String) {
        self.count += 1;
        if self.first.len() < MOST_NAMED {
            self.first.push(text);
        }
    }

    /// How many are not among the first.
    pub fn others(&self) -> u64 {
        self.count - self.first.len() as u64
    }
}
