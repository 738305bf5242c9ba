//! `timeline`: what happened when, and the moment before it.
//!
//! From names alone, with no key: [`plan`]. From the log itself, with an identity that decrypts it: [`run`] reads its
//! segments in order, [`collect`] puts transactions together, [`acts`] tells what became of whole tables, [`detail`] and
//! [`around`] keep what was asked for. Nothing here grows with the log.

pub mod acts;
pub mod around;
pub mod collect;
pub mod detail;
pub mod plan;
pub mod run;
