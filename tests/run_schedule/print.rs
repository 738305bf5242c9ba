//! Schedules for other programs, and the ready-made files of `docs/SCHEDULING.md`, as those programs read them.

use std::path::Path;
use std::process::Command;

use crate::support::lifeboat::{Config, Host};

const SCHEDULE: &str = "[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n[schedule]\ntimezone = \"Europe/Zurich\"\n\
    full = \"30 2 * * SUN\"\ndiff = \"30 2 * * 1-6\"\nincr = \"*/30 * * * *\"\ndrill = \"0 4 13 * FRI\"\nverify = \"@weekly\"\n";

fn host() -> Host {
    let config = Config::local(Path::new("/nonexistent"));
    let host = Host::new(&config.source("orders", "host=/nonexistent"));
    let text = host.configuration().replace("kind = \"postgres\"", "kind = \"postgres\"\npolicy = \"50% p.toml\"");
    host.configure_text(&format!("{text}\n[run]\nexpire_key_file = \"my 100%.key\"\n"));
    host.write("50% p.toml", SCHEDULE);
    host
}

#[test]
fn a_crontab_has_a_line_a_job_with_its_whole_command() {
    let text = host().ok(&["schedule", "print"]).stdout;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "CRON_TZ=Europe/Zurich");
    assert_eq!(lines.len(), 7, "{text}");
    for (start, end) in [
        ("30 2 * * Sun /", "backup orders --type full"),
        ("30 2 * * Mon,Tue,Wed,Thu,Fri,Sat /", "backup orders --type diff"),
        ("0,30 * * * * /", "backup orders --type auto"),
        ("0 4 13 * Fri /", "drill orders --level component --to random"),
        ("0 0 * * Sun /", "drill orders --level verify"),
    ] {
        let line = lines.iter().find(|line| line.starts_with(start) && line.ends_with(end));
        let line = line.unwrap_or_else(|| panic!("{start}…{end} is not in\n{text}"));
        assert!(line.contains(" --config ") && line.contains(" --quiet "), "{line}");
    }
    let expire = lines.iter().find(|line| line.contains(" expire ")).expect("a key is configured");
    assert!(expire.ends_with(r"my 100\%.key'"), "{expire}");
    let json = host().json(&["schedule", "print", "orders"]);
    assert_eq!(json["files"][0]["path"], "crontab");
}

#[test]
fn systemd_reads_the_units() {
    let host = host();
    let json = host.json(&["schedule", "print", "--format", "systemd"]);
    let files = json["files"].as_array().expect("files");
    assert_eq!(files.len(), 12);
    let mut calendars = Vec::new();
    for file in files {
        let (path, content) = (file["path"].as_str().expect("a path"), file["content"].as_str().expect("text"));
        let sections = unit(content);
        let name = Path::new(path).file_name().expect("a name").to_str().expect("text");
        assert!(path.starts_with("/etc/systemd/system/lifeboat-orders-"), "{path}");
        match name.rsplit_once('.').expect("a kind").1 {
            "timer" => {
                assert!(has(&sections, "Timer", "Persistent", "true") && has(&sections, "Timer", "RandomizedDelaySec", "60"));
                assert!(has(&sections, "Install", "WantedBy", "timers.target"), "{content}");
                let found = sections.iter().filter(|(_, key, _)| key == "OnCalendar").map(|(_, _, value)| value.clone());
                calendars.extend(found);
            }
            "service" => assert!(has(&sections, "Service", "Type", "oneshot"), "{content}"),
            other => panic!("{other}"),
        }
    }
    // Either day of the drill's line is enough: two expressions.
    assert_eq!(calendars.len(), 7, "{calendars:?}");
    calendars.iter().for_each(|calendar| assert_calendar(calendar));
    let units: Vec<(&str, &str)> =
        files.iter().map(|file| (file["path"].as_str().expect("a path"), file["content"].as_str().expect("text"))).collect();
    verify_units(&units);
    let text = host.ok(&["schedule", "print", "--format", "systemd"]).stdout;
    assert_eq!(text.lines().filter(|line| line.starts_with("# /etc/systemd/system/")).count(), 12);
}

#[test]
fn a_source_without_a_schedule_is_told() {
    let host = Host::new(&Config::local(Path::new("/nonexistent")).source("orders", "host=/nonexistent"));
    host.run(&["schedule", "print"]).refuses(2, &["nothing is scheduled", "policy"]);
    host.run(&["run"]).refuses(2, &["no source", "policy"]);
    let broken = "[run]\nmetrics_listen = \"everywhere\"\njobs_at_once = 0\nexpire = \"61 * * * *\"\nfoo = 1\n";
    host.append_configuration(broken);
    let error = host.run(&["run"]).exits(2).stderr;
    for word in ["metrics_listen", "jobs_at_once", "minute", "foo"] {
        assert!(error.contains(word), "{word} is not told\n{error}");
    }
}

#[test]
fn the_files_of_the_page_are_what_they_claim_to_be() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SCHEDULING.md")).expect("the page");
    let ini = block(&page, "```ini\n");
    let sections = unit(ini);
    for (section, key) in [("Unit", "After"), ("Service", "ExecStart"), ("Service", "ExecReload"), ("Install", "WantedBy")] {
        assert!(sections.iter().any(|(s, k, _)| s == section && k == key), "{section} lacks {key}");
    }
    verify_units(&[("lifeboat.service", ini)]);
    let yaml = block(&page, "```yaml\n");
    assert_yaml(yaml);
    for key in ["on:", "jobs:", "steps:", "schedule:", "runs-on:"] {
        assert!(yaml.lines().any(|line| line.trim().trim_start_matches("- ").starts_with(key)), "no {key}");
    }
    // Every expression of GitHub is closed, and cron is quoted: a bare star is an alias in YAML.
    assert_eq!(yaml.matches("${{").count(), yaml.matches("}}").count());
    let cron = yaml.lines().find_map(|line| line.trim().strip_prefix("- cron: ")).expect("a schedule");
    cron.trim_matches('"').parse::<lifeboat::policy::cron::Cron>().expect("five fields");
    assert!(cron.starts_with('"') && cron.ends_with('"'));
}

fn block<'p>(page: &'p str, fence: &str) -> &'p str {
    page.split_once(fence).expect("the block").1.split_once("```").expect("its end").0
}

/// Section, key and value of every line of a unit; anything else fails the test.
fn unit(content: &str) -> Vec<(String, String, String)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in content.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("'{line}' is no setting"));
        assert!(!section.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()) && !value.is_empty(), "'{line}'");
        found.push((section.clone(), key.to_owned(), value.to_owned()));
    }
    found
}

fn has(sections: &[(String, String, String)], section: &str, key: &str, value: &str) -> bool {
    sections.iter().any(|(s, k, v)| (s.as_str(), k.as_str(), v.as_str()) == (section, key, value))
}

/// A strict reading of what is printed, and systemd's own where it is installed.
fn assert_calendar(calendar: &str) {
    let words: Vec<&str> = calendar.split(' ').collect();
    let (date, time, zone) = match words[..] {
        [days, date, time, zone] => {
            let known = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
            assert!(days.split(',').all(|day| known.contains(&day)), "{calendar}");
            (date, time, zone)
        }
        [date, time, zone] => (date, time, zone),
        _ => panic!("{calendar}"),
    };
    let numbers = |text: &str, most: u32| text == "*" || text.split(',').all(|n| n.parse::<u32>().is_ok_and(|n| n <= most));
    let date: Vec<&str> = date.split('-').collect();
    let time: Vec<&str> = time.split(':').collect();
    assert!(matches!(date[..], ["*", month, day] if numbers(month, 12) && numbers(day, 31)), "{calendar}");
    assert!(matches!(time[..], [hour, minute, "00"] if numbers(hour, 23) && numbers(minute, 59)), "{calendar}");
    assert_eq!(zone, "Europe/Zurich");
    if let Ok(output) = Command::new("systemd-analyze").args(["calendar", calendar]).output() {
        assert!(output.status.success(), "{calendar}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Has systemd read units, where it is installed.
fn verify_units(units: &[(&str, &str)]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut paths = Vec::new();
    for (path, content) in units {
        let path = dir.path().join(Path::new(path).file_name().expect("a name"));
        // The program need not be installed where the page says.
        let content = content.replace("/usr/bin/lifeboat", "/bin/true");
        std::fs::write(&path, content).expect("own directory");
        paths.push(path);
    }
    let output = Command::new("systemd-analyze")
        .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()))
        .arg("verify")
        .args(&paths)
        .output();
    let Ok(output) = output else { return };
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_ours = |line: &&str| line.contains(&dir.path().display().to_string()) || line.contains("lifeboat");
    let complaints: Vec<&str> = told.lines().filter(of_ours).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// What of YAML's structure can go wrong in a page: tabs, odd indents, keys without a value below or beside them.
fn assert_yaml(text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')).collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut script: Option<usize> = None;
    for (at, line) in lines.iter().enumerate() {
        assert!(!line.contains('\t'), "a tab in '{line}'");
        if script.is_some_and(|script| indent(line) > script) {
            continue;
        }
        script = None;
        assert_eq!(indent(line) % 2, 0, "an odd indent in '{line}'");
        let (item, is_item) = line.trim().strip_prefix("- ").map_or((line.trim(), false), |item| (item, true));
        let Some((key, value)) = item.split_once(':') else { panic!("'{line}' is neither a key nor an item with keys") };
        assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "'{key}'");
        assert!(value.is_empty() || value.starts_with(' '), "no space after the colon in '{line}'");
        if value.trim() == "|" {
            script = Some(indent(line));
        } else if value.is_empty() {
            let below = lines.get(at + 1).map(|next| indent(next));
            let own = indent(line) + if is_item { 2 } else { 0 };
            assert!(below.is_some_and(|below| below > own), "'{key}' holds nothing");
        }
    }
}
