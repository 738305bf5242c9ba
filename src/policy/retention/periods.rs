//! Daily, weekly, monthly and yearly places. Pure.
//!
//! The newest chain of a period takes its place; periods without a chain take none. The calendar is that of UTC.

use chrono::{Datelike, NaiveDate};

use super::{Chain, Retention};
use crate::base::Timestamp;
use crate::base::units::format_duration;

/// One kind of place: its name, how many there are, what a day's period is called, and whether the legal minimum holds for it.
struct Kind {
    name: &'static str,
    places: u32,
    period: fn(NaiveDate) -> String,
    is_legal: bool,
}

/// Every chain that has a place, and which. `chains` are newest first.
pub(super) fn places<'c, 'a>(retention: &Retention, chains: &'c [Chain<'a>], now: Timestamp) -> Vec<(&'c Chain<'a>, String)> {
    let day = |date: NaiveDate| date.to_string();
    let week = |date: NaiveDate| format!("{}-W{:02}", date.iso_week().year(), date.iso_week().week());
    let month = |date: NaiveDate| date.format("%Y-%m").to_string();
    let year = |date: NaiveDate| date.format("%Y").to_string();
    let kinds = [
        Kind { name: "daily", places: retention.daily, period: day, is_legal: false },
        Kind { name: "weekly", places: retention.weekly, period: week, is_legal: false },
        Kind { name: "monthly", places: retention.monthly, period: month, is_legal: true },
        Kind { name: "yearly", places: retention.yearly, period: year, is_legal: true },
    ];
    let mut found = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.places > 0) {
        for (index, (chain, period)) in newest_of_each(chains, kind.period).into_iter().enumerate() {
            let place = format!("{}, the newest of {period}", kind.name);
            let legal = retention.legal_minimum.filter(|least| kind.is_legal && now.since(chain.full.stop_time) < *least);
            match legal {
                _ if index < kind.places as usize => found.push((chain, format!("{place} ({} of {})", index + 1, kind.places))),
                Some(least) => {
                    found.push((chain, format!("{place}, younger than the legal minimum of {}", format_duration(least))))
                }
                None => {}
            }
        }
    }
    found
}

/// Of each period the newest chain, newest first.
fn newest_of_each<'c, 'a>(chains: &'c [Chain<'a>], period: fn(NaiveDate) -> String) -> Vec<(&'c Chain<'a>, String)> {
    let mut found: Vec<(&Chain<'a>, String)> = Vec::new();
    for chain in chains {
        let own = period(chain.full.stop_time.date_utc());
        if found.last().is_none_or(|(_, last)| *last != own) {
            found.push((chain, own));
        }
    }
    found
}
