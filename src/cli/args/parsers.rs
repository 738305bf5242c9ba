//! Parsers of single values; each says what a good value looks like.

use std::path::PathBuf;
use std::time::Duration;

use super::drill::DrillMoment;
use super::target::RestoreMoment;
use crate::base::units::parse_duration;
use crate::base::{TimelineId, Timestamp};
use crate::engine::directory::catalogue::Which;

/// `latest`, or what [`Timestamp::parse_human`] reads.
pub(super) fn moment(text: &str) -> Result<RestoreMoment, String> {
    if text.trim().eq_ignore_ascii_case("latest") {
        return Ok(RestoreMoment::Latest);
    }
    time(text).map(RestoreMoment::At)
}

/// What [`Timestamp::parse_human`] reads.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_human(text, Timestamp::now())
}

/// `latest`, the id of a backup, or what [`Timestamp::parse_human`] reads.
pub(super) fn which(text: &str) -> Result<Which, String> {
    if text.trim().eq_ignore_ascii_case("latest") {
        return Ok(Which::Latest);
    }
    match text.parse() {
        Ok(id) => Ok(Which::Backup(id)),
        Err(_) => time(text).map(Which::Time).map_err(|why| format!("{why}, the id of a backup, or latest")),
    }
}

/// `random`, or what [`moment`] reads.
pub(super) fn drill_moment(text: &str) -> Result<DrillMoment, String> {
    match text.trim().eq_ignore_ascii_case("random") {
        true => Ok(DrillMoment::Random),
        false => moment(text).map(DrillMoment::As),
    }
}

/// A length of time: `24h`, `15m`, `0s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// How often a stream is stored: `2s`, `500ms`.
pub(super) fn flush(text: &str) -> Result<Duration, String> {
    crate::cli::config::flush(text)
}

/// A length of time of one second or more.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    if length >= Duration::from_secs(1) { Ok(length) } else { Err("must be one second or more".into()) }
}

/// Bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    crate::base::units::parse_rate(text)
}

/// A timeline in decimal, from 1, as `pg_controldata` shows it.
pub(super) fn timeline(text: &str) -> Result<TimelineId, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(TimelineId(number)),
        _ => Err("write the timeline as a decimal number from 1, such as 3".into()),
    }
}

/// `OLD=NEW`, both absolute.
pub(super) fn tablespace(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (old, new) = text.split_once('=').ok_or("write OLD=NEW, two directories")?;
    let (old, new) = (PathBuf::from(old), PathBuf::from(new));
    if old.is_absolute() && new.is_absolute() { Ok((old, new)) } else { Err("both directories must be absolute paths".into()) }
}

/// The 24 upper-case hex digits of a segment's name, or a timeline's eight and `.history`.
pub(super) fn log_file(text: &str) -> Result<String, String> {
    let (digits, wanted) = text.strip_suffix(".history").map_or((text, 24), |digits| (digits, 8));
    let hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    if hex && digits.len() == wanted {
        Ok(text.to_owned())
    } else {
        Err("write a segment's name (24 hex digits, 00000001000000A3000000F1) or a history file's (00000002.history)".into())
    }
}

/// The 16 lower-case hex digits in a log object's name.
pub(super) fn short_digest(text: &str) -> Result<String, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if digits && text.len() == 16 { Ok(text.to_owned()) } else { Err("a digest has 16 lower-case hex digits".into()) }
}
