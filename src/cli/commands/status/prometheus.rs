//! Prometheus' text exposition format, version 0.0.4. What is not known has no sample; what is infinite is `+Inf`.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use crate::engine::status::report::{Kind, ScopeReport};
use crate::engine::status::{StatusReport, Verdict};

/// The metrics of several sources.
pub fn prometheus(reports: &[StatusReport]) -> String {
    let mut out = Exposition(String::new());
    verdicts(&mut out, reports);
    exposures(&mut out, reports);
    recovery(&mut out, reports);
    backups(&mut out, reports);
    repositories(&mut out, reports);
    server(&mut out, reports);
    out.0
}

/// The text so far.
struct Exposition(String);

/// Labels and value of one sample.
type Sample<'s> = (Vec<(&'static str, &'s str)>, f64);

impl Exposition {
    /// A gauge with its samples; nothing when there are none.
    fn gauge<'s>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'s>>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let out = &mut self.0;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(out, "{name}{{{}}} {}", labels.join(","), number(value));
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value.is_infinite() { if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() } } else { format!("{value}") }
}

fn truth(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

/// One sample a source, where it has the value.
fn each(reports: &[StatusReport], value: impl Fn(&StatusReport) -> Option<f64>) -> impl Iterator<Item = Sample<'_>> {
    reports.iter().filter_map(move |report| Some((vec![("source", report.source.as_str())], value(report)?)))
}

/// One sample a scope of each source, where it has the value.
fn each_scope(reports: &[StatusReport], value: impl Fn(&ScopeReport) -> Option<f64>) -> impl Iterator<Item = Sample<'_>> {
    let scopes = reports.iter().flat_map(|report| report.scopes.iter().map(move |scope| (report, scope)));
    scopes.filter_map(move |(report, scope)| {
        Some((vec![("source", report.source.as_str()), ("scope", scope.scope)], value(scope)?))
    })
}

fn verdicts(out: &mut Exposition, reports: &[StatusReport]) {
    let states = reports.iter().flat_map(|report| {
        let state = |verdict: Verdict| {
            (vec![("source", report.source.as_str()), ("verdict", verdict.as_str())], truth(report.verdict == verdict))
        };
        Verdict::ALL.into_iter().map(state)
    });
    out.gauge("lifeboat_verdict", "Whether this is the verdict on the source.", states);
    let scopes = reports.iter().flat_map(|report| report.scopes.iter().map(move |scope| (report, scope)));
    let states = scopes.filter_map(|(report, scope)| Some((report, scope, scope.verdict?))).flat_map(|(report, scope, own)| {
        Verdict::ALL.into_iter().map(move |verdict| {
            let labels = vec![("source", report.source.as_str()), ("scope", scope.scope), ("verdict", verdict.as_str())];
            (labels, truth(own == verdict))
        })
    });
    out.gauge("lifeboat_scope_verdict", "Whether this is the verdict on the source in one scope.", states);
    let time = each(reports, |report| Some(report.time.unix_micros() as f64 / 1e6));
    out.gauge("lifeboat_status_timestamp_seconds", "When this was found out, by the database's clock.", time);
}

fn exposures(out: &mut Exposition, reports: &[StatusReport]) {
    let now = each_scope(reports, |scope| match scope.kind {
        Kind::Infinite => Some(f64::INFINITY),
        _ => scope.rpo_seconds,
    });
    out.gauge("lifeboat_rpo_seconds", "What would be lost now: the age of the first commit that does not survive.", now);
    let bound = each_scope(reports, |scope| scope.rpo_seconds.map(|_| truth(scope.kind == Kind::UpperBound)));
    out.gauge("lifeboat_rpo_is_upper_bound", "Whether lifeboat_rpo_seconds may be less.", bound);
    let certain = each_scope(reports, |scope| match scope.kind {
        Kind::Infinite => Some(f64::INFINITY),
        _ => scope.rpo_at_least_seconds,
    });
    out.gauge("lifeboat_rpo_at_least_seconds", "What of lifeboat_rpo_seconds is certain.", certain);
    let of_day = each_scope(reports, |scope| scope.worst_24h_seconds).map(|sample| within(sample, "24h"));
    let of_month = each_scope(reports, |scope| scope.worst_30d_seconds).map(|sample| within(sample, "30d"));
    out.gauge("lifeboat_rpo_worst_seconds", "The most that would have been lost in this time.", of_day.chain(of_month));
    let objective = each(reports, |report| Some(report.objectives.as_ref()?.rpo_seconds));
    out.gauge("lifeboat_rpo_objective_seconds", "The declared RPO.", objective);
}

fn within<'s>((mut labels, value): Sample<'s>, window: &'s str) -> Sample<'s> {
    labels.push(("window", window));
    (labels, value)
}

fn recovery(out: &mut Exposition, reports: &[StatusReport]) {
    let mut gauge = |name: &str, help: &str, value: fn(&StatusReport) -> Option<f64>| out.gauge(name, help, each(reports, value));
    gauge("lifeboat_rto_predicted_seconds", "How long a recovery would take now, detection included.", |report| {
        report.rto.predicted_seconds
    });
    gauge("lifeboat_rto_measured_seconds", "What the last drill that passed took.", |report| report.rto.measured_seconds);
    gauge("lifeboat_rto_objective_seconds", "The declared RTO.", |report| Some(report.objectives.as_ref()?.rto_seconds));
    gauge("lifeboat_rto_breach_timestamp_seconds", "When growth breaks the RTO, about.", |report| {
        Some(report.forecast.as_ref()?.rto_breach.unix_micros() as f64 / 1e6)
    });
    gauge("lifeboat_standby_counts", "Whether the standby is one that a recovery could begin from.", |report| {
        Some(truth(report.standby.as_ref()?.counts))
    });
    gauge("lifeboat_standby_lag_bytes", "Bytes of log that are archived, and that the standby has not replayed.", |report| {
        report.standby.as_ref()?.lag_bytes.map(|bytes| bytes as f64)
    });
    gauge("lifeboat_standby_lag_seconds", "How far the standby is behind the archive, by commit times.", |report| {
        report.standby.as_ref()?.lag_seconds
    });
    gauge("lifeboat_restore_fetch_bytes", "Stored bytes of the backups that a restore may fetch.", |report| {
        report.rto.fetch_bytes.map(|bytes| bytes as f64)
    });
    gauge("lifeboat_restore_write_bytes", "Bytes that a restore writes.", |report| {
        report.rto.write_bytes.map(|bytes| bytes as f64)
    });
    gauge("lifeboat_restore_replay_bytes", "Bytes of log that a restore replays.", |report| {
        report.rto.replay_bytes.map(|bytes| bytes as f64)
    });
    gauge("lifeboat_drill_passed_age_seconds", "Age of the last drill that restored, and passed.", |report| {
        Some(report.drills.last_passed.as_ref()?.age_seconds)
    });
    gauge("lifeboat_window_begin_timestamp_seconds", "The first moment that can be restored.", |report| {
        Some(report.window.first()?.from.unix_micros() as f64 / 1e6)
    });
    gauge("lifeboat_window_end_timestamp_seconds", "The last moment that can certainly be restored.", |report| {
        Some(report.window.last()?.to.unix_micros() as f64 / 1e6)
    });
}

fn backups(out: &mut Exposition, reports: &[StatusReport]) {
    let backups = || reports.iter().flat_map(|report| report.backups.iter().map(move |backup| (report, backup)));
    let labels = |source, backup_type| vec![("source", source), ("type", backup_type)];
    let ages = backups().filter_map(|(report, backup)| Some((labels(&*report.source, backup.backup_type), backup.age_seconds?)));
    out.gauge("lifeboat_backup_age_seconds", "Age of the newest backup of this type.", ages);
    let missed = backups().map(|(report, backup)| (labels(&*report.source, backup.backup_type), backup.missed as f64));
    out.gauge("lifeboat_backup_missed_runs", "Scheduled runs since that came to no backup.", missed);
    let counts = |pick: fn(&StatusReport) -> (usize, usize)| {
        reports.iter().flat_map(move |report| {
            let (backup, log) = pick(report);
            let sample = |what, count: usize| (vec![("source", report.source.as_str()), ("what", what)], count as f64);
            // Where no log is wanted there is none.
            let of_log = (report.copies.log_wanted > 0).then(|| sample("log", log));
            std::iter::once(sample("backup", backup)).chain(of_log)
        })
    };
    let held = counts(|report| (report.copies.backup_held, report.copies.log_held));
    out.gauge("lifeboat_copies_held", "Repositories that hold the newest backup, and the newest log.", held);
    let wanted = counts(|report| (report.copies.backup_wanted, report.copies.log_wanted));
    out.gauge("lifeboat_copies_wanted", "Repositories that must.", wanted);
}

fn repositories(out: &mut Exposition, reports: &[StatusReport]) {
    use crate::engine::status::report::RepositoryReport;
    let mut gauge = |name: &str, help: &str, value: fn(&RepositoryReport) -> Option<f64>| {
        let all = reports.iter().flat_map(|report| report.repositories.iter().map(move |found| (report, found)));
        let samples = all.filter_map(|(report, found)| {
            Some((vec![("source", report.source.as_str()), ("repository", found.repository.as_str())], value(found)?))
        });
        out.gauge(name, help, samples);
    };
    gauge("lifeboat_repository_up", "Whether the repository answers.", |found| Some(truth(found.error.is_none())));
    gauge("lifeboat_repository_clock_skew_seconds", "Its clock minus that of the host that probed it.", |found| {
        found.clock_skew_seconds
    });
    gauge("lifeboat_window_gaps", "Gaps in the recovery window of the repository.", |found| {
        found.error.is_none().then_some(found.gaps as f64)
    });
    gauge("lifeboat_queue_items", "Items that wait to be delivered to the repository.", |found| {
        found.queue_items.map(|items| items as f64)
    });
    gauge("lifeboat_queue_given_up_items", "Items for the repository that were given up.", |found| {
        found.queue_given_up.map(|items| items as f64)
    });
    gauge("lifeboat_queue_oldest_seconds", "How long the oldest of them has waited.", |found| found.queue_oldest_seconds);
}

fn server(out: &mut Exposition, reports: &[StatusReport]) {
    let mut gauge = |name: &str, help: &str, value: fn(&StatusReport) -> Option<f64>| out.gauge(name, help, each(reports, value));
    gauge("lifeboat_server_up", "Whether the server answers.", |report| Some(truth(report.server.as_ref()?.error.is_none())));
    gauge("lifeboat_path_readable", "Whether the database file or directory can be looked at.", |report| {
        Some(truth(report.path.as_ref()?.error.is_none()))
    });
    gauge("lifeboat_server_clock_skew_seconds", "Its clock minus this host's.", |report| {
        report.server.as_ref()?.clock_skew_seconds
    });
    gauge("lifeboat_slot_active", "Whether a stream uses the slot of the source.", |report| {
        report.server.as_ref()?.slot.as_ref().map(|slot| truth(slot.active))
    });
    gauge("lifeboat_slot_lost", "Whether the server has removed log that the slot kept.", |report| {
        report.server.as_ref()?.slot.as_ref().map(|slot| truth(slot.lost))
    });
    gauge("lifeboat_slot_retained_bytes", "Bytes of log that the server keeps for the slot.", |report| {
        Some(report.server.as_ref()?.slot.as_ref()?.retained_bytes? as f64)
    });
    gauge("lifeboat_slot_safe_bytes", "Bytes that may be written before the slot is lost.", |report| {
        Some(report.server.as_ref()?.slot.as_ref()?.safe_bytes? as f64)
    });
    gauge("lifeboat_archiver_failing", "Whether the latest attempt of its archiver failed.", |report| {
        report.server.as_ref()?.archiver_failing.map(truth)
    });
    gauge("lifeboat_archiver_failures", "Failures of its archiver since its statistics were reset.", |report| {
        report.server.as_ref()?.archiver_failed_count.map(|count| count as f64)
    });
}
