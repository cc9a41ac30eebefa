//! Reads the recorded fixtures in tests/data, which other programs wrote. One file contains the
//! bytes of the response and a second one the request. An optional third file contains the times of
//! the bytes and how the response ended.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokenwire::recording::{BodyEnd, BodyState, Recording, Request};

/// Reads `NAME.raw`, `NAME.response.http`, or any other file as a recording in this crate's format.
pub fn load(path: impl AsRef<Path>) -> Result<Recording, String> {
    let name = path.as_ref().to_str().unwrap();
    let read = |name: &str| fs::read(name).map_err(|error| format!("{name}: {error}"));
    let beside = |base: &str, suffix: &str| fs::read(format!("{base}{suffix}")).ok();
    if let Some(base) = name.strip_suffix(".raw") {
        from_llama(beside(base, ".req").as_deref(), &read(name)?, beside(base, ".times").as_deref())
    } else if let Some(base) = name.strip_suffix(".response.http") {
        let (request, timing) = (beside(base, ".request.http"), beside(base, ".timing.tsv"));
        from_vllm(request.as_deref(), &read(name)?, timing.as_deref())
    } else {
        Recording::load(name).map_err(|error| error.to_string())
    }
}

/// Reads `NAME.req`, `NAME.raw` and `NAME.times`. Each line of the times contains milliseconds, an
/// offset and a length. The last line begins with `end: ` and describes how the response ended.
pub fn from_llama(request: Option<&[u8]>, raw: &[u8], times: Option<&[u8]>) -> Result<Recording, String> {
    let mut recording = Recording::of_wire(read_request(request)?);
    let Some(times) = times else { return Ok(all_at_once(recording, raw)) };
    let mut pieces = Pieces::of(raw);
    for line in text(times)?.lines() {
        if let Some(words) = line.strip_prefix("end: ") {
            recording.finish(llama_end(words), first_number(words));
            continue;
        }
        let mut fields = line.split(' ');
        let (at, offset, length) = (fields.next(), fields.next(), fields.next());
        if offset.and_then(|offset| offset.parse().ok()) != Some(pieces.taken) {
            return Err(mismatch(line));
        }
        let bytes = pieces.take(length).ok_or_else(|| mismatch(line))?;
        recording.push(at.and_then(millis).ok_or_else(|| mismatch(line))?, bytes);
    }
    pieces.finish().map(|()| recording)
}

/// Parses the words of the recording program, such as `77.3 closed by the server`.
fn llama_end(words: &str) -> BodyEnd {
    // If a connection was left open and was later found closed, the server closed it.
    if words.contains("closed by the server") || words.contains("closed at once") {
        BodyEnd::Closed
    } else if words.contains("closed by the client") {
        BodyEnd::ClientClosed
    } else if words.contains("complete") {
        BodyEnd::Complete
    } else if words.contains("reset") {
        BodyEnd::Reset
    } else if words.contains("gave up") {
        BodyEnd::Silent
    } else {
        BodyEnd::Unknown
    }
}

/// Returns the first number, which is the time, for example in `gave up after 60000.0 ms`.
fn first_number(words: &str) -> Option<Duration> {
    words.split(' ').find_map(millis)
}

/// Reads `NAME.request.http`, `NAME.response.http` and `NAME.timing.tsv`.
///
/// The timing file begins with a title line. Each further line contains milliseconds, a tab and a
/// number of bytes. The last line contains the outcome instead.
pub fn from_vllm(request: Option<&[u8]>, raw: &[u8], timing: Option<&[u8]>) -> Result<Recording, String> {
    let mut recording = Recording::of_wire(read_request(request)?);
    let Some(timing) = timing else { return Ok(all_at_once(recording, raw)) };
    let mut pieces = Pieces::of(raw);
    for line in text(timing)?.lines().skip(1) {
        let (at, what) = line.split_once('\t').ok_or_else(|| mismatch(line))?;
        let at = millis(at).ok_or_else(|| mismatch(line))?;
        match what {
            "eof" => recording.finish(BodyEnd::Closed, Some(at)),
            "timeout" => recording.finish(BodyEnd::Silent, Some(at)),
            "reset" => recording.finish(BodyEnd::Reset, Some(at)),
            "closed by client" => recording.finish(BodyEnd::ClientClosed, Some(at)),
            length => recording.push(at, pieces.take(Some(length)).ok_or_else(|| mismatch(line))?),
        }
    }
    pieces.finish().map(|()| recording)
}

/// Adds all bytes at once. Without times, only the framing shows how the response ended.
fn all_at_once(mut recording: Recording, raw: &[u8]) -> Recording {
    recording.push(Duration::ZERO, raw);
    if recording.response_body().state == BodyState::Complete {
        recording.finish(BodyEnd::Complete, None);
    }
    recording
}

/// Returns the bytes of the response piece by piece.
struct Pieces<'a> {
    raw: &'a [u8],
    taken: usize,
}

impl<'a> Pieces<'a> {
    fn of(raw: &'a [u8]) -> Self {
        Self { raw, taken: 0 }
    }

    fn take(&mut self, length: Option<&str>) -> Option<&'a [u8]> {
        let end = self.taken.checked_add(length?.parse().ok()?)?;
        let piece = self.raw.get(self.taken..end)?;
        self.taken = end;
        Some(piece)
    }

    fn finish(self) -> Result<(), String> {
        if self.taken == self.raw.len() { Ok(()) } else { Err(mismatch("the end")) }
    }
}

/// Parses milliseconds with a fraction, to the microseconds that recordings keep.
fn millis(text: &str) -> Option<Duration> {
    let micros = (text.parse::<f64>().ok()? * 1000.0).round();
    // A float outside of the range becomes the nearest value in it. A negative number and NaN are
    // not times.
    (micros >= 0.0).then(|| Duration::from_micros(micros as u64))
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "the times are not UTF-8".to_owned())
}

fn mismatch(at: &str) -> String {
    format!("times and bytes of the recording do not agree at {at:?}")
}

fn read_request(bytes: Option<&[u8]>) -> Result<Request, String> {
    let Some(bytes) = bytes else { return Ok(Request::default()) };
    let wrong = || "the recorded request is not an HTTP request".to_owned();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(wrong)?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(wrong()) };
    let mut request = Request::new(method, path).with_body(&bytes[end + 4..]);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        request = request.with_header(name, value.trim());
    }
    Ok(request)
}
