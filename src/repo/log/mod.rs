//! The archived log of one incarnation: object names, the catalogue read from them, keys, signed digests and resolutions.
//!
//! Write order of a segment: the stretch's key, the segment under its final name, then (later, in batches) the signed
//! digests. A reader needs only the first two.

pub mod catalog;
pub mod cut;
pub mod index;
pub mod keys;
pub mod listing;
pub mod name;
pub mod resolution;
pub mod tail;

pub use catalog::{LogCatalog, SegmentObject, SplitBrain, TimelineHistory};
pub use cut::{LogCut, LogRange};
pub use name::{CommitTime, HistoryName, SegmentName};
pub use tail::{Piece, PieceName};
