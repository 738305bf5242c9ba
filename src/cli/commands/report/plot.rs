//! Figures over time, as SVG that stands in the page itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Error, Result, Timestamp};

/// Width and height of a plot in pixels; the page scales it.
const SIZE: (u32, u32) = (880, 260);
const INK: RGBColor = RGBColor(38, 50, 56);
const FAINT: RGBColor = RGBColor(207, 216, 220);
const OBJECTIVE: RGBColor = RGBColor(198, 40, 40);
/// Told apart by people who see colours differently, too.
const SERIES: [RGBColor; 3] = [RGBColor(0, 90, 181), RGBColor(217, 119, 6), RGBColor(110, 110, 110)];

/// What the figures of a plot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Bytes,
}

impl Unit {
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Seconds if value <= 0.0 => "0 s".to_owned(),
            Self::Seconds => format_duration(Duration::from_secs_f64(value.min(1e9))),
            Self::Bytes => format_bytes(value.max(0.0) as u64),
        }
    }
}

/// In which figures up to `top` are told with round numbers: how many of the unit make one, and what they are called.
fn scale(unit: Unit, top: f64) -> (f64, &'static str) {
    let scales: &[(f64, &str)] = match unit {
        Unit::Seconds => &[(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")],
        Unit::Bytes => &[(1099511627776.0, "TiB"), (1073741824.0, "GiB"), (1048576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
    };
    let fits = |(size, _): &&(f64, &str)| top >= 2.0 * size;
    scales.iter().find(fits).copied().unwrap_or(scales[scales.len() - 1])
}

/// Some figures, in order of time.
pub(super) struct Series {
    pub label: String,
    pub points: Vec<(Timestamp, f64)>,
    /// Whether the points are measurements of one thing that goes on between them.
    pub joined: bool,
}

/// What is drawn in one plot.
pub(super) struct Plot<'a> {
    /// What the figures are, for whoever does not see the plot.
    pub title: &'a str,
    pub unit: Unit,
    pub series: Vec<Series>,
    /// What must not be exceeded.
    pub objective: Option<f64>,
}

/// The plot as an `<svg>` element; none when there is nothing to draw.
///
/// # Errors
/// When it cannot be drawn: a bug.
pub(super) fn draw(plot: &Plot<'_>) -> Result<Option<String>> {
    let points: Vec<(Timestamp, f64)> = plot.series.iter().flat_map(|series| series.points.iter().copied()).collect();
    let (Some(first), Some(last)) = (points.iter().map(|(time, _)| *time).min(), points.iter().map(|(time, _)| *time).max())
    else {
        return Ok(None);
    };
    // Room at both ends, so that a single point is one too.
    let margin = (last.since(first) / 20).max(Duration::from_secs(60));
    let times = moment(first.minus(margin))..moment(last.plus(margin));
    let largest = points.iter().map(|(_, value)| *value).chain(plot.objective).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        paint(&area, plot, times, largest.max(1e-3) * 1.15)
            .map_err(|why| Error::failed(format!("cannot draw {}: {why}", plot.title)))?;
    }
    Ok(Some(scalable(&svg, plot.title)))
}

fn paint(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    plot: &Plot<'_>,
    times: std::ops::Range<DateTime<Utc>>,
    top: f64,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let format = match times.end - times.start {
        span if span > chrono::Duration::days(3) => "%Y-%m-%d",
        span if span > chrono::Duration::minutes(20) => "%m-%d %H:%M",
        _ => "%H:%M:%S",
    };
    let (one, called) = scale(plot.unit, top);
    let text = ("sans-serif", 13).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(26)
        .y_label_area_size(64)
        .build_cartesian_2d(RangedDateTime::from(times.clone()), 0.0..top / one)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(FAINT)
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|time| time.format(format).to_string())
        .y_label_formatter(&|value| format!("{} {called}", (value * 1000.0).round() / 1000.0))
        .label_style(text.clone())
        .draw()?;
    for (number, series) in plot.series.iter().enumerate() {
        let colour = SERIES[number % SERIES.len()];
        let points = || series.points.iter().map(|(time, value)| (moment(*time), value / one));
        if series.joined {
            chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
        }
        let dots = points().map(|point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(dots)?.label(&series.label).legend(move |(x, y)| Circle::new((x + 9, y), 4, colour.filled()));
    }
    if let Some(objective) = plot.objective {
        let line = DashedLineSeries::new(
            [(times.start, objective / one), (times.end, objective / one)],
            6,
            4,
            OBJECTIVE.stroke_width(2),
        );
        let dash = |(x, y): (i32, i32)| PathElement::new([(x, y), (x + 18, y)], OBJECTIVE.stroke_width(2));
        chart.draw_series(line)?.label(format!("objective {}", plot.unit.text(objective))).legend(dash);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(text)
        .draw()?;
    area.present()?;
    Ok(())
}

fn moment(time: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.unix_micros()).unwrap_or_default()
}

/// The drawing as wide as the page lets it be, named for whoever does not see it.
fn scalable(svg: &str, title: &str) -> String {
    let (width, height) = SIZE;
    let fixed = format!("<svg width=\"{width}\" height=\"{height}\"");
    svg.replacen(&fixed, &format!("<svg role=\"img\" aria-label=\"{title}\" class=\"plot\""), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::parse_compact("20261120T000000Z").unwrap().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn figures_are_drawn_with_their_objective_and_nothing_is_left_out_for_being_alone() {
        let plot = |points: Vec<(Timestamp, f64)>| Plot {
            title: "RTO",
            unit: Unit::Seconds,
            series: vec![Series { label: "measured".into(), points, joined: true }],
            objective: Some(1800.0),
        };
        assert_eq!(draw(&plot(Vec::new())).unwrap(), None);
        for points in [vec![(at(0), 60.0)], vec![(at(0), 60.0), (at(86_400), 0.0), (at(86_400 * 400), 2000.0)]] {
            let dots = points.len();
            let svg = draw(&plot(points)).unwrap().unwrap();
            // One more for the legend.
            assert_eq!(svg.matches("<circle").count(), dots + 1, "{svg}");
            assert!(svg.starts_with("<svg role=\"img\" aria-label=\"RTO\"") && svg.contains("objective 30 min"), "{svg}");
            assert!(!svg.contains("width=\"880\" height=\"260\" xmlns"), "{svg}");
        }
    }
}
