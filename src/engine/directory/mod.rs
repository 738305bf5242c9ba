//! Directories of files: their backups, the way back, and what lies in them.
//!
//! [`backup`]: lease, examine, decide ([`base`]), begin, read ([`gather`], [`store`]), assemble ([`assemble`]), commit.
//! [`restore`] goes the other way. [`catalogue`] reads the entries of a backup for `ls` and `diff`. What lies between a line
//! of the manifest and an entry of the tree is in [`line`].

mod assemble;
pub mod backup;
mod base;
pub mod catalogue;
mod gather;
mod line;
mod preview;
pub mod restore;
mod store;
mod trouble;

pub(in crate::engine) use line::entry_of;
pub use preview::{Preview, preview};
pub use trouble::Trouble;

use std::path::Path;

use crate::base::Timestamp;
use crate::repo::manifest::FileKind;
use crate::source::directory::entry::FileTime;

/// A path as the manifest's header has it: bytes that are not UTF-8 are hex after `hex:`.
fn path_text(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    FileKind::encode_target(path.as_os_str().as_bytes())
}

/// A moment of this host's clock as file systems tell theirs.
fn file_time(moment: Timestamp) -> FileTime {
    let micros = moment.unix_micros();
    FileTime { seconds: micros.div_euclid(1_000_000), nanos: micros.rem_euclid(1_000_000) as u32 * 1000 }
}
