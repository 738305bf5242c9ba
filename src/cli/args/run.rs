//! `lifeboat run`.

use clap::Args;

pub(super) const HELP: &str = "\
Runs backups, verifications and drills of all sources that have a policy, at the
times its [schedule] says, and delivers what waits in queues. Of runs that were
missed the newest is made up for; a failure is tried again after 1 minute, then
2, 4, up to an hour. Several hosts may run it for one source: each time is run
by one of them. Backups are let go only where [run] expire_key_file says so.
Where a policy says [log] mode = stream, one archive stream is kept going.
Beside that it stores the log that waits, ahead of PostgreSQL's archiver.

SIGTERM and SIGINT stop it once what runs has stopped; SIGHUP has it read the
configuration again. A second one with the same state_dir ends with 21.

Examples:
  lifeboat run
  lifeboat run --list
  lifeboat schedule print --format systemd";

/// `lifeboat run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Show the last runs on this host, the next ones and the missed ones
    #[arg(long)]
    pub list: bool,
}
