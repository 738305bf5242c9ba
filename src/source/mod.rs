//! What is protected, one folder a kind.

pub mod postgres;
