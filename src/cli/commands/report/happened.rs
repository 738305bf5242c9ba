//! What happened when: the histogram of `timeline`, as it stands in the page. Names alone tell it, so no key is needed.

use maud::{Markup, html};

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Error, ErrorKind, Result, Timestamp};
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::scope::{self, Use};
use crate::engine::activity::plan::{self, Axis, GapReason, Row};
use crate::engine::activity::run::{self, Archive};
use crate::engine::head;

/// Width and height of the picture; the page scales it.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 190.0;
/// Room left of the bars, above and below them.
const LEFT: f64 = 60.0;
const TOP: f64 = 12.0;
const BELOW: f64 = 46.0;
/// A bar for something is never thinner than it can be seen.
const LEAST: f64 = 2.0;

/// What is told.
pub(super) struct Happened {
    repository: String,
    /// Of a cluster.
    timeline: Option<u32>,
    from: Timestamp,
    to: Timestamp,
    axis: Axis,
    /// Each gap, in the order in which the rows name them.
    gaps: Vec<String>,
    /// Timelines off the way that have this time, too.
    others: Vec<u32>,
}

/// From the first repository of the source that answers and has log; why there is nothing to be told.
pub(super) async fn happened(context: &Context, settings: &Settings, source: &SourceSettings) -> Result<Happened, String> {
    let chosen = settings.repositories_of(source, context.global.repository.as_deref()).map_err(|error| error.summary())?;
    let mut failures = Vec::new();
    for repository in chosen {
        match look(context, settings, source, repository).await {
            Ok(happened) => return Ok(happened),
            Err(error) => failures.push(error),
        }
    }
    // An answer is worth more than an outage.
    failures.sort_by_key(|error| error.kind() == ErrorKind::Unreachable);
    Err(failures.first().map_or_else(|| "it is kept in no repository".to_owned(), Error::summary))
}

async fn look(context: &Context, settings: &Settings, source: &SourceSettings, chosen: &RepositorySettings) -> Result<Happened> {
    let layers = scope::layers(context, chosen, Use::Brief);
    let scope = scope::open(context, settings, chosen, &source.name, &layers).await?;
    let seen = head::look(&scope).await?;
    let archive = run::look(&scope, &seen.log, None, None).await?;
    let (from, to) = archive.span().ok_or_else(|| Error::failed("no time is known of what is archived"))?;
    let axis = plan::axis(&archive.track, &archive.backups_on_path(), from, to, plan::round_interval(from, to));
    let others = plan::elsewhere(&archive.path, &archive.catalog, from, to);
    Ok(Happened {
        repository: chosen.name.clone(),
        timeline: (archive.engine() == Engine::Postgres).then(|| archive.path.timeline().0),
        from,
        to,
        axis,
        gaps: gaps(&archive),
        others: others.iter().map(|other| other.timeline.0).collect(),
    })
}

fn gaps(archive: &Archive) -> Vec<String> {
    let size = archive.segment_size();
    let told = archive.track.gaps.iter().map(|gap| {
        if archive.engine() == Engine::Sqlite && gap.reason == GapReason::Missing {
            return "commits that were not followed without a break".to_owned();
        }
        let why = match gap.reason {
            GapReason::Missing => "missing",
            GapReason::Expired => "expired",
            GapReason::Contradicted => "contradicted",
        };
        match gap.segments() {
            1 => format!("{} {why}", gap.first.name(size)),
            count => format!("{} to {} ({count} segments) {why}", gap.first.name(size), gap.last.name(size)),
        }
    });
    told.collect()
}

impl Happened {
    /// The picture, and below it in words what a picture cannot tell.
    pub(super) fn markup(&self) -> Markup {
        let rows = &self.axis.rows;
        let interval = format_duration(self.axis.interval);
        let commits: u64 = rows.iter().map(|row| row.commits).sum();
        let unknown = rows.iter().any(|row| row.unknown_segments > 0);
        html! {
            figure {
                figcaption {
                    "Commits in each " (interval) ", from " (self.from.human_seconds()) " to " (self.to.human_seconds())
                    " (" @if let Some(timeline) = self.timeline { "timeline " (timeline) ", " } "repository " (self.repository) ")"
                }
                (self.picture())
            }
            p {
                (commits) " commits" @if unknown { " at least: the names of some segments do not tell" } ". "
                "▲ a backup ended"
                @if !self.gaps.is_empty() { "; red: log that is not there" }
                "."
                @if !self.others.is_empty() {
                    " Beside it went on: timeline "
                    @for (number, other) in self.others.iter().enumerate() { @if number > 0 { ", " } (other) }
                    "."
                }
            }
            @if !self.gaps.is_empty() {
                ul { @for gap in &self.gaps { li class="problem" { (gap) } } }
            }
        }
    }

    fn picture(&self) -> Markup {
        let rows = &self.axis.rows;
        let most = rows.iter().map(|row| row.commits).max().unwrap_or(0);
        let step = (WIDTH - LEFT) / rows.len().max(1) as f64;
        let bottom = HEIGHT - BELOW;
        let title = format!("Commits from {} to {}, {most} at most in a bar", self.from.human_seconds(), self.to.human_seconds());
        html! {
            svg class="plot" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(title)
                font-family="sans-serif" font-size="13" fill="#263238" {
                line x1=(LEFT) y1=(bottom) x2=(WIDTH) y2=(bottom) stroke="#cfd8dc" {}
                text x=(LEFT - 8.0) y=(TOP + 10.0) text-anchor="end" { (most) }
                text x=(LEFT - 8.0) y=(bottom) text-anchor="end" { "0" }
                @for (number, row) in rows.iter().enumerate() { (bar(row, LEFT + step * number as f64, step, most)) }
                @for (number, anchor) in labelled(rows.len()) {
                    text x=(LEFT + step * number as f64 + if anchor == "end" { step } else { 0.0 }) y=(HEIGHT - 6.0) text-anchor=(anchor) {
                        (rows[number].from.human_seconds().trim_end_matches(" UTC"))
                    }
                }
            }
        }
    }
}

/// One row: its bar, the gaps that begin in it, and its backups.
fn bar(row: &Row, x: f64, step: f64, most: u64) -> Markup {
    let (bottom, room) = (HEIGHT - BELOW, HEIGHT - BELOW - TOP);
    let height = match row.commits {
        0 => 0.0,
        commits => (room * commits as f64 / most.max(1) as f64).max(LEAST),
    };
    let width = (step - 1.5).max(1.0);
    let at_least = if row.unknown_segments > 0 { "at least " } else { "" };
    let told = format!("{}: {at_least}{} commits, {}", row.from.human_seconds(), row.commits, format_bytes(row.stored_bytes));
    html! {
        @if !row.gaps.is_empty() { rect x=(x) y=(TOP) width=(LEAST) height=(room) fill="#c62828" { title { "log is missing" } } }
        rect x=(x) y=(bottom - height) width=(width) height=(height) fill="#005ab5" { title { (told) } }
        @if !row.backups.is_empty() {
            text x=(x + width / 2.0) y=(bottom + 18.0) text-anchor="middle" fill="#d97706" {
                "▲" title { @for id in &row.backups { (id) " " } }
            }
        }
    }
}

/// The rows that are labelled with their time, and where the label is held: the first, the middle one, the last.
fn labelled(rows: usize) -> Vec<(usize, &'static str)> {
    match rows {
        0 => Vec::new(),
        1..=3 => vec![(0, "start")],
        4..=8 => vec![(0, "start"), (rows - 1, "end")],
        _ => vec![(0, "start"), (rows / 2, "middle"), (rows - 1, "end")],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn happened(commits: &[u64]) -> Happened {
        let at = |second: usize| Timestamp::from_unix_micros(second as i64 * 1_000_000).unwrap();
        let row = |(number, commits): (usize, &u64)| Row {
            from: at(number),
            commits: *commits,
            stored_bytes: 10,
            unknown_segments: 0,
            backups: Vec::new(),
            gaps: if number == 1 { vec![0] } else { Vec::new() },
        };
        let axis = Axis { interval: Duration::from_secs(1), rows: commits.iter().enumerate().map(row).collect() };
        let gaps = vec!["000000010000000000000003 <missing>".to_owned()];
        Happened {
            repository: "main".to_owned(),
            timeline: Some(1),
            from: at(0),
            to: at(commits.len()),
            axis,
            gaps,
            others: vec![2, 3],
        }
    }

    #[test]
    fn bars_are_as_high_as_there_are_commits_and_none_is_lost_to_the_eye() {
        let text = happened(&[0, 1, 1000, 500]).markup().into_string();
        let heights: Vec<f64> = text
            .split("<rect ")
            .skip(1)
            .filter(|rect| rect.contains("#005ab5"))
            .map(|rect| rect.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        let room = HEIGHT - BELOW - TOP;
        assert_eq!(heights, [0.0, LEAST, room, room / 2.0]);
        assert!(text.contains("1501 commits") && text.contains("timeline 2, 3") && text.contains("&lt;missing&gt;"), "{text}");
        assert_eq!(text.matches("#c62828").count(), 1);
    }

    #[test]
    fn labels_have_room() {
        assert!(happened(&[]).markup().into_string().contains("0 commits"));
        assert_eq!(labelled(2).len(), 1);
        assert_eq!(labelled(24), [(0, "start"), (12, "middle"), (23, "end")]);
    }
}
