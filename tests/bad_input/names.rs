//! Spaces, quotes and letters beyond ASCII in every path and name.

use lifeboat::repo::signed::Signer;

use crate::support::dirs::Dir;
use crate::support::lifeboat::{Config, Host, Identity};
use crate::support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT};

/// As the first part of every name below.
const ODD: &str = "Kühl's \"Größe\" 日本 $HOME & co";

/// A host whose configuration and state have odd names.
fn odd_host(config: &Config) -> Host {
    let mut host = Host::new(config);
    let state_dir = host.dir().create_dir(format!("{ODD} state"));
    let text = format!("state_dir = {}\n{}", toml::Value::String(state_dir.display().to_string()), config.to_toml());
    host.config = host.write(&format!("{ODD}.toml"), &text);
    host
}

fn odd_names_everywhere(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let (work, identity) = (Dir::new(), Identity::generate());
    let mut cluster = Cluster::create(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
    let data = cluster.dir().join(format!("{ODD} data"));
    std::fs::rename(&cluster.data, &data).expect("own directory");
    cluster.data = data;
    let repository = work.create_dir(format!("{ODD} repository"));
    let conninfo = cluster.conninfo();
    let mut config = Config::local(&repository).recipient(&identity).source("orders", &conninfo);
    let keys = work.create_dir(format!("{ODD} keys"));
    let key_file = work.write(keys.join("signing.key"), Signer::generate().to_pem());
    let identity_file = work.write(keys.join("identity.txt"), format!("{}\n", identity.secret));
    config.signing_key_file = Some(key_file);
    let protected = odd_host(&config);
    config.signing_key_file = None;
    config.identity_file = Some(identity_file);
    let rescue = odd_host(&config);

    protected.ok(&["init"]);
    cluster.configure(["archive_mode = on".to_owned(), protected.archive_command("orders")]);
    cluster.start();
    let tablespace = work.create_dir(format!("{} tablespace", ODD.replace('\'', "")));
    let mut sql = cluster.sql();
    // PostgreSQL itself allows no quote in this one.
    sql.execute(&format!("CREATE TABLESPACE odd LOCATION '{}'", tablespace.display()));
    sql.execute("CREATE TABLE \"Übergröße 日本\" TABLESPACE odd AS SELECT 1 AS n");
    protected.ok(&["backup", "orders"]);
    sql.execute("INSERT INTO \"Übergröße 日本\" VALUES (2)");
    cluster.wait_archived(&cluster.switch_wal(), RECOVERY_TIMEOUT);

    let into = work.join(format!("{ODD} restored"));
    let moved = format!("{}={}", tablespace.display(), work.join(format!("{ODD} moved")).display());
    rescue.ok(&["restore", "orders", "--clone", "--into", into.to_str().expect("UTF-8"), "--tablespace", &moved]);
    let mut restored = Cluster::open(&installation, &into);
    restored.launch();
    restored.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(restored.sql().number("SELECT count(*) FROM \"Übergröße 日本\""), 2);
}

#[test]
fn odd_names_everywhere_13() {
    odd_names_everywhere(13);
}

#[test]
fn odd_names_everywhere_15() {
    odd_names_everywhere(15);
}
