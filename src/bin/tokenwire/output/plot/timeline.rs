//! The picture of streams: a lane for each stream, from its request to its end.

use std::time::Duration;

use tokenwire::Outcome;

use super::{Axis, LEFT, RIGHT, Svg, TEXT, TITLE};
use crate::output::text::{counted, human};
use crate::output::trace::Lane;

const WIDTH: f64 = 1080.0;
/// The width for names, to the left of the lanes, and the width for endings, to the right.
const NAMES: f64 = 104.0;
const ENDS: f64 = 186.0;
/// The height for the title and the legend, above the lanes, and the height for the seconds, below.
const HEAD: f64 = 78.0;
const FOOT: f64 = 46.0;
/// The height of a lane.
const LANE: f64 = 20.0;

const WAITS: &str = "#dedede";
const STREAMS: &str = "#cddef3";
const TOKEN: &str = "#1f5aa0";
const FIRST: &str = "#148c46";
const CALL: &str = "#e18200";
const BREAK: &str = "#f59a9a";
const FAULT: &str = "#be1e2d";
const CANCELLED: &str = "#787878";
const LEGEND: [(&str, &str); 7] = [
    ("waiting", WAITS),
    ("first token", FIRST),
    ("tokens", TOKEN),
    ("tool call", CALL),
    ("break", BREAK),
    ("failed", FAULT),
    ("cancelled", CANCELLED),
];

/// Returns the picture of a run with this number of `requests`. `lanes` may contain only the first
/// requests.
pub(crate) fn svg(lanes: &[Lane], requests: u64) -> String {
    let (tokens, end): (u64, _) =
        (lanes.iter().map(|lane| lane.count).sum(), lanes.iter().map(|lane| lane.end).max());
    let end = end.unwrap_or_default();
    let which = match lanes.len() as u64 {
        all if all >= requests => counted(all, "stream"),
        some => format!("{some} of {requests} streams"),
    };
    let bottom = HEAD + lanes.len() as f64 * LANE;
    let mut svg = Svg::new(WIDTH, bottom + FOOT);
    svg.text((NAMES, 22.0), TITLE, TEXT, &format!("{which}, {} in {}", counted(tokens, "token"), human(end)));
    for (n, (name, colour)) in LEGEND.into_iter().enumerate() {
        let x = NAMES + 120.0 * n as f64;
        svg.rect(x..x + 12.0, 46.0..58.0, colour);
        svg.text((x + 18.0, 52.0), LEFT, TEXT, name);
    }
    let seconds = Axis::numbers(NAMES..WIDTH - ENDS, end.as_secs_f64().max(1e-3));
    seconds.draw_across(&mut svg, HEAD..bottom, "seconds since the start");
    for (n, lane) in lanes.iter().enumerate() {
        draw(&mut svg, lane, HEAD + (n as f64 + 0.5) * LANE, |at| seconds.at(at.as_secs_f64()).round());
    }
    svg.finish()
}

/// Draws a lane whose vertical centre is `middle`. `x` returns the pixel of a time.
fn draw(svg: &mut Svg, lane: &Lane, middle: f64, x: impl Fn(Duration) -> f64) {
    // Ids may have any length. The picture shows the last part of each id, where the ids differ.
    let skip = lane.name.chars().count().saturating_sub(9);
    let (cut, name): (_, String) = (if skip > 0 { "…" } else { "" }, lane.name.chars().skip(skip).collect());
    svg.text((NAMES - 10.0, middle), RIGHT, TEXT, &format!("{cut}{name}"));
    let first = lane.tokens.first().map(|(at, _)| x(*at));
    let (end, colour) = match lane.outcome {
        Outcome::Complete => (x(lane.end), TEXT),
        Outcome::Failed => (x(lane.end), FAULT),
        _ => (x(lane.end), CANCELLED),
    };
    svg.text((end + 12.0, middle), LEFT, colour, &lane.ending);

    let mut bar =
        |from: f64, to: f64, half: f64, colour| svg.rect(from..to, middle - half..middle + half, colour);
    bar(x(lane.asked), first.unwrap_or(end), 3.0, WAITS);
    if let Some(first) = first {
        bar(first, end, 5.0, STREAMS);
    }
    // Tokens that are less than a pixel apart are drawn as one block.
    let mut tokens = lane.tokens.iter().map(|(at, _)| x(*at)).peekable();
    while let Some(from) = tokens.next() {
        let mut to = from + 1.0;
        while let Some(next) = tokens.next_if(|next| *next <= to) {
            to = next + 1.0;
        }
        bar(from, to, 5.0, TOKEN);
    }
    for (from, to) in &lane.breaks {
        bar(x(*from), x(*to).max(x(*from) + 2.0), 5.0, BREAK);
    }
    let marks = first.map(|first| (first, FIRST)).into_iter().chain([(end, colour)]);
    marks.for_each(|(x, colour)| bar(x, x + 2.0, 8.0, colour));
    lane.calls.iter().for_each(|call| svg.diamond((x(*call), middle), 6.0, CALL));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::trace::tests::lane;

    #[test]
    fn every_stream_has_a_lane_with_its_name_and_end() {
        let mut broken = lane(1, &[20, 21, 22, 90], 110, Outcome::Complete);
        broken.breaks = vec![(Duration::from_millis(30), Duration::from_millis(90))];
        broken.calls = vec![Duration::from_millis(90)];
        broken.name = "<&\">".to_owned();
        broken.ending = "stop, 1 break".to_owned();
        let lanes = [
            lane(0, &[], 40, Outcome::Failed),
            broken,
            lane(2, &[25], 50, Outcome::Cancelled),
            lane(3, &[12, 13], 80, Outcome::Complete),
        ];
        let text = svg(&lanes, 9);
        let words = [
            "4 of 9 streams, 7 tokens in 110.0 ms",
            "failed",
            "stop, 1 break",
            "cancelled",
            "&lt;&amp;&quot;&gt;",
        ];
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(text.matches("<polygon").count(), 1, "one call");
        for lanes in [0, 1, 100, 200] {
            let lanes: Vec<_> = (0..lanes).map(|n| lane(n, &[20, 30], 50, Outcome::Complete)).collect();
            let text = svg(&lanes, lanes.len() as u64);
            assert!(text.trim_end().ends_with("</svg>"), "{}", lanes.len());
        }
    }

    #[test]
    fn tokens_closer_than_pixels_are_one_block() {
        let tokens: Vec<u64> = (20..10_020).map(|n| n / 10).collect();
        let text = svg(&[lane(0, &tokens, 1100, Outcome::Cancelled)], 1);
        assert!(text.len() < 20_000, "{}", text.len());
    }
}
