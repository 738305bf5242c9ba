//! Named points at which tests kill the process, to prove that no torn state is taken for a backup.
//!
//! Only builds with debug assertions have them; in a release build [`reach`] is empty.
//! `LIFEBOAT_KILL_AT=NAME` kills at the first pass over the point, `NAME:3` at the third.
//! `LIFEBOAT_PANIC_AT` panics instead, for the guards that must survive that; `LIFEBOAT_STOP_AT` stops the process until
//! somebody continues it, for what another one does meanwhile.

/// Every point's name, so that a test can visit all of them.
pub const ALL: &[&str] = &[
    "backup.leased",
    "backup.begun",
    "backup.started",
    "backup.pack-stored",
    "backup.copied",
    "backup.stopped",
    "backup.archived",
    "backup.packs-listed",
    "backup.manifest-stored",
    "backup.lease-checked",
    "backup.committed",
    "push.start",
    "push.key-stored",
    "push.encoded",
    "push.stored",
    "push.recorded",
    "stream.piece-encoded",
    "stream.piece-stored",
    "stream.piece-listed",
    "stream.segment-stored",
    "stream.piece-deleted",
    "stream.reported",
    "follow.segment-kept",
    "follow.segment-stored",
    "follow.segment-noted",
    "follow.lost",
    "follow.backup-noted",
    "settle.piece-stored",
    "settle.piece-deleted",
    "get.start",
    "get.written",
    "restore.marked",
    "restore.cleared",
    "restore.created",
    "restore.pack-written",
    "restore.configured",
    "restore.synced",
    "restore.complete",
    "promote.begun",
    "promote.stopped",
    "promote.retargeted",
    "promote.started",
    "promote.promoted",
    "expire.marked",
    "expire.committed",
    "expire.object-deleted",
    "expire.backup-deleted",
    "expire.log-object-deleted",
    "deliver.log-stored",
    "deliver.noted",
    "drill.scene-made",
    "drill.restored",
    "drill.started",
    "drill.checked",
    "copy.log-copied",
    "copy.object-copied",
    "copy.objects-copied",
    "copy.committed",
    "store.temporary-written",
    "tree.read",
];

/// Dies here, by SIGKILL or by panic, or stops, when a test asked for it.
#[inline]
pub fn reach(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A time that a test makes shorter, in milliseconds in the variable `name`; none in a release build.
pub fn shortened(name: &str) -> Option<std::time::Duration> {
    #[cfg(debug_assertions)]
    return std::env::var(name).ok()?.parse().ok().map(std::time::Duration::from_millis);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        None
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSES: AtomicU32 = AtomicU32::new(0);

    pub(super) fn reach(name: &'static str) {
        debug_assert!(super::ALL.contains(&name), "kill point {name} is not listed");
        if hit("LIFEBOAT_KILL_AT", name) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::thread::park();
        }
        if hit("LIFEBOAT_STOP_AT", name) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // Another thread may be the one that takes the signal and stops them all: until then this one goes no further.
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        if hit("LIFEBOAT_PANIC_AT", name) {
            panic!("panic planted at {name}");
        }
    }

    fn hit(variable: &str, name: &str) -> bool {
        let Ok(wanted) = std::env::var(variable) else { return false };
        let (point, pass) = match wanted.split_once(':') {
            Some((point, pass)) => (point, pass.parse().unwrap_or(1)),
            None => (wanted.as_str(), 1),
        };
        point == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == pass
    }
}
