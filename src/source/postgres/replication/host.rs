//! The one server that a connection led to, of those that a connection string names.

use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::base::Result;
use crate::source::postgres::connect::Session;
use crate::source::postgres::conninfo::Conninfo;

/// A server to which other sessions lead as well, and to no other that the connection string names.
#[derive(Clone, Debug)]
pub struct Server(pub(super) Box<Conninfo>);

impl Server {
    /// A session for queries.
    ///
    /// # Errors
    /// As [`connect`](crate::source::postgres::connect::connect).
    pub async fn session(&self) -> Result<Session> {
        Session::open((*self.0).clone()).await
    }
}

/// `conninfo` with the host at index `at` alone.
pub(super) fn only(conninfo: &Conninfo, at: usize) -> Conninfo {
    let all = &conninfo.config;
    let mut one = Config::new();
    match &all.get_hosts()[at] {
        Host::Tcp(name) => one.host(name.clone()),
        Host::Unix(path) => one.host_path(path),
    };
    let port = all.get_ports().get(at).or_else(|| all.get_ports().first());
    port.map(|port| one.port(*port));
    all.get_hostaddrs().get(at).map(|address| one.hostaddr(*address));
    all.get_user().map(|user| one.user(user));
    all.get_password().map(|password| one.password(password));
    all.get_dbname().map(|dbname| one.dbname(dbname));
    all.get_options().map(|options| one.options(options));
    all.get_application_name().map(|name| one.application_name(name));
    all.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
    all.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
    all.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    all.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding());
    Conninfo { config: one, verification: conninfo.verification.clone() }
}

/// A name may stand for several servers: from now on it is the one at this address.
pub(super) fn pin(conninfo: &mut Conninfo, address: IpAddr) {
    if conninfo.config.get_hostaddrs().is_empty() {
        conninfo.config.hostaddr(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::conninfo;

    #[test]
    fn one_of_several_hosts_is_left_and_all_else_that_the_text_says() {
        let text = "host=a,/b,c port=1,2,3 user=u password=p dbname=d options='-c x=y' application_name=n connect_timeout=7 \
            tcp_user_timeout=5 keepalives=0 keepalives_idle=6 keepalives_interval=8 keepalives_retries=9 \
            target_session_attrs=read-write channel_binding=disable sslmode=require";
        let whole = conninfo::parse(text, &|_| None).unwrap();
        for (at, host) in ["host=a port=1", "host=/b port=2", "host=c port=3"].iter().enumerate() {
            let rest = &text[text.find("user=").unwrap()..];
            let alone = conninfo::parse(&format!("{host} {rest}"), &|_| None).unwrap();
            let mut expected = alone.config.clone();
            // Only a string with nothing but sockets turns it off.
            expected.ssl_mode(whole.config.get_ssl_mode());
            assert_eq!(only(&whole, at).config, expected, "{host}");
        }
        let mut pinned = only(&whole, 0);
        pin(&mut pinned, "192.0.2.1".parse().unwrap());
        pin(&mut pinned, "192.0.2.2".parse().unwrap());
        assert_eq!(pinned.config.get_hostaddrs(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }
}
