//! What goes wrong before three in the morning: wrong settings, full disks, impatient operators, repositories that are
//! not what they were. Each gives a clear error with a hint and the documented exit code, and loses nothing.

#[path = "../support/mod.rs"]
mod support;

mod bucket;
mod disk;
mod interrupt;
mod names;
mod repository;
mod server;
mod settings;
mod stage;
mod target;
