//! Pictures of streams. A run has a lane for each stream, from its request to its end. One stream
//! has its lane above a chart of the times between its tokens.

use std::time::Duration;

use super::{Axis, Chart, LEFT, RIGHT, Svg, TEXT, TITLE, place};
use crate::output::text::{counted, human, more};
use crate::output::trace::{Lane, LaneEnd};

const WIDTH: f64 = 1080.0;
/// The widths on the left of the lanes, for names, and on the right, for ends.
const NAMES: f64 = 84.0;
const ENDS: f64 = 186.0;
/// The heights above the lanes, for the title and the legend, and below them, for the seconds.
const HEAD: f64 = 78.0;
const FOOT: f64 = 46.0;
/// The height below the lanes if the chart below shows the seconds.
const FOOT_BARE: f64 = 30.0;
const SECONDS: &str = "seconds since the start";
/// The height of the chart of the times between tokens, below the lane of one stream.
const CHART: f64 = 340.0;

const WAITS: &str = "#dedede";
const STREAMS: &str = "#cddef3";
const TOKEN: &str = "#1f5aa0";
const FIRST: &str = "#148c46";
const CALL: &str = "#e18200";
const BREAK: &str = "#fac8c8";
const FAULT: &str = "#be1e2d";
const CANCELLED: &str = "#787878";

/// Returns the picture of a run. The lanes may be only the first of its `requests`.
pub(crate) fn svg(lanes: &[Lane], requests: u64) -> String {
    let tokens: u64 = lanes.iter().map(|lane| lane.count).sum();
    let which = match lanes.len() as u64 {
        all if all >= requests => counted(all, "stream"),
        some => format!("{some} of {requests} streams"),
    };
    let title = format!("{which}, {} in {}", counted(tokens, "token"), human(longest(lanes)));
    // With many lanes, each is thinner, but never too thin to see.
    let height = match lanes.len() {
        0..=24 => 26.0,
        25..=60 => 16.0,
        _ => 8.0,
    };
    let mut svg = Svg::new(WIDTH, HEAD + lanes.len().max(1) as f64 * height + FOOT);
    lanes_chart(&mut svg, lanes, &title, height, SECONDS);
    svg.finish()
}

/// Returns the picture of one stream and the times between its tokens.
pub(crate) fn one(lane: &Lane) -> String {
    let since = |time: Duration| human(time.saturating_sub(lane.asked));
    let first = lane.first().map(|first| format!(", the first after {}", since(first)));
    let title =
        format!("{} in {}{}", counted(lane.count, "token"), since(lane.end), first.unwrap_or_default());
    let lanes = std::slice::from_ref(lane);
    let height = 44.0;
    let has_gaps = lane.tokens.len() > 1;
    let upper = HEAD + height + if has_gaps { FOOT_BARE } else { FOOT };
    let mut svg = Svg::new(WIDTH, if has_gaps { upper + CHART } else { upper });
    lanes_chart(&mut svg, lanes, &title, height, if has_gaps { "" } else { SECONDS });
    if has_gaps {
        gaps_chart(&mut svg, lane, upper);
    }
    svg.finish()
}

fn longest(lanes: &[Lane]) -> Duration {
    lanes.iter().map(|lane| lane.end).max().unwrap_or_default()
}

fn seconds(lanes: &[Lane], name: &'static str) -> Axis {
    Axis::numbers(longest(lanes).as_secs_f64().max(1e-3), name)
}

// ---- lanes ----

fn lanes_chart(svg: &mut Svg, lanes: &[Lane], title: &str, height: f64, name: &'static str) {
    svg.text((NAMES, 22.0), TITLE, TEXT, title);
    legend(svg);
    let bottom = HEAD + lanes.len().max(1) as f64 * height;
    let (x, y) = (NAMES..WIDTH - ENDS, HEAD..bottom);
    let chart = Chart { x, y, across: seconds(lanes, name), up: Axis::bare() };
    chart.draw_axes(svg);
    let is_thin = height < 14.0;
    for (n, lane) in lanes.iter().enumerate() {
        let row = Row { chart: &chart, middle: HEAD + (n as f64 + 0.5) * height, height };
        row.draw(svg, lane);
        if !is_thin || n % 10 == 0 {
            row.name(svg, &lane.name);
        }
        if !is_thin {
            row.end(svg, lane);
        }
    }
}

/// The place of a lane in the picture.
struct Row<'a> {
    chart: &'a Chart,
    middle: f64,
    height: f64,
}

impl Row<'_> {
    fn x(&self, at: Duration) -> f64 {
        self.chart.at(at.as_secs_f64(), 0.0).0.round()
    }

    /// Draws a bar over a part of the lane that takes `share` of its height.
    fn bar(&self, svg: &mut Svg, from: f64, to: f64, share: f64, colour: &str) {
        let half = self.height * share / 2.0;
        svg.rect(from..to, self.middle - half..self.middle + half, colour);
    }

    fn draw(&self, svg: &mut Svg, lane: &Lane) {
        let (first, end) = (lane.first().map(|first| self.x(first)), self.x(lane.end));
        self.bar(svg, self.x(lane.asked), first.unwrap_or(end), 0.28, WAITS);
        if let Some(first) = first {
            self.bar(svg, first, end, 0.52, STREAMS);
        }
        for (from, to) in &lane.breaks {
            self.bar(svg, self.x(*from), self.x(*to), 0.52, BREAK);
        }
        // Tokens that are closer than pixels become one block.
        let mut tokens = lane.tokens.iter().map(|tick| self.x(tick.at())).peekable();
        while let Some(from) = tokens.next() {
            let mut to = from + 1.0;
            while let Some(next) = tokens.next_if(|next| *next <= to) {
                to = next + 1.0;
            }
            self.bar(svg, from, to, 0.52, TOKEN);
        }
        let breaks = lane.breaks.iter().map(|(from, _)| (self.x(*from), FAULT));
        for (x, colour) in breaks.chain(first.map(|first| (first, FIRST))) {
            self.bar(svg, x, x + 2.0, 0.84, colour);
        }
        for call in &lane.calls {
            svg.diamond((self.x(*call), self.middle), (self.height / 3.0).clamp(3.0, 7.0), CALL);
        }
        let (at, size) = ((end, self.middle), (self.height * 0.3).clamp(2.0, 7.0));
        match lane.outcome {
            LaneEnd::Complete(_) => self.bar(svg, end - 1.0, end + 1.0, 2.0 * size / self.height, TEXT),
            LaneEnd::Failed(_) => svg.cross(at, size, FAULT),
            LaneEnd::Cancelled => svg.cross(at, size, CANCELLED),
        }
    }

    fn name(&self, svg: &mut Svg, name: &str) {
        // Ids may have any length. The picture shows their ends, where they differ.
        let skip = name.chars().count().saturating_sub(9);
        let (cut, name): (_, String) = (if skip > 0 { "…" } else { "" }, name.chars().skip(skip).collect());
        svg.text((NAMES - 10.0, self.middle), RIGHT, TEXT, &format!("{cut}{name}"));
    }

    fn end(&self, svg: &mut Svg, lane: &Lane) {
        let (text, colour) = match &lane.outcome {
            LaneEnd::Complete(finish) => (finish.as_deref().unwrap_or("complete"), TEXT),
            LaneEnd::Failed(kind) => (*kind, FAULT),
            LaneEnd::Cancelled => ("cancelled", CANCELLED),
        };
        let mut text: String = text.chars().take(16).collect();
        text += &more(lane.retries.into(), "retry", "retries");
        text += &more(lane.breaks.len() as u64, "break", "breaks");
        svg.text((self.x(lane.end) + 12.0, self.middle), LEFT, colour, &text);
    }
}

/// A bar of a legend entry: left, right, half of the height, colour.
type Bar = (f64, f64, f64, &'static str);
/// The entries of the legend: name, width and bars.
const LEGEND: [(&str, f64, &[Bar]); 8] = [
    ("waiting", 62.0, &[(0.0, 16.0, 3.0, WAITS)]),
    ("first token", 98.0, &[(6.0, 8.0, 9.0, FIRST)]),
    (
        "tokens",
        72.0,
        &[
            (0.0, 16.0, 6.0, STREAMS),
            (1.0, 2.0, 6.0, TOKEN),
            (5.0, 6.0, 6.0, TOKEN),
            (11.0, 12.0, 6.0, TOKEN),
        ],
    ),
    ("tool call", 84.0, &[]),
    ("broken, until it resumed", 200.0, &[(0.0, 16.0, 6.0, BREAK), (0.0, 2.0, 9.0, FAULT)]),
    ("complete", 88.0, &[(7.0, 9.0, 6.0, TEXT)]),
    ("failed", 66.0, &[]),
    ("cancelled", 80.0, &[]),
];

/// Draws the legend in a row below the title.
fn legend(svg: &mut Svg) {
    let (mut x, y) = (NAMES, 52.0);
    for (name, width, bars) in LEGEND {
        for (left, right, half, colour) in bars {
            svg.rect(x + left..x + right, y - half..y + half, colour);
        }
        match name {
            "tool call" => svg.diamond((x + 8.0, y), 6.0, CALL),
            "failed" => svg.cross((x + 8.0, y), 6.0, FAULT),
            "cancelled" => svg.cross((x + 8.0, y), 6.0, CANCELLED),
            _ => {}
        }
        svg.text((x + 22.0, y), LEFT, TEXT, name);
        x += width + 26.0;
    }
}

// ---- one stream ----

/// Draws a chart below `top`: each token is a dot at its time and its time since the token before.
fn gaps_chart(svg: &mut Svg, lane: &Lane, top: f64) {
    let times = lane.tokens.iter().map(|tick| tick.at());
    let gaps: Vec<(f64, Duration)> = times
        .clone()
        .zip(times.skip(1))
        .map(|(before, at)| (at.as_secs_f64(), at.saturating_sub(before)))
        .collect();
    let mut sorted: Vec<Duration> = gaps.iter().map(|(_, gap)| *gap).collect();
    sorted.sort_unstable();
    let (Some(shortest), Some(longest)) = (sorted.first(), sorted.last()) else { return };
    let chart = Chart {
        x: NAMES..WIDTH - ENDS,
        y: top + 8.0..top + CHART - FOOT,
        across: seconds(std::slice::from_ref(lane), SECONDS),
        up: Axis::times(*shortest, *longest, "time since the previous token"),
    };
    chart.draw_axes(svg);
    for (at, gap) in &gaps {
        svg.dot(chart.at(*at, place(*gap)), 2, TOKEN);
    }
    let mut y = top + 18.0;
    for (name, percent) in [("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
        let gap = sorted[(sorted.len() * percent).div_ceil(100) - 1];
        svg.text((WIDTH - ENDS + 12.0, y), LEFT, TEXT, &format!("{name} {}", human(gap)));
        y += 20.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::trace::tests::lane;

    #[test]
    fn every_stream_has_a_lane_with_its_name_and_end() {
        let complete = || LaneEnd::Complete(Some("stop".to_owned()));
        let mut broken = lane(1, &[20, 21, 22, 90], 110, complete());
        broken.breaks = vec![(Duration::from_millis(30), Duration::from_millis(90))];
        broken.calls = vec![Duration::from_millis(90)];
        broken.retries = 2;
        broken.name = "<&\">".to_owned();
        let lanes = [
            lane(0, &[], 40, LaneEnd::Failed("timeout")),
            broken,
            lane(2, &[25], 50, LaneEnd::Cancelled),
            lane(3, &[12, 13], 80, LaneEnd::Complete(None)),
        ];
        let text = svg(&lanes, 9);
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
        assert_eq!(text.matches("<polygon").count(), 2, "one call, and the sign in the legend");
        for lanes in [0, 1, 100, 200] {
            let lanes: Vec<_> = (0..lanes).map(|n| lane(n, &[20, 30], 50, complete())).collect();
            let text = svg(&lanes, lanes.len() as u64);
            assert!(text.trim_end().ends_with("</svg>"), "{}", lanes.len());
        }
    }

    #[test]
    fn tokens_closer_than_pixels_are_one_block() {
        let tokens: Vec<u64> = (20..10_020).map(|n| n / 10).collect();
        let text = svg(&[lane(0, &tokens, 1100, LaneEnd::Cancelled)], 1);
        assert!(text.len() < 20_000, "{}", text.len());
    }

    #[test]
    fn one_stream_has_a_chart_of_the_times_between_its_tokens() {
        for (tokens, has_chart) in [(&[][..], false), (&[20], false), (&[20, 30, 60], true)] {
            let text = one(&lane(0, tokens, 70, LaneEnd::Cancelled));
            assert_eq!(text.contains("p50 10.0 ms"), has_chart, "{tokens:?}");
        }
    }
}
