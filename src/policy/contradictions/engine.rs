//! What a policy declares that the kind of a source cannot have.

use super::{Finding, Severity};
use crate::base::{DrillLevel, Engine, SourceName};
use crate::policy::{BackupPolicy, LogMode, Policy};

/// What of `policy` does not fit `source`, which is of this kind.
pub fn against_engine(policy: &Policy, source: &SourceName, engine: Engine) -> Vec<Finding> {
    if engine == Engine::Postgres {
        return Vec::new();
    }
    let is = format!("{source} is {}", engine.with_article());
    let finding =
        |severity, key, why: &str, arithmetic: String| Finding { severity, key, sentence: format!("{is}: {why}"), arithmetic };
    let (log, drill) = (policy.log.mode, &policy.drill);
    let mut findings = Vec::new();
    let way_out = match engine {
        Engine::Directory if log != LogMode::None => Some(("it has no log, only the moments of its backups", "mode = \"none\"")),
        Engine::Sqlite if log == LogMode::Segments => {
            Some(("no server hands over segments; its commits can be followed", "mode = \"stream\", or \"none\""))
        }
        _ => None,
    };
    if let Some((why, way_out)) = way_out {
        let sum = format!("mode {}; say {way_out}", log.as_str());
        findings.push(finding(Severity::Refused, "log.mode", why, sum));
    }
    if drill.levels.contains(&DrillLevel::Failover) {
        let sum = "levels with failover; say levels = [\"component\"]".to_owned();
        findings.push(finding(Severity::Refused, "drill.levels", "there is no server that could take over", sum));
    }
    let mut unused = |key, is_said: bool, why: &str, sum: &str| {
        findings.extend(is_said.then(|| finding(Severity::Warned, key, why, format!("{sum}; leave it out"))));
    };
    let is_of_pages = policy.backup != BackupPolicy::default();
    unused("backup", is_of_pages, "what changed is told by no log of pages", "[backup] is for PostgreSQL clusters");
    unused("drill.preload_libraries", !drill.preload_libraries.is_empty(), "no server is started", "libraries are of a server");
    let is_asked = engine == Engine::Directory && (!drill.checks.is_empty() || drill.spoil.is_some());
    unused("drill.check", is_asked, "no query can be asked of it", "its files are counted, and each piece is compared");
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::parse::parse;

    fn found(engine: Engine, more: &str) -> Vec<(&'static str, &'static str)> {
        let text = format!("[objectives]\nrto = '1h'\nrpo = '1d'\n{more}");
        let policy = parse("own", Path::new("own.toml"), &text).unwrap();
        let findings = against_engine(&policy, &"docs".parse().unwrap(), engine);
        assert!(findings.iter().all(|found| found.sentence.starts_with("docs is a ")), "{findings:?}");
        findings.iter().map(|found| (found.severity.as_str(), found.key)).collect()
    }

    #[test]
    fn each_kind_has_what_it_can_have() {
        let mode = |mode: &str| format!("[log]\nmode = '{mode}'\n");
        let refused = vec![("refused", "log.mode")];
        for (engine, declared, expected) in [
            (Engine::Directory, mode("none"), vec![]),
            (Engine::Directory, mode("stream"), refused.clone()),
            (Engine::Directory, String::new(), refused.clone()),
            (Engine::Sqlite, mode("none"), vec![]),
            (Engine::Sqlite, mode("stream"), vec![]),
            (Engine::Sqlite, String::new(), refused.clone()),
            (Engine::Sqlite, mode("segments"), refused),
        ] {
            assert_eq!(found(engine, &declared), expected, "{engine} {declared}");
            assert_eq!(found(Engine::Postgres, &declared), [], "{declared}");
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        let none = "[log]\nmode = 'none'\n";
        let both = [Engine::Sqlite, Engine::Directory];
        for engine in both {
            assert_eq!(found(engine, &format!("{none}[backup]\nchanged_pages = 'read'\n")), [("warning", "backup")]);
            assert_eq!(found(engine, &format!("{none}[backup]\naudit = '1d'\n")), [("warning", "backup")]);
            let failover = format!("{none}[drill]\nlevels = ['component', 'failover']\n");
            assert_eq!(found(engine, &failover), [("refused", "drill.levels")]);
            let libraries = format!("{none}[drill]\npreload_libraries = ['timescaledb']\n");
            assert_eq!(found(engine, &libraries), [("warning", "drill.preload_libraries")]);
        }
        let query = format!("{none}[[drill.check]]\nname = 'x'\nsql = 'SELECT 1'\nrows = true\n");
        assert_eq!(found(Engine::Directory, &query), [("warning", "drill.check")]);
        assert_eq!(found(Engine::Sqlite, &query), []);
    }
}
