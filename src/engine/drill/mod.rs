//! `drill`: the disaster rehearsed and timed, in a scratch directory that is gone afterwards.
//!
//! The restore is the real one: the same plan, the same code, the same `restore_command`. What makes it a drill is that
//! the restored server is cut off from the world ([`isolation`]) and that nothing is ever written to the source's server
//! or its data directory. A drill in which no check looked at data proves nothing, and is never called passed.

pub mod checks;
pub mod evidence;
pub mod isolation;
mod judge;
pub mod plan;
mod recovery;
pub mod run;
pub mod scene;
pub mod self_test;

use std::time::Instant;

use crate::repo::evidence::{Phase, PhaseKind};

/// Measures the phases of one drill, from the declaration of the disaster on.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    declared: Instant,
    last: Instant,
    /// What is over.
    pub phases: Vec<Phase>,
}

impl Stopwatch {
    /// Declares the disaster.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { declared: now, last: now, phases: Vec::new() }
    }

    /// Ends a phase, which began when the one before ended.
    pub fn lap(&mut self, phase: PhaseKind, bytes: Option<u64>) {
        let now = Instant::now();
        self.phases.push(Phase { phase, seconds: now.duration_since(self.last).as_secs_f64(), bytes });
        self.last = now;
    }

    /// Seconds since the declaration.
    pub fn seconds(&self) -> f64 {
        self.declared.elapsed().as_secs_f64()
    }
}
