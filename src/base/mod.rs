//! Ground floor: what every other room stands on and what itself depends on no other.
//!
//! The boot, clock and times, positions in a log, ids, units, durable file writes, file stamps, the error type,
//! TOML documents read key by key, the progress trait, the cancel token and the named kill points of the tests.

pub mod boot;
pub mod cancel;
pub mod clock;
pub mod document;
pub mod drill_level;
pub mod durable;
pub mod error;
pub mod file_stamp;
pub mod ids;
pub mod job;
pub mod killpoint;
pub mod position;
pub mod progress;
pub mod relpath;
pub mod units;

pub use boot::boot_id;
pub use cancel::Cancel;
pub use clock::Timestamp;
pub use drill_level::DrillLevel;
pub use error::{Error, ErrorKind, Result};
pub use file_stamp::FileStamp;
pub use ids::{BackupId, BackupType, Engine, Incarnation, SourceName};
pub use job::Job;
pub use position::{Lsn, Segment, SegmentSize, TimelineId};
pub use relpath::RelPath;
