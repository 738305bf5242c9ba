//! The lease of a source and the fence behind it: one holder at a time among processes, tokens that only grow, clocks that
//! are wrong, stores without conditional writes; and hosts that back up one cluster at the same time.

mod support;

#[path = "lease/child.rs"]
mod child;
#[path = "lease/hosts.rs"]
mod hosts;
#[path = "lease/library.rs"]
mod library;
#[path = "lease/stage.rs"]
mod stage;
