//! The live line on a terminal: the number of tokens, their rate, and the time to the first token.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::output::terminal;
use crate::output::text::counted;

/// The longest time between two draws of the line.
const EVERY: Duration = Duration::from_millis(100);

/// A line on standard error, below the text that is being printed.
pub(crate) struct Status(Option<Shown>);

struct Shown {
    started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: u64,
    drawn: Option<Instant>,
}

impl Status {
    /// Creates the line. It is never printed if standard error is not a terminal.
    pub(crate) fn new(started: Instant) -> Self {
        let shown = Shown { started, first: None, last: None, tokens: 0, drawn: None };
        Self(terminal::stderr_is_one().then_some(shown))
    }

    /// Returns the time of the next draw if no token arrives. `None` means that there is no live
    /// line.
    pub(crate) fn next_draw(&self) -> Option<Instant> {
        self.0.as_ref().map(|shown| shown.drawn.unwrap_or(shown.started) + EVERY)
    }

    /// Removes the line before text is printed.
    ///
    /// The cursor is at the end of the text, and only the live line is below it.
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

    /// Draws the line. Call it after each token, and at [`next_draw`](Self::next_draw).
    pub(crate) fn draw(&mut self) {
        let Some(shown) = &mut self.0 else { return };
        let now = Instant::now();
        shown.drawn = Some(now);
        let line = shown.line(now);
        // The escape sequences IND and "cursor up" make sure that a line exists below; the screen
        // scrolls if it must. Then they save the cursor, move down, write the line and move back.
        // The size of the screen does not matter, because the line is narrower than any screen.
        let drawn = format!("\x1bD\x1b[A\x1b7\x1bD\r\x1b[2K{line}\x1b8");
        let _ = io::stderr().write_all(drawn.as_bytes());
    }
}

impl Shown {
    fn line(&self, now: Instant) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return format!("[no token yet, {:.1} s]", (now - self.started).as_secs_f64());
        };
        // The rate covers the time to the last token, so that it does not change between tokens.
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

/// A line on standard error that replaces itself, without text above it. It is shown only on a
/// terminal.
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
    fn the_line_shows_tokens_rate_and_the_time_to_the_first() {
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
