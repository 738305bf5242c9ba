//! `[run]`: how the scheduler works.

use std::net::{Ipv4Addr, SocketAddr};

use super::resolve::Reader;
use super::settings::RunSettings;
use crate::base::document::Table;

/// When backups are let go, where the file names a key and no time.
const DEFAULT_EXPIRE: &str = "17 5 * * *";
const DEFAULT_JOBS_AT_ONCE: usize = 4;

impl Reader<'_, '_> {
    pub(super) fn run(&self, table: Option<Table<'_, '_>>) -> RunSettings {
        let mut settings = RunSettings {
            metrics_listen: None,
            expire_key_file: None,
            expire: DEFAULT_EXPIRE.parse().expect("a crontab line"),
            jobs_at_once: DEFAULT_JOBS_AT_ONCE,
        };
        let Some(table) = table else { return settings };
        if let Some(found) = table.string("metrics_listen") {
            settings.metrics_listen = address(&found.value);
            if settings.metrics_listen.is_none() {
                let message = format!("'metrics_listen': '{}' is no address and port; write \"127.0.0.1:9187\"", found.value);
                self.document.complain(&found.span, message, None);
            }
        }
        settings.expire_key_file = table.string("expire_key_file").map(|found| self.path(&found));
        if let Some(found) = table.string("expire") {
            match found.value.parse() {
                Ok(cron) => settings.expire = cron,
                Err(why) => self.document.complain(&found.span, format!("'expire': {why}"), None),
            }
        }
        let jobs = table.integer("jobs_at_once", 1..=64, "jobs");
        settings.jobs_at_once = jobs.map_or(DEFAULT_JOBS_AT_ONCE, |jobs| jobs as usize);
        table.reject_unknown_keys();
        settings
    }
}

/// An address with its port; a port alone is this host's.
fn address(text: &str) -> Option<SocketAddr> {
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.ok().or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_heard_on_this_host_only() {
        assert_eq!(address("9187"), Some("127.0.0.1:9187".parse().unwrap()));
        assert_eq!(address("[::]:9187"), Some("[::]:9187".parse().unwrap()));
        assert_eq!(address("localhost"), None);
        assert_eq!(address("99999"), None);
    }
}
