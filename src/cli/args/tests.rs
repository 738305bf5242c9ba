use clap::CommandFactory;

use super::*;
use crate::base::{Lsn, Timestamp};
use crate::engine::restore::Target;

fn restore(options: &[&str]) -> Result<RestoreArgs, clap::Error> {
    let words = ["lifeboat", "restore", "orders", "--into", "DIR"].iter().chain(options);
    Cli::try_parse_from(words).map(|cli| match cli.verb {
        Verb::Restore(args) => args,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn each_kind_of_target_is_understood() {
    let time = Timestamp::parse_human("2026-11-20T21:40:02Z", Timestamp::now()).unwrap();
    for (options, target) in [
        (&[][..], Target::Latest),
        (&["--to", "latest"], Target::Latest),
        (&["--to", "2026-11-20 22:40:02 +01:00"], Target::Time(time)),
        (&["--to-lsn", "A3/F1000028"], Target::Lsn { lsn: Lsn(0xA3_F100_0028), inclusive: true }),
        (&["--to-xid", "4294967297"], Target::Xid { xid: 4_294_967_297, inclusive: true }),
        (&["--to-name", "before migration"], Target::Name("before migration".into())),
        (&["--to-immediate"], Target::Immediate),
    ] {
        assert_eq!(restore(options).unwrap().target(), target, "{options:?}");
    }
}

#[test]
fn contradictions_and_bad_values_are_refused() {
    for options in [
        &["--to", "latest", "--to-xid", "5"][..],
        &["--to-immediate", "--exclusive"],
        &["--to", "yesterday"],
        &["--to-lsn", "12"],
        &["--timeline", "0"],
        &["--timeline", "0000000A"],
        &["--backup", "newest"],
        &["--tablespace", "/a"],
        &["--tablespace", "a=/b"],
        &["--action", "dance"],
    ] {
        let error = restore(options).expect_err(&options.join(" "));
        assert_eq!(error.exit_code(), 2, "{options:?}");
    }
    for words in [
        &["archive", "resolve", "a", "000000010000000000000001", "--keep", "XYZ"][..],
        &["archive", "resolve", "a", "00000001", "--keep", "0123456789abcdef"],
        &["backup", "../etc"],
        &["archive"],
    ] {
        assert!(Cli::try_parse_from(["lifeboat"].iter().chain(words)).is_err(), "{words:?}");
    }
}

#[test]
fn global_options_stand_before_or_after_the_verb() {
    for words in [
        ["lifeboat", "--config", "x.toml", "--output", "json", "-q", "list"],
        ["lifeboat", "list", "--config", "x.toml", "--output", "json", "-q"],
    ] {
        let global = Cli::try_parse_from(words).unwrap().global;
        assert_eq!(global.config.as_deref(), Some(std::path::Path::new("x.toml")));
        assert!(global.output == OutputFormat::Json && global.quiet);
    }
}
