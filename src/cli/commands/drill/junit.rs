//! A drill as JUnit XML: one case for each check, and one for the drill as a whole.

use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::base::{Error, Result, SourceName, durable};
use crate::repo::evidence::{DrillOutcome, Evidence};

/// Writes the file.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(file: &Path, source: &SourceName, evidence: &Evidence, log_lines: &[String]) -> Result<()> {
    let text = document(source, evidence, log_lines)?;
    durable::write_file(file, text.as_bytes(), 0o644).map_err(|error| Error::io("write", file, error))
}

fn document(source: &SourceName, evidence: &Evidence, log_lines: &[String]) -> Result<String> {
    let mut suite = TestSuite::new(format!("drill of {source}, level {}", evidence.level));
    for check in &evidence.checks {
        let status = if check.passed { TestCaseStatus::success() } else { failed(&check.detail) };
        suite.add_test_case(case(&check.name, source, status, check.seconds));
    }
    let whole = match evidence.outcome {
        DrillOutcome::Passed => TestCaseStatus::success(),
        DrillOutcome::Failed | DrillOutcome::Inconclusive => failed(&evidence.why.join("; ")),
    };
    let seconds: f64 = evidence.phases.iter().map(|phase| phase.seconds).sum();
    let mut whole = case("drill", source, whole, seconds);
    if !log_lines.is_empty() {
        whole.set_system_err(log_lines.join("\n"));
    }
    suite.add_test_case(whole);
    let mut report = Report::new("lifeboat drill");
    report.add_test_suite(suite);
    report.to_string().map_err(|error| Error::failed("cannot write JUnit XML").caused_by(error))
}

fn failed(why: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(why);
    status
}

fn case(name: &str, source: &SourceName, status: TestCaseStatus, seconds: f64) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(source.to_string()).set_time(Duration::from_secs_f64(seconds));
    case
}
