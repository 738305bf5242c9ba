//! Ways to connect, and the errors of those that fail.

use std::process::Command;

use lifeboat::base::{Error, ErrorKind, TimelineId};
use lifeboat::source::postgres::connect::connect;
use lifeboat::source::postgres::replication::{Client, Failure, System};

use super::support::postgres::{Cluster, Installation, Options};
use super::{cluster, each_major, run, session};

each_major!(failures_name_their_cause_and_the_next_command, passwords_and_tls_work);

#[track_caller]
fn refused(conninfo: &str) -> Error {
    match run(connect(conninfo)) {
        Ok(session) => panic!("connected to {}", session.describe()),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_error(error: &Error, message: &str, hint: &str) {
    assert!(error.summary().contains(message), "expected '{message}' in {error:?}");
    assert!(error.hints().iter().any(|found| found.contains(hint)), "expected the hint '{hint}' in {error:?}");
}

fn failures_name_their_cause_and_the_next_command(major: u32) {
    let Some(cluster) = cluster(major, &Options::default()) else { return };
    let conninfo = cluster.conninfo();
    assert_eq!(refused("host").kind(), ErrorKind::Usage);
    assert_error(&refused(&format!("{conninfo} port=1")), "cannot connect", "pg_lsclusters");
    assert_error(&refused("host=127.0.0.1 port=1 user=x"), "refused", "pg_lsclusters");
    assert_error(&refused(&format!("{conninfo} dbname=nowhere")), "\"nowhere\" does not exist", "dbname=postgres");
    assert_error(&refused(&format!("{conninfo} user=nobody_here")), "nobody_here", "~/.pgpass");

    cluster.sql().execute("CREATE ROLE plain LOGIN");
    let plain = format!("{conninfo} user=plain");
    let limited = run(connect(&plain)).unwrap();
    assert_error(&run(limited.info()).unwrap_err(), "may not read the setting", "GRANT pg_read_all_settings TO \"plain\"");
    let error = run(limited.check_backup_rights()).unwrap_err();
    assert_error(&error, "user plain may not make backups", "GRANT EXECUTE ON FUNCTION");
    assert!(run(limited.start_backup("x", true)).is_err());

    // The hint's own commands are enough.
    let mut sql = cluster.sql();
    sql.execute(error.hints()[0].as_str());
    let running = run(run(connect(&plain)).unwrap().start_backup("granted", true)).unwrap();
    run(running.stop()).unwrap();
}

fn passwords_and_tls_work(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let mut cluster = Cluster::create(&installation, &Options::default()).with_override("listen_addresses=127.0.0.1");
    if !make_certificates(&cluster) {
        return;
    }
    let port = free_port();
    let hba = "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
        hostssl replication secret 127.0.0.1/32 scram-sha-256\nhostssl replication old 127.0.0.1/32 md5\n\
        hostssl replication clear 127.0.0.1/32 password\n";
    cluster.dir().write("data/pg_hba.conf", hba);
    // The harness gives the port on the command line, where the last one wins.
    cluster = cluster.with_override(format!("port={port}"));
    cluster.configure([
        "ssl = on",
        "ssl_cert_file = '../server.crt'",
        "ssl_key_file = '../server.key'",
        "password_encryption = 'scram-sha-256'",
    ]);
    cluster.launch();
    let local = format!("host={} port={port} user=postgres dbname=postgres", cluster.dir().path().display());
    super::support::process::wait_until("the server", std::time::Duration::from_secs(60), || {
        super::support::sql::Sql::connect(&local).is_ok()
    });
    super::support::sql::Sql::connect(&local).unwrap().execute(
        "CREATE ROLE secret LOGIN REPLICATION PASSWORD 'a b''c'; CREATE ROLE clear LOGIN REPLICATION PASSWORD 'x';
         SET password_encryption = 'md5'; CREATE ROLE old LOGIN REPLICATION PASSWORD 'x';",
    );
    let remote = |more: &str| format!("host=localhost hostaddr=127.0.0.1 port={port} user=secret dbname=postgres {more}");
    let passfile = cluster.dir().write("passfile", format!("localhost:{port}:*:secret:a b'c\n"));
    let root = cluster.dir().join("root.crt").display().to_string();

    assert_error(&refused(&remote("passfile=/nowhere")), "password", "~/.pgpass");
    assert_error(&refused(&remote("password=wrong")), "password authentication failed", "~/.pgpass");
    for mode in [
        "",
        "sslmode=require",
        &format!("sslmode=verify-ca sslrootcert={root}"),
        &format!("sslmode=verify-full sslrootcert={root}"),
    ] {
        run(connect(&remote(&format!("{mode} passfile={}", passfile.display()))))
            .unwrap_or_else(|error| panic!("{mode}: {error:?}"));
    }
    let url = format!("postgresql://secret:a%20b'c@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={root}");
    run(connect(&url)).unwrap();
    assert!(refused(&remote("sslmode=disable password=x")).summary().contains("no pg_hba.conf entry"));
    // By its address the name on the certificate does not fit: fine for verify-ca, not for verify-full.
    let by_address =
        |mode: &str| format!("host=127.0.0.1 port={port} user=secret password='a b\\'c' sslmode={mode} sslrootcert={root}");
    run(connect(&by_address("verify-ca"))).unwrap();
    assert!(
        refused(&by_address("verify-full")).summary().contains("not valid for name"),
        "{:?}",
        refused(&by_address("verify-full"))
    );
    let other = cluster.dir().join("other.crt").display().to_string();
    let untrusted = remote(&format!("sslmode=verify-ca password=x sslrootcert={other}"));
    let unknown = refused(&untrusted);
    assert!(unknown.summary().contains("invalid peer certificate"), "{unknown:?}");

    for user in ["secret password='a b\\'c'", "old password=x", "clear password=x"] {
        let conninfo =
            format!("host=localhost hostaddr=127.0.0.1 port={port} user={user} sslmode=verify-full sslrootcert={root}");
        let system = replicating(&conninfo).unwrap_or_else(|error| panic!("{user}: {error:?}"));
        assert_eq!(system.timeline, TimelineId(1), "{user}");
    }
    replicating(&remote(&format!("passfile={}", passfile.display()))).unwrap();
    assert_error(&replicating(&remote("password=wrong")).unwrap_err(), "password authentication failed", "~/.pgpass");
    assert_error(&replicating(&remote("passfile=/nowhere")).unwrap_err(), "asks for a password", "~/.pgpass");
    let plain = replicating(&remote("sslmode=disable password=x")).unwrap_err();
    assert_error(&plain, "no pg_hba.conf entry for replication connection", "pg_hba.conf");
    let unknown = replicating(&untrusted).unwrap_err();
    assert!(unknown.summary().contains("invalid peer certificate"), "{unknown:?}");
}

/// Connects for replication.
fn replicating(conninfo: &str) -> Result<System, Error> {
    let identified = run(async { Client::connect(conninfo, "tests").await?.identify().await });
    identified.map_err(Failure::into_error)
}

#[test]
fn a_session_survives_the_servers_limits_and_knows_when_it_ends() {
    let options = Options::default().with("statement_timeout = 100").with("idle_in_transaction_session_timeout = 100");
    let Some(mut cluster) = cluster(15, &options) else { return };
    let session = session(&cluster);
    assert_eq!(session.major(), 15);
    let running = run(session.start_backup("held", true)).unwrap();
    cluster.stop(super::support::postgres::Stop::Fast);
    let error = run(running.stop()).err().expect("the session is gone");
    assert_error(&error, "connection was lost", "start the backup again");
}

/// `root.crt`, a certificate for `localhost` signed by it (`server.crt`), and `other.crt` that signed nothing. Says so
/// and returns false when there is no openssl.
fn make_certificates(cluster: &Cluster) -> bool {
    let own = ["-subj", "/CN=test root"];
    let signed = ["-subj", "/CN=localhost", "-CA", "root.crt", "-CAkey", "root.key"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost"];
    let signed = [&signed[..], &leaf].concat();
    for (name, arguments) in [("root", &own[..]), ("other", &own), ("server", &signed)] {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-days", "30", "-nodes"]).args(arguments);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]).current_dir(cluster.dir().path());
        let made = openssl.output();
        if !made.as_ref().is_ok_and(|made| made.status.success()) {
            super::support::postgres::skip(&format!("openssl cannot make a certificate: {made:?}"));
            return false;
        }
    }
    for name in ["server.key", "server.crt"] {
        let content = std::fs::read(cluster.dir().join(name)).unwrap();
        cluster.dir().write(name, content);
    }
    true
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
