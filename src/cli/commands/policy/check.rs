//! `lifeboat policy check [FILE|NAME…]`: what contradicts itself, with the sums.

use serde::Serialize;

use super::{place, shown, typed};
use crate::base::{Error, Result, Timestamp};
use crate::cli::args::PolicyCheckArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::policy::contradictions::{Finding, Severity, contradictions};

/// The document `policy_check`, version 1.
#[derive(Serialize)]
struct Document {
    policies: Vec<Checked>,
    refused: usize,
    warnings: usize,
}

#[derive(Serialize)]
struct Checked {
    /// As typed, or as the source names it.
    policy: String,
    /// None of one that comes with the program, or that was not found.
    file: Option<String>,
    /// The source that names it; none when somebody typed it.
    source: Option<String>,
    /// Why it cannot be read; then there are no findings.
    error: Option<Broken>,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Broken {
    message: String,
    details: Vec<String>,
    hints: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    severity: &'static str,
    key: &'static str,
    sentence: String,
    arithmetic: String,
}

/// Checks the policies that were typed, or those of all sources.
///
/// # Errors
/// When one of them is refused; the result says why.
pub fn run(args: &PolicyCheckArgs, context: &Context) -> Result<Outcome> {
    let policies = if args.policies.is_empty() {
        of_sources(context)?
    } else {
        args.policies.iter().map(|name| of_name(context, name)).collect()
    };
    let count = |severity: Severity| {
        policies.iter().flat_map(|policy| &policy.findings).filter(|found| found.severity == severity.as_str()).count()
    };
    let broken = policies.iter().filter(|policy| policy.error.is_some()).count();
    let (refused, warnings) = (count(Severity::Refused) + broken, count(Severity::Warned));
    let document = Document { policies, refused, warnings };
    context.result("policy_check", 1, &document, || text(&document))?;
    if refused > 0 {
        return Err(Error::usage("nothing acts on a policy that is refused: what is wrong is listed above")
            .hint("correct it; docs/POLICIES.md explains the keys"));
    }
    Ok(Outcome::Done)
}

fn of_name(context: &Context, name: &str) -> Checked {
    match typed(context, name) {
        Ok((policy, file)) => Checked {
            policy: name.to_owned(),
            file: shown(file),
            source: None,
            error: None,
            findings: contradictions(&policy, Timestamp::now()).into_iter().map(found).collect(),
        },
        Err(error) => broken(name, None, &error),
    }
}

fn of_sources(context: &Context) -> Result<Vec<Checked>> {
    let settings = context.settings()?;
    let checked = settings.sources.values().filter_map(|source| {
        let name = source.policy.as_ref()?;
        let source_name = Some(source.name.to_string());
        Some(match settings.examined_policy_of(source) {
            Ok(examined) => {
                let examined = examined?;
                let findings = examined.findings.into_iter().map(found).collect();
                Checked { policy: name.clone(), file: shown(examined.file), source: source_name, error: None, findings }
            }
            Err(error) => broken(name, source_name, &error),
        })
    });
    Ok(checked.collect())
}

fn broken(name: &str, source: Option<String>, error: &Error) -> Checked {
    let details = error.details().iter().map(|(label, value)| format!("{label} {value}")).collect();
    let error = Broken { message: error.summary(), details, hints: error.hints().to_vec() };
    Checked { policy: name.to_owned(), file: None, source, error: Some(error), findings: Vec::new() }
}

fn found(finding: Finding) -> Found {
    let Finding { severity, key, sentence, arithmetic } = finding;
    Found { severity: severity.as_str(), key, sentence, arithmetic }
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Checked { policy, file, source, error, findings } in &document.policies {
        let source = source.as_ref().map(|source| format!(", source {source}")).unwrap_or_default();
        match error {
            None => text += &format!("{policy} ({}){source}\n", place(file.as_deref())),
            Some(Broken { message, details, hints }) => {
                text += &format!("{policy}{source}\n  refused  {message}\n");
                details.iter().for_each(|detail| text += &format!("           {}\n", detail.replace('\n', ", ")));
                hints.iter().for_each(|hint| text += &format!("           hint: {hint}\n"));
            }
        }
        for Found { severity, key, sentence, arithmetic } in findings {
            text += &format!("  {severity:7}  {key}\n           {sentence}\n           {arithmetic}\n");
        }
        if error.is_none() && findings.is_empty() {
            text += "  nothing contradicts\n";
        }
    }
    if document.policies.is_empty() {
        text += "no source names a policy\n";
    }
    let plural = if document.warnings == 1 { "" } else { "s" };
    text + &format!("{} refused, {} warning{plural}\n", document.refused, document.warnings)
}
