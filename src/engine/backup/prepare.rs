//! Before a backup begins: everything that would make it fail later.

use std::path::PathBuf;

use super::run::BackupOptions;
use crate::base::progress::Progress;
use crate::base::{Error, Incarnation, Result, Timestamp};
use crate::engine::{Scope, Writing};
use crate::repo::identity::{self, Identity};
use crate::source::postgres::connect::{self, Session};
use crate::source::postgres::control::{ControlFile, WalLevel};
use crate::source::postgres::server::{ArchiveMode, ServerInfo, check_is_primary_of};

/// The server and its data directory, found fit for a backup.
pub(super) struct Server {
    pub session: Session,
    pub primary: Option<Session>,
    pub info: ServerInfo,
    pub data_directory: PathBuf,
    pub control: ControlFile,
    pub incarnation: Incarnation,
}

/// Looks at everything that would make the backup fail later, and puts the cluster on record.
pub(super) async fn prepare(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    progress: &dyn Progress,
) -> Result<Server> {
    let server = examine(scope, options).await?;
    let identity = Identity {
        incarnation: server.incarnation.clone(),
        engine: "postgres".into(),
        major_version: server.info.major,
        system_identifier: server.info.system_identifier.to_string(),
        segment_bytes: server.info.wal_segment_size,
        block_bytes: server.info.block_size_bytes,
        first_seen: Timestamp::now(),
    };
    identity::ensure(&scope.repository, &scope.source, &writing.signer, &identity).await?;
    for other in &options.admit_in {
        // Away, it is told of the cluster by the first delivery.
        if let Err(error) = identity::ensure(&other.repository, &other.source, &writing.signer, &identity).await {
            progress.warn(&format!(
                "{} is not on record in repository {}: {}",
                identity.incarnation,
                other.repository.name(),
                error.summary()
            ));
        }
    }
    Ok(server)
}

/// Looks at server and data directory without changing anything.
pub(super) async fn examine(scope: &Scope, options: &BackupOptions) -> Result<Server> {
    let session = connect::connect(&options.conninfo).await?;
    let info = session.info().await?;
    let primary = match (&options.primary_conninfo, info.in_recovery) {
        (_, false) => {
            check_archiving(scope, options, &info)?;
            None
        }
        (Some(conninfo), true) => {
            let primary = connect::connect(conninfo).await.map_err(|error| error.context("the primary of this standby"))?;
            let primary_info = primary.info().await?;
            check_is_primary_of(&info, &primary_info)?;
            check_archiving(scope, options, &primary_info)?;
            Some(primary)
        }
        (None, true) => {
            return Err(Error::usage(format!(
                "{} is a standby: its primary must be reachable to end the backup's last segment",
                session.describe()
            ))
            .hint(format!("set primary_conninfo in [source.{}] of lifeboat.toml", scope.source)));
        }
    };
    let data_directory = options.data_directory.clone().unwrap_or_else(|| info.data_directory.clone());
    let control = ControlFile::read(&data_directory).map_err(|error| {
        error.hint("run lifeboat on the server's own host, as the user that owns the data directory, or as root")
    })?;
    if control.system_identifier != info.system_identifier {
        return Err(Error::failed(format!("{} is not the data directory of {}", data_directory.display(), session.describe()))
            .detail("directory", control.system_identifier.to_string())
            .detail("server", info.system_identifier.to_string())
            .hint(format!("correct conninfo or data_directory in [source.{}] of lifeboat.toml", scope.source)));
    }
    let incarnation = Incarnation::postgres(info.major, info.system_identifier);
    Ok(Server { session, primary, info, data_directory, control, incarnation })
}

/// The log must come by the archiver, unless the policy says that it is streamed: then the wait for it tells.
fn check_archiving(scope: &Scope, options: &BackupOptions, info: &ServerInfo) -> Result<()> {
    if options.log_is_streamed && info.wal_level != WalLevel::Minimal {
        return Ok(());
    }
    let command = format!("ALTER SYSTEM SET archive_command = 'lifeboat archive push {} %p';", scope.source);
    if info.archive_mode == ArchiveMode::Off {
        let error =
            Error::failed(format!("archive_mode is off on {}: a backup without its log cannot be restored", scope.source));
        let error = match info.wal_level {
            WalLevel::Minimal => error.hint("ALTER SYSTEM SET wal_level = replica;   archiving needs it"),
            _ => error,
        };
        return Err(error.hint("ALTER SYSTEM SET archive_mode = on;   then restart the server").hint(command));
    }
    if info.archive_command.is_empty() && info.archive_library.is_empty() {
        return Err(Error::failed(format!(
            "archive_command is empty on {}: a backup without its log cannot be restored",
            scope.source
        ))
        .hint(format!("{command}   then SELECT pg_reload_conf();")));
    }
    Ok(())
}
