//! Tests that run once for each of a few majors.
#![allow(unused_macros, unused_imports)] // As for the whole of support.

/// One test function for each of a few majors.
macro_rules! on_majors {
    ($($test:ident: $($name:ident $major:literal),+;)+) => { $(
        mod $test {
            $( #[test] fn $name() { super::$test($major) } )+
        }
    )+ };
}
pub(crate) use on_majors;
