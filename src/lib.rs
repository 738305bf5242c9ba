//! Lifeboat: backups that are known to restore.
//!
//! The map, from top to bottom; dependencies point strictly down (`tests/architecture.rs`):
//!
//! | floor | what it does |
//! |---|---|
//! | [`cli`] | words and settings in; text, JSON and exit codes out |
//! | [`engine`] | the verbs: the only place that holds both a source and a store |
//! | [`policy`], [`source`], [`repo`] | what was declared; what is protected; what is kept, and under which names |
//! | [`codec`], [`store`] | frames, compression, encryption; objects that appear whole or not at all |
//! | [`base`] | times, positions, ids, durable files, errors |
//!
//! How a byte travels to the repository: [`source::postgres::walk`] lists its file, [`engine::backup`] reads it in
//! frames of 256 KiB and checks its page, [`codec::frame`] compresses and digests it, [`codec::encrypt`] seals the
//! [`repo::pack`] it lies in, a [`store::Store`] makes the pack durable, the [`repo::manifest`] says where it is, and
//! one signed [`repo::commit`] entry makes all of it a backup. What changes afterwards travels in the log, segment by
//! segment, through [`engine::archive`].
//!
//! And back: [`engine::restore::plan`] chooses backup and position, [`engine::restore::run`] fetches each pack once and
//! writes its frames to their places, and PostgreSQL replays the log that `archive get` hands it.
#![cfg_attr(test, allow(missing_docs))]

pub mod base;
pub mod cli;
pub mod codec;
pub mod engine;
pub mod policy;
pub mod repo;
pub mod source;
pub mod store;
