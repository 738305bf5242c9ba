//! The server: settings, rights, and whether this process can read its data directory.

use super::{Cluster, Finding, Level, Subject};
use crate::base::units::format_duration;
use crate::base::{Incarnation, Result, Timestamp};
use crate::engine::Scope;
use crate::engine::archive::slot::Slot;
use crate::repo::identity;
use crate::source::postgres::connect::{self, Session};
use crate::source::postgres::control::{ControlFile, WalLevel};
use crate::source::postgres::replication::SlotState;
use crate::source::postgres::server::{ArchiveMode, ServerInfo};
use crate::source::postgres::walk::{Walk, WalkOptions};

/// Difference between the server's clock and this host's that is worth a word.
const CLOCK_SKEW_SECONDS: u64 = 5;

/// A server that was found and asked.
pub(super) struct Found {
    pub session: Session,
    pub info: ServerInfo,
}

pub(super) async fn check(scope: &Scope, subject: &Subject<'_>, cluster: &Cluster<'_>) -> (Option<Found>, Vec<Finding>) {
    let asked = async {
        let session = connect::connect(cluster.conninfo).await?;
        let info = session.info().await?;
        Ok((session, info))
    };
    let (session, info) = match asked.await {
        Ok(asked) => asked,
        Err(error) => return (None, vec![Finding::of_error(subject.level_of_absence(), "server", &error)]),
    };
    let role = if info.in_recovery { "standby" } else { "primary" };
    let mut findings = vec![Finding::ok("server", format!("PostgreSQL {}, {role}, timeline {}", info.version, info.timeline))];
    findings.push(match session.check_backup_rights().await {
        Ok(()) => Finding::ok("rights", format!("{} may take backups", session.user())),
        Err(error) => Finding::of_error(Level::Fault, "rights", &error),
    });
    findings.push(data_directory(cluster, &info));
    findings.extend(settings(scope, subject, &info));
    findings.extend(archiver(&session).await);
    findings.extend(slot(subject, cluster, &session, &info).await);
    findings.extend(incarnation(scope, &info).await);
    findings.extend(clock(&session).await);
    (Some(Found { session, info }), findings)
}

/// Lists the whole data directory as a backup would.
fn data_directory(cluster: &Cluster<'_>, info: &ServerInfo) -> Finding {
    const SUBJECT: &str = "data directory";
    let directory = cluster.data_directory.as_ref().unwrap_or(&info.data_directory);
    let look = || -> Result<(u64, u64)> {
        let control = ControlFile::read(directory)?;
        if control.system_identifier != info.system_identifier {
            return Err(crate::base::Error::failed("it belongs to another cluster"));
        }
        let mut options = WalkOptions::new(info.major, &control);
        options.stats_temp_directory.clone_from(&info.stats_temp_directory);
        Walk::new(directory, options)?.try_fold((0, 0), |(entries, bytes), entry| Ok((entries + 1, bytes + entry?.size_bytes)))
    };
    match look() {
        Ok((entries, bytes)) => {
            let size = crate::base::units::format_bytes(bytes);
            Finding::ok(SUBJECT, format!("{} can be read: {size} in {entries} entries", directory.display()))
        }
        Err(error) => Finding::of_error(Level::Fault, SUBJECT, &error.context(directory.display()))
            .hint("run lifeboat on the server's own host as the user that owns the data directory"),
    }
}

/// The slot of the source's stream, if there is one or should be.
async fn slot(subject: &Subject<'_>, cluster: &Cluster<'_>, session: &Session, info: &ServerInfo) -> Vec<Finding> {
    const SUBJECT: &str = "replication slot";
    let name = cluster.slot;
    let state = match session.slot(name).await {
        Ok(state) => state,
        Err(error) => return vec![Finding::of_error(Level::Warning, SUBJECT, &error)],
    };
    let directory = cluster.data_directory.as_ref().unwrap_or(&info.data_directory);
    let free_bytes = Slot::free_bytes(directory, info.system_identifier);
    let slot = Slot { name: name.to_owned(), state, free_bytes, size: info.wal_segment_size };
    let threats = slot.judged(subject.log_mode, Timestamp::now());
    if let (true, Some(state)) = (threats.is_empty(), &slot.state) {
        let kept = crate::base::units::format_bytes(u64::try_from(state.retained_bytes.unwrap_or_default()).unwrap_or_default());
        return vec![Finding::ok(SUBJECT, format!("{name} is used by a stream, and keeps {kept} of log"))];
    }
    let level = if slot.state.as_ref().is_some_and(SlotState::is_lost) { Level::Fault } else { Level::Warning };
    threats.into_iter().map(|threat| Finding::new(level, SUBJECT, threat.message).hint(threat.command)).collect()
}

fn settings(scope: &Scope, subject: &Subject<'_>, info: &ServerInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    let command = format!("ALTER SYSTEM SET archive_command = 'lifeboat archive push {} %p';", scope.source);
    findings.push(match info.archive_mode {
        ArchiveMode::Off if subject.is_streamed() => Finding::ok("archive_mode", "is off: the log is streamed"),
        ArchiveMode::Off => Finding::fault("archive_mode", "is off: no log reaches the repository")
            .hint("ALTER SYSTEM SET archive_mode = on;   then restart the server")
            .hint(command.clone()),
        ArchiveMode::On | ArchiveMode::Always => Finding::ok("archive_mode", "is on"),
    });
    if info.archive_mode != ArchiveMode::Off && info.archive_command.is_empty() && info.archive_library.is_empty() {
        findings.push(
            Finding::fault("archive_command", "is empty: segments pile up on the server")
                .hint(format!("{command}   SELECT pg_reload_conf();")),
        );
    }
    if info.wal_level == WalLevel::Minimal {
        findings.push(
            Finding::fault("wal_level", "is minimal: its log cannot be replayed")
                .hint("ALTER SYSTEM SET wal_level = replica;   then restart the server"),
        );
    }
    findings.push(match info.archive_timeout_seconds {
        0 if subject.is_streamed() => Finding::ok("archive_timeout", "is off: the log is streamed as it is written"),
        0 => Finding::warning(
            "archive_timeout",
            "is off: on a quiet server the last transactions stay in an unfinished segment, for hours if need be",
        )
        .hint("ALTER SYSTEM SET archive_timeout = '60s'; SELECT pg_reload_conf();   at most that much is lost with the host"),
        seconds => Finding::ok(
            "archive_timeout",
            format!("with the host at most {seconds} s of transactions are lost, and what is on its way"),
        ),
    });
    findings.push(if info.data_checksums {
        Finding::ok("data checksums", "are on: a backup notices damaged pages")
    } else {
        Finding::warning("data checksums", "are off: a backup cannot tell damaged pages from good ones")
            .hint("stop the server, then: pg_checksums --enable -D DATA_DIRECTORY")
    });
    if !info.full_page_writes {
        findings.push(
            Finding::warning("full_page_writes", "is off: a crash of the host may tear pages")
                .hint("ALTER SYSTEM SET full_page_writes = on;"),
        );
    }
    findings
}

async fn archiver(session: &Session) -> Option<Finding> {
    const SUBJECT: &str = "archiver";
    match session.archiver_status().await {
        Ok(status) if status.is_failing() => {
            let file = status.last_failed_file.unwrap_or_default();
            let time = status.last_failed_time.map(Timestamp::human_seconds).unwrap_or_default();
            Some(
                Finding::fault(SUBJECT, format!("is failing: {file} at {time}, {} failures in all", status.failed_count))
                    .hint("the server's log says why"),
            )
        }
        Ok(status) => {
            let time = status.last_archived_time?;
            Some(Finding::ok(
                SUBJECT,
                format!("archived {} at {}", status.last_archived_file.unwrap_or_default(), time.human_seconds()),
            ))
        }
        Err(error) => Some(Finding::of_error(Level::Warning, SUBJECT, &error)),
    }
}

/// Whether this cluster is the one on record.
async fn incarnation(scope: &Scope, info: &ServerInfo) -> Option<Finding> {
    const SUBJECT: &str = "cluster";
    let own = Incarnation::postgres(info.major, info.system_identifier);
    match identity::survey(&scope.repository, &scope.source).await {
        Ok((known, _)) if known.is_empty() || known.iter().any(|identity| identity.incarnation == own) => None,
        Ok(_) => Some(
            Finding::fault(SUBJECT, format!("{own} is not on record as {}", scope.source))
                .hint(format!("after pg_upgrade or a new initdb: lifeboat backup {} --type full   admits it", scope.source)),
        ),
        Err(error) => Some(Finding::of_error(Level::Fault, SUBJECT, &error)),
    }
}

async fn clock(session: &Session) -> Option<Finding> {
    let before = Timestamp::now();
    let server = session.clock().await.ok()?;
    let after = Timestamp::now();
    let skew = server.since(after).max(before.since(server));
    (skew.as_secs() >= CLOCK_SKEW_SECONDS).then(|| {
        Finding::warning("clock", format!("the server's clock and this host's differ by {}", format_duration(skew)))
            .hint("times of recovery are those of the server's clock; set both by NTP")
    })
}
