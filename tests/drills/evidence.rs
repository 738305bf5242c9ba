//! Evidence: signed, chained, listed, verified with stock tools as the page says, and handed to whoever runs the drill.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::stage::Stage;
use crate::support::process::{self, Output};
use crate::support::scenario::SOURCE;

/// The commands of `docs/FORMAT.md` for evidence.
fn documented_commands() -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).expect("a page");
    let section =
        page.split("\n## ").find(|section| section.starts_with("&lt;source&gt;/drill/")).expect("a section on evidence");
    let block = section.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the section has commands").to_owned()
}

/// Runs the documented commands in the repository.
fn verify_with_stock_tools(stage: &Stage) -> Output {
    let mut bash = process::command(Path::new("/bin/bash"), stage.scenario.rescue.dir().path());
    bash.current_dir(stage.scenario.repository.path()).arg("-ec").arg(documented_commands());
    process::run(bash, Duration::from_secs(60))
}

#[test]
fn evidence_is_chained_listed_and_verified_by_the_documented_commands() {
    let Some(stage) = Stage::start(15) else { return };
    let copies = stage.scenario.rescue.dir();
    let (junit, copy) = (copies.join("drill.xml"), copies.join("drill.json"));
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    let document = stage.json(&["--junit", &text(&junit), "--evidence", &text(&copy)], 0);
    stage.drill(&["--level", "verify"]).success();
    let keys = stage.stored_evidence();
    assert_eq!((keys.len(), document["evidence_key"].as_str()), (2, Some(keys[0].as_str())));
    assert_eq!(std::fs::read(&copy).expect("a copy"), stage.scenario.repository.read(&keys[0]));
    assert_junit(&junit, &document);

    let list: Value = serde_json::from_str(&stage.drill(&["--list", "--output", "json"]).success().stdout).expect("JSON");
    let drills = list["repositories"][0]["drills"].as_array().expect("a list").clone();
    let told: Vec<_> =
        drills.iter().map(|drill| (drill["evidence"]["level"].as_str(), drill["evidence"]["outcome"].as_str())).collect();
    assert_eq!(told, [(Some("component"), Some("passed")), (Some("verify"), Some("passed"))]);
    let shown = stage.drill(&["--list"]).success();
    assert!(shown.stdout.contains("component  passed"), "{shown}");

    if stage.scenario.repository.server().is_some() {
        return println!("skipped: the documented commands read a directory");
    }
    let verified = verify_with_stock_tools(&stage).success();
    assert_eq!(verified.stdout.matches("Signature Verified Successfully").count(), 2, "{verified}");

    // A changed byte: a failed drill made to look as if it had passed, say.
    let sound = stage.scenario.repository.read(&keys[0]);
    let forged = String::from_utf8(sound.clone()).expect("JSON").replace("\"outcome\":\"passed\"", "\"outcome\":\"pasted\"");
    stage.scenario.repository.write(&keys[0], forged);
    assert_ne!(verify_with_stock_tools(&stage).code, Some(0));
    stage.drill(&["--list"]).exits(22);
    stage.scenario.repository.write(&keys[0], &sound);
    // One that was taken out of the chain.
    stage.scenario.repository.remove(&keys[0]);
    let output = stage.drill(&["--list"]).exits(22);
    assert!(output.stdout.contains("does not follow"), "{output}");
    assert_ne!(verify_with_stock_tools(&stage).code, Some(0), "the chain is broken");
    assert!(stage.scenario.repository.names().iter().all(|name| name.starts_with(SOURCE) || !name.contains("/drill/")));
}

fn assert_junit(file: &Path, document: &Value) {
    let text = std::fs::read_to_string(file).expect("a report");
    let report = quick_junit::Report::deserialize_from_str(&text).expect("JUnit XML");
    let cases: Vec<_> = report.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
    let checks = document["evidence"]["checks"].as_array().expect("a list");
    assert_eq!(cases.len(), checks.len() + 1, "{text}");
    assert_eq!(report.test_suites.iter().map(|suite| suite.failures).sum::<usize>(), 0);
}
