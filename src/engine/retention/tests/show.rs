//! A failing history as a person reads it: positions in segments, times in hours since the window began.

use std::fmt;

use super::case::Case;
use super::world::{Archived, Line, Planted, SIZE, Told, moment};
use crate::base::{Lsn, Segment, Timestamp};

/// Prints a case when an assertion fails while this lives.
pub(super) struct ShownOnFailure<'a>(pub &'a Case);

impl Drop for ShownOnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}

impl Case {
    fn hours(&self, seconds: i64) -> String {
        format!("{:+.2}h", (seconds - self.window_start()) as f64 / 3600.0)
    }

    fn told(&self, time: Timestamp) -> String {
        let epoch = moment(0);
        self.hours(time.since(epoch).as_secs() as i64 - epoch.since(time).as_secs() as i64)
    }

    fn show_line(&self, f: &mut fmt::Formatter<'_>, index: usize, line: &Line) -> fmt::Result {
        let from = line.parent.map_or("the beginning".to_owned(), |(parent, at)| format!("line {parent} at {}", place(at)));
        let history = match (line.parent, line.history) {
            (Some(_), Some(at)) => format!(", history at {}", self.hours(at)),
            (Some(_), None) => ", history lost".to_owned(),
            (None, _) => String::new(),
        };
        writeln!(f, "line {index}: cluster {}, timeline {}, from {from}{history}", line.incarnation, line.id)?;
        let segment = |(number, archived): (&u64, &Archived)| {
            let told = match archived.told {
                Told::All => "",
                Told::LastOnly => " first ?",
                Told::Nothing => " ?",
            };
            let segment = Segment { timeline: line.id, number: *number };
            let goes = if self.cuts.takes(line.incarnation, segment) { " GOES" } else { "" };
            let contradicted = if archived.contradicted { " CONTRADICTED" } else { "" };
            format!("{number}({}{told}{contradicted}{goes})", self.hours(archived.at))
        };
        let segments: Vec<String> = line.arrived.iter().map(segment).collect();
        writeln!(f, "  segments {}", segments.join(" "))?;
        let commits: Vec<String> =
            line.commits.iter().map(|(at, time)| format!("{}={}", place(*at), self.hours(*time))).collect();
        writeln!(f, "  commits  {}", commits.join(" "))
    }
}

fn place(at: u64) -> String {
    format!("{:.4}", at as f64 / SIZE as f64)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.retention)?;
        writeln!(
            f,
            "now {}, window from {}, clocks set: {}",
            self.hours(self.now),
            moment(self.window_start()),
            self.world.steps
        )?;
        for (index, line) in self.world.lines.iter().enumerate() {
            self.show_line(f, index, line)?;
        }
        for (index, taken) in self.world.taken.iter().enumerate() {
            let backup = &taken.summary;
            let span = |lsn: Lsn, time: Timestamp| format!("{} ({})", place(lsn.0), self.told(time));
            let (from, to) = (span(backup.start_lsn, backup.start_time), span(backup.stop_lsn, backup.stop_time));
            let base = backup.base.as_ref().map_or(String::new(), |base| format!(", on {base}"));
            let standby = if backup.from_standby { ", of a standby" } else { "" };
            let restores = if self.restorable.contains(&backup.id) { "" } else { ", does not restore" };
            writeln!(
                f,
                "{} line {}: {from} to {to}, in truth {}{base}{standby}{restores}",
                backup.id,
                taken.line,
                self.hours(taken.at)
            )?;
            if let Some(verdict) = self.verdicts.get(index) {
                writeln!(f, "  {}: {}", if verdict.kept { "kept" } else { "GOES" }, verdict.why.join("; "))?;
            }
        }
        for begun in &self.begun {
            writeln!(f, "begun: {begun:?}")?;
        }
        for planted in &self.world.planted {
            match planted {
                Planted::Segment { incarnation, segment, arrived, last } => {
                    let last = last.map(|last| self.hours(last));
                    writeln!(f, "planted: cluster {incarnation}, {segment:?} at {}, last {last:?}", self.hours(*arrived))?;
                }
                Planted::History { incarnation, name, arrived } => {
                    let (parent, at) = (name.parent, place(name.switch_lsn.0));
                    let timeline = name.timeline;
                    writeln!(
                        f,
                        "planted: cluster {incarnation}, history of {timeline} from {parent} at {at}, {}",
                        self.hours(*arrived)
                    )?;
                }
            }
        }
        Ok(())
    }
}
