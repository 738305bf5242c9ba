//! The PostgreSQL source against real servers of every supported major.

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod connecting;
mod identity;
mod pages;
mod walking;

use std::sync::OnceLock;

use support::postgres::{Cluster, Installation, Options};

/// Runs a future on a runtime shared by this test process.
pub fn run<F: Future>(future: F) -> F::Output {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime can be built")).block_on(future)
}

/// A running cluster of `major` with `options`; `None`, said aloud, when that major is missing.
pub fn cluster(major: u32, options: &Options) -> Option<Cluster> {
    Installation::require(major).map(|installation| Cluster::running(&installation, options))
}

/// A session as the superuser.
#[track_caller]
pub fn session(cluster: &Cluster) -> lifeboat::source::postgres::connect::Session {
    run(lifeboat::source::postgres::connect::connect(&cluster.conninfo())).expect("the server accepts us")
}

/// One test a major.
macro_rules! each_major {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test] fn pg13() { super::$name(13) }
            #[test] fn pg14() { super::$name(14) }
            #[test] fn pg15() { super::$name(15) }
            #[test] fn pg16() { super::$name(16) }
            #[test] fn pg17() { super::$name(17) }
            #[test] fn pg18() { super::$name(18) }
        }
    )+ };
}
pub(crate) use each_major;
