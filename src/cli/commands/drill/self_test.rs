//! `lifeboat drill SOURCE --self-test`.

use serde::Serialize;

use super::Drill;
use crate::base::{DrillLevel, Result};
use crate::cli::exit::Outcome;
use crate::engine::drill::run::Fault;
use crate::engine::drill::self_test::{FaultResult, Noticed, compare, missing_segment};
use crate::repo::evidence::DrillOutcome;

/// The document `drill-self-test`, version 1.
#[derive(Serialize)]
struct Document {
    source: String,
    /// `passed` when every fault was noticed, `failed` when one was not, `inconclusive` when one could not be planted.
    outcome: DrillOutcome,
    /// Why the drill without a fault did not pass: then nothing can be told.
    why: Vec<String>,
    faults: Vec<FaultPart>,
}

#[derive(Serialize)]
struct FaultPart {
    fault: &'static str,
    /// What noticed it.
    noticed_by: Option<String>,
    /// What is missing: nothing noticed it.
    missing: Option<String>,
    /// Why it could not be planted.
    untestable: Option<String>,
}

/// Drills without a fault, and with each.
///
/// # Errors
/// As a drill's. Evidence is never kept.
pub(super) async fn run(drill: &Drill<'_>) -> Result<Outcome> {
    let level = drill.args.level.unwrap_or(DrillLevel::Component).max(DrillLevel::Component);
    let prepared = drill.prepare(level).await?;
    let sound = drill.drill(&prepared, None).await?;
    let circumstances = prepared.circumstances.of_restore(&sound, None);
    let mut results = Vec::new();
    if sound.outcome() == DrillOutcome::Passed {
        let (plan, key) = (&prepared.plan, &prepared.key);
        results.push(missing_segment(&plan.scope, &plan.log, key, &plan.prepared.plan).await?);
        for fault in [Fault::FlippedBit, Fault::WrongRow] {
            let faulty = drill.drill(&prepared, Some(fault)).await?;
            results.push(compare(fault, &sound, &faulty));
        }
    }
    let document = Document {
        source: drill.args.source.to_string(),
        outcome: if results.is_empty() { sound.outcome() } else { outcome(&results) },
        why: circumstances.why,
        faults: results.into_iter().map(part).collect(),
    };
    drill.context.result("drill-self-test", 1, &document, || text(&document))?;
    Ok(match document.outcome {
        DrillOutcome::Passed => Outcome::Done,
        DrillOutcome::Failed => Outcome::Faults,
        DrillOutcome::Inconclusive => Outcome::Unproven,
    })
}

fn outcome(results: &[FaultResult]) -> DrillOutcome {
    let any = |is: &dyn Fn(&Noticed) -> bool| results.iter().any(|result| is(&result.noticed));
    if any(&|noticed| matches!(noticed, Noticed::Not(_))) {
        DrillOutcome::Failed
    } else if any(&|noticed| matches!(noticed, Noticed::Untestable(_))) {
        DrillOutcome::Inconclusive
    } else {
        DrillOutcome::Passed
    }
}

fn part(result: FaultResult) -> FaultPart {
    let mut part = FaultPart { fault: result.fault, noticed_by: None, missing: None, untestable: None };
    match result.noticed {
        Noticed::By(check) => part.noticed_by = Some(check),
        Noticed::Not(missing) => part.missing = Some(missing),
        Noticed::Untestable(why) => part.untestable = Some(why),
    }
    part
}

fn text(document: &Document) -> String {
    let mut text = format!("self-test of the drill of {}: {}\n", document.source, super::report::outcome_text(document.outcome));
    document.why.iter().for_each(|why| text += &format!("  without a fault it does not pass: {why}\n"));
    for part in &document.faults {
        let said = match (&part.noticed_by, &part.missing, &part.untestable) {
            (Some(check), _, _) => format!("noticed by {check}"),
            (_, Some(missing), _) => format!("NOT NOTICED; what is missing: {missing}"),
            (_, _, why) => format!("not tested: {}", why.as_deref().unwrap_or_default()),
        };
        text += &format!("  {:22}  {said}\n", part.fault);
    }
    text
}
