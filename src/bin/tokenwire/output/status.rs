//! The live line: how many tokens, how fast, how long until the first. Only where a person looks on.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::output::terminal;
use crate::output::text::counted;

/// How long it stands without being drawn anew.
const EVERY: Duration = Duration::from_millis(100);

/// A line below the text that is being written, on standard error.
pub(crate) struct Status(Option<Shown>);

struct Shown {
    started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: u64,
    drawn: Option<Instant>,
}

impl Status {
    /// Shown if standard error is a terminal; otherwise nothing is ever printed.
    pub(crate) fn new(started: Instant) -> Self {
        let shown = Shown { started, first: None, last: None, tokens: 0, drawn: None };
        Self(terminal::stderr_is_one().then_some(shown))
    }

    /// When to draw again though no token came; `None`: never.
    pub(crate) fn next_draw(&self) -> Option<Instant> {
        self.0.as_ref().map(|shown| shown.drawn.unwrap_or(shown.started) + EVERY)
    }

    /// Takes the line away, before text is written. The cursor stands at the text's end, and what is below it
    /// is ours.
    pub(crate) fn clear(&mut self) {
        if let Some(Shown { drawn: Some(_), .. }) = &self.0 {
            let _ = io::stderr().write_all(b"\x1b[J");
        }
    }

    /// Counts a token.
    pub(crate) fn token(&mut self) {
        if let Some(shown) = &mut self.0 {
            let now = Instant::now();
            shown.tokens += 1;
            shown.first.get_or_insert(now);
            shown.last = Some(now);
        }
    }

    /// Draws the line: after each token, and when nothing came until [`next_draw`](Self::next_draw).
    pub(crate) fn draw(&mut self) {
        let Some(shown) = &mut self.0 else { return };
        let now = Instant::now();
        shown.drawn = Some(now);
        let line = shown.line(now);
        // IND and cursor up: there is a line below now, scrolled if need be. Then save the cursor, go down,
        // write, and go back. No size of the screen has to be known, as the line is shorter than any screen
        // is wide.
        let drawn = format!("\x1bD\x1b[A\x1b7\x1bD\r\x1b[2K{line}\x1b8");
        let _ = io::stderr().write_all(drawn.as_bytes());
    }
}

impl Shown {
    fn line(&self, now: Instant) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return format!("[no token yet, {:.1} s]", (now - self.started).as_secs_f64());
        };
        // To the last token, not to now: the figure stands still between tokens.
        let (time, until_first) = (last - first, first - self.started);
        let rate = match self.tokens {
            0 | 1 => String::new(),
            tokens => format!(", {:.1} tokens/s", (tokens - 1) as f64 / time.as_secs_f64().max(1e-6)),
        };
        format!("[{}{rate}, first after {:.2} s]", counted(self.tokens, "token"), until_first.as_secs_f64())
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A line on standard error that is drawn over, with no text above it; only where a person looks on.
pub(crate) struct LiveLine {
    pub(crate) is_shown: bool,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        Self { is_shown: terminal::stderr_is_one() }
    }

    pub(crate) fn draw(&self, line: impl FnOnce() -> String) {
        if self.is_shown {
            let _ = io::stderr().write_all(format!("\r\x1b[2K{}", line()).as_bytes());
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.draw(String::new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_there_is_to_say() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let shown = |tokens, times: Option<(u64, u64)>| Shown {
            started,
            first: times.map(|(first, _)| at(first)),
            last: times.map(|(_, last)| at(last)),
            tokens,
            drawn: None,
        };
        let cases = [
            (shown(0, None), 1500, "[no token yet, 1.5 s]"),
            (shown(1, Some((250, 250))), 300, "[1 token, first after 0.25 s]"),
            (shown(11, Some((250, 1250))), 2000, "[11 tokens, 10.0 tokens/s, first after 0.25 s]"),
        ];
        for (shown, now, expected) in cases {
            assert_eq!(shown.line(at(now)), expected);
        }
    }
}
