//! `lifeboat policy list`: the policies that there are, and who uses them.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::{config_file, place, shown};
use crate::base::units::format_duration;
use crate::base::{Error, Result};
use crate::cli::config::policies::{self, READY};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{Align, table};

/// The document `policy_list`, version 1.
#[derive(Serialize)]
struct Document {
    policies: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    policy: String,
    /// None of one that comes with the program.
    file: Option<String>,
    /// None when it cannot be read.
    rto_seconds: Option<f64>,
    rpo_seconds: Option<f64>,
    log_mode: Option<&'static str>,
    sources: Vec<String>,
    error: Option<String>,
}

/// Lists those beside the configuration, those that sources name, and those that come with the program.
///
/// # Errors
/// When one of them cannot be read; the others are listed all the same.
pub fn run(context: &Context) -> Result<Outcome> {
    let config_file = config_file(context)?;
    let used: Vec<(String, String)> = match &config_file {
        Some(_) => {
            let sources = context.settings()?.sources;
            sources.into_values().filter_map(|source| Some((source.policy?, source.name.to_string()))).collect()
        }
        None => Vec::new(),
    };
    let mut names: BTreeSet<String> = READY.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend(used.iter().map(|(policy, _)| policy.clone()));
    names.extend(beside(config_file.as_deref())?);
    let policies = names.into_iter().map(|name| listed(name, config_file.as_deref(), &used)).collect();
    let document = Document { policies };
    context.result("policy_list", 1, &document, || text(&document))?;
    match document.policies.iter().find(|listed| listed.error.is_some()) {
        Some(broken) => Err(Error::usage(format!("policy {} cannot be used", broken.policy))
            .hint(format!("lifeboat policy check {}", broken.policy))),
        None => Ok(Outcome::Done),
    }
}

/// The names of the files in `policies/` beside the configuration.
fn beside(config_file: Option<&Path>) -> Result<Vec<String>> {
    let directory = crate::base::document::beside(config_file.unwrap_or(Path::new("")), "policies");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("list", &directory, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io("list", &directory, error))?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".toml")).map(str::to_owned));
    }
    Ok(names)
}

fn listed(name: String, config_file: Option<&Path>, used: &[(String, String)]) -> Listed {
    let sources = used.iter().filter(|(policy, _)| *policy == name).map(|(_, source)| source.clone()).collect();
    match policies::load(&name, config_file) {
        Ok((policy, file)) => Listed {
            policy: name,
            file: shown(file),
            rto_seconds: Some(policy.objectives.rto.as_secs_f64()),
            rpo_seconds: Some(policy.objectives.rpo.as_secs_f64()),
            log_mode: Some(policy.log.mode.as_str()),
            sources,
            error: None,
        },
        Err(error) => Listed {
            policy: name,
            file: None,
            rto_seconds: None,
            rpo_seconds: None,
            log_mode: None,
            sources,
            error: Some(error.summary()),
        },
    }
}

fn text(document: &Document) -> String {
    let time = |seconds: Option<f64>| {
        seconds.map_or("-".to_owned(), |seconds| format_duration(std::time::Duration::from_secs_f64(seconds)))
    };
    let row = |listed: &Listed| {
        vec![
            listed.policy.clone(),
            time(listed.rto_seconds),
            time(listed.rpo_seconds),
            listed.log_mode.unwrap_or("-").to_owned(),
            listed.sources.join(", "),
            listed.error.clone().unwrap_or_else(|| place(listed.file.as_deref()).to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = document.policies.iter().map(row).collect();
    let left = Align::Left;
    table(
        &[("policy", left), ("rto", Align::Right), ("rpo", Align::Right), ("log", left), ("used by", left), ("from", left)],
        &rows,
    )
}
