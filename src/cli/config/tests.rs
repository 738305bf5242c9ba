use std::time::Duration;

use super::*;
use crate::base::ErrorKind;
use crate::store::s3::{S3Options, ServerSideEncryption};
use crate::store::{LockMode, LockTerms};

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn environment() -> Environment {
    Environment { home: Some("/home/op".into()), ..Environment::default() }
}

fn parse_text(text: &str) -> Result<Settings> {
    resolve::resolve(Path::new("/etc/lifeboat/lifeboat.toml"), text, &environment())
}

fn failure(text: &str) -> Error {
    let error = parse_text(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
    assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
    error
}

#[test]
fn a_complete_file_is_resolved_with_paths_beside_it() {
    let settings = parse_text(&format!(
        r#"
        state_dir = "state"
        [repository.main]
        url = "file:///srv/backups"
        root = "{}"
        [repository.far]
        url = "s3://bucket/prefix"
        endpoint = "http://127.0.0.1:9000/"
        region = "eu-central-1"
        path_style = false
        storage_class = "STANDARD_IA"
        server_side_encryption = "aws:kms"
        kms_key_id = "alias/backups"
        profile = "backup"
        ca_file = "ca.pem"
        [encryption]
        recipients = ["{RECIPIENT}"]
        identity_file = ["one", "/two"]
        [signing]
        key_file = "signing.key"
        [source.orders]
        kind = "postgres"
        conninfo = "host=/run/postgresql password=secret"
        primary_conninfo = "host=db1"
        data_directory = "/srv/pg"
        policy = "gold"
        repositories = ["far"]
        archive_timeout_seconds = 60
        [backup]
        workers = 3
        compression_level = 9
        pack_size_mib = 64
        lease_ttl_seconds = 30
        "#,
        "ab".repeat(32)
    ))
    .map_err(|error| format!("{error:?}"))
    .unwrap();
    assert_eq!(settings.state_dir, Path::new("/etc/lifeboat/state"));
    assert_eq!(settings.repositories["main"].root, Some([0xab; 32]));
    let far = &settings.repositories["far"].options.s3;
    let expected = S3Options {
        endpoint: Some("http://127.0.0.1:9000".to_owned()),
        region: Some("eu-central-1".to_owned()),
        path_style: Some(false),
        storage_class: Some("STANDARD_IA".to_owned()),
        encryption: Some(ServerSideEncryption::Kms { key_id: Some("alias/backups".to_owned()) }),
        profile: Some("backup".to_owned()),
        ca_file: Some("/etc/lifeboat/ca.pem".into()),
        ..S3Options::default()
    };
    assert_eq!(*far, expected);
    assert_eq!(settings.repositories["main"].options.s3, S3Options::default());
    assert_eq!(settings.encryption.identity_files, [Path::new("/etc/lifeboat/one"), Path::new("/two")]);
    assert_eq!(settings.signing_key_file.as_deref(), Some(Path::new("/etc/lifeboat/signing.key")));
    assert!(matches!(settings.sealing(), Ok(Sealing::To([recipient])) if recipient.to_string() == RECIPIENT));
    let source = settings.source(&"orders".parse().unwrap()).ok().unwrap();
    assert_eq!((source.policy.as_deref(), source.repositories.as_slice()), (Some("gold"), &["far".to_owned()][..]));
    let SourceKind::Postgres(postgres) = &source.kind else { panic!() };
    assert_eq!(postgres.conninfo, "host=/run/postgresql password=secret");
    assert_eq!(postgres.archive_timeout.as_secs(), 60);
    let lease_ttl = std::time::Duration::from_secs(30);
    let expected = BackupSettings { workers: 3, compression_level: 9, pack_size_bytes: Some(64 << 20), lease_ttl };
    assert_eq!(settings.backup, expected);
    assert_eq!(settings.repositories_of(source, None).unwrap()[0].name, "far");
    assert!(settings.repositories_of(source, Some("main")).is_err());
    assert!(settings.repository(None).is_err(), "two repositories: a choice to make");
}

#[test]
fn defaults_are_filled_in_but_encryption_is_never_off_by_default() {
    let text = "[repository.main]\nurl = \"file:///b\"\n[source.a]\nkind = \"postgres\"\nconninfo = \"host=/run\"\n";
    let settings = parse_text(text).ok().unwrap();
    assert_eq!(settings.state_dir, Path::new("/home/op/.local/state/lifeboat"));
    let source = settings.source(&"a".parse().unwrap()).ok().unwrap();
    let SourceKind::Postgres(postgres) = &source.kind else { panic!() };
    assert_eq!((source.repositories.as_slice(), postgres.archive_timeout.as_secs()), (&["main".to_owned()][..], 300));
    assert!((1..=4).contains(&settings.backup.workers));
    assert_eq!((settings.backup.compression_level, settings.backup.pack_size_bytes), (3, None));
    let error = settings.sealing().err().unwrap();
    assert!(error.message().contains("does not say whom to encrypt to"), "{error}");

    let off = parse_text(&format!("{text}[encryption]\nmode = \"off\"\n")).ok().unwrap();
    assert!(matches!(off.sealing(), Ok(Sealing::Off)));
}

#[test]
fn every_mistake_names_its_line_and_what_to_write() {
    for (text, message, hint) in [
        ("\nstate_dirr = \"x\"\n", ":2: unknown key 'state_dirr'", "did you mean 'state_dir'?"),
        ("[encryption]\nrecipient = []\n", ":2: unknown key 'recipient' in [encryption]", "did you mean 'recipients'?"),
        ("[repository.a]\nurl = \"file:///b\"\nxyz = 1\n", ":3: unknown key 'xyz' in [repository.a]", "known here: url, root"),
        ("[repositry.a]\nurl = \"file:///b\"\n", ":1: unknown key 'repositry'", "did you mean 'repository'?"),
        ("state_dir = 7\n", ":1: 'state_dir' must be a string, not the number 7", ""),
        ("state_dir = \"\"\n", ":1: 'state_dir' is empty", ""),
        ("[backup]\nworkers = \"4\"\n", ":2: 'workers' in [backup] must be a whole number from 1 to 256, not a string", ""),
        ("[backup]\nworkers = 0\n", ":2: 'workers' in [backup] must be a whole number from 1 to 256, not 0", ""),
        ("[backup]\npack_size_mib = 65\n", "from 1 to 64 MiB", ""),
        ("[backup]\ncompression_level = -1\n", "from 1 to 19, not -1", ""),
        ("[backup]\ncompression_level = 99999999999999999999999\n", "from 1 to 19, not 9999", ""),
        ("backup = 3\n", ":1: 'backup' must be a section [backup], not the number 3", ""),
        ("[source]\nkind = \"postgres\"\n", ":2: 'kind' in [source] must be a section [source.kind], not a string", ""),
        ("[repository.a]\n", ":1: [repository.a] lacks 'url'", "add url = "),
        ("[repository.a]\nurl = \"/srv/b\"\n", ":2: '/srv/b' is not the address", "did you mean 'file:///srv/b'?"),
        ("[repository.a]\nurl = \"file://srv/b\"\n", ":2: 'file://srv/b' is not an absolute path", "three slashes"),
        ("[repository.a]\nurl = \"s3:///p\"\n", "names no bucket", "s3://bucket/prefix"),
        ("[repository.a]\nurl = \"s3://b/p\"\n", ":2: 'b' cannot name a bucket", "s3://bucket/prefix"),
        ("[repository.a]\nurl = \"file:///b\"\nregion = \"x\"\n", ":3: 'region' is only for a bucket", "take it out"),
        ("[repository.a]\nurl = \"file:///b\"\npath_style = true\n", ":3: 'path_style' is only for a bucket", "take it out"),
        (
            "[repository.a]\nurl = \"s3://bucket\"\npath_style = 1\n",
            ":3: 'path_style' in [repository.a] must be true or false",
            "",
        ),
        ("[repository.a]\nurl = \"s3://bucket\"\nendpont = \"x\"\n", ":3: unknown key 'endpont'", "did you mean 'endpoint'?"),
        ("[repository.a]\nurl = \"s3://bucket\"\nendpoint = \"host:9000\"\n", ":3: 'endpoint' does not begin with", "https://"),
        ("[repository.a]\nurl = \"s3://bucket\"\nserver_side_encryption = \"AES\"\n", "must be \"AES256\" or", "'AES256'?"),
        ("[repository.a]\nurl = \"s3://bucket\"\nkms_key_id = \"k\"\n", ":3: 'kms_key_id' is for", "aws:kms"),
        ("[repository.\"a b\"]\nurl = \"file:///b\"\n", ":1: 'a b' cannot name a repository", ""),
        ("[repository.a]\nurl = \"file:///b\"\nroot = \"12\"\n", ":3: 'root' in [repository.a] is not a SHA-256", ""),
        ("[encryption]\nmode = \"none\"\n", ":2: 'mode' in [encryption] must be \"age\" or \"off\"", ""),
        ("[encryption]\nrecipients = [\n  \"age1oops\",\n]\n", ":3: not an age recipient", "age-keygen -y"),
        ("[encryption]\nrecipients = [5]\n", ":2: 'recipients' in [encryption] must be a list of strings", ""),
        ("[encryption]\nrecipients = \"age1\"\n", "must be a list of strings, not a string", ""),
        ("[source.\"-x\"]\nkind = \"postgres\"\nconninfo = \"a\"\n", ":1: '-x' cannot name a source", ""),
        ("[source.a]\nkind = \"postgre\"\n", ":2: 'postgre' is not a kind of source", "did you mean 'postgres'?"),
        ("[source.a]\nconninfo = \"a\"\n", ":1: [source.a] lacks 'kind'", "kind = \"postgres\""),
        ("[source.a]\nkind = \"postgres\"\n", ":1: [source.a] lacks 'conninfo'", "conninfo ="),
        ("[signing]\n", ":1: [signing] lacks 'key_file'", "add key_file"),
        ("a = \n", ":1: ", ""),
        ("[backup]\nworkers = 1\nworkers = 2\n", ":3: duplicate key", ""),
    ] {
        let error = failure(text);
        assert!(error.message().starts_with("/etc/lifeboat/lifeboat.toml:"), "{text}: {error}");
        assert!(error.message().contains(message), "{text}: {error}");
        assert!(hint.is_empty() || error.hints().iter().any(|shown| shown.contains(hint)), "{text}: {error:?}");
    }
}

#[test]
fn mistakes_about_locks_name_their_line_and_what_to_write() {
    for (text, message, hint) in [
        ("[repository.a]\nurl = \"file:///b\"\nversions = true\n", ":3: 'versions' is only for a bucket", "take it out"),
        (
            "[repository.a]\nurl = \"file:///b\"\nobject_lock = \"governance\"\nlock_for = \"1d\"\n",
            ":3: 'object_lock' is only for a bucket",
            "take it out",
        ),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nobject_lock = \"goverance\"\nlock_for = \"1d\"\n",
            ":3: 'object_lock' must be \"governance\" or \"compliance\", not \"goverance\"",
            "did you mean 'governance'?",
        ),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nobject_lock = \"governance\"\n",
            ":3: 'object_lock' does not say for how long",
            "lock_for = \"35d\"",
        ),
        ("[repository.a]\nurl = \"s3://bucket\"\nlock_for = \"1d\"\n", ":3: 'lock_for' means nothing without", "object_lock ="),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nlock_chain_for = \"1d\"\n",
            ":3: 'lock_chain_for' means nothing without",
            "object_lock =",
        ),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nobject_lock = \"governance\"\nlock_for = \"soon\"\n",
            ":4: 'lock_for': 'soon' is not a duration",
            "lock_for = \"35d\"",
        ),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nobject_lock = \"governance\"\nlock_for = \"200000d\"\n",
            ":4: 'lock_for': longer than 100 years",
            "",
        ),
        (
            "[repository.a]\nurl = \"s3://bucket\"\nversions = false\nobject_lock = \"governance\"\nlock_for = \"1d\"\n",
            ":3: 'object_lock' needs versions = true",
            "take 'versions' out",
        ),
    ] {
        let error = failure(text);
        assert!(error.message().starts_with("/etc/lifeboat/lifeboat.toml:"), "{text}: {error}");
        assert!(error.message().contains(message), "{text}: {error}");
        assert!(hint.is_empty() || error.hints().iter().any(|shown| shown.contains(hint)), "{text}: {error:?}");
    }
}

#[test]
fn a_bucket_may_keep_versions_and_locks() {
    let bucket = |keys: &str| {
        let settings = parse_text(&format!("state_dir = \"s\"\n[repository.far]\nurl = \"s3://bucket\"\n{keys}"));
        let settings = settings.map_err(|error| format!("{error:?}")).unwrap();
        let s3 = &settings.repositories["far"].options.s3;
        (s3.versions, s3.lock)
    };
    let day = Duration::from_secs(86_400);
    assert_eq!(bucket(""), (false, None));
    assert_eq!(bucket("versions = true"), (true, None));
    let lock = LockTerms { mode: LockMode::Governance, lock_for: 35 * day, chain_for: 8 * day };
    assert_eq!(bucket("object_lock = \"governance\"\nlock_for = \"35d\""), (true, Some(lock)));
    let lock = LockTerms { mode: LockMode::Compliance, lock_for: 14 * day, chain_for: day };
    let keys = "versions = true\nobject_lock = \"compliance\"\nlock_for = \"2w\"\nlock_chain_for = \"1d\"";
    assert_eq!(bucket(keys), (true, Some(lock)));
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_line_order() {
    let error = failure("[source.a]\nkind = \"postgres\"\nconinfo = \"x\"\n[backup]\nwokers = 1\n[aaa]\n");
    assert!(error.message().contains(":1: [source.a] lacks 'conninfo'"), "{error:?}");
    let also: Vec<&str> = error.details().iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(
        also,
        [
            "/etc/lifeboat/lifeboat.toml:3: unknown key 'coninfo' in [source.a] (did you mean 'conninfo'?)",
            "/etc/lifeboat/lifeboat.toml:5: unknown key 'wokers' in [backup] (did you mean 'workers'?)",
            "/etc/lifeboat/lifeboat.toml:6: unknown key 'aaa' (known here: state_dir, repository, source, encryption, signing, backup, drill, run, contact)",
        ]
    );
}

#[test]
fn secrets_that_stand_in_the_wrong_place_are_not_repeated() {
    let secret = "AGE-SECRET-KEY-1QQQQSECRETQQQQ";
    let error = failure(&format!("[encryption]\nrecipients = [\"{secret}\"]\n"));
    assert!(error.message().contains("a secret key among the recipients"), "{error:?}");
    assert!(!format!("{error:?}").contains("SECRETQQQQ"));
    let error = failure("[repository.a]\nurl = \"s3://key:hunter2@bucket/p\"\n");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    let error = failure("[repository.a]\nurl = \"s3://bucket\"\nendpoint = \"https://key:hunter2@host\"\n");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn encryption_cannot_be_on_and_off() {
    let error = failure(&format!("[encryption]\nmode = \"off\"\nrecipients = [\"{RECIPIENT}\"]\n"));
    assert!(error.message().contains("encryption is off, yet there are recipients"), "{error}");
}

#[test]
fn unknown_sources_and_repositories_name_the_nearest() {
    let text = "[repository.main]\nurl = \"file:///b\"\n[source.orders]\nkind = \"postgres\"\nconninfo = \"x\"\nrepositories = [\"mian\"]\n";
    let error = failure(text);
    assert!(error.message().contains(":6: there is no [repository.mian]"), "{error}");
    assert_eq!(error.hints(), ["did you mean 'main'?"]);
    let settings = parse_text(&text.replace("mian", "main")).ok().unwrap();
    let error = settings.source(&"ordres".parse().unwrap()).err().unwrap();
    assert_eq!(error.hints(), ["did you mean 'orders'?"]);
    assert_eq!(error.details(), [("known".to_owned(), "orders".to_owned())]);
    let error = settings.repository(Some("x")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn the_file_is_found_in_order_of_preference() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "state_dir = \"s\"\n").unwrap();
        path
    };
    let (explicit, from_environment, from_xdg) = (write("a.toml"), write("b.toml"), write("xdg/lifeboat/lifeboat.toml"));
    let environment =
        Environment { config_file: Some(from_environment.clone()), config_home: Some(dir.path().join("xdg")), ..environment() };
    assert_eq!(load(Some(&explicit), &environment).ok().unwrap().config_file, explicit);
    assert_eq!(load(None, &environment).ok().unwrap().config_file, from_environment);
    let environment = Environment { config_file: None, ..environment };
    assert_eq!(load(None, &environment).ok().unwrap().config_file, from_xdg);

    let missing = load(Some(&dir.path().join("none.toml")), &environment).err().unwrap();
    assert!(missing.message().contains("there is no configuration file"), "{missing}");
    assert_eq!(missing.details(), [("named by".to_owned(), "--config".to_owned())]);
    let directory = load(Some(dir.path()), &environment).err().unwrap();
    assert!(directory.message().contains("cannot read the configuration file"), "{directory}");
    std::fs::write(&explicit, b"# ok\n# \xff\n").unwrap();
    let binary = load(Some(&explicit), &environment).err().unwrap();
    assert!(binary.message().ends_with("a.toml:2: not UTF-8 text"), "{binary}");
}

#[test]
fn state_lives_where_the_user_may_write() {
    let user = environment();
    assert_eq!(user.default_state_dir().unwrap(), Path::new("/home/op/.local/state/lifeboat"));
    let root = Environment { is_root: true, ..environment() };
    assert_eq!(root.default_state_dir().unwrap(), Path::new("/var/lib/lifeboat"));
    let xdg = Environment { state_home: Some("/s".into()), is_root: true, ..environment() };
    assert_eq!(xdg.default_state_dir().unwrap(), Path::new("/s/lifeboat"));
    let error = resolve::resolve(Path::new("l.toml"), "", &Environment::default()).err().unwrap();
    assert!(error.message().contains("no 'state_dir'"), "{error}");
}

#[test]
fn the_configuration_in_the_help_is_accepted_whole() {
    let mut command = <crate::cli::args::Cli as clap::CommandFactory>::command();
    let help = command.find_subcommand_mut("init").unwrap().render_long_help().to_string();
    let start = help.find("  [repository.main]").unwrap();
    let (sections, rest) = help[start..].split_once("  # state_dir").unwrap();
    assert!(rest.starts_with(" = "), "state_dir is explained last");
    // What is commented out is meant to work too, except that encryption cannot be on and off.
    let lines = sections.lines().map(|line| line.trim().trim_start_matches("# ")).filter(|line| !line.starts_with("mode"));
    let text = lines.collect::<Vec<_>>().join("\n").replace("age1…", RECIPIENT);
    let text = text.replace("root = \"…\"", &format!("root = \"{}\"", "ab".repeat(32)));
    let settings = parse_text(&text).map_err(|error| format!("{error:?}\n{text}")).ok().unwrap();
    assert_eq!(settings.encryption.recipients.len(), 2);
    assert_eq!(settings.backup.pack_size_bytes, Some(32 << 20));
    assert_eq!((settings.sources.len(), settings.repositories.len()), (1, 2));
    assert_eq!(settings.repositories["far"].options.s3.region.as_deref(), Some("eu-central-1"));
}

#[test]
fn a_drills_keys_are_read_and_the_environments_identity_wins() {
    let text = "state_dir = \"state\"\n[encryption]\nidentity_file = \"one\"\nidentity_command = \"pass show x\"\n\
                [drill]\nscratch_dir = \"scratch\"\n";
    let settings = parse_text(text).unwrap();
    assert_eq!(settings.encryption.identity_command.as_deref(), Some("pass show x"));
    assert_eq!(settings.drill_scratch_dir.as_deref(), Some(Path::new("/etc/lifeboat/scratch")));
    let environment = Environment { identity_file: Some("/dev/shm/key".into()), ..environment() };
    let settings = resolve::resolve(Path::new("/etc/lifeboat/lifeboat.toml"), text, &environment).unwrap();
    assert_eq!(settings.encryption.identity_files, [Path::new("/dev/shm/key")]);
    assert!(failure(&text.replace("scratch_dir", "scrach_dir")).message().contains("scrach_dir"));
}

#[test]
fn contacts_say_who_for_what_and_how_to_reach_them() {
    let sections = "[[contact]]\nname = \"Ada\"\nrole = \"on call\"\nreach = \"+41 44\"\n[[contact]]\nname = \"Bo\"\n";
    let told = format!("{:?}", failure(sections));
    assert!(told.contains("[contact] lacks 'role'") && told.contains("[contact] lacks 'reach'"), "{told}");
    let settings = parse_text(sections.split("[[contact]]\nname = \"Bo\"").next().unwrap()).ok().unwrap();
    let ada = Contact { name: "Ada".into(), role: "on call".into(), reach: "+41 44".into() };
    assert_eq!(settings.contacts, [ada]);
}
