//! The picture of a load: the time between tokens, along the run and as a distribution.

use std::time::Duration;

use plotters::prelude::*;

use super::{Area, FONT, SHORTEST, axis, failed, place};
use crate::Failure;
use crate::bench::figures::{Figures, human};
use crate::bench::histogram::Histogram;
use crate::output::counted;

const SIZE: (u32, u32) = (960, 800);
/// Of the upper chart.
const SPLIT: u32 = 430;
/// The percentiles that are drawn, with their names and colours: readable on white, and in grey.
const LINES: [(f64, &str, RGBColor); 3] = [
    (50.0, "p50", RGBColor(31, 90, 160)),
    (90.0, "p90", RGBColor(220, 130, 20)),
    (99.0, "p99", RGBColor(190, 30, 45)),
];
const MAX: RGBColor = RGBColor(150, 150, 150);
/// Buckets in a bar of the distribution, which is then 4.4 % wide.
const BAR_BUCKETS: usize = 8;
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
    let lines = || LINES.into_iter().filter_map(|line| Some((line, times.percentile(line.0)?)));
    for ((_, _, colour), time) in lines() {
        let line = PathElement::new([(place(time), 0.0), (place(time), top)], colour.stroke_width(2));
        chart.draw_series([line]).map_err(failed)?;
    }
    for (n, ((_, name, colour), time)) in lines().enumerate() {
        // One below the other, and over the lines: those may stand close together.
        let at = (place(time), top * (0.98 - 0.08 * n as f64));
        let text = format!("{name} {}", human(time));
        let beside = if place(time) < right { 6 } else { -96 };
        let back = Rectangle::new([(beside - 2, -2), (beside + 8 * text.len() as i32, 15)], WHITE.filled());
        let text = Text::new(text, (beside, 0), (FONT, 15).into_font().color(&colour));
        chart.draw_series([EmptyElement::at(at) + back + text]).map_err(failed)?;
    }
    Ok(())
}
