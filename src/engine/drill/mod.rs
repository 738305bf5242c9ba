//! `drill`: the disaster rehearsed and timed, in a scratch directory that is gone afterwards.
//!
//! The restore is the real one: the same plan, the same code, the same `restore_command`. A cluster is started and asked
//! ([`run`]); a database or a directory is looked at where it lies ([`files`]). What makes it a drill is that a restored
//! server is cut off from the world ([`isolation`]) and that nothing is ever written to the source's server
//! or its data directory. A drill in which no check looked at data proves nothing, and is never called passed.

pub mod checks;
pub mod evidence;
pub mod files;
pub mod isolation;
mod judge;
pub mod plan;
mod recovery;
pub mod run;
pub mod scene;
pub mod self_test;

use std::time::Instant;

use crate::repo::evidence::{CheckResult, Phase, PhaseKind};

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

/// The checks of one drill as they are made, and when the first of data had passed.
struct Noted<'s> {
    stopwatch: &'s mut Stopwatch,
    results: Vec<CheckResult>,
    /// Since the declaration.
    rto_seconds: Option<f64>,
}

impl<'s> Noted<'s> {
    fn new(stopwatch: &'s mut Stopwatch) -> Self {
        Self { stopwatch, results: Vec::new(), rto_seconds: None }
    }

    /// Notes a check that was `began`; `of_data` is one that looks at data.
    fn note(&mut self, name: &str, of_data: bool, began: Instant, judged: Result<String, String>) {
        let passed = judged.is_ok();
        let detail = judged.unwrap_or_else(|why| why);
        let seconds = began.elapsed().as_secs_f64();
        self.results.push(CheckResult { name: name.to_owned(), passed, of_data, detail, seconds });
        let holds_so_far = self.results.iter().all(|result| result.passed);
        if passed && of_data && holds_so_far && self.rto_seconds.is_none() {
            self.stopwatch.lap(PhaseKind::FirstCheck, None);
            self.rto_seconds = Some(self.stopwatch.seconds());
        }
    }
}
