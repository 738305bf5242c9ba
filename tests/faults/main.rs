//! Every call to the repository fails once, in every way: what was committed before restores byte for byte, nothing torn
//! is taken for a backup or a segment, and the same verb, run again, succeeds.

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod backup;
mod copy;
mod expire;
mod plant;
mod prove;
mod restore;
mod stage;
