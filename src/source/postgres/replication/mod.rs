//! Physical replication from the client's side: what a server writes into its log, as it writes it.
//!
//! Invariants: bytes are handed out in the order of the log and without a gap, or an error is; nothing is reported to the
//! server but what the caller says; every wait for the server ends, by an answer or after [`SILENCE`].
//!
//! Channel binding is not used: a server whose conninfo asks for `channel_binding=require` is not connected to.
//! Sources: PostgreSQL documentation, "Streaming Replication Protocol", "Message Formats"; `walsender.c`, `receivelog.c`.

mod client;
mod errors;
mod host;
mod login;
mod slot;
mod stream;
mod wire;

pub use client::{Client, System};
pub use errors::Failure;
pub use host::Server;
pub use slot::{SlotState, WalStatus};
pub use stream::{Event, LogStream, Next, Started};

use std::time::Duration;

/// What a server answers, or why it does not.
pub type Result<T> = std::result::Result<T, Failure>;

/// A server that says nothing for so long, though it was asked, is taken for lost.
pub const SILENCE: Duration = Duration::from_secs(60);
