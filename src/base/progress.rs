//! How a long verb tells how far it is. The library calls; the command line draws.

/// A listener for the progress of one verb. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A new phase begins: `copying files`, with its size when known.
    fn phase(&self, name: &str, total_bytes: Option<u64>);

    /// `bytes` more of the phase's total are done.
    fn advance(&self, bytes: u64);

    /// The last phase is over; the result follows.
    fn finish(&self) {}

    /// Something the operator should know now; the verb goes on.
    fn note(&self, text: &str);

    /// Something is wrong but not fatal; the verb goes on and its result will say so too.
    fn warn(&self, text: &str);
}

/// A listener that ignores everything.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
    fn warn(&self, _text: &str) {}
}
