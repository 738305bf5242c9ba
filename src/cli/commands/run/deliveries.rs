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
            let outcome = child::run(&config.settings.config_file, &arguments, None, &shared.context.cancel).await;
            let error = outcome.map_or_else(|error| Some(error.summary()), |ended| ended.error);
            let still_waits = settings.repositories.iter().map(queue).any(waits);
            // What was given up makes every delivery end badly, and waits for a person, not for a pause.
            failures = if error.is_some() && still_waits { failures + 1 } else { 0 };
            not_before = Timestamp::now().plus(backoff(failures));
            let (level, told) = match error {
                Some(why) if still_waits => (Level::Warn, format!("queue not delivered: {why}")),
                Some(_) => (Level::Warn, format!("queue delivered, but for what was given up: lifeboat queue {source}")),
                None => (Level::Info, "queue delivered".to_owned()),
            };
            shared.log.say(level, Some(source), None, &told);
        }
        pause(shared, &mut watched, None, LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::queue::Item;

    #[test]
    fn what_was_given_up_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let queue = || Queue::new(dir.path(), &"orders".parse().unwrap(), "main");
        assert!(!waits(queue()));
        queue().add(&Item::Backup { id: "20261120T210000Z-full-aaaa".parse().unwrap() }).unwrap();
        assert!(waits(queue()));
        let queued = queue().waiting().unwrap().remove(0);
        queue().failed(&queued, "another object has its name", true).unwrap();
        assert!(!waits(queue()));
        assert_eq!(queue().items().unwrap().len(), 1);
    }
}
