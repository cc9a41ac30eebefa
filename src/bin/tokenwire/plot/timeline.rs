//! Streams beside each other: a lane for each, from the moment it was asked for to its end. And one stream by itself, with the time
//! between its tokens below.

use std::time::Duration;

use plotters::prelude::*;

use super::{Area, FONT, axis, failed, place};
use crate::Failure;
use crate::bench::figures::human;
use crate::output::counted;
use crate::trace::{Lane, LaneOutcome};

const WIDTH: u32 = 1080;
/// Left and right of the lanes, for their names and ends.
const NAMES: u32 = 84;
const ENDS: u32 = 186;
/// Above the lanes, for title and legend, and below, for the seconds.
const HEAD: u32 = 78;
const FOOT: u32 = 46;
/// The same where another chart below says it.
const FOOT_BARE: u32 = 30;
const SECONDS: &str = "seconds since the start";
/// Left of what stands along an upright axis.
const EDGE: u32 = 10;
/// The chart of the time between tokens, below the lane of one stream.
const CHART: u32 = 340;

const TEXT: RGBColor = RGBColor(40, 40, 40);
const WAITS: RGBColor = RGBColor(222, 222, 222);
const STREAMS: RGBColor = RGBColor(205, 222, 243);
const TOKEN: RGBColor = RGBColor(31, 90, 160);
const FIRST: RGBColor = RGBColor(20, 140, 70);
const CALL: RGBColor = RGBColor(225, 130, 0);
const BREAK: RGBColor = RGBColor(250, 200, 200);
const FAULT: RGBColor = RGBColor(190, 30, 45);
const CANCELLED: RGBColor = RGBColor(120, 120, 120);

/// The signs of the legend.
#[derive(Clone, Copy)]
enum Sign {
    Waits,
    First,
    Tokens,
    Call,
    Break,
    Complete,
    Failed,
    Cancelled,
}

/// All streams of a run; `asked` is how many there were, of which the lanes may be the first only.
pub(crate) fn svg(lanes: &[Lane], asked: u64) -> Result<String, Failure> {
    let tokens: u64 = lanes.iter().map(|lane| lane.count).sum();
    let end = longest(lanes);
    let which = match lanes.len() as u64 {
        all if all >= asked => counted(all, "stream"),
        some => format!("{some} of {asked} streams"),
    };
    let title = format!("{which}, {} in {}", counted(tokens, "token"), human(end));
    // Thin where there are many, but a lane is never too thin to see.
    let height = match lanes.len() {
        0..=24 => 26,
        25..=60 => 16,
        _ => 8,
    };
    let rows = u32::try_from(lanes.len().max(1)).unwrap_or(u32::MAX) * height;
    draw((WIDTH, HEAD + rows + FOOT), |area| lanes_chart(area, lanes, &title, height, FOOT))
}

/// One stream, and the time between its tokens.
pub(crate) fn one(lane: &Lane) -> Result<String, Failure> {
    let first =
        lane.first().map(|first| format!(", the first after {}", human(first.saturating_sub(lane.asked))));
    let title = format!(
        "{} in {}{}",
        counted(lane.count, "token"),
        human(lane.end.saturating_sub(lane.asked)),
        first.unwrap_or_default()
    );
    let lanes = std::slice::from_ref(lane);
    let height = 44;
    if lane.tokens.len() < 2 {
        let size = (WIDTH, HEAD + height + FOOT);
        return draw(size, |area| lanes_chart(area, lanes, &title, height, FOOT));
    }
    let upper = HEAD + height + FOOT_BARE;
    draw((WIDTH, upper + CHART), |area| {
        let (above, below) = area.split_vertically(upper);
        lanes_chart(&above, lanes, &title, height, FOOT_BARE)?;
        gaps_chart(&below, lane)
    })
}

fn draw(size: (u32, u32), paint: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn longest(lanes: &[Lane]) -> Duration {
    lanes.iter().map(|lane| lane.end).max().unwrap_or_default()
}

/// The right end of an axis of seconds.
fn seconds(lanes: &[Lane]) -> f64 {
    longest(lanes).as_secs_f64().max(1e-3)
}

fn words(
    text: impl Into<String>,
    at: (i32, i32),
    colour: RGBColor,
    size: i32,
) -> Text<'static, (i32, i32), String> {
    Text::new(text.into(), at, (FONT, size).into_font().color(&colour))
}

// ---- lanes ----

fn lanes_chart(area: &Area<'_>, lanes: &[Lane], title: &str, height: u32, foot: u32) -> Result<(), Failure> {
    area.draw(&words(title, (NAMES as i32, 12), TEXT, 20)).map_err(failed)?;
    legend(area)?;
    let rows = lanes.len().max(1) as u32 * height;
    let chart_area = area.clone().shrink((0, HEAD), (WIDTH, rows + foot));
    let end = seconds(lanes);
    let mut chart = ChartBuilder::on(&chart_area)
        .set_label_area_size(LabelAreaPosition::Left, NAMES)
        .set_label_area_size(LabelAreaPosition::Bottom, foot)
        .margin_right(ENDS)
        .build_cartesian_2d(0.0..end, 0.0..1.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_desc(if foot == FOOT { SECONDS } else { "" })
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 15))
        .draw()
        .map_err(failed)?;
    let plotting = chart.plotting_area().strip_coord_spec();
    let width = f64::from(plotting.dim_in_pixel().0);
    let x = |at: Duration| NAMES as i32 + (at.as_secs_f64() / end * width).round() as i32;
    let every = if height >= 14 { 1 } else { 10 };
    for (n, lane) in lanes.iter().enumerate() {
        let row = Row { top: (HEAD + n as u32 * height) as i32, height: height as i32 };
        row.draw(area, lane, &x)?;
        if n % every == 0 {
            row.name(area, &lane.name)?;
        }
        if every == 1 {
            row.end(area, lane, x(lane.end))?;
        }
    }
    Ok(())
}

/// Where a lane is drawn.
struct Row {
    top: i32,
    height: i32,
}

impl Row {
    /// A part of the lane from left to right; `share` of its height is left free above and below.
    fn bar(&self, area: &Area<'_>, from: i32, to: i32, share: f64, colour: RGBColor) -> Result<(), Failure> {
        let free = (f64::from(self.height) * share).round() as i32;
        let corners = [(from, self.top + free), (to.max(from + 1), self.top + self.height - free)];
        area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)
    }

    fn draw(&self, area: &Area<'_>, lane: &Lane, x: &impl Fn(Duration) -> i32) -> Result<(), Failure> {
        let first = lane.first();
        self.bar(area, x(lane.asked), x(first.unwrap_or(lane.end)), 0.36, WAITS)?;
        if let Some(first) = first {
            self.bar(area, x(first), x(lane.end), 0.24, STREAMS)?;
        }
        for (from, to) in &lane.breaks {
            self.bar(area, x(*from), x(*to), 0.24, BREAK)?;
        }
        // Where tokens are closer than points, a block of them.
        let mut tokens = lane.tokens.iter().map(|tick| x(tick.at())).peekable();
        while let Some(from) = tokens.next() {
            let mut to = from + 1;
            while let Some(next) = tokens.next_if(|next| *next <= to) {
                to = next + 1;
            }
            self.bar(area, from, to, 0.24, TOKEN)?;
        }
        for (from, _) in &lane.breaks {
            self.bar(area, x(*from), x(*from) + 2, 0.08, FAULT)?;
        }
        if let Some(first) = first {
            self.bar(area, x(first), x(first) + 2, 0.08, FIRST)?;
        }
        for call in &lane.calls {
            diamond(area, (x(*call), self.top + self.height / 2), (self.height / 3).clamp(3, 7))?;
        }
        let sign = match lane.outcome {
            LaneOutcome::Complete(_) => Sign::Complete,
            LaneOutcome::Failed(_) => Sign::Failed,
            LaneOutcome::Cancelled => Sign::Cancelled,
        };
        end_sign(area, (x(lane.end), self.top + self.height / 2), (self.height * 3 / 10).clamp(2, 7), sign)
    }

    fn name(&self, area: &Area<'_>, name: &str) -> Result<(), Failure> {
        // Ids may be of any length; from their end, where they differ.
        let skip = name.chars().count().saturating_sub(9);
        let name: String = name.chars().skip(skip).collect();
        let name = if skip > 0 { format!("…{name}") } else { name };
        let right = NAMES as i32 - 10 - 8 * name.chars().count() as i32;
        area.draw(&words(name, (right.max(0), self.top + self.height / 2 - 7), TEXT, 14)).map_err(failed)
    }

    fn end(&self, area: &Area<'_>, lane: &Lane, x: i32) -> Result<(), Failure> {
        let (mut text, colour) = match &lane.outcome {
            LaneOutcome::Complete(finish) => (finish.clone().unwrap_or_else(|| "complete".to_owned()), TEXT),
            LaneOutcome::Failed(kind) => ((*kind).to_owned(), FAULT),
            LaneOutcome::Cancelled => ("cancelled".to_owned(), CANCELLED),
        };
        text = text.chars().take(16).collect();
        for (count, what) in [(u64::from(lane.retries), "retry"), (lane.breaks.len() as u64, "break")] {
            match (count, what) {
                (0, _) => {}
                (1, what) => text += &format!(", 1 {what}"),
                (count, "retry") => text += &format!(", {count} retries"),
                (count, what) => text += &format!(", {count} {what}s"),
            }
        }
        area.draw(&words(text, (x + 12, self.top + self.height / 2 - 7), colour, 14)).map_err(failed)
    }
}

fn diamond(area: &Area<'_>, (x, y): (i32, i32), size: i32) -> Result<(), Failure> {
    let corners = [(x - size, y), (x, y - size), (x + size, y), (x, y + size)];
    area.draw(&Polygon::new(corners, CALL.filled())).map_err(failed)
}

fn end_sign(area: &Area<'_>, (x, y): (i32, i32), size: i32, sign: Sign) -> Result<(), Failure> {
    let line = |from: (i32, i32), to: (i32, i32), colour: RGBColor| {
        area.draw(&PathElement::new([(x + from.0, y + from.1), (x + to.0, y + to.1)], colour.stroke_width(2)))
            .map_err(failed)
    };
    let cross = |colour| {
        line((-size, -size), (size, size), colour)?;
        line((-size, size), (size, -size), colour)
    };
    match sign {
        Sign::Failed => cross(FAULT),
        Sign::Cancelled => cross(CANCELLED),
        _ => line((0, -size), (0, size), TEXT),
    }
}

/// In a row below the title.
fn legend(area: &Area<'_>) -> Result<(), Failure> {
    let signs = [
        (Sign::Waits, "waits", 62),
        (Sign::First, "first token", 98),
        (Sign::Tokens, "tokens", 72),
        (Sign::Call, "tool call", 84),
        (Sign::Break, "broke off, until it went on", 200),
        (Sign::Complete, "complete", 88),
        (Sign::Failed, "failed", 66),
        (Sign::Cancelled, "cancelled", 80),
    ];
    let (mut x, y) = (NAMES as i32, 52);
    for (sign, name, width) in signs {
        let bar = |from: i32, to: i32, half: i32, colour: RGBColor| {
            let corners = [(x + from, y - half), (x + to, y + half)];
            area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)
        };
        match sign {
            Sign::Waits => bar(0, 16, 3, WAITS)?,
            Sign::First => bar(6, 8, 9, FIRST)?,
            Sign::Tokens => {
                bar(0, 16, 6, STREAMS)?;
                for at in [1, 5, 11, 14] {
                    bar(at, at + 1, 6, TOKEN)?;
                }
            }
            Sign::Call => diamond(area, (x + 8, y), 6)?,
            Sign::Break => {
                bar(0, 16, 6, BREAK)?;
                bar(0, 2, 9, FAULT)?;
            }
            sign => end_sign(area, (x + 8, y), 6, sign)?,
        }
        area.draw(&words(name, (x + 22, y - 7), TEXT, 14)).map_err(failed)?;
        x += width + 26;
    }
    Ok(())
}

// ---- one stream ----

/// Each token as a point: when it came, and how long after the one before.
fn gaps_chart(area: &Area<'_>, lane: &Lane) -> Result<(), Failure> {
    let pairs = lane.tokens.windows(2);
    let gaps: Vec<(f64, Duration)> =
        pairs.map(|pair| (pair[1].at().as_secs_f64(), pair[1].at().saturating_sub(pair[0].at()))).collect();
    let shortest = gaps.iter().map(|(_, gap)| *gap).min().unwrap_or_default();
    let longest = gaps.iter().map(|(_, gap)| *gap).max().unwrap_or_default();
    let mut chart = ChartBuilder::on(area)
        .margin_left(EDGE)
        .set_label_area_size(LabelAreaPosition::Left, NAMES - EDGE)
        .set_label_area_size(LabelAreaPosition::Bottom, FOOT)
        .margin_top(8)
        .margin_right(ENDS)
        .build_cartesian_2d(0.0..seconds(std::slice::from_ref(lane)), axis(shortest, longest))
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(SECONDS)
        .y_desc("time since the token before")
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 15))
        .draw()
        .map_err(failed)?;
    let points = gaps.iter().map(|(at, gap)| Circle::new((*at, place(*gap)), 2, TOKEN.filled()));
    chart.draw_series(points).map_err(failed)?;
    let mut sorted: Vec<Duration> = gaps.iter().map(|(_, gap)| *gap).collect();
    sorted.sort_unstable();
    let right = (WIDTH - ENDS + 12) as i32;
    for (n, (name, percent)) in [("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)].into_iter().enumerate()
    {
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        let Some(gap) = sorted.get(rank) else { continue };
        let text = format!("{name} {}", human(*gap));
        area.draw(&words(text, (right, 12 + 20 * n as i32), TEXT, 15)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::lane;

    #[test]
    fn every_stream_has_a_lane_with_its_name_and_end() {
        let complete = || LaneOutcome::Complete(Some("stop".to_owned()));
        let mut broken = lane(1, &[20, 21, 22, 90], 110, complete());
        broken.breaks = vec![(Duration::from_millis(30), Duration::from_millis(90))];
        broken.calls = vec![Duration::from_millis(90)];
        broken.retries = 2;
        broken.name = "<&\">".to_owned();
        let lanes = [
            lane(0, &[], 40, LaneOutcome::Failed("timeout")),
            broken,
            lane(2, &[25], 50, LaneOutcome::Cancelled),
            lane(3, &[12, 13], 80, LaneOutcome::Complete(None)),
        ];
        let text = svg(&lanes, 9).unwrap();
        for word in [
            "4 of 9 streams, 7 tokens in 110.0 ms",
            "timeout",
            "stop, 2 retries, 1 break",
            "cancelled",
            "complete",
            "&lt;&amp;&quot;&gt;",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(text.matches("<polygon").count(), 2, "a call, and that of the legend");
        for lanes in [0, 1, 100, 200] {
            let lanes: Vec<_> = (0..lanes).map(|n| lane(n, &[20, 30], 50, complete())).collect();
            let text = svg(&lanes, lanes.len() as u64).unwrap();
            assert!(text.trim_end().ends_with("</svg>"), "{}", lanes.len());
        }
    }

    #[test]
    fn tokens_closer_than_points_are_one_block() {
        let tokens: Vec<u64> = (20..10_020).map(|n| n / 10).collect();
        let text = svg(&[lane(0, &tokens, 1100, LaneOutcome::Cancelled)], 1).unwrap();
        assert!(text.len() < 20_000, "{}", text.len());
    }

    #[test]
    fn one_stream_has_the_times_between_its_tokens_below() {
        for (tokens, has_chart) in [(&[][..], false), (&[20], false), (&[20, 30, 60], true)] {
            let text = one(&lane(0, tokens, 70, LaneOutcome::Cancelled)).unwrap();
            assert_eq!(text.contains("p50 10.0 ms"), has_chart, "{tokens:?}");
        }
    }
}
