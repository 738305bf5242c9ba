//! The password file, `~/.pgpass`.
//!
//! Source: PostgreSQL documentation, "The Password File". Invariant: a file that others may read is not used.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::base::{Error, Result};

use super::conninfo::Environment;

/// The password for the first of `config`'s hosts that the file knows; `None` without a file or a line.
///
/// `passfile` comes from the connection string and wins over `PGPASSFILE` and `~/.pgpass`. A file that group or others
/// may access is an error: libpq would ignore it, and the operator would see only a refused login.
pub fn lookup(config: &Config, passfile: Option<&Path>, environment: Environment) -> Result<Option<String>> {
    let home = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let named = passfile.map(Path::to_owned).or_else(|| environment("PGPASSFILE").map(PathBuf::from));
    let Some(path) = named.or_else(home) else { return Ok(None) };
    let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::failed(format!("the password file {} is open to others", path.display()))
            .hint(format!("chmod 600 '{}'", path.display())));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(find(&text, config))
}

fn find(text: &str, config: &Config) -> Option<String> {
    let user = config.get_user()?;
    let database = config.get_dbname()?;
    let ports = config.get_ports();
    config.get_hosts().iter().enumerate().find_map(|(at, host)| {
        let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432).to_string();
        // A socket in the default directory is called localhost there.
        let name = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) if path == Path::new("/var/run/postgresql") || path == Path::new("/tmp") => "localhost".into(),
            Host::Unix(path) => path.to_string_lossy().into_owned(),
        };
        text.lines().find_map(|line| {
            let fields = split_fields(line)?;
            let wanted = [name.as_str(), &port, database, user];
            fields[..4].iter().zip(wanted).all(|(field, value)| field.matches(value)).then(|| fields[4].text.clone())
        })
    })
}

/// One field: its text without escapes; a bare `*` matches anything.
struct Field {
    text: String,
    wildcard: bool,
}

impl Field {
    fn matches(&self, value: &str) -> bool {
        self.wildcard || self.text == value
    }
}

/// The five fields of a line; the password may hold anything but an unescaped `:`. `None` for comments and short lines.
fn split_fields(line: &str) -> Option<Vec<Field>> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut raw_lengths = vec![0_usize];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == ':' {
            fields.push(String::new());
            raw_lengths.push(0);
            continue;
        }
        let literal = if c == '\\' { chars.next().unwrap_or(c) } else { c };
        if let (Some(field), Some(length)) = (fields.last_mut(), raw_lengths.last_mut()) {
            field.push(literal);
            *length += if c == '\\' { 2 } else { 1 };
        }
    }
    (fields.len() >= 5).then(|| {
        let field = |(text, raw): (String, usize)| Field { wildcard: text == "*" && raw == 1, text };
        fields.into_iter().zip(raw_lengths).map(field).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn config(text: &str) -> Config {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_matching_line_wins() {
        let file = "# comment\nother:*:*:me:no\ndb\\:1:5433:app:me:pa\\:ss\\\\\n*:*:*:me:any\n";
        assert_eq!(find(file, &config("host=db:1 port=5433 user=me dbname=app")).unwrap(), "pa:ss\\");
        assert_eq!(find(file, &config("host=x user=me dbname=app")).unwrap(), "any");
        assert_eq!(find(file, &config("host=x user=you dbname=app")), None);
        assert_eq!(find("\\*:*:*:me:literal\n", &config("host=x user=me dbname=app")), None);
        assert_eq!(find("localhost:5432:app:me:local\n", &config("host=/tmp user=me dbname=app")).unwrap(), "local");
    }

    #[test]
    fn an_open_file_is_refused_with_the_command_that_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, "*:*:*:me:secret\n").unwrap();
        let target = config("host=x user=me dbname=app");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = lookup(&target, Some(&path), &|_| None).unwrap_err();
        assert!(error.hints()[0].starts_with("chmod 600"), "{error:?}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lookup(&target, Some(&path), &|_| None).unwrap().unwrap(), "secret");
        assert_eq!(lookup(&target, Some(&dir.path().join("none")), &|_| None).unwrap(), None);
    }
}
