//! Random and special histories of backups: every backup of every chain restores to what a full of the same moment
//! restores to, and the restored cluster answers as the protected one did.
//!
//! Each backup that is judged ("ours") has a full ("twin") of the same moment in a second repository of the same
//! cluster. The files decide, not what a backup says of itself.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod compare;
mod expect;
mod facts;
mod judge;
mod mask;
mod naive;
mod page;
mod random;
mod rows;
mod special;
mod stage;
mod storm;
mod trap;
mod visibility;
mod world;

/// One test function for each of a few majors.
macro_rules! on_majors {
    ($($test:ident: $($name:ident $major:literal),+;)+) => { $(
        mod $test {
            $( #[test] fn $name() { super::$test($major) } )+
        }
    )+ };
}
pub(crate) use on_majors;
