//! `backup --type auto` under a policy.

use crate::stage::{policy, scheduled};
use crate::support::scenario::SOURCE;

#[test]
fn auto_takes_what_the_schedule_asks_for() {
    let Some(scenario) = scheduled("full = \"0 0 1 1 *\"\ndiff = \"0 0 2 1 *\"", "") else { return };
    let host = &scenario.protected;
    let wanted = || host.json(&["backup", SOURCE, "--dry-run"])["plans"][0]["type"].as_str().expect("a type").to_owned();
    assert_eq!(wanted(), "full");
    host.ok(&["backup", SOURCE]);
    // Nothing is due: the lightest of the schedule, which has no incrementals.
    assert_eq!(wanted(), "diff");
    host.write("p.toml", &policy("full = \"0 0 1 1 *\"\nincr = \"* * * * *\""));
    assert_eq!(wanted(), "incr");
    host.ok(&["backup", SOURCE]);
    // What is asked for in so many words is taken, whatever becomes of the policy.
    host.write("p.toml", "nonsense");
    host.run(&["backup", SOURCE]).exits(2);
    host.ok(&["backup", SOURCE, "--type", "incr"]);
}
