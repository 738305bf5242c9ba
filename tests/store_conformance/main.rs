//! What every store must do (`suite`, run over each of them), and what the local one must do beyond that.

mod child;
mod crash;
mod durability;
mod faulty;
mod foreign_files;
mod listing;
mod suite;
mod support;
mod trouble;
