//! Lifeboat's entry point.
fn main() {}
