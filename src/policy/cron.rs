//! Five-field crontab lines.

use std::fmt;
use std::str::FromStr;

/// A five-field crontab line: minute, hour, day of month, month, day of week (0 and 7 are Sunday).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron(String);

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.split_whitespace().count() == 5 { Ok(Self(text.to_owned())) } else { Err(format!("'{text}' is not five fields")) }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
