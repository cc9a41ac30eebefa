//! Pictures in SVG: their elements, the axes of charts, and the lanes of streams (`timeline`).

mod timeline;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use timeline::{one, svg as timeline};

use crate::exit::Failure;
use crate::output::terminal::harmless;

/// The lowest value of an axis of times. Shorter times are drawn at this value.
pub(crate) const SHORTEST: Duration = Duration::from_micros(1);
/// The steps of an axis of times within a factor of ten. An axis with more than `MAX_STEPS` steps
/// shows only the powers of ten.
const STEPS: [u64; 3] = [1, 2, 5];
const MAX_STEPS: usize = 13;

pub(crate) const TEXT: &str = "#282828";
const GRID: &str = "#d8d8d8";

/// Attributes of a text: its side relative to its point, and its style.
pub(crate) const LEFT: &str = "";
pub(crate) const CENTRED: &str = r#"text-anchor="middle""#;
pub(crate) const RIGHT: &str = r#"text-anchor="end""#;
/// A white border, for text over lines.
pub(crate) const HALO: &str = r#"stroke="white" stroke-width="4" paint-order="stroke""#;
pub(crate) const TITLE: &str = r#"font-size="20""#;

/// A file for a picture. It is opened before anything is sent.
pub(crate) struct Target {
    path: PathBuf,
    file: File,
}

impl Target {
    /// Creates the file. Errors name `flag`, the flag that the user set.
    pub(crate) fn open(flag: &str, path: Option<PathBuf>) -> Result<Option<Self>, Failure> {
        let open = |path: PathBuf| match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(Failure::Usage(format!(
                "invalid {flag}: cannot write {:?}: {error}",
                path.display().to_string()
            ))),
        };
        path.map(open).transpose()
    }

    pub(crate) fn write(mut self, svg: &str) -> Result<(), Failure> {
        self.file.write_all(svg.as_bytes()).map_err(|error| {
            Failure::Machine(format!("cannot write {:?}: {error}", self.path.display().to_string()))
        })
    }
}

// ---- elements ----

/// A picture. Coordinates are pixels from the upper left corner.
pub(crate) struct Svg(String);

impl Svg {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n"
        ))
        .with(|svg| svg.rect(0.0..width, 0.0..height, "white"))
    }

    fn with(mut self, draw: impl FnOnce(&mut Self)) -> Self {
        draw(&mut self);
        self
    }

    pub(crate) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(element);
    }

    /// Draws a rectangle, at least one pixel wide so that it is visible.
    pub(crate) fn rect(&mut self, x: Range<f64>, y: Range<f64>, colour: &str) {
        let (width, height) = ((x.end - x.start).max(1.0), y.end - y.start);
        self.element(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n",
            x.start, y.start
        ));
    }

    pub(crate) fn line(&mut self, points: &[(f64, f64)], colour: &str, width: u32) {
        let points = coordinates(points);
        self.element(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
        ));
    }

    pub(crate) fn dot(&mut self, (x, y): (f64, f64), radius: u32, colour: &str) {
        self.element(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>\n"
        ));
    }

    fn diamond(&mut self, (x, y): (f64, f64), size: f64, colour: &str) {
        let points = coordinates(&[(x - size, y), (x, y - size), (x + size, y), (x, y + size)]);
        self.element(format_args!("<polygon points=\"{points}\" fill=\"{colour}\"/>\n"));
    }

    fn cross(&mut self, (x, y): (f64, f64), size: f64, colour: &str) {
        self.line(&[(x - size, y - size), (x + size, y + size)], colour, 2);
        self.line(&[(x - size, y + size), (x + size, y - size)], colour, 2);
    }

    /// Draws a line of text. `y` is its vertical centre; `style` has further attributes.
    pub(crate) fn text(&mut self, (x, y): (f64, f64), style: &str, colour: &str, text: &str) {
        let text = harmless(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (text, y) = (text.replace('"', "&quot;"), y + 5.0);
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" {style}>\n{text}\n</text>\n"
        ));
    }
}

fn coordinates(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect()
}

// ---- axes ----

/// An axis of a chart: the values at its ends, and its labelled steps.
pub(crate) struct Axis {
    range: Range<f64>,
    steps: Vec<(f64, String)>,
    name: &'static str,
}

/// Returns the value of a time on a logarithmic axis.
pub(crate) fn place(time: Duration) -> f64 {
    time.max(SHORTEST).as_secs_f64().log10()
}

impl Axis {
    /// Returns an axis without steps and name.
    fn bare() -> Self {
        Self { range: 0.0..1.0, steps: Vec::new(), name: "" }
    }

    /// Returns an axis from 0 to `end` with at most ten steps.
    pub(crate) fn numbers(end: f64, name: &'static str) -> Self {
        let tens = 10_f64.powf((end / 10.0).log10().floor());
        let step = [1.0, 2.0, 5.0].map(|n| n * tens).into_iter().find(|step| end / step <= 10.0);
        let step = step.unwrap_or(10.0 * tens);
        // Labels are rounded, because 3 times 0.1 is not exactly 0.3.
        let label = |value: f64| ((value * 1e6).round() / 1e6).to_string();
        let steps = (0..=(end / step) as u32).map(|n| step * f64::from(n));
        Self { range: 0.0..end, steps: steps.map(|value| (value, label(value))).collect(), name }
    }

    /// Returns an axis from the step below the shortest time to the step above the longest.
    pub(crate) fn times(shortest: Duration, longest: Duration, name: &'static str) -> Self {
        let micros = (0..12).flat_map(|tens| STEPS.map(|step| step * 10_u64.pow(tens)));
        let all: Vec<f64> = micros.map(|micros| place(Duration::from_micros(micros))).collect();
        let below = all.iter().rposition(|step| *step <= place(shortest)).unwrap_or(0);
        let above = all.iter().position(|step| *step > place(longest)).unwrap_or(all.len() - 1);
        let mut steps = all[below..=above].to_vec();
        if steps.len() > MAX_STEPS {
            steps.retain(|step| (step - step.round()).abs() < 1e-6);
        }
        if let [low, high] = steps[..] {
            // Adds steps between the two: every 0.2 from 1 to 2, 0.5 from 2 to 5, 1 from 5 to 10.
            let (low, high) = (10_f64.powf(low), 10_f64.powf(high));
            let parts = if high / low > 2.25 { 6 } else { 5 };
            let part = (high - low) / f64::from(parts);
            steps = (0..=parts).map(|n| (low + part * f64::from(n)).log10()).collect();
        }
        let steps = steps.into_iter().map(|step| (step, time_label(step))).collect();
        Self { range: all[below]..all[above], steps, name }
    }

    /// Returns the share of the axis below `value`, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        ((value - self.range.start) / (self.range.end - self.range.start)).clamp(0.0, 1.0)
    }
}

/// Returns the label of a time, with at most two decimals.
fn time_label(place: f64) -> String {
    let seconds = 10_f64.powf(place);
    let short = |value: f64| (value * 100.0).round() / 100.0;
    match seconds {
        ..0.999e-3 => format!("{} us", short(seconds * 1e6)),
        ..0.999 => format!("{} ms", short(seconds * 1e3)),
        _ => format!("{} s", short(seconds)),
    }
}

/// An area of a picture with two axes.
pub(crate) struct Chart {
    /// The pixels of the area, from left to right and from top to bottom.
    pub(crate) x: Range<f64>,
    pub(crate) y: Range<f64>,
    pub(crate) across: Axis,
    pub(crate) up: Axis,
}

impl Chart {
    /// Returns the pixel of a pair of values.
    pub(crate) fn at(&self, across: f64, up: f64) -> (f64, f64) {
        let x = self.x.start + self.across.share(across) * (self.x.end - self.x.start);
        (x, self.y.end - self.up.share(up) * (self.y.end - self.y.start))
    }

    /// Draws the grid, and the labels on the left of the chart and below it.
    pub(crate) fn draw_axes(&self, svg: &mut Svg) {
        let (left, bottom) = (self.x.start, self.y.end);
        for (value, label) in &self.across.steps {
            let (x, _) = self.at(*value, 0.0);
            svg.line(&[(x, self.y.start), (x, bottom)], GRID, 1);
            svg.text((x, bottom + 14.0), CENTRED, TEXT, label);
        }
        for (value, label) in &self.up.steps {
            let (_, y) = self.at(0.0, *value);
            svg.line(&[(left, y), (self.x.end, y)], GRID, 1);
            svg.text((left - 8.0, y), RIGHT, TEXT, label);
        }
        svg.line(&[(left, bottom), (self.x.end, bottom)], TEXT, 1);
        svg.text(((left + self.x.end) / 2.0, bottom + 34.0), CENTRED, TEXT, self.across.name);
        let (x, y) = (left - 74.0, (self.y.start + bottom) / 2.0);
        let turned = format!("{CENTRED} transform=\"rotate(-90 {x:.1} {y:.1})\"");
        svg.text((x, y), &turned, TEXT, self.up.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_readable_number_of_steps_around_its_times() {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let cases: [(f64, f64, &[&str]); 5] = [
            (11.0, 480.0, &["10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms"]),
            (130.0, 164.0, &["100 ms", "120 ms", "140 ms", "160 ms", "180 ms", "200 ms"]),
            (2.1, 4.9, &["2 ms", "2.5 ms", "3 ms", "3.5 ms", "4 ms", "4.5 ms", "5 ms"]),
            (0.0, 480.0, &["1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms"]),
            (700.0, 1500.0, &["500 ms", "1 s", "2 s"]),
        ];
        for (shortest, longest, expected) in cases {
            let axis = Axis::times(ms(shortest), ms(longest), "");
            let steps: Vec<&str> = axis.steps.iter().map(|(_, label)| &**label).collect();
            assert_eq!(steps, expected);
            assert!(axis.range.start <= place(ms(shortest)) && place(ms(longest)) <= axis.range.end);
        }
    }

    #[test]
    fn an_axis_of_numbers_has_round_steps() {
        let cases: [(f64, &[&str]); 3] = [
            (1.0, &["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
            (0.012, &["0", "0.002", "0.004", "0.006", "0.008", "0.01", "0.012"]),
            (37.0, &["0", "5", "10", "15", "20", "25", "30", "35"]),
        ];
        for (end, expected) in cases {
            let axis = Axis::numbers(end, "");
            let steps: Vec<&str> = axis.steps.iter().map(|(_, label)| &**label).collect();
            assert_eq!(steps, expected);
        }
    }
}
