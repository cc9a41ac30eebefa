//! Pictures in SVG: their elements, the axes of charts, and the lanes of streams (`timeline`).

mod timeline;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use timeline::svg as timeline;

use crate::exit::Failure;
use crate::output::terminal::harmless;

pub(crate) const TEXT: &str = "#282828";
const GRID: &str = "#d8d8d8";

/// Attributes of a text: its side relative to its point, and its style.
pub(crate) const LEFT: &str = "";
pub(crate) const CENTRED: &str = r#"text-anchor="middle""#;
pub(crate) const RIGHT: &str = r#"text-anchor="end""#;
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

    pub(crate) fn write(&self, svg: &str) -> Result<(), Failure> {
        (&self.file).write_all(svg.as_bytes()).map_err(|error| {
            Failure::Machine(format!("cannot write {:?}: {error}", self.path.display().to_string()))
        })
    }
}

// ---- elements ----

/// A picture. Coordinates are pixels from the upper left corner.
pub(crate) struct Svg(String);

impl Svg {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n"
        ));
        svg.rect(0.0..width, 0.0..height, "white");
        svg
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

    fn diamond(&mut self, (x, y): (f64, f64), size: f64, colour: &str) {
        let points = coordinates(&[(x - size, y), (x, y - size), (x + size, y), (x, y + size)]);
        self.element(format_args!("<polygon points=\"{points}\" fill=\"{colour}\"/>\n"));
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

/// An axis of a chart: its pixels, the values at its ends, and its labelled steps.
pub(crate) struct Axis {
    pixels: Range<f64>,
    values: Range<f64>,
    steps: Vec<(f64, String)>,
    /// The function that converts a value to its place: it returns the value itself or its
    /// logarithm.
    scale: fn(f64) -> f64,
}

/// Returns the values that can be steps, in order.
fn nice() -> impl Iterator<Item = f64> {
    (-6..9).flat_map(|tens| [1.0, 2.0, 5.0].map(|n| n * 10_f64.powi(tens)))
}

impl Axis {
    /// Returns an axis from 0 to `end` with at most ten steps.
    pub(crate) fn numbers(pixels: Range<f64>, end: f64) -> Self {
        let step = nice().find(|step| end / step <= 10.0).unwrap_or(end);
        let steps = (0..=(end / step) as u32).map(|n| step * f64::from(n));
        // The labels are rounded, because 3 times 0.1 is not exactly 0.3.
        let steps = steps.map(|value| (value, ((value * 1e6).round() / 1e6).to_string())).collect();
        Self { pixels, values: 0.0..end, steps, scale: |value| value }
    }

    /// Returns a logarithmic axis of seconds. It begins at the step below the shortest time and
    /// ends at the step above the longest time.
    pub(crate) fn times(pixels: Range<f64>, shortest: Duration, longest: Duration) -> Self {
        let (shortest, longest) = (shortest.as_secs_f64(), longest.as_secs_f64());
        let below = nice().take_while(|step| *step <= shortest).last().unwrap_or(1e-6);
        let above = nice().find(|step| *step > longest.max(below)).unwrap_or(longest);
        let steps: Vec<f64> = nice().filter(|step| (below..=above).contains(step)).collect();
        // Every third step is ten times the one before.
        let every = if steps.len() > 12 { 3 } else { 1 };
        let label = |step: f64| (step, format!("{:?}", Duration::from_secs_f64(step)));
        let steps = steps.into_iter().step_by(every).map(label).collect();
        Self { pixels, values: below..above, steps, scale: f64::log10 }
    }

    /// Returns the pixel of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.values.start, self.values.end);
        let [start, end, value] = [self.values.start, self.values.end, value].map(self.scale);
        self.pixels.start + (value - start) / (end - start) * (self.pixels.end - self.pixels.start)
    }

    /// Draws the axis from left to right, with a grid over the pixels `y` and its name below.
    pub(crate) fn draw_across(&self, svg: &mut Svg, y: Range<f64>, name: &str) {
        for (value, label) in &self.steps {
            let x = self.at(*value);
            svg.line(&[(x, y.start), (x, y.end)], GRID, 1);
            svg.text((x, y.end + 14.0), CENTRED, TEXT, label);
        }
        let Range { start, end } = self.pixels;
        svg.line(&[(start, y.end), (end, y.end)], TEXT, 1);
        svg.text(((start + end) / 2.0, y.end + 34.0), CENTRED, TEXT, name);
    }

    /// Draws the axis from bottom to top, with a grid over the pixels `x` and its name above.
    pub(crate) fn draw_up(&self, svg: &mut Svg, x: Range<f64>, name: &str) {
        for (value, label) in &self.steps {
            let y = self.at(*value);
            svg.line(&[(x.start, y), (x.end, y)], GRID, 1);
            svg.text((x.start - 8.0, y), RIGHT, TEXT, label);
        }
        svg.text((x.start, self.pixels.end - 18.0), LEFT, TEXT, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.steps.iter().map(|(_, label)| &**label).collect()
    }

    #[test]
    fn an_axis_has_a_readable_number_of_steps_around_its_times() {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let cases: [(f64, f64, &[&str]); 5] = [
            (11.0, 480.0, &["10ms", "20ms", "50ms", "100ms", "200ms", "500ms"]),
            (130.0, 164.0, &["100ms", "200ms"]),
            (0.0, 480.0, &["1µs", "10µs", "100µs", "1ms", "10ms", "100ms"]),
            (0.0, 0.0, &["1µs", "2µs"]),
            (700.0, 1500.0, &["500ms", "1s", "2s"]),
        ];
        for (shortest, longest, expected) in cases {
            let axis = Axis::times(0.0..100.0, ms(shortest), ms(longest));
            assert_eq!(labels(&axis), expected);
            let ends = [shortest, longest].map(|ms| axis.at(ms / 1e3));
            assert!(ends[0] <= ends[1] && ends.iter().all(|at| (0.0..=100.0).contains(at)), "{ends:?}");
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
            assert_eq!(labels(&Axis::numbers(0.0..1.0, end)), expected);
        }
    }
}
