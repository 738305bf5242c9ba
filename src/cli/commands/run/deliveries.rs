//! The lane of deliveries: what waits for a repository is brought there, tried again after the pauses of any other job.

use std::time::Duration;

use super::log::Level;
use super::{Shared, child, pause};
use crate::base::{SourceName, Timestamp};
use crate::policy::cadence::backoff;
use crate::repo::queue::Queue;

/// How often the queues are looked at; they are directories of this host.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Whether something is to be delivered. A queue that cannot be read is for the delivery to tell.
fn waits(queue: Queue) -> bool {
    queue.waiting().map_or(true, |waiting| !waiting.is_empty())
}

/// Delivers, and idles while the source has no policy.
pub(super) async fn run(shared: &Shared<'_>, source: &SourceName) {
    let mut watched = shared.config.clone();
    let (mut failures, mut not_before) = (0, Timestamp::now());
    while !shared.context.cancel.is_cancelled() {
        let config = watched.borrow_and_update().clone();
        let (Some(_), Ok(settings)) = (config.policies.get(source), config.settings.source(source)) else {
            pause(shared, &mut watched, None, LOOK_EVERY).await;
            continue;
        };
        let queue = |name: &String| Queue::new(&config.settings.state_dir, source, name);
        // Deliveries that backups and pushes start in the background are left alone: they have the lock.
        let is_free = |queue: &Queue| matches!(queue.lock(), Ok(Some(_)));
        let due = settings.repositories.iter().map(queue).filter(is_free).any(waits);
        if due && Timestamp::now() >= not_before {
            let arguments = ["queue", &source.to_string(), "--deliver"];
            let outcome = child::run(&config.settings.config_file, &arguments, &shared.context.cancel).await;
            let error = outcome.map_or_else(|error| Some(error.summary()), |ended| ended.error);
            let still_waits = settings.repositories.iter().map(queue).any(waits);
            failures = if error.is_some() && still_waits { failures + 1 } else { 0 };
            not_before = Timestamp::now().plus(backoff(failures));
            match error {
                Some(why) if still_waits => {
                    shared.log.say(Level::Warn, Some(source), None, &format!("queue not delivered: {why}"));
                }
                // What was given up was told when it was, and waits for a person.
                _ => shared.log.say(Level::Info, Some(source), None, "queue delivered"),
            }
        }
        pause(shared, &mut watched, None, LOOK_EVERY).await;
    }
}
