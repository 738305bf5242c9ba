//! What is asked wrongly, or of what is not there.

use crate::stage::{Stage, has_reason};
use crate::support::scenario::SOURCE;

#[test]
fn mistakes_are_told_and_a_monitor_never_takes_one_for_an_answer() {
    let Some(stage) = Stage::start("rpo = \"1h\"\nrto = \"30min\"") else { return };
    let host = stage.host();
    host.run(&["status", "ordres"]).refuses(2, &["[source.ordres]", "orders"]);
    for arguments in [&["ordres"][..], &[SOURCE, "--no-such-option"], &["--help"], &["--watch", "0"], &["--repository", "none"]] {
        let output = host.run(&[&["status", "--format", "nagios"], arguments].concat()).exits(3);
        assert!(arguments == ["--help"] || output.stdout.starts_with("LIFEBOAT UNKNOWN - "), "{output}");
    }
    host.run(&["status", "--gate", "--watch"]).exits(2);

    host.write("policy.toml", "[objectives]\nrpo = \"soon\"\nrto = \"30min\"\n");
    let broken = stage.status();
    assert_eq!((&broken["verdict"], has_reason(&broken, "policy")), (&"at_risk".into(), true), "{broken:#}");
    assert!(host.ok(&["status"]).stdout.contains("lifeboat policy check policy.toml"), "{broken:#}");
    let without = host.configuration().replace("policy = \"policy.toml\"\n", "");
    host.configure_text(&without);
    let status = stage.status();
    assert_eq!((&status["verdict"], has_reason(&status, "policy")), (&"unproven".into(), true), "{status:#}");
    assert!(status["objectives"].is_null());
    stage.gate().exits(12);
    let text = host.ok(&["status"]).stdout;
    assert!(text.contains("no objectives are declared"), "{text}");
}
