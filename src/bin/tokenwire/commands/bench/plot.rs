//! The picture of a load: the time between tokens as a distribution.

use super::figures::Figures;
use crate::output::plot::{Axis, LEFT, Svg, TEXT, TITLE};
use crate::output::text::{counted, human};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
/// The percentiles that are drawn, with their names and colours: readable on white, and in grey.
const LINES: [(f64, &str, &str); 4] =
    [(50.0, "p50", "#1f5aa0"), (90.0, "p90", "#dc8214"), (99.0, "p99", "#be1e2d"), (100.0, "max", "#787878")];
const CURVE: &str = "#5a82b4";

/// Returns the picture as SVG; `None` if no stream received two tokens.
pub(crate) fn svg(figures: &Figures, streams: usize) -> Option<String> {
    let times = &figures.inter_token;
    let (shortest, _) = times.buckets().next()?;
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let title = format!(
        "Time between tokens: {} at a time, {} tokens in {}",
        counted(streams as u64, "stream"),
        figures.tokens,
        human(figures.elapsed)
    );
    let (x, y) = (56.0..820.0, 84.0..424.0);
    svg.text((x.start, 24.0), TITLE, TEXT, &title);
    let across = Axis::times(x.clone(), shortest.start, times.max());
    let up = Axis::numbers(y.end..y.start, 100.0);
    across.draw_across(&mut svg, y.clone(), "time since the token before");
    up.draw_up(&mut svg, x.clone(), "% of tokens that came within this time");

    let mut points = Vec::new();
    let mut below = 0.0;
    for (bucket, count) in times.buckets() {
        points.push((across.at(bucket.start.as_secs_f64()), up.at(below)));
        below += f64::from(count) / times.total() as f64 * 100.0;
        points.push((across.at(bucket.end.min(times.max()).as_secs_f64()), up.at(below)));
    }
    svg.line(&points, CURVE, 3);
    // The names are in a column at the right: the lines may be close together.
    let mut at = y.start + 6.0;
    for (percent, name, colour) in LINES {
        let time = times.percentile(percent)?;
        let place = across.at(time.as_secs_f64());
        svg.line(&[(place, y.start), (place, y.end)], colour, 2);
        svg.text((x.end + 14.0, at), LEFT, colour, &format!("{name} {}", human(time)));
        at += 20.0;
    }
    Some(svg.finish())
}
