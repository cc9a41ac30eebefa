//! Pictures, as SVG: of a load (`latency`), and of streams beside each other (`timeline`). The only place that names plotters.

mod latency;
mod timeline;

use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use latency::svg as latency;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
pub(crate) use timeline::{one, svg as timeline};

use crate::Failure;

const FONT: &str = "sans-serif";
/// Where an axis of times begins at the lowest: a shorter time is drawn there.
const SHORTEST: Duration = Duration::from_micros(1);
/// Steps of an axis of times within a factor of ten, and how many of all there may be before only the tens are left.
const STEPS: [u64; 3] = [1, 2, 5];
const MAX_STEPS: usize = 13;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A file that a picture is to go into, opened before anything is sent.
pub(crate) struct Target {
    path: PathBuf,
    file: File,
}

impl Target {
    /// `flag` is what the user wrote before the path.
    pub(crate) fn open(flag: &str, path: Option<PathBuf>) -> Result<Option<Self>, Failure> {
        let open = |path: PathBuf| match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => {
                Err(Failure::Usage(format!("{flag}: cannot write {:?}: {error}", path.display().to_string())))
            }
        };
        path.map(open).transpose()
    }

    pub(crate) fn write(mut self, svg: &str) -> Result<(), Failure> {
        self.file.write_all(svg.as_bytes()).map_err(|error| {
            Failure::Machine(format!("cannot write {:?}: {error}", self.path.display().to_string()))
        })
    }
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
    if steps.len() > MAX_STEPS {
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
