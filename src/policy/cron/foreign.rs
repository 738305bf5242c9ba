//! Crontab lines as other programs read them: cron itself, and systemd's calendar expressions (systemd.time(7)).

use chrono_tz::Tz;

use super::{Cron, Fields};

impl Cron {
    /// The five fields as any cron reads them: no short forms, no ranges that go round the week.
    pub fn crontab(&self) -> String {
        let lines = self.parts();
        match &lines[..] {
            // Cron takes days that are in either field when both are restricted, as here.
            [[minutes, hours, days, months, _], [.., weekdays]] => format!("{minutes} {hours} {days} {months} {weekdays}"),
            [[minutes, hours, days, months, weekdays]] if days == "*" || weekdays == "*" => {
                format!("{minutes} {hours} {days} {months} {weekdays}")
            }
            // Days in both fields: only the written form says so, by the star that one of them begins with.
            _ => self.to_string(),
        }
    }

    /// Calendar expressions of systemd that together name the same times in `zone`.
    pub fn calendar_expressions(&self, zone: Tz) -> Vec<String> {
        let expression = |[minutes, hours, days, months, weekdays]: [String; 5]| {
            let weekdays = if weekdays == "*" { String::new() } else { format!("{weekdays} ") };
            format!("{weekdays}*-{months}-{days} {hours}:{minutes}:00 {zone}")
        };
        self.parts().into_iter().map(expression).collect()
    }

    /// Minutes, hours, days, months and days of the week of the lines that together say the same.
    fn parts(&self) -> Vec<[String; 5]> {
        let fields = Fields::parse(&self.text).expect("it was parsed before");
        let parts = |line: String| {
            let mut words = line.split(' ').skip(1).map(capitalised);
            std::array::from_fn(|_| words.next().expect("a line has five fields beside the seconds"))
        };
        fields.lines().into_iter().map(parts).collect()
    }
}

/// `MON,TUE` as `Mon,Tue`.
fn capitalised(words: &str) -> String {
    let one =
        |word: &str| word.chars().enumerate().map(|(at, c)| if at == 0 { c } else { c.to_ascii_lowercase() }).collect::<String>();
    words.split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_read_the_same_times() {
        for (line, crontab, calendar) in [
            ("30 2 * * 0", "30 2 * * Sun", &["Sun *-*-* 2:30:00 Europe/Zurich"][..]),
            ("*/30 * * * *", "0,30 * * * *", &["*-*-* *:0,30:00 Europe/Zurich"]),
            ("@monthly", "0 0 1 * *", &["*-*-1 0:0:00 Europe/Zurich"]),
            ("0 4 * 1,7 SAT-SUN", "0 4 * 1,7 Sun,Sat", &["Sun,Sat *-1,7-* 4:0:00 Europe/Zurich"]),
            ("0 4 13 * FRI", "0 4 13 * Fri", &["*-*-13 4:0:00 Europe/Zurich", "Fri *-*-* 4:0:00 Europe/Zurich"]),
        ] {
            let cron: Cron = line.parse().unwrap();
            assert_eq!(cron.crontab(), crontab, "{line}");
            assert_eq!(cron.calendar_expressions(Tz::Europe__Zurich), calendar, "{line}");
            assert_eq!(cron.crontab().parse::<Cron>().unwrap().crontab(), crontab, "{line}");
        }
        let both: Cron = "0 4 */2 * FRI".parse().unwrap();
        assert_eq!(both.crontab(), "0 4 */2 * FRI");
        assert_eq!(both.calendar_expressions(Tz::UTC).len(), 1);
    }
}
