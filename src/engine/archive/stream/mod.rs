//! `archive stream`: the log in the repository seconds after it was written, by physical replication.
//!
//! Invariants:
//! - Pieces are stored in the order of the log; a segment that is complete is stored whole, as `archive push` stores it,
//!   before anything of the segment after the next is asked for.
//! - The server is told that a position is safe only once everything before it, from where the slot began to keep log, is
//!   durable in as many repositories as must hold the log. So the slot keeps what is not safe, and a server whose
//!   `synchronous_standby_names` names the slot has told no client of a commit that is not.
//! - Nothing is remembered between two runs but what the repositories and the slot hold: where to go on is read from
//!   them, and what they hold of a segment is compared, by its digests, with what the server sends again of it.
//! - Two servers that write one log are noticed as in `archive push`: everything there is of a segment is compared
//!   whenever a piece was added to it.
//!
//! - What the server sends is log: what cannot be read as such is asked for once more, and then stored with a warning, as
//!   `archive push` does, unless it is not of this cluster at all.
//!
//! Write order: the cluster's identity, histories, the stretch's key, pieces, the segment; then its pieces may go. Small
//! pieces are put together as a larger one, which is there before they go.

mod destination;
mod growing;
mod plan;
mod pump;
mod round;
mod run;
mod session;
mod settle;
mod trust;
mod watch;

pub use run::{Options, Streamed, Surroundings, run};
