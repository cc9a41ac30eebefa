//! The picture of a load: the time between tokens, along the run and as a distribution. The only place that names plotters.

use std::fmt::Display;
use std::ops::Range;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::figures::{Figures, human};
use super::histogram::Histogram;
use crate::Failure;
use crate::output::counted;

const SIZE: (u32, u32) = (960, 800);
/// Of the upper chart.
const SPLIT: u32 = 430;
const FONT: &str = "sans-serif";
/// The percentiles that are drawn, with their names and colours: readable on white, and in grey.
const LINES: [(f64, &str, RGBColor); 3] = [
    (50.0, "p50", RGBColor(31, 90, 160)),
    (90.0, "p90", RGBColor(220, 130, 20)),
    (99.0, "p99", RGBColor(190, 30, 45)),
];
const MAX: RGBColor = RGBColor(150, 150, 150);
/// Buckets in a bar of the distribution, which is then 4.4 % wide.
const BAR_BUCKETS: usize = 8;
/// Where an axis of times begins at the lowest: a shorter time is drawn there.
const SHORTEST: Duration = Duration::from_micros(1);
/// Steps of an axis of times within a factor of ten, and how many of all there may be before only the tens are left.
const STEPS: [u64; 3] = [1, 2, 5];
const STEPS_MAX: usize = 13;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture as SVG; `None` if no token followed another.
pub(crate) fn svg(figures: &Figures, streams: usize) -> Result<Option<String>, Failure> {
    if figures.inter_token.total() == 0 {
        return Ok(None);
    }
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let title = format!(
            "Time between tokens: {} at a time, {} tokens in {}",
            counted(streams as u64, "stream"),
            figures.tokens,
            human(figures.elapsed)
        );
        let area = area.margin(10, 0, 0, 0).titled(&title, (FONT, 22)).map_err(failed)?;
        let (upper, lower) = area.split_vertically(SPLIT);
        along_the_run(&upper, figures)?;
        distribution(&lower, &figures.inter_token)?;
        area.present().map_err(failed)?;
    }
    Ok(Some(text))
}

fn along_the_run(area: &Area<'_>, figures: &Figures) -> Result<(), Failure> {
    let seconds = figures.timeline.end().as_secs_f64();
    // From the lowest that is drawn: single tokens that came together with the one before would leave most of it empty.
    let medians = figures.timeline.slots().filter_map(|(_, slot)| slot.percentile(LINES[0].0));
    let times = axis(medians.min().unwrap_or(SHORTEST), figures.inter_token.max());
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(34)
        .margin_right(44)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..seconds, times)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds since the start")
        .y_desc("time between tokens")
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 15))
        .draw()
        .map_err(failed)?;
    let points = |value: &dyn Fn(&Histogram) -> Option<Duration>| -> Vec<(f64, f64)> {
        let slots = figures.timeline.slots();
        slots.filter_map(|(at, slot)| Some((at.as_secs_f64(), place(value(slot)?)))).collect()
    };
    let dots = points(&|slot| Some(slot.max())).into_iter().map(|at| Circle::new(at, 2, MAX.filled()));
    chart.draw_series(dots).map_err(failed)?;
    for (percent, _, colour) in LINES {
        let line = LineSeries::new(points(&|slot| slot.percentile(percent)), colour.stroke_width(2));
        chart.draw_series(line).map_err(failed)?;
    }
    legend(area)
}

/// In a row above the chart, where it hides nothing.
fn legend(area: &Area<'_>) -> Result<(), Failure> {
    let (right, y) = (area.dim_in_pixel().0 as i32, 18);
    let text = |name, x, colour| Text::new(name, (x + 26, y - 7), (FONT, 15).into_font().color(&colour));
    for (n, (_, name, colour)) in LINES.into_iter().enumerate() {
        let x = right - 330 + 75 * n as i32;
        let line = PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2));
        area.draw(&line).and_then(|()| area.draw(&text(name, x, colour))).map_err(failed)?;
    }
    let x = right - 105;
    area.draw(&Circle::new((x + 14, y), 3, MAX.filled()))
        .and_then(|()| area.draw(&text("max", x, BLACK)))
        .map_err(failed)
}

fn distribution(area: &Area<'_>, times: &Histogram) -> Result<(), Failure> {
    let total = times.total() as f64;
    let share = |count: u64| count as f64 / total * 100.0;
    let highest = times.bars(BAR_BUCKETS).map(|(_, _, count)| share(count)).fold(0.0, f64::max);
    let shortest = times.bars(BAR_BUCKETS).next().map_or(SHORTEST, |(from, ..)| from);
    let axis = axis(shortest, times.max());
    let right = axis.range.start + (axis.range.end - axis.range.start) * 0.85;
    // Room for the names above the bars.
    let top = highest * 1.25;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(44)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(axis, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("time between tokens")
        .y_desc("% of tokens")
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 15))
        .draw()
        .map_err(failed)?;
    let bars = times.bars(BAR_BUCKETS).map(|(from, to, count)| {
        Rectangle::new([(place(from), 0.0), (place(to), share(count))], RGBColor(150, 180, 215).filled())
    });
    chart.draw_series(bars).map_err(failed)?;
    for (n, (percent, name, colour)) in LINES.into_iter().enumerate() {
        let Some(time) = times.percentile(percent) else { continue };
        let line = PathElement::new([(place(time), 0.0), (place(time), top)], colour.stroke_width(2));
        chart.draw_series([line]).map_err(failed)?;
        // One below the other: the lines may stand close together.
        let at = (place(time), top * (0.98 - 0.08 * n as f64));
        let text = format!("{name} {}", human(time));
        let beside = if place(time) < right { 6 } else { -96 };
        let text = EmptyElement::at(at) + Text::new(text, (beside, 0), (FONT, 15).into_font().color(&colour));
        chart.draw_series([text]).map_err(failed)?;
    }
    Ok(())
}

// ---- the axis of times ----

/// plotters' own logarithmic axis has no step between 100 and 1,000. Places on this one are logarithms.
struct Times {
    range: Range<f64>,
    steps: Vec<f64>,
}

fn place(time: Duration) -> f64 {
    time.max(SHORTEST).as_secs_f64().log10()
}

/// From the step below the shortest time to the one above the longest.
fn axis(shortest: Duration, longest: Duration) -> Times {
    let micros = (0..12).flat_map(|tens| STEPS.map(|step| step * 10_u64.pow(tens)));
    let all: Vec<f64> = micros.map(|micros| place(Duration::from_micros(micros))).collect();
    let below = all.iter().rposition(|step| *step <= place(shortest)).unwrap_or(0);
    let above = all.iter().position(|step| *step > place(longest)).unwrap_or(all.len() - 1);
    let mut steps = all[below..=above].to_vec();
    if steps.len() > STEPS_MAX {
        steps.retain(|step| (step - step.round()).abs() < 1e-6);
    }
    if let [low, high] = steps[..] {
        // Nothing between them: from 1 to 2 by 0.2, from 2 to 5 by 0.5, from 5 to 10 by 1.
        let (low, high) = (10_f64.powf(low), 10_f64.powf(high));
        let parts = if high / low > 2.25 { 6 } else { 5 };
        steps = (0..=parts).map(|n| (low + (high - low) * f64::from(n) / f64::from(parts)).log10()).collect();
    }
    Times { range: all[below]..all[above], steps }
}

impl Ranged for Times {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.steps.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Times {
    fn format(place: &f64) -> String {
        let seconds = 10_f64.powf(*place);
        // Two decimals at most, and none that is not needed.
        let short = |value: f64| (value * 100.0).round() / 100.0;
        match seconds {
            ..0.999e-3 => format!("{} us", short(seconds * 1e6)),
            ..0.999 => format!("{} ms", short(seconds * 1e3)),
            _ => format!("{} s", short(seconds)),
        }
    }
}

fn failed(error: impl Display) -> Failure {
    Failure::Machine(format!("cannot draw the plot: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_some_steps_around_its_times_and_not_too_many() {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let cases: [(f64, f64, &[&str]); 5] = [
            (11.0, 480.0, &["10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms"]),
            (130.0, 164.0, &["100 ms", "120 ms", "140 ms", "160 ms", "180 ms", "200 ms"]),
            (2.1, 4.9, &["2 ms", "2.5 ms", "3 ms", "3.5 ms", "4 ms", "4.5 ms", "5 ms"]),
            (0.0, 480.0, &["1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms"]),
            (700.0, 1500.0, &["500 ms", "1 s", "2 s"]),
        ];
        for (shortest, longest, expected) in cases {
            let axis = axis(ms(shortest), ms(longest));
            let steps: Vec<String> = axis.steps.iter().map(Times::format).collect();
            assert_eq!(steps, expected);
            assert!(axis.range.start <= place(ms(shortest)) && place(ms(longest)) <= axis.range.end);
        }
    }
}
