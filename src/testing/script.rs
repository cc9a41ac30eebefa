//! What one request gets: a list of steps. Pure, as is `plan`, which makes bytes of them.

use std::fmt::Display;
use std::time::Duration;

use serde_json::json;

use super::gate::Gate;

/// How a response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// `Transfer-Encoding: chunked`; each write is one HTTP chunk.
    Chunked,
    /// `Content-Length` with the number of bytes that the script's writes have together.
    ContentLength,
    /// `Content-Length` with this number, whatever is written.
    GivenLength(u64),
    /// No length: `Connection: close`, and the end of the connection is the end of the body.
    CloseDelimited,
    /// No header is added and nothing around the writes.
    Raw,
}

/// How [`Script::cut_at`] ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// FIN, as from a process that was killed; over TLS without the closing alert.
    Fin,
    /// RST.
    Reset,
    /// The connection stays open and silent until the client leaves.
    Hang,
}

/// What one request gets, as steps in order. Made by chained calls; cloning copies its bytes.
///
/// When the steps are done, an open chunked body gets its last chunk. Then the connection serves its
/// next request, if the framing was right, was [`Chunked`](Framing::Chunked) or had a length, and
/// neither side has said `Connection: close`; otherwise the server closes it. [`close`](Self::close),
/// [`reset`](Self::reset) and [`keep_alive`](Self::keep_alive) say otherwise.
///
/// While a script pauses or waits, the server watches the connection: a client that closes it, or only
/// its sending half, has left, and the script ends there. (Model servers take a half-close for a close
/// too.)
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) keep_alive: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Head { status: u16, headers: Vec<(String, String)>, framing: Framing },
    Write { bytes: Vec<u8>, how: How },
    Finish,
    Wait(Wait),
    Close,
    Reset,
}

/// How the bytes of one write reach the socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    AtOnce,
    /// In pieces, with a pause after each; with `inside_records` it is TLS records that are cut into
    /// pieces.
    Slowly {
        piece: usize,
        pause: Duration,
        inside_records: bool,
    },
    /// The whole again and again, with a pause after each time.
    Repeated {
        times: u64,
        pause: Duration,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Wait {
    For(Duration),
    /// Since the request had been read.
    Until(Duration),
    /// Ends with the client's leaving, or at the latest after this.
    ClientGone(Duration),
    Gate(Gate),
}

// ---- whole answers in one call

impl Script {
    /// No step: the server closes the connection without a byte. With [`write`](Self::write) first, the
    /// script writes every byte of the response itself. An answer of HTTP begins with [`status`](Self::status) or
    /// [`events`](Self::events).
    pub fn new() -> Self {
        Self::default()
    }

    /// Every byte of the response as given; then the connection is closed.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new().write(bytes)
    }

    /// A response with this status and, until [`json`](Self::json) or [`body`](Self::body) adds one, an
    /// empty body with its `Content-Length`.
    pub fn status(status: u16) -> Self {
        Self::new().head(status, &[], Framing::ContentLength)
    }

    /// Status 200 and an event stream, chunked; each string is the data of one event in one chunk.
    /// `[DONE]` is not added.
    pub fn events<T: AsRef<str>>(data: impl IntoIterator<Item = T>) -> Self {
        let head = Self::new().head(200, &[("Content-Type", "text/event-stream")], Framing::Chunked);
        data.into_iter().fold(head, |script, data| script.event(data.as_ref()))
    }

    /// A whole stream as vLLM's `/v1/completions` sends it with `return_token_ids` and `include_usage`:
    /// an event per token with its id, the last one with finish reason `stop`, a usage event, `[DONE]`.
    pub fn tokens<'a>(tokens: impl IntoIterator<Item = (u32, &'a str)>) -> Self {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let count = tokens.len();
        let event = |choices: serde_json::Value| {
            json!({"id": "cmpl-test", "object": "text_completion", "created": 0, "model": "test",
                "choices": choices})
        };
        let token = |(i, (id, text)): (usize, &(u32, &str))| {
            let finish = (i + 1 == count).then_some("stop");
            event(json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": finish,
                "stop_reason": null, "prompt_token_ids": null, "token_ids": [id]}]))
        };
        let mut usage = event(json!([]));
        usage["usage"] = json!({"prompt_tokens": 1, "total_tokens": count + 1, "completion_tokens": count});
        let events = tokens.iter().enumerate().map(token).chain([usage]).map(|event| event.to_string());
        Self::events(events.chain(["[DONE]".to_owned()]))
    }

    /// A whole stream as llama.cpp's native `/completion` sends it: an event per token with its id, a
    /// last one with `"stop": true` and no ids, no `[DONE]`.
    pub fn llama_tokens<'a>(tokens: impl IntoIterator<Item = (u32, &'a str)>) -> Self {
        let event = |stop: bool, text: &str, ids: &[u32], predicted: usize| {
            json!({"index": 0, "content": text, "tokens": ids, "stop": stop, "id_slot": -1,
                "tokens_predicted": predicted, "tokens_evaluated": 1})
        };
        let mut events: Vec<_> =
            (1..).zip(tokens).map(|(n, (id, text))| event(false, text, &[id], n)).collect();
        let mut last = event(true, "", &[], events.len());
        last["stop_type"] = json!("eos");
        last["stopping_word"] = json!("");
        last["truncated"] = json!(false);
        events.push(last);
        Self::events(events.iter().map(ToString::to_string))
    }
}

// ---- steps

impl Script {
    /// Status line and headers; the framing's own header is added to them. A script may have several
    /// heads (103 before 200).
    pub fn head(self, status: u16, headers: &[(&str, &str)], framing: Framing) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.step(Step::Head { status, headers, framing })
    }

    /// One header more for the last head; without a head, nothing.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some((headers, _)) = self.last_head() {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Another framing for the last head; without a head, nothing.
    pub fn framing(mut self, new: Framing) -> Self {
        if let Some((_, framing)) = self.last_head() {
            *framing = new;
        }
        self
    }

    fn last_head(&mut self) -> Option<(&mut Vec<(String, String)>, &mut Framing)> {
        self.steps.iter_mut().rev().find_map(|step| match step {
            Step::Head { headers, framing, .. } => Some((headers, framing)),
            _ => None,
        })
    }

    /// This text as body, with content type `application/json`, behind a head: `Script::status(200).json("{}")`. It is not
    /// checked: it may be broken JSON.
    pub fn json(self, text: impl Display) -> Self {
        self.body("application/json", text.to_string())
    }

    /// These bytes as body, with this content type.
    pub fn body(self, content_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", content_type).write(bytes)
    }

    /// One event with this data, as one write; lines of the data become `data` fields of their own.
    pub fn event(self, data: &str) -> Self {
        self.write(format!("data: {}\n\n", data.replace('\n', "\ndata: ")))
    }

    /// Writes these bytes, as one chunk in chunked framing. No bytes, no chunk.
    pub fn write(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.write_how(bytes.into(), How::AtOnce)
    }

    /// As [`write`](Self::write), but what it comes to with its framing goes out in pieces of `piece`
    /// bytes, each in a packet (and TLS record) of its own, with a pause after each.
    pub fn write_slowly(self, bytes: impl Into<Vec<u8>>, piece: usize, pause: Duration) -> Self {
        self.write_how(bytes.into(), How::Slowly { piece, pause, inside_records: false })
    }

    /// As [`write_slowly`](Self::write_slowly), but over TLS the pieces cut the record itself: the client
    /// gets bytes, and can decrypt none of them until the last has come.
    pub fn dribble(self, bytes: impl Into<Vec<u8>>, piece: usize, pause: Duration) -> Self {
        self.write_how(bytes.into(), How::Slowly { piece, pause, inside_records: true })
    }

    /// As [`write`](Self::write), `times` times, with a pause after each. `u64::MAX` does not end in a
    /// lifetime; a client that does not read stops it until it does.
    pub fn repeat(self, bytes: impl Into<Vec<u8>>, times: u64, pause: Duration) -> Self {
        self.write_how(bytes.into(), How::Repeated { times, pause })
    }

    fn write_how(self, bytes: Vec<u8>, how: How) -> Self {
        self.step(Step::Write { bytes, how })
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Waits this long.
    pub fn pause(self, time: Duration) -> Self {
        self.wait(Wait::For(time))
    }

    /// Waits until this long after the request had been read; not at all if that has passed.
    pub fn pause_until(self, since_request: Duration) -> Self {
        self.wait(Wait::Until(since_request))
    }

    /// Waits until the client has left, which ends the script, or `max` has passed.
    pub fn wait_for_client_gone(self, max: Duration) -> Self {
        self.wait(Wait::ClientGone(max))
    }

    /// Stays silent with the connection open until the client leaves, which ends the script, or `max`
    /// has passed; [`Duration::MAX`] for ever. The same as
    /// [`wait_for_client_gone`](Self::wait_for_client_gone), named after what the client gets.
    pub fn hang(self, max: Duration) -> Self {
        self.wait(Wait::ClientGone(max))
    }

    /// Waits until the test opens the gate. It has no limit of its own: the client's leaving or the
    /// server's drop ends it too.
    pub fn wait_for(self, gate: &Gate) -> Self {
        self.wait(Wait::Gate(gate.clone()))
    }

    fn wait(self, wait: Wait) -> Self {
        self.step(Step::Wait(wait))
    }

    /// Ends the body: the last chunk in chunked framing, nothing in others. It comes by itself at the
    /// end of the script, but not before [`close`](Self::close) or [`reset`](Self::reset).
    pub fn finish(self) -> Self {
        self.step(Step::Finish)
    }

    /// Closes the connection (FIN; over TLS after the closing alert). Steps behind it are never reached.
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// Resets the connection (RST). What the client's system has taken of the bytes before is still
    /// readable there; of answers over some hundred KiB the rest is lost. Steps behind it are never
    /// reached.
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Keeps the connection for a next request where it would be closed: after raw bytes that are a whole
    /// response.
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// Ends the connection as soon as `n` bytes of the response have been sent, head and framing
    /// counted. A script of fewer bytes is not changed.
    pub fn cut_at(mut self, n: usize, how: Cut) -> Self {
        self.cut = Some((n, how));
        self
    }

    /// Sends everything, head and framing too, in pieces of `piece` bytes with a pause after each.
    /// Writes that have a pace of their own keep it.
    pub fn slowly(mut self, piece: usize, pause: Duration) -> Self {
        self.pace = Some((piece, pause));
        self
    }
}
