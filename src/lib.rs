//! Lifeboat.
#![cfg_attr(test, allow(missing_docs))]

pub mod base;
pub mod cli;
pub mod codec;
pub mod engine;
pub mod policy;
pub mod repo;
pub mod source;
pub mod store;
