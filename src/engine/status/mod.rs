//! `status`: would this source survive, now? Gathered with effects by [`gather`], judged without any by [`report`].
//!
//! Nothing is said that is not known: where only a bound is known it is called one, and what was never rehearsed is
//! unproven however well it looks. What cannot be reached is told and hides nothing else. A repository that does not answer
//! counts against the verdict; a server only by what is not known without it.

pub mod facts;
pub mod forecast;
pub mod gather;
pub mod history;
pub mod report;
pub mod rpo;
pub mod rto;
pub mod schedule;
pub mod standby;
pub mod unarchived;
pub mod verdict;

pub use facts::Facts;
pub use report::StatusReport;
pub use verdict::Verdict;
