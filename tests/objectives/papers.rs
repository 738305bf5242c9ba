//! What is written for people before the disaster: the plan with its commands, and the page.

use std::time::Duration;

use clap::Parser;
use lifeboat::base::DrillLevel;
use lifeboat::cli::args::Cli;
use lifeboat::repo::evidence::DrillOutcome;

use crate::stage::{Stage, phases};
use crate::support::scenario::SOURCE;

const POLICY: &str = "rpo = \"15min\"\nrto = \"30min\"\n[[drill.check]]\nname = \"rows <kept> & whole\"\nsql = \"SELECT count(*) \
                      FROM kept\"\nat_least = 1";

/// A source with a policy, somebody to call, and a drill that took so many seconds to fetch.
fn rehearsed() -> Option<Stage> {
    let mut stage = Stage::start(POLICY)?;
    stage.commit();
    let contact = "\n[[contact]]\nname = \"Ada | Lovelace\"\nrole = \"on call\"\nreach = \"+41 44 000 00 00\"\n";
    let text = stage.host().configuration() + contact;
    stage.host().configure_text(&text);
    let drilled = phases(24 << 20, 4 << 20, (1 << 20) as f64);
    stage.sign_drill(DrillLevel::Component, DrillOutcome::Passed, drilled, Duration::from_secs(60));
    Some(stage)
}

#[test]
fn the_plan_can_be_followed() {
    let Some(stage) = rehearsed() else { return };
    let plan = stage.host().ok(&["runbook", SOURCE]).stdout;
    println!("{plan}");
    for told in ["**30 min** (RTO)", "**15 min** of commits", "Ada \\| Lovelace", "+41 44 000 00 00", "rows <kept> & whole"] {
        assert!(plan.contains(told), "{told}");
    }
    assert!(plan.contains("must answer at least 1") && plan.contains("       SELECT count(*) FROM kept"), "{plan}");
    assert!(!plan.contains("never rehearsed") && plan.contains("Restore (about "), "durations are those of the drill: {plan}");
    assert!(plan.lines().all(|line| line.chars().count() <= 90 || line.starts_with("       ") || line.contains('`')), "{plan}");
    // Every command can be typed as it stands.
    let lines = plan.lines().map(str::trim_start).filter(|line| line.starts_with("lifeboat "));
    let commands: Vec<&str> = lines.collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        let words: Vec<String> = command
            .split('\'')
            .enumerate()
            .flat_map(|(at, part)| {
                // What stands between quotes is one word.
                if at % 2 == 1 { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
            })
            .collect();
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

#[test]
fn the_page_stands_alone_and_says_what_was_measured() {
    let Some(stage) = rehearsed() else { return };
    let host = stage.host();
    let told = host.json(&["report", "--file", "page.html"]);
    assert_eq!(told["sources"], serde_json::json!([SOURCE]));
    let page = std::fs::read_to_string(host.dir().join("page.html")).expect("the page");
    assert_eq!(told["bytes"], page.len());
    for outside in ["http://", "https://", "src=", "@import", "url(", "<script", "<link"] {
        let allowed = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!allowed.contains(outside), "{outside}");
    }
    let names = stage.scenario.repository.names();
    let evidence = names.iter().find(|name| name.starts_with("orders/drill/")).expect("evidence");
    let digest = lifeboat::codec::Sha256Digest::of(&stage.scenario.repository.read(evidence)).to_string();
    for told in [evidence.as_str(), &digest, "30 min", "15 min", "Recovery time", "objective 30 min", "class=\"badge passed\""] {
        assert!(page.contains(told), "{told}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= 2, "recovery time and size are drawn");
    assert_eq!(page.matches("<table").count(), page.matches("</table>").count());
}
