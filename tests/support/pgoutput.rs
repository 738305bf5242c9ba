//! The messages of PostgreSQL's `pgoutput` plugin, protocol version 1: every commit in log order, with its rows.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats". Decoded by the server itself, so what
//! comes out owes nothing to Lifeboat's own reader of the log.

use std::collections::HashMap;

use lifeboat::base::{Lsn, Timestamp};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One column of a new row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Its text; `None` for NULL.
    Text(Option<String>),
    /// A stored-apart value that an update did not touch.
    Unchanged,
}

/// What a transaction did to a row. Keys are the text of a table's first column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new row.
    Insert {
        /// The table's name without schema.
        table: String,
        /// Every column.
        row: Vec<Value>,
    },
    /// A row rewritten.
    Update {
        /// The table's name without schema.
        table: String,
        /// Its key before, when that changed.
        old_key: Option<String>,
        /// Every column.
        row: Vec<Value>,
    },
    /// A row removed.
    Delete {
        /// The table's name without schema.
        table: String,
        /// Its key.
        key: String,
    },
    /// A table emptied.
    Truncate {
        /// The table's name without schema.
        table: String,
    },
}

/// One committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the COMMIT (or COMMIT PREPARED) record starts.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The time in that record.
    pub time: Timestamp,
    /// The transaction.
    pub xid: u32,
    /// What it changed, in order; may be empty.
    pub changes: Vec<Change>,
}

/// Puts messages together to commits.
#[derive(Default)]
pub struct Decoder {
    tables: HashMap<u32, String>,
    open: Option<Commit>,
    commits: Vec<Commit>,
}

impl Decoder {
    /// Takes one message. A message this does not know fails the test.
    pub fn message(&mut self, bytes: &[u8]) {
        let mut read = Reader(bytes);
        match read.u8() {
            b'B' => {
                let (start, time, xid) = (Lsn(read.u64()), read.time(), read.u32());
                assert!(self.open.is_none(), "a transaction begins inside another");
                self.open = Some(Commit { start, end: start, time, xid, changes: Vec::new() });
            }
            b'C' => {
                let (_flags, start, end, time) = (read.u8(), Lsn(read.u64()), Lsn(read.u64()), read.time());
                let mut commit = self.open.take().expect("a transaction began");
                assert_eq!((commit.start, commit.time), (start, time), "begin and commit name the same record");
                assert!(self.commits.last().is_none_or(|before| before.end <= start), "commits come in log order");
                commit.end = end;
                self.commits.push(commit);
            }
            b'R' => {
                let (oid, _schema, name) = (read.u32(), read.text(), read.text());
                self.tables.insert(oid, name);
                // The columns' names and types follow; rows come as text and in their order.
                return;
            }
            b'I' => {
                let table = self.table(read.u32());
                assert_eq!(read.u8(), b'N');
                let row = read.tuple();
                self.change(Change::Insert { table, row });
            }
            b'U' => {
                let table = self.table(read.u32());
                let mut part = read.u8();
                let mut old_key = None;
                if part != b'N' {
                    old_key = Some(key(&read.tuple()));
                    part = read.u8();
                }
                assert_eq!(part, b'N');
                let row = read.tuple();
                self.change(Change::Update { table, old_key, row });
            }
            b'D' => {
                let table = self.table(read.u32());
                let _key_or_old = read.u8();
                let key = key(&read.tuple());
                self.change(Change::Delete { table, key });
            }
            b'T' => {
                let (count, _options) = (read.u32(), read.u8());
                for _ in 0..count {
                    let table = self.table(read.u32());
                    self.change(Change::Truncate { table });
                }
            }
            b'Y' | b'O' | b'M' => return,
            other => panic!("unknown message '{}'", char::from(other)),
        }
        assert!(read.0.is_empty(), "a message was not read to its end");
    }

    /// All commits, in log order.
    pub fn finish(self) -> Vec<Commit> {
        assert!(self.open.is_none(), "a transaction has no end");
        self.commits
    }

    fn table(&self, oid: u32) -> String {
        self.tables.get(&oid).expect("a table is described before its rows").clone()
    }

    fn change(&mut self, change: Change) {
        self.open.as_mut().expect("a transaction began").changes.push(change);
    }
}

/// The text of a row's first column, which is its key.
pub fn key(row: &[Value]) -> String {
    match row.first() {
        Some(Value::Text(Some(text))) => text.clone(),
        other => panic!("a row without a key: {other:?}"),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at_checked(count).expect("a message is complete");
        self.0 = tail;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("length is N")
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::from_unix_micros(i64::from_be_bytes(self.array()) + POSTGRES_EPOCH_MICROS).expect("a commit time is in range")
    }

    fn text(&mut self) -> String {
        let length = self.0.iter().position(|byte| *byte == 0).expect("text ends in a zero byte");
        let text = String::from_utf8(self.take(length).to_vec()).expect("the database is UTF-8");
        self.u8();
        text
    }

    fn tuple(&mut self) -> Vec<Value> {
        let columns = self.u16();
        (0..columns).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Value {
        match self.u8() {
            b'n' => Value::Text(None),
            b'u' => Value::Unchanged,
            b't' => {
                let length = self.u32() as usize;
                Value::Text(Some(String::from_utf8(self.take(length).to_vec()).expect("the database is UTF-8")))
            }
            other => panic!("unknown column kind '{}'", char::from(other)),
        }
    }
}
