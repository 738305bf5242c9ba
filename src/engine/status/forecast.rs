//! When the growing database breaks its RTO. Pure, and silent unless growth is certain and the day is near enough to matter.

use crate::base::Timestamp;

/// Points below which nothing is said.
const MIN_POINTS: usize = 4;
/// Days that the points must span.
const MIN_DAYS: f64 = 2.0;
/// How many of its standard errors the growth must be.
const SIGNIFICANT: f64 = 4.0;
/// What lies further ahead is not said.
const HORIZON_DAYS: f64 = 730.0;
const DAY_MICROS: f64 = 86_400e6;

/// A size that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// When.
    pub time: Timestamp,
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
}

/// How a database grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Bytes a day.
    pub bytes_per_day: f64,
    /// Bytes now, by the line.
    pub bytes_now: f64,
}

/// The growth that `sizes` tell; none when it is not significant, or the database shrinks.
pub fn growth(sizes: &[Size], now: Timestamp) -> Option<Growth> {
    let days = |time: Timestamp| (time.unix_micros() - now.unix_micros()) as f64 / DAY_MICROS;
    let points: Vec<(f64, f64)> = sizes.iter().map(|size| (days(size.time), size.raw_bytes as f64)).collect();
    let count = points.len() as f64;
    let span = points.iter().map(|point| point.0).fold(f64::NEG_INFINITY, f64::max)
        - points.iter().map(|point| point.0).fold(f64::INFINITY, f64::min);
    if points.len() < MIN_POINTS || span < MIN_DAYS {
        return None;
    }
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / variance;
    let residual: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let error = (residual / (count - 2.0) / variance).sqrt();
    let is_significant = slope > 0.0 && slope > SIGNIFICANT * error;
    is_significant.then_some(Growth { bytes_per_day: slope, bytes_now: mean_y - slope * mean_x })
}

/// When a recovery that takes `rto_seconds(bytes)`, which never falls, takes longer than `objective_seconds`; none when it
/// does already, or not within two years.
pub fn breach(growth: Growth, now: Timestamp, objective_seconds: f64, rto_seconds: impl Fn(u64) -> f64) -> Option<Timestamp> {
    let breaks = |days: f64| rto_seconds((growth.bytes_now + growth.bytes_per_day * days).max(0.0) as u64) > objective_seconds;
    if breaks(0.0) || !breaks(HORIZON_DAYS) {
        return None;
    }
    let (mut holds, mut broken) = (0.0, HORIZON_DAYS);
    while broken - holds > 0.5 {
        let middle = (holds + broken) / 2.0;
        if breaks(middle) { broken = middle } else { holds = middle }
    }
    Timestamp::from_unix_micros(now.unix_micros() + (broken * DAY_MICROS) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn now() -> Timestamp {
        Timestamp::parse_compact("20261120T000000Z").unwrap()
    }

    /// Sizes of the last `days` days, `gib(day)` each.
    fn sizes(days: u32, gib: impl Fn(f64) -> f64) -> Vec<Size> {
        let at = |day: u32| Timestamp::from_unix_micros(now().unix_micros() - i64::from(days - day) * DAY_MICROS as i64).unwrap();
        (0..=days).map(|day| Size { time: at(day), raw_bytes: (gib(f64::from(day)) * GIB) as u64 }).collect()
    }

    #[test]
    fn steady_growth_meets_the_objective_on_a_day() {
        // 100 GiB, 1 GiB a day more; 10 s a GiB: 30 min are 180 GiB, in 80 days.
        let growth = growth(&sizes(30, |day| 70.0 + day), now()).unwrap();
        assert!((growth.bytes_per_day / GIB - 1.0).abs() < 1e-6, "{growth:?}");
        let rto = |bytes: u64| bytes as f64 / GIB * 10.0;
        let day = breach(growth, now(), 1800.0, rto).unwrap();
        let in_days = day.since(now()).as_secs_f64() / 86_400.0;
        assert!((in_days - 80.0).abs() < 1.0, "{in_days}");
        assert_eq!(breach(growth, now(), 900.0, rto), None, "it is broken already");
        assert_eq!(breach(growth, now(), 1e6, rto), None, "too far ahead");
        assert_eq!(breach(growth, now(), 1800.0, |_| 60.0), None, "size does not matter");
    }

    #[test]
    fn nothing_is_said_of_growth_that_is_not_certain() {
        assert_eq!(growth(&sizes(30, |_| 70.0), now()), None, "it does not grow");
        assert_eq!(growth(&sizes(30, |day| 70.0 - day), now()), None, "it shrinks");
        assert_eq!(
            growth(&sizes(30, |day| if (day as u32).is_multiple_of(2) { 70.0 } else { 90.0 } + 0.05 * day), now()),
            None,
            "it swings"
        );
        assert_eq!(growth(&sizes(2, |day| 70.0 + day), now()), None, "too few");
        assert_eq!(growth(&[], now()), None);
        let noisy = sizes(30, |day| 70.0 + day + (day * 1.7).sin());
        assert!(growth(&noisy, now()).is_some());
    }
}
