//! What a stretch of log touched, asked file by file and frame by frame. Pure.

use crate::base::RelPath;
use crate::source::postgres::changes::PageSet;
use crate::source::postgres::page::PAGE_BYTES;
use crate::source::postgres::touched::{Touched, relation_at};
use crate::source::postgres::wal::Relation;

/// What a stretch of log touched.
#[derive(Debug)]
pub struct Told(Touched);

impl Told {
    /// Of a stretch of which all is known.
    pub fn new(touched: Touched) -> Self {
        Self(touched)
    }

    /// The relation whose main fork has a file at `path`; none where the log does not tell what became of it.
    pub fn relation(&self, path: &RelPath) -> Option<Relation> {
        relation_at(path.as_bytes()).filter(|found| !self.0.databases.contains(&(found.tablespace, found.database)))
    }

    /// Whether any page was touched of the file of `relation` that begins with page `first_block` and has so many bytes.
    pub fn touches(&self, relation: Relation, first_block: u32, size_bytes: u64) -> bool {
        let pages = u32::try_from(size_bytes.div_ceil(PAGE_BYTES as u64)).unwrap_or(u32::MAX);
        let end = first_block.saturating_add(pages);
        self.0.relations().get(&relation).is_some_and(|blocks| blocks.touches(first_block, end))
    }

    /// Which of the 32 pages of `relation` from `first_block` on were touched, the first one in the lowest bit.
    pub fn pages(&self, relation: Relation, first_block: u32) -> PageSet {
        lessened(self.0.relations().get(&relation).map_or(0, |blocks| blocks.pages(first_block)))
    }
}

/// The same; less than it in a test that plants a lie (`LIFEBOAT_LIE=log`), to prove that an audit finds it.
#[cfg(debug_assertions)]
fn lessened(found: PageSet) -> PageSet {
    static LIE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let lies = *LIE.get_or_init(|| std::env::var("LIFEBOAT_LIE").is_ok_and(|lie| lie == "log"));
    if lies { found & found.wrapping_sub(1) } else { found }
}

#[cfg(not(debug_assertions))]
const fn lessened(found: PageSet) -> PageSet {
    found
}
