//! How a restored server is cut off: what it inherited of production must not reach out, and nobody must reach in.
//!
//! The settings are given on the command line, which wins over every configuration file and over `ALTER SYSTEM`.
//! - `data_directory`, `hba_file` and `ident_file` are the scratch copy's own: a configuration from `/etc` names production's.
//! - No TCP, no TLS; one socket in a directory of mode 0700.
//! - It archives nothing, streams from nobody, waits for no standby, and subscribes to nothing.
//! - Libraries that are loaded at start run workers of their own (`pg_cron` would run production's jobs): none is loaded
//!   unless the policy names it because the server cannot start or replay without it.

use std::path::Path;

use super::scene::Scene;

/// Opens the socket to whoever may enter its directory.
pub const HBA: &str = "local all all trust\n";

/// The settings for a server of `major` in `scene`.
pub fn settings(scene: &Scene, major: u32, preload_libraries: &[String]) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut settings: Vec<(&str, String)> = vec![
        ("data_directory", text(&scene.data())),
        ("hba_file", text(&scene.hba())),
        ("ident_file", text(&scene.ident())),
        ("external_pid_file", String::new()),
        ("unix_socket_permissions", "0700".into()),
        ("unix_socket_group", String::new()),
        ("ssl", "off".into()),
        ("archive_mode", "off".into()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        ("max_logical_replication_workers", "0".into()),
        ("shared_preload_libraries", preload_libraries.join(",")),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("hot_standby", "on".into()),
        ("autovacuum", "off".into()),
        ("restart_after_crash", "off".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("log_min_messages", "warning".into()),
        ("log_line_prefix", "%m [%p] ".into()),
        ("lc_messages", "C".into()),
    ];
    if major >= 17 {
        // Triggers on login would run production's code in every session of the drill.
        settings.extend([("event_triggers", "off".into()), ("sync_replication_slots", "off".into())]);
    }
    if major < 15 {
        // Else that of the stored configuration, which may be production's own: the server removes what lies there.
        settings.push(("stats_temp_directory", "pg_stat_tmp".into()));
    }
    // Debian keeps the configuration outside the data directory; a backup stores it below this folder.
    if !scene.data().join("postgresql.conf").exists() {
        settings.extend(scene.stored_config().map(|file| ("config_file", text(&file))));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::scratch_server::Account;

    #[test]
    fn statistics_are_kept_in_the_copy_where_the_server_knows_that_setting() {
        let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = "orders".parse().unwrap();
        let scene = Scene::make(base.path(), state.path(), &source, Some((&Account::choose().unwrap(), None))).unwrap();
        let own = ("stats_temp_directory".to_owned(), "pg_stat_tmp".to_owned());
        for (major, is_set) in [(13, true), (14, true), (15, false), (18, false)] {
            assert_eq!(settings(&scene, major, &[]).contains(&own), is_set, "PostgreSQL {major}");
        }
    }
}
