//! Does a query's answer hold? Pure. What is said of it goes into evidence that anyone may read: numbers and times, no text.

use chrono::DateTime;

use crate::base::Timestamp;
use crate::base::units::format_duration;
use crate::policy::Expect;

/// Rows as text, `None` for NULL.
pub(super) type Rows = [Vec<Option<String>>];

/// What was found when `rows` are as expected, else what is wrong; `moment` is the one that was restored.
pub(super) fn judge(expect: &Expect, rows: &Rows, moment: Timestamp) -> Result<String, String> {
    match expect {
        Expect::NoRows if rows.is_empty() => Ok("no row".to_owned()),
        Expect::NoRows => Err(format!("{} rows, none was expected", rows.len())),
        Expect::Rows if rows.is_empty() => Err("no row, at least one was expected".to_owned()),
        Expect::Rows => Ok(format!("{} rows", rows.len())),
        Expect::Value(wanted) => {
            let found = single(rows)?;
            if found == wanted { Ok(format!("answers {wanted}")) } else { Err(format!("answers {}, not {wanted}", shown(found))) }
        }
        Expect::AtLeast(least) => {
            let found = single(rows)?;
            let number: f64 = found.parse().map_err(|_| "its answer is no number".to_owned())?;
            if number >= *least as f64 {
                Ok(format!("answers {found}"))
            } else {
                Err(format!("answers {found}, less than {least}"))
            }
        }
        Expect::FreshWithin(limit) => {
            let found = single(rows)?;
            let at = timestamp(found).ok_or("its answer is no timestamp with time zone")?;
            if at > moment {
                return Err(format!("answers {}, which is after the moment that was restored ({})", at.human(), moment.human()));
            }
            let age = moment.since(at);
            let said = format!("{} is {} before the moment that was restored", at.human(), format_duration(age));
            if age <= *limit { Ok(said) } else { Err(format!("{said}, more than {}", format_duration(*limit))) }
        }
    }
}

fn single(rows: &Rows) -> Result<&str, String> {
    match rows {
        [row] if row.len() == 1 => row[0].as_deref().ok_or_else(|| "answers NULL".to_owned()),
        [row] => Err(format!("answers {} columns, one was expected", row.len())),
        rows => Err(format!("answers {} rows, one was expected", rows.len())),
    }
}

/// A number as it is; of a text, that it is one.
fn shown(found: &str) -> &str {
    if found.parse::<f64>().is_ok() { found } else { "another text" }
}

/// As PostgreSQL writes a `timestamptz` with `datestyle = ISO`: `2026-11-20 21:40:02.5+00`.
fn timestamp(text: &str) -> Option<Timestamp> {
    let parsed = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok()?;
    Timestamp::from_unix_micros(parsed.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rows(cells: &[&[Option<&str>]]) -> Vec<Vec<Option<String>>> {
        cells.iter().map(|row| row.iter().map(|cell| cell.map(str::to_owned)).collect()).collect()
    }

    #[test]
    fn an_answer_holds_or_the_reason_is_told_without_text_of_the_database() {
        let moment = Timestamp::parse_human("2026-11-20T21:40:00Z", Timestamp::now()).unwrap();
        let fresh = Expect::FreshWithin(Duration::from_secs(600));
        let one = |text| rows(&[&[Some(text)]]);
        for (expect, rows, holds) in [
            (Expect::Value("0".into()), one("0"), true),
            (Expect::Value("0".into()), one("5"), false),
            (Expect::Value("0".into()), rows(&[]), false),
            (Expect::Value("0".into()), rows(&[&[None]]), false),
            (Expect::Value("0".into()), rows(&[&[Some("0"), Some("0")]]), false),
            (Expect::AtLeast(3), one("3"), true),
            (Expect::AtLeast(3), one("2.5"), false),
            (Expect::AtLeast(3), one("many"), false),
            (Expect::NoRows, rows(&[]), true),
            (Expect::NoRows, one("1"), false),
            (Expect::Rows, one("1"), true),
            (Expect::Rows, rows(&[]), false),
            (fresh.clone(), one("2026-11-20 21:31:00.25+00"), true),
            (fresh.clone(), one("2026-11-20 21:29:59+00"), false),
            (fresh.clone(), one("2026-11-20 21:40:01+00"), false),
            (fresh.clone(), one("2026-11-20 21:39:00"), false),
        ] {
            let judged = judge(&expect, &rows, moment);
            assert_eq!(judged.is_ok(), holds, "{expect:?} {rows:?}: {judged:?}");
        }
        let told = judge(&Expect::Value("ok".into()), &one("Jane Doe, 12 High St"), moment).unwrap_err();
        assert!(!told.contains("Jane"), "{told}");
    }
}
