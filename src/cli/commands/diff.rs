//! `lifeboat diff SOURCE OLD NEW`: what differs between two backups of a directory.

use serde::Serialize;

use crate::base::{BackupId, Engine, Error, RelPath, Result, Timestamp};
use crate::cli::args::{DiffArgs, OutputFormat};
use crate::cli::catalogue::{self, StreamedDocument, StreamedText, printable, unless_enough};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::engine::directory::catalogue::Catalogue;
use crate::source::directory::diff::{Change, Diff, Difference};

/// The document `diff`, version 1, but for its list `differences`.
#[derive(Serialize)]
struct Head<'a> {
    source: String,
    old: Side<'a>,
    new: Side<'a>,
}

#[derive(Serialize)]
struct Side<'a> {
    backup: &'a BackupId,
    /// The moment of which it is.
    moment: Timestamp,
}

/// One of its differences.
#[derive(Serialize)]
struct Told<'a> {
    path: &'a RelPath,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// What of it changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aspects: Vec<String>,
}

/// Compares two backups.
///
/// # Errors
/// When one of them is not there, is not of a directory, or cannot be opened.
pub async fn run(args: &DiffArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let opened = catalogue::open(context, &settings, &args.source, &[&args.old, &args.new]).await?;
    let [old, new] = opened.as_slice() else { return Err(Error::failed("there are no two backups to compare")) };
    for side in [old, new] {
        let engine = side.backup.incarnation.engine();
        if engine != Engine::Directory {
            return Err(Error::usage(format!("backup {} of {} is of {}", side.backup.id, args.source, engine.with_article()))
                .detail("not for it", "diff compares backups of directories")
                .hint(format!("lifeboat ls {} --backup {}   shows its files", args.source, side.backup.id)));
        }
    }
    context.progress.finish();
    let compared = match context.global.output {
        OutputFormat::Json => json(args, context, old, new),
        OutputFormat::Text => text(context, old, new),
    };
    unless_enough(context, compared)?;
    Ok(Outcome::Done)
}

fn each(context: &Context, old: &Catalogue, new: &Catalogue, mut tell: impl FnMut(&Told<'_>) -> Result<()>) -> Result<()> {
    for difference in Diff::new(old.entries()?, new.entries()?) {
        context.cancel.check()?;
        let Difference { path, change } = difference?;
        let (change, aspects) = match change {
            Change::Added(_) => ("added", Vec::new()),
            Change::Removed(_) => ("removed", Vec::new()),
            Change::Changed(aspects) => ("changed", aspects.iter().map(ToString::to_string).collect()),
        };
        tell(&Told { path: &path, change, aspects })?;
    }
    Ok(())
}

fn json(args: &DiffArgs, context: &Context, old: &Catalogue, new: &Catalogue) -> Result<()> {
    let side = |catalogue: &'_ Catalogue| -> (BackupId, Timestamp) { (catalogue.backup.id.clone(), catalogue.backup.stop_time) };
    let ((old_id, old_moment), (new_id, new_moment)) = (side(old), side(new));
    let head = Head {
        source: args.source.to_string(),
        old: Side { backup: &old_id, moment: old_moment },
        new: Side { backup: &new_id, moment: new_moment },
    };
    let mut document = StreamedDocument::begin("diff", 1, &head, "differences")?;
    each(context, old, new, |told| document.item(told))?;
    document.finish()
}

fn text(context: &Context, old: &Catalogue, new: &Catalogue) -> Result<()> {
    let mut out = StreamedText::begin();
    each(context, old, new, |told| {
        let path = printable(told.path.as_bytes());
        match told.change {
            "added" => out.line(&format!("+ {path}")),
            "removed" => out.line(&format!("- {path}")),
            _ => out.line(&format!("M {path}  ({})", told.aspects.join(", "))),
        }
    })?;
    out.finish()
}
