//! Connection strings as libpq reads them, with what `tokio-postgres` leaves to its caller.
//!
//! Key-value text and `postgresql://` URLs; `sslmode=verify-ca|verify-full`, `sslrootcert`, `passfile` and
//! `keepalives_count` are understood here and taken out before `tokio-postgres` parses the rest. What the string does
//! not say comes from libpq's environment variables, then from libpq's defaults.
//! Source: PostgreSQL documentation, "Connection Strings", "Environment Variables".

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::base::{Error, Result};

use super::pgpass;

/// Where Debian's servers, then everybody else's, put their sockets.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead network is noticed within about a minute and a half, even while the server works for long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// How far the server's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Not at all (`sslmode=prefer`, or `require` without a root certificate, as in libpq).
    None,
    /// Signed by one of the certificates in this file.
    Authority(PathBuf),
    /// Signed so, and made out to the host's name.
    AuthorityAndName(PathBuf),
}

/// A parsed connection string.
#[derive(Clone, Debug)]
pub struct Conninfo {
    /// What `tokio-postgres` connects with. Its debug form hides the password.
    pub config: Config,
    /// How to check the server's certificate when the connection uses TLS.
    pub verification: Verification,
}

/// Reads environment variables; a function so that tests need not touch the process.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment; empty values count as unset, as in libpq.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Parses `text` and fills in what it leaves open. Wrong text is [`crate::base::ErrorKind::Usage`].
pub fn parse(text: &str, environment: Environment) -> Result<Conninfo> {
    let (rest, own) = take_own_keys(text).map_err(|why| wrong(&why))?;
    let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| wrong(&plain_parse_error(&error)))?;
    let verification = apply_tls(&mut config, &own, environment)?;
    if let Some(count) = own.get("keepalives_count") {
        config.keepalives_retries(count.parse().map_err(|_| wrong("keepalives_count is not a number"))?);
    }
    fill_in_address(&mut config, environment)?;
    fill_in_session(&mut config, environment);
    if config.get_password().is_none() {
        if let Some(password) = environment("PGPASSWORD") {
            config.password(password);
        } else if let Some(password) = pgpass::lookup(&config, own.get("passfile").map(Path::new), environment)? {
            config.password(password);
        }
    }
    if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) && config.get_hostaddrs().is_empty() {
        // TLS never runs over a socket; libpq ignores sslmode there.
        config.ssl_mode(SslMode::Disable);
    }
    Ok(Conninfo { config, verification })
}

/// The user that the connection string `text` names, itself or by the environment; none when it cannot be read.
pub fn user(text: &str) -> Option<String> {
    parse(text, &process_environment).ok()?.config.get_user().map(str::to_owned)
}

/// A one-line description of where `config` leads, without secrets: `user postgres at /tmp:5432, database postgres`.
pub fn describe(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let places: Vec<String> = names.enumerate().map(|(at, name)| format!("{name}:{}", port(at))).collect();
    let user = config.get_user().unwrap_or("(this system user)");
    format!("user {user} at {}, database {}", places.join(", "), config.get_dbname().unwrap_or(user))
}

fn wrong(why: &str) -> Error {
    Error::usage(format!("the connection string is wrong: {why}"))
        .hint("write it like conninfo = \"host=/var/run/postgresql port=5432 user=postgres dbname=postgres\"")
}

fn plain_parse_error(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The keys handled here with their values.
#[derive(Debug, Default)]
struct OwnKeys(Vec<(String, String)>);

impl OwnKeys {
    const NAMES: [&'static str; 5] = ["sslmode", "sslrootcert", "passfile", "keepalives_count", "gssencmode"];

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn take_own_keys(text: &str) -> Result<(String, OwnKeys), String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return take_from_url(text);
    }
    // As in libpq, the last value of a key counts; tokio-postgres would collect hosts and ports.
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (key, value) in split_pairs(text)? {
        pairs.retain(|(earlier, _)| *earlier != key);
        pairs.push((key, value));
    }
    let (own, others): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| OwnKeys::NAMES.contains(&key.as_str()));
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let rest: Vec<String> = others.iter().map(|(key, value)| format!("{key}='{}'", quote(value))).collect();
    Ok((rest.join(" "), OwnKeys(own)))
}

fn take_from_url(text: &str) -> Result<(String, OwnKeys), String> {
    let Some((base, query)) = text.split_once('?') else { return Ok((text.to_owned(), OwnKeys::default())) };
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').ok_or_else(|| format!("'{parameter}' has no value"))?;
        if OwnKeys::NAMES.contains(&key) {
            let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{key} is not UTF-8"))?;
            own.push((key.to_owned(), value.into_owned()));
        } else {
            others.push(parameter);
        }
    }
    let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    Ok((rest, OwnKeys(own)))
}

/// Splits `key = value` pairs with libpq's quoting: `'…'` around a value, `\` before any character.
fn split_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        if key.is_empty() {
            return if chars.peek().is_none() { Ok(pairs) } else { Err("a name is missing before '='".into()) };
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'=').is_none() {
            return Err(format!("'=' is missing after '{key}'"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        let closed = loop {
            match chars.next() {
                None => break !quoted,
                Some('\'') if quoted => break true,
                Some(c) if !quoted && c.is_whitespace() => break true,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
            }
        };
        if !closed {
            return Err(format!("the quote after '{key}=' is not closed"));
        }
        pairs.push((key, value));
    }
}

fn apply_tls(config: &mut Config, own: &OwnKeys, environment: Environment) -> Result<Verification> {
    let mode = own.get("sslmode").map(str::to_owned).or_else(|| environment("PGSSLMODE")).unwrap_or("prefer".into());
    let given = own.get("sslrootcert").map(str::to_owned).or_else(|| environment("PGSSLROOTCERT"));
    let default = || environment("HOME").map(|home| Path::new(&home).join(".postgresql/root.crt"));
    let root = given.map(PathBuf::from).or_else(|| default().filter(|path| path.exists()));
    let needed = |root: Option<PathBuf>| {
        root.ok_or_else(|| wrong(&format!("sslmode={mode} needs a root certificate")).hint("add sslrootcert=FILE"))
    };
    let (ssl_mode, verification) = match mode.as_str() {
        "disable" => (SslMode::Disable, Verification::None),
        "allow" | "prefer" => (SslMode::Prefer, Verification::None),
        // As libpq: with a root certificate at hand, require checks it too.
        "require" => (SslMode::Require, root.map_or(Verification::None, Verification::Authority)),
        "verify-ca" => (SslMode::Require, Verification::Authority(needed(root)?)),
        "verify-full" => (SslMode::Require, Verification::AuthorityAndName(needed(root)?)),
        other => return Err(wrong(&format!("sslmode '{other}' is none of disable, prefer, require, verify-ca, verify-full"))),
    };
    config.ssl_mode(ssl_mode);
    Ok(verification)
}

fn fill_in_address(config: &mut Config, environment: Environment) -> Result<()> {
    if config.get_hosts().is_empty() {
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            // TLS wants a name; an address is one.
            for address in addresses {
                config.host(address);
            }
        } else if let Some(hosts) = environment("PGHOST") {
            for host in hosts.split(',') {
                config.host(host);
            }
        } else {
            let exists = |directory: &&&str| Path::new(directory).is_dir();
            config.host_path(SOCKET_DIRECTORIES.iter().find(exists).unwrap_or(&SOCKET_DIRECTORIES[0]));
        }
    }
    if config.get_ports().is_empty()
        && let Some(port) = environment("PGPORT")
    {
        config.port(port.parse().map_err(|_| Error::usage(format!("PGPORT '{port}' is not a port number")))?);
    }
    Ok(())
}

fn fill_in_session(config: &mut Config, environment: Environment) {
    if config.get_user().is_none() {
        // Left open when the system user has no name: then the connection attempt says so.
        if let Some(user) = environment("PGUSER").or_else(|| whoami::username().ok()) {
            config.user(user);
        }
    }
    if config.get_dbname().is_none() {
        // Not libpq's default, the user's name: this one exists in every cluster.
        config.dbname(environment("PGDATABASE").unwrap_or("postgres".into()));
    }
    if config.get_application_name().is_none() {
        config.application_name("lifeboat");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn key_value_text_is_read_with_its_quotes() {
        let text = r"port=1 host=/run/my\ sockets port = 5433 user='o\'neil' password='a b\\c' sslmode=require";
        let parsed = parse(text, &nothing).unwrap();
        assert_eq!(parsed.config.get_hosts(), [Host::Unix("/run/my sockets".into())]);
        assert_eq!(parsed.config.get_ports(), [5433]);
        assert_eq!(parsed.config.get_user(), Some("o'neil"));
        assert_eq!(parsed.config.get_password(), Some(&b"a b\\c"[..]));
        assert_eq!(parsed.config.get_dbname(), Some("postgres"));
        assert_eq!(parsed.config.get_ssl_mode(), SslMode::Disable, "never over a socket");
        let shown = format!("{parsed:?} {}", describe(&parsed.config));
        assert!(!shown.contains("a b"), "{shown}");
    }

    #[test]
    fn urls_keep_their_parameters() {
        let text = "postgresql://me@db.example:5434/app?sslmode=verify-full&sslrootcert=%2Fetc%2Fmy%20ca.crt&connect_timeout=3";
        let parsed = parse(text, &nothing).unwrap();
        assert_eq!(parsed.config.get_hosts(), [Host::Tcp("db.example".into())]);
        assert_eq!(parsed.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(parsed.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(parsed.verification, Verification::AuthorityAndName("/etc/my ca.crt".into()));
        assert_eq!(describe(&parsed.config), "user me at db.example:5434, database app");
    }

    #[test]
    fn the_environment_fills_in() {
        let environment = |name: &str| match name {
            "PGHOST" => Some("/sockets".to_owned()),
            "PGPORT" => Some("6000".to_owned()),
            "PGUSER" => Some("backup".to_owned()),
            "PGPASSWORD" => Some("secret".to_owned()),
            _ => None,
        };
        let parsed = parse("", &environment).unwrap();
        assert_eq!(describe(&parsed.config), "user backup at /sockets:6000, database postgres");
        assert_eq!(parsed.config.get_password(), Some(&b"secret"[..]));
        let told = parse("password=other", &environment).unwrap();
        assert_eq!(told.config.get_password(), Some(&b"other"[..]));
    }

    #[test]
    fn wrong_text_is_a_usage_error_with_its_reason() {
        for (text, expected) in [
            ("host", "'=' is missing after 'host'"),
            ("=x", "a name is missing"),
            ("user='x", "not closed"),
            ("sslmode=maybe host=x", "sslmode 'maybe'"),
            ("sslmode=verify-full host=x", "root certificate"),
            ("prot=5432", "unknown option `prot`"),
            ("postgresql://h/d?sslmode", "'sslmode' has no value"),
        ] {
            let error = parse(text, &nothing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(expected), "{text}: {error}");
            assert!(!error.hints().is_empty());
        }
    }
}
