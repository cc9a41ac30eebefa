//! Exchanges recorded by other programs: the response's bytes in one file, the request in a second, and
//! in a third, which may be missing, when the bytes came and how it ended.

use std::time::Duration;

use super::http::{BodyState, Head};
use super::{BodyEnd, Recording, Request, http};
use crate::error::Error;

/// `NAME.req`, `NAME.raw`, `NAME.times`. A line of the times is milliseconds, offset, length; the last
/// one begins with `end: ` and says in words how it ended.
pub(super) fn from_llama(
    request: Option<&[u8]>,
    raw: &[u8],
    times: Option<&[u8]>,
) -> Result<Recording, Error> {
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

/// The words that the recording program writes; `77.3 closed by the server` and the like.
fn llama_end(words: &str) -> BodyEnd {
    // A server that leaves the connection open and is then found to have closed it, did close it.
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

/// The time stands first, or, in `gave up after 60000.0 ms`, later.
fn first_number(words: &str) -> Option<Duration> {
    words.split(' ').find_map(millis)
}

/// `NAME.request.http`, `NAME.response.http`, `NAME.timing.tsv`. After its title line, a line of the
/// timing is milliseconds, a tab, and a number of bytes or, in the last one, how it ended.
pub(super) fn from_vllm(
    request: Option<&[u8]>,
    raw: &[u8],
    timing: Option<&[u8]>,
) -> Result<Recording, Error> {
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

/// With no times all that is known of the end is whether the framing came to its own.
fn all_at_once(mut recording: Recording, raw: &[u8]) -> Recording {
    recording.push(Duration::ZERO, raw);
    if http::response_body(raw, false).state == BodyState::Complete {
        recording.finish(BodyEnd::Complete, None);
    }
    recording
}

/// The response's bytes, handed out in order.
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

    fn finish(self) -> Result<(), Error> {
        if self.taken == self.raw.len() { Ok(()) } else { Err(mismatch("the end")) }
    }
}

/// Milliseconds with a fraction, to the microsecond that recordings keep.
fn millis(text: &str) -> Option<Duration> {
    let micros = (text.parse::<f64>().ok()? * 1000.0).round();
    // A float beyond the range becomes the range's end; a negative one or NaN is no time.
    (micros >= 0.0).then(|| Duration::from_micros(micros as u64))
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error::invalid("the times are not UTF-8").with_source(error))
}

fn mismatch(at: &str) -> Error {
    Error::invalid(format!("times and bytes of the recording do not agree at {at:?}"))
}

fn read_request(bytes: Option<&[u8]>) -> Result<Request, Error> {
    let Some(bytes) = bytes else { return Ok(Request::default()) };
    let wrong = || Error::invalid("the recorded request is no HTTP request");
    let (Head { first_line, headers }, length) =
        Head::parse(bytes).ok_or_else(wrong)?.map_err(|()| wrong())?;
    let mut words = first_line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(wrong()) };
    Ok(Request { headers, ..Request::new(method, path) }.with_body(&bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";

    #[test]
    fn times_that_do_not_fit_the_bytes_are_refused() {
        let llama: &[&str] = &[
            "0.1 0 10\n",
            "0.1 0 99\n",
            "0.1 1 40\n",
            "-1 0 40\n",
            "NaN 0 40\n",
            "x\n",
            "0.1 0 40\n0.2 40 2\n",
        ];
        for times in llama {
            assert!(from_llama(None, RAW, Some(times.as_bytes())).is_err(), "{times:?}");
        }
        let vllm: &[&str] = &[
            "t\n0.1\t10\n",
            "t\n0.1\t99\n",
            "t\n0.1 40\n",
            "t\nx\t40\n",
            "t\n0.1\tbang\n",
            "",
            "t\n1\t18446744073709551615\n",
        ];
        for times in vllm {
            assert!(from_vllm(None, RAW, Some(times.as_bytes())).is_err(), "{times:?}");
        }
    }

    #[test]
    fn the_words_for_the_end_are_understood() {
        let cases = [
            ("10.7 complete, connection left open by the server so far", BodyEnd::Complete, 10_700),
            (
                "10.7 complete, connection left open by the server so far; used again: HTTP/1.1 200 OK",
                BodyEnd::Complete,
                10_700,
            ),
            (
                "134.6 complete, connection left open by the server so far; used again: closed at once",
                BodyEnd::Closed,
                134_600,
            ),
            ("77.3 closed by the server", BodyEnd::Closed, 77_300),
            ("64.2 closed by the client after 1740 bytes", BodyEnd::ClientClosed, 64_200),
            ("3.1 reset: Connection reset by peer", BodyEnd::Reset, 3_100),
            ("gave up after 2000.5 ms", BodyEnd::Silent, 2_000_500),
        ];
        for (words, end, micros) in cases {
            let times = format!("0.25 0 {}\nend: {words}\n", RAW.len());
            let recording = from_llama(None, RAW, Some(times.as_bytes())).unwrap();
            assert_eq!(recording.end(), end, "{words}");
            assert_eq!(recording.ended_at(), Some(Duration::from_micros(micros)), "{words}");
            assert_eq!(recording.pieces()[0].at, Duration::from_micros(250));
        }
        for (word, end) in [
            ("eof", BodyEnd::Closed),
            ("timeout", BodyEnd::Silent),
            ("closed by client", BodyEnd::ClientClosed),
        ] {
            let timing = format!("title\n0.25\t{}\n9.5\t{word}\n", RAW.len());
            let recording = from_vllm(None, RAW, Some(timing.as_bytes())).unwrap();
            assert_eq!((recording.end(), recording.ended_at()), (end, Some(Duration::from_micros(9_500))));
        }
    }

    #[test]
    fn with_no_times_the_framing_tells_the_end() {
        assert_eq!(from_llama(None, RAW, None).unwrap().end(), BodyEnd::Complete);
        assert_eq!(from_vllm(None, &RAW[..RAW.len() - 1], None).unwrap().end(), BodyEnd::Unknown);
    }
}
