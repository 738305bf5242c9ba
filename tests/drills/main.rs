//! `lifeboat drill`: it passes on what is sound, fails on each planted fault, proves nothing without a look at data, and
//! leaves nothing behind, neither on its host nor at the source.

mod cleanup;
mod evidence;
mod faults;
mod passing;
mod refusals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
