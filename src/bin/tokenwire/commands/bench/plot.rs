//! The picture of a load: the time between tokens over the run, and its distribution.

use std::collections::BTreeMap;
use std::time::Duration;

use tokenwire::Histogram;

use super::figures::Figures;
use crate::output::plot::{Axis, Chart, HALO, LEFT, RIGHT, SHORTEST, Svg, TEXT, TITLE, place};
use crate::output::text::{counted, human};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 800.0;
/// The left and right edges of both charts.
const LEFT_EDGE: f64 = 88.0;
const RIGHT_EDGE: f64 = 916.0;
/// The percentiles in the picture, with names and colours that are readable on white and in grey.
const LINES: [(f64, &str, &str); 3] =
    [(50.0, "p50", "#1f5aa0"), (90.0, "p90", "#dc8214"), (99.0, "p99", "#be1e2d")];
const MAX: &str = "#969696";
const BAR: &str = "#96b4d7";
/// The number of bars for each factor of ten. One bar covers 4.7 %.
const BARS: f64 = 50.0;

/// Returns the picture as SVG; `None` if no stream received two tokens.
pub(crate) fn svg(figures: &Figures, streams: usize) -> Option<String> {
    if figures.inter_token.total() == 0 {
        return None;
    }
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let title = format!(
        "Time between tokens: {} at a time, {} tokens in {}",
        counted(streams as u64, "stream"),
        figures.tokens,
        human(figures.elapsed)
    );
    svg.text((LEFT_EDGE, 24.0), TITLE, TEXT, &title);
    legend(&mut svg);
    along_the_run(&mut svg, figures);
    distribution(&mut svg, &figures.inter_token);
    Some(svg.finish())
}

/// Draws the legend in a row above the chart, where it covers nothing.
fn legend(svg: &mut Svg) {
    let (mut x, y) = (620.0, 56.0);
    for (_, name, colour) in LINES {
        svg.line(&[(x, y), (x + 20.0, y)], colour, 2);
        svg.text((x + 26.0, y), LEFT, colour, name);
        x += 75.0;
    }
    svg.dot((x + 14.0, y), 3, MAX);
    svg.text((x + 26.0, y), LEFT, TEXT, "max");
}

fn along_the_run(svg: &mut Svg, figures: &Figures) {
    let slots = || figures.over_time.slots();
    // The axis starts at the lowest median. Single tokens that arrived in one read would leave most
    // of the chart empty.
    let medians = slots().filter_map(|(_, slot)| slot.percentile(LINES[0].0));
    let lowest = medians.min().unwrap_or(SHORTEST);
    let chart = Chart {
        x: LEFT_EDGE..RIGHT_EDGE,
        y: 74.0..400.0,
        across: Axis::numbers(figures.over_time.end().as_secs_f64(), "seconds since the start"),
        up: Axis::times(lowest, figures.inter_token.max(), "time between tokens"),
    };
    chart.draw_axes(svg);
    let at = |middle: Duration, time: Duration| chart.at(middle.as_secs_f64(), place(time));
    for (middle, slot) in slots() {
        svg.dot(at(middle, slot.max()), 2, MAX);
    }
    for (percent, _, colour) in LINES {
        let points = slots().filter_map(|(middle, slot)| Some(at(middle, slot.percentile(percent)?)));
        svg.line(&points.collect::<Vec<_>>(), colour, 2);
    }
}

fn distribution(svg: &mut Svg, times: &Histogram) {
    let bars = bars(times);
    let shortest = times.buckets().next().map_or(SHORTEST, |(bucket, _)| bucket.start);
    // This leaves room for the names above the bars.
    let top = bars.values().copied().fold(0.0, f64::max) * 1.25;
    let chart = Chart {
        x: LEFT_EDGE..RIGHT_EDGE,
        y: 462.0..744.0,
        across: Axis::times(shortest, times.max(), "time between tokens"),
        up: Axis::numbers(top, "% of tokens"),
    };
    chart.draw_axes(svg);
    for (bar, share) in &bars {
        let (left, upper) = chart.at(*bar as f64 / BARS, *share);
        let (right, lower) = chart.at((*bar + 1) as f64 / BARS, 0.0);
        svg.rect(left..right, upper..lower, BAR);
    }
    let lines = || LINES.into_iter().filter_map(|line| Some((line, times.percentile(line.0)?)));
    for ((_, _, colour), time) in lines() {
        svg.line(&[chart.at(place(time), top), chart.at(place(time), 0.0)], colour, 2);
    }
    // The lines may be close together, so the names are drawn one below the other, over the lines.
    let mut y = 472.0;
    for ((_, name, colour), time) in lines() {
        let (x, _) = chart.at(place(time), top);
        let (side, x) = if x < WIDTH * 0.8 { (LEFT, x + 6.0) } else { (RIGHT, x - 6.0) };
        svg.text((x, y), &format!("{side} {HALO}"), colour, &format!("{name} {}", human(time)));
        y += 20.0;
    }
}

/// Returns the percentage of times in each bar, by the bar's number on the logarithmic axis.
///
/// A bucket on the border of two bars is divided between them.
fn bars(times: &Histogram) -> BTreeMap<i64, f64> {
    let mut bars = BTreeMap::new();
    for (bucket, count) in times.buckets() {
        let (start, end) = (place(bucket.start) * BARS, place(bucket.end) * BARS);
        let share = f64::from(count) / times.total() as f64 * 100.0;
        // A bucket is narrower than a bar. Both ends of a bucket below the shortest time are at the
        // same place.
        let first = if end > start { ((start.floor() + 1.0 - start) / (end - start)).min(1.0) } else { 1.0 };
        *bars.entry(start.floor() as i64).or_default() += share * first;
        if first < 1.0 {
            *bars.entry(start.floor() as i64 + 1).or_default() += share * (1.0 - first);
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_have_all_times_and_no_gaps() {
        let mut times = Histogram::new(7);
        let place = |n: i32| Duration::from_secs_f64(10_f64.powf(-3.0 + f64::from(n) / 100_000.0));
        (0..100_000).for_each(|n| times.add(place(n), 1));
        let bars = bars(&times);
        assert!((bars.values().sum::<f64>() - 100.0).abs() < 1e-6, "{bars:?}");
        // Each bar has a fiftieth, except the bars at the ends.
        let inner = bars.values().skip(1).take(bars.len() - 3);
        assert!(inner.clone().all(|share| (1.9..2.1).contains(share)), "{bars:?}");
    }
}
