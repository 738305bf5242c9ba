//! `copy`: fills a repository from another, object by object, without decrypting anything.
//!
//! What is stored is carried over as it is, so no identity is needed and every object keeps its digest. What is signed for
//! one repository (identities, signed digests of the log, commit entries) is verified there and signed anew for the other
//! by this host's key; times of arrival are kept. Split brains are not spread: of two contents of one file only the one
//! that an operator kept is copied.
//!
//! Write order, as a backup's and a push's: a cluster's identity, the keys of its log, its log, the signed digests; then of
//! each backup, oldest first, its beginning, keys, packs, the list of packs, the manifest, the commit entry. An interrupted
//! copy goes on where it stopped: what is there is not fetched again.

pub(in crate::engine) mod carry;
pub(in crate::engine) mod log;
mod plan;
mod run;

pub use log::LogAccount;
pub use plan::{Fate, Verdict};
pub use run::{CopyOptions, Report, run};
