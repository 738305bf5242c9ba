//! Sizes and durations as people read and write them.

use std::time::Duration;

/// Bytes with a binary unit and three significant digits: `0 B`, `16.0 MiB`, `1.25 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { 1 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A duration with its two largest units: `0.42 s`, `7.3 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.95 {
        return if seconds < 0.995 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") };
    }
    let whole = seconds.round() as u64;
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => pair(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => pair(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => pair(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// Parses `30s`, `15m`, `15min`, `4h`, `1d`, `2w`, `7y`, `500ms`, also in sequence: `1h30m`, `1 h 30 min`.
///
/// A year has 366 days, so that a minimum that the law sets in years is never short.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("'{text}' is not a duration; write 30s, 15m, 4h, 1d, 2w or 7y");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(explain());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| explain())?;
        rest = rest[digits..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" | "sec" | "second" | "seconds" => 1000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            "y" | "year" | "years" => 366 * 86_400_000,
            _ => return Err(explain()),
        };
        rest = rest[letters..].trim_start();
        let part = Duration::from_millis(number.checked_mul(millis).ok_or_else(explain)?);
        total = total.checked_add(part).ok_or_else(explain)?;
    }
    Ok(total)
}

/// Parses `50MiB`, `512 KiB`, `1.5GiB`, `100MB`, `4096B`: a whole number of bytes, with a unit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let explain = || format!("'{text}' is not a size; write 512KiB, 50MiB or 1GiB");
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let number: f64 = trimmed[..digits].parse().map_err(|_| explain())?;
    let unit: u64 = match trimmed[digits..].trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(explain()),
    };
    let bytes = number * unit as f64;
    // Beyond this not every whole number has a place of its own.
    if bytes < (1u64 << 53) as f64 { Ok(bytes.round() as u64) } else { Err(explain()) }
}

/// Parses bytes a second: what [`parse_bytes`] reads, with or without `/s`; 1 KiB at least.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text.trim().trim_end_matches("/s")) {
        Ok(bytes) if bytes >= 1024 => Ok(bytes),
        _ => Err(format!("'{text}' is not a rate in bytes a second; write 512KiB, 50MiB or 1GiB, 1KiB at least")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (16 << 20, "16.0 MiB"),
            (1_342_177_280, "1.25 GiB"),
            ((1 << 30) - 1, "1.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(format_bytes(bytes), shown);
        }
    }

    #[test]
    fn durations_are_shown_with_two_units() {
        for (millis, shown) in [
            (420, "0.42 s"),
            (7_300, "7.3 s"),
            (42_000, "42 s"),
            (60_000, "1 min"),
            (200_000, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
            (356_400_000, "4 d 3 h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn sizes_and_rates_are_read_with_units_only() {
        for (text, bytes) in [
            ("50MiB", 50 << 20),
            (" 512 KiB ", 512 << 10),
            ("1.5GiB", 3 << 29),
            ("100MB", 100_000_000),
            ("0B", 0),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "50", "MiB", "-1MiB", "1.2.3MiB", "5 parsecs", "9000000TiB", "50 mib"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_rate("50MiB/s"), Ok(50 << 20));
        assert_eq!(parse_rate("1KiB"), Ok(1024));
        for bad in ["0B", "1000B", "50", "50MiB/h", "fast"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_with_units_only() {
        assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_duration("15 min").unwrap(), Duration::from_secs(900));
        assert_eq!(parse_duration("7y").unwrap(), Duration::from_secs(7 * 366 * 86_400));
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        for bad in ["", "15", "m", "-5m", "5 parsecs", "99999999999999999999s", "18446744073709551615w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
