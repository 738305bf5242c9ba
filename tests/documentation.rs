//! The pages against the program: configurations load, commands parse, links lead somewhere, and the restore host of
//! the README restores.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use lifeboat::base::Timestamp;
use lifeboat::cli::args::Cli;
use lifeboat::cli::config::{self, Environment};
use lifeboat::policy::contradictions::contradictions;
use lifeboat::policy::parse;

use support::ledger::Ledger;
use support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use support::random;
use support::scenario::{SOURCE, Scenario};

/// Widest line of running text, in characters.
const MAX_COLUMNS: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page: path from the root and text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md"), PathBuf::from("policies/README.md")];
    let docs = fs::read_dir(root().join("docs")).expect("there is a directory docs");
    let docs = docs.map(|entry| Path::new("docs").join(entry.expect("a readable directory").file_name()));
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// A fenced block: its language, the line on which its content begins, and the content.
struct Block {
    language: String,
    line: usize,
    text: String,
}

/// The fenced blocks of a page, indented ones too, and its other lines with their numbers.
fn split(page: &str) -> (Vec<Block>, Vec<(usize, &str)>) {
    let (mut blocks, mut prose): (Vec<Block>, Vec<(usize, &str)>) = (Vec::new(), Vec::new());
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), line: index + 2, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text += line;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => prose.push((index + 1, line)),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (blocks, prose)
}

#[test]
fn every_configuration_loads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let environment = Environment { home: Some(dir.path().to_owned()), ..Environment::default() };
    let mut loaded = 0;
    for (path, page) in pages() {
        for block in split(&page).0.iter().filter(|block| block.language == "toml") {
            let file = dir.path().join("lifeboat.toml");
            fs::write(&file, &block.text).expect("own directory");
            if let Err(error) = config::load(Some(&file), &environment) {
                panic!("{}:{}: {error}", path.display(), block.line);
            }
            loaded += 1;
        }
    }
    assert!(loaded >= 4, "only {loaded} configurations were found");
}

#[test]
fn every_policy_is_one_in_which_nothing_contradicts() {
    let mut examples = 0;
    for (path, page) in pages() {
        for block in split(&page).0.iter().filter(|block| block.language == "toml policy") {
            let policy = parse::parse("example", &path, &block.text);
            let policy = policy.unwrap_or_else(|error| panic!("{}, block at line {}: {error}", path.display(), block.line));
            assert_eq!(contradictions(&policy, Timestamp::now()), [], "{}, block at line {}", path.display(), block.line);
            examples += 1;
        }
    }
    assert!(examples >= 1, "there is no example of a policy");
}

/// The keys that the parser knows in a section, by its own words.
fn keys_known_in(header: &str) -> Vec<String> {
    let text = match header {
        "[objectives]" => "[objectives]\nrto = '1h'\nrpo = '1h'\nzzqq = 1\n".to_owned(),
        _ => format!("[objectives]\nrto = '1h'\nrpo = '1h'\n{header}\nzzqq = 1\n"),
    };
    let error = parse::parse("keys", Path::new("keys.toml"), &text).expect_err("there is no key zzqq");
    let told = error.hints().iter().chain(error.details().iter().map(|(_, value)| value));
    let known = told.filter_map(|text| text.split_once("known here: ")).map(|(_, keys)| keys.trim_end_matches(')'));
    let section = header.trim_matches(['[', ']']);
    known.flat_map(|keys| keys.split(", ")).map(|key| format!("{section}.{key}")).collect()
}

#[test]
fn every_key_of_a_policy_is_explained_and_no_other() {
    let page = fs::read_to_string(root().join("docs/POLICIES.md")).expect("there is a page");
    let mut explained = Vec::new();
    let rows = page.lines().skip_while(|line| !line.starts_with("| key |")).skip(2).take_while(|line| line.starts_with('|'));
    for cell in rows.filter_map(|row| row.split('|').nth(1)) {
        let mut section = String::new();
        for key in cell.split('`').skip(1).step_by(2) {
            let key = if key.starts_with('.') { format!("{section}{key}") } else { key.to_owned() };
            section = key.rsplit_once('.').expect("each key is in a section").0.to_owned();
            explained.push(key);
        }
    }
    let sections = ["[objectives]", "[schedule]", "[log]", "[backup]", "[retention]", "[copies]", "[drill]", "[[drill.check]]"];
    let mut known: Vec<String> = sections.into_iter().flat_map(keys_known_in).collect();
    // `check` in [drill] is the section after it.
    known.retain(|key| key != "drill.check");
    explained.sort();
    known.sort();
    assert_eq!(explained, known);
}

/// The words after `lifeboat` in a line of shell, up to what ends the command.
fn words(line: &str) -> Vec<String> {
    let mut words = vec!["lifeboat".to_owned()];
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => (quote, is_word) = (Some(character), true),
            (None, '|' | '>' | ';' | '&') => break,
            (None, '#') if !is_word => break,
            (None, ' ') if is_word => {
                words.push(std::mem::take(&mut word));
                is_word = false;
            }
            (None, ' ') => {}
            _ => {
                word.push(character);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

/// What follows the program's name in a line that runs it.
fn command_in(line: &str) -> Option<&str> {
    let at = line.match_indices("lifeboat ").map(|(at, _)| at).find(|at| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(|before| matches!(before, ' ' | '/' | '\''))
    })?;
    let comment = line.find(" # ").unwrap_or(line.len());
    (at < comment && !line.trim_start().starts_with('#')).then(|| &line[at + "lifeboat ".len()..])
}

#[test]
fn every_command_line_in_a_block_parses() {
    let mut parsed = 0;
    for (path, page) in pages() {
        for block in split(&page).0 {
            let text = block.text.replace("\\\n", " ");
            let runs = |line: &&str| match block.language.as_str() {
                // In a session only what is typed; the rest was printed.
                "console" => line.starts_with("$ "),
                "bash" | "ini" | "text" => true,
                _ => false,
            };
            for command in text.lines().filter(runs).filter_map(command_in) {
                if let Err(error) = Cli::try_parse_from(words(command)) {
                    panic!("{}: block at line {}: lifeboat {command}\n{error}", path.display(), block.line);
                }
                parsed += 1;
            }
        }
    }
    assert!(parsed >= 20, "only {parsed} commands were found");
}

/// Inline commands may leave arguments out, but name no verb or option that does not exist.
#[test]
fn every_command_in_running_text_exists() {
    let mut seen = 0;
    for (path, page) in pages() {
        for (number, line) in split(&page).1 {
            for span in line.split('`').skip(1).step_by(2) {
                let Some(rest) = span.strip_prefix("lifeboat ") else { continue };
                seen += 1;
                match Cli::try_parse_from(words(rest)) {
                    Ok(_) => {}
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::MissingRequiredArgument
                                | ErrorKind::MissingSubcommand
                                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        ) => {}
                    Err(error) => panic!("{}:{number}: `{span}`\n{error}", path.display()),
                }
            }
        }
    }
    assert!(seen >= 10, "only {seen} commands were found");
}

#[test]
fn the_readme_names_every_verb() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let command = Cli::command();
    let missing: Vec<&str> = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .filter(|verb| !readme.contains(&format!("`lifeboat {verb}`")))
        .collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

/// GitHub's anchor for a heading.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().replace("&lt;", "").replace("&gt;", "").to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut followed = 0;
    for (path, page) in &pages {
        for (number, line) in split(page).1 {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.starts_with("https://") {
                    continue;
                }
                followed += 1;
                let (file, wanted) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
                let target = if file.is_empty() { path.clone() } else { path.parent().unwrap_or(Path::new("")).join(file) };
                let target = fs::canonicalize(root().join(&target))
                    .unwrap_or_else(|error| panic!("{}:{number}: {link}: {error}", path.display()));
                let Some(wanted) = wanted else { continue };
                let text = fs::read_to_string(target).expect("a page");
                let found = split(&text).1.iter().any(|(_, line)| line.starts_with('#') && anchor(line) == wanted);
                assert!(found, "{}:{number}: {link}: there is no such heading", path.display());
            }
        }
    }
    assert!(followed >= 15, "only {followed} links were found");
}

#[test]
fn running_text_is_readable_in_a_terminal() {
    let mut long = Vec::new();
    for (path, page) in pages() {
        for (number, line) in split(&page).1 {
            if line.chars().count() > MAX_COLUMNS && !line.trim_start().starts_with('|') {
                long.push(format!("{}:{number}", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "longer than {MAX_COLUMNS} columns:\n{}", long.join("\n"));
}

/// The README's second configuration describes no source: what it restores must still find its log.
#[test]
fn the_restore_host_of_the_readme_restores() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options::default());
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("restore host of the README"));
    scenario.full_backup();
    ledger.commit_one();
    let last = scenario.cluster.switch_wal();
    scenario.cluster.wait_archived(&last, RECOVERY_TIMEOUT);
    let oracle = ledger.oracle();
    // As set up here nothing is wrong, although the protected host cannot decrypt.
    scenario.protected.ok(&["check", SOURCE]);

    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let block = split(&readme).0.into_iter().find(|block| block.text.contains("identity_file")).expect("a restore host");
    let keys = fs::read(scenario.repository.join("keys/1.json")).expect("keys");
    let state_dir = scenario.rescue.state_dir();
    let value = |line: &str| match line.split(" = ").next() {
        Some("url") => format!("url = \"file://{}\"", scenario.repository.path().display()),
        Some("root") => format!("root = \"{}\"", lifeboat::codec::Sha256Digest::of(&keys)),
        Some("identity_file") => "identity_file = \"identity.txt\"".to_owned(),
        _ => line.to_owned(),
    };
    let lines: Vec<String> = block.text.lines().map(value).collect();
    scenario.rescue.configure_text(&format!("state_dir = \"{}\"\n{}\n", state_dir.display(), lines.join("\n")));

    let restored = scenario.restore_and_start("restored", &[]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "the end of the log");
    // A misspelt name is not the end of the log.
    let misspelt = scenario.rescue.run(&["archive", "get", "ordres", "000000010000000000000001", "segment"]);
    assert!(misspelt.exits(255).stderr.contains("ordres"), "the message names what is misspelt");
    scenario.rescue.run(&["archive", "get", SOURCE, "00000009000000000000000A", "segment"]).exits(1);
}
