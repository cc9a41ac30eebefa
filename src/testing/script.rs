//! Defines the response to one request as a list of steps.
//!
//! The module `plan` turns the steps into bytes. Both modules are pure: they do no I/O.

use std::fmt::Display;
use std::time::Duration;

use serde_json::json;

use super::gate::Gate;

/// Selects how the body of a response is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// `Transfer-Encoding: chunked`. Each write is one HTTP chunk.
    Chunked,
    /// `Content-Length` with the total number of bytes in the script's writes.
    ContentLength,
    /// `Content-Length` with this number, even if it is wrong.
    GivenLength(u64),
    /// The response has no length, and the end of the connection ends the body.
    ///
    /// The server sends `Connection: close`.
    CloseDelimited,
    /// No header is added, and the writes are sent unchanged.
    Raw,
}

/// Selects how [`Script::cut_at`] ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// Sends FIN, as if the server process was killed. Over TLS, the closing alert is not sent.
    Fin,
    /// Sends RST.
    Reset,
    /// Keeps the connection open and silent until the client disconnects.
    Hang,
}

/// The response to one request, as steps in order.
///
/// Build a script with chained calls. A clone copies its bytes.
///
/// ```
/// use std::time::Duration;
/// use tokenwire::testing::Script;
///
/// let slow = Script::events([r#"{"choices":[{"index":0,"text":"Hello"}]}"#])
///     .pause(Duration::from_millis(100))
///     .event("[DONE]");
/// let not_found = Script::status(404).json(r#"{"error":{"message":"no such model"}}"#);
/// assert!(slow.wire().ends_with(b"0\r\n\r\n") && not_found.wire().starts_with(b"HTTP/1.1 404"));
/// ```
///
/// After the last step, the server ends an open chunked body with the last chunk. The connection
/// then serves the next request if all of the following conditions are true. Otherwise, the server
/// closes the connection.
///
/// - The framing is [`Chunked`](Framing::Chunked) or has a length.
/// - The framing is correct.
/// - Neither side sent `Connection: close`.
///
/// [`close`](Self::close), [`reset`](Self::reset) and [`keep_alive`](Self::keep_alive) change this
/// behaviour.
///
/// While a script pauses or waits, the server watches the connection. The script ends if the client
/// closes the connection, or only its sending half. Model servers also treat a half-close as a
/// close.
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

/// Selects how the bytes of one write are sent to the socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    AtOnce,
    /// The write is sent in pieces, with a pause after each piece.
    ///
    /// With `inside_records`, the TLS records are split into pieces.
    Slowly {
        piece: usize,
        pause: Duration,
        inside_records: bool,
    },
    /// The whole write is sent repeatedly, with a pause after each time.
    Repeated {
        times: u64,
        pause: Duration,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Wait {
    For(Duration),
    /// The script waits until this much time has passed since the request was read.
    Until(Duration),
    /// The script waits until the client disconnects, but at most this long.
    ClientGone(Duration),
    Gate(Gate),
}

// ---- whole responses in one call

impl Script {
    /// Creates a script without steps: the server closes the connection without a byte.
    ///
    /// If [`write`](Self::write) is the first step, the script writes every byte of the response
    /// itself. An HTTP response begins with [`status`](Self::status) or [`events`](Self::events).
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a script that sends these bytes as the response, then closes the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new().write(bytes)
    }

    /// Creates a response with this status, an empty body and a `Content-Length` header.
    ///
    /// [`json`](Self::json) and [`body`](Self::body) add a body.
    pub fn status(status: u16) -> Self {
        Self::new().head(status, &[], Framing::ContentLength)
    }

    /// Creates a chunked event stream with status 200. Each string is the data of one event.
    ///
    /// Each event is one chunk. `[DONE]` is not added.
    pub fn events<T: AsRef<str>>(data: impl IntoIterator<Item = T>) -> Self {
        let head = Self::new().head(200, &[("Content-Type", "text/event-stream")], Framing::Chunked);
        data.into_iter().fold(head, |script, data| script.event(data.as_ref()))
    }

    /// Creates a whole stream in the format of vLLM's `/v1/completions`.
    ///
    /// The format matches a request with `return_token_ids` and `include_usage`: each token is an
    /// event with its id. The last of these events has the finish reason `stop`. A usage event and
    /// `[DONE]` follow.
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

    /// Creates a whole stream in the format of llama.cpp's native `/completion`.
    ///
    /// Each token is an event with its id. An event with `"stop": true` and no ids follows. The
    /// stream does not end with `[DONE]`.
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
    /// Adds a status line and headers, and the header of the framing.
    ///
    /// A script may have several heads (103 before 200).
    pub fn head(self, status: u16, headers: &[(&str, &str)], framing: Framing) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.step(Step::Head { status, headers, framing })
    }

    /// Adds a header to the last head. Without a head, the method does nothing.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some((headers, _)) = self.last_head() {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Changes the framing of the last head. Without a head, the method does nothing.
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

    /// Adds this text as the body, with the content type `application/json`.
    ///
    /// An example is `Script::status(200).json("{}")`.
    ///
    /// The text is not checked, so it may be invalid JSON.
    pub fn json(self, text: impl Display) -> Self {
        self.body("application/json", text.to_string())
    }

    /// Adds these bytes as the body, with this content type.
    pub fn body(self, content_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", content_type).write(bytes)
    }

    /// Writes an event with this data in one write. Each line of the data becomes a `data` field.
    pub fn event(self, data: &str) -> Self {
        self.write(format!("data: {}\n\n", data.replace('\n', "\ndata: ")))
    }

    /// Writes these bytes. In chunked framing, the bytes are one chunk.
    ///
    /// If `bytes` is empty, no chunk is sent.
    pub fn write(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.write_how(bytes.into(), How::AtOnce)
    }

    /// Writes these bytes in pieces of `piece` bytes, with a pause after each piece.
    ///
    /// The pieces also split the framing of the write. Each piece is a separate packet, and a
    /// separate TLS record.
    pub fn write_slowly(self, bytes: impl Into<Vec<u8>>, piece: usize, pause: Duration) -> Self {
        self.write_how(bytes.into(), How::Slowly { piece, pause, inside_records: false })
    }

    /// Writes like [`write_slowly`](Self::write_slowly), but over TLS the pieces split the record.
    ///
    /// The client receives bytes, but cannot decrypt any of them until the last piece has arrived.
    pub fn dribble(self, bytes: impl Into<Vec<u8>>, piece: usize, pause: Duration) -> Self {
        self.write_how(bytes.into(), How::Slowly { piece, pause, inside_records: true })
    }

    /// Writes these bytes `times` times, with a pause after each time.
    ///
    /// With `u64::MAX`, the script never ends. The script blocks while the client does not read.
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

    /// Waits for this time.
    pub fn pause(self, time: Duration) -> Self {
        self.wait(Wait::For(time))
    }

    /// Waits until this much time has passed since the request was read.
    ///
    /// If the time has already passed, the script does not wait.
    pub fn pause_until(self, since_request: Duration) -> Self {
        self.wait(Wait::Until(since_request))
    }

    /// Waits until the client disconnects, which ends the script, or until `max` has passed.
    pub fn wait_for_client_gone(self, max: Duration) -> Self {
        self.wait(Wait::ClientGone(max))
    }

    /// Stays silent with the connection open, until the client disconnects or `max` has passed.
    ///
    /// A disconnect ends the script. [`Duration::MAX`] means for ever. This method does the same as
    /// [`wait_for_client_gone`](Self::wait_for_client_gone). Its name describes the effect on the
    /// client.
    pub fn hang(self, max: Duration) -> Self {
        self.wait(Wait::ClientGone(max))
    }

    /// Waits until the test opens the gate.
    ///
    /// The wait has no time limit. A disconnect and the drop of the server also end the wait.
    pub fn wait_for(self, gate: &Gate) -> Self {
        self.wait(Wait::Gate(gate.clone()))
    }

    fn wait(self, wait: Wait) -> Self {
        self.step(Step::Wait(wait))
    }

    /// Ends the body. Chunked framing sends the last chunk. Other framings send nothing.
    ///
    /// The end of the script also ends the body, unless the script ends with [`close`](Self::close)
    /// or [`reset`](Self::reset).
    pub fn finish(self) -> Self {
        self.step(Step::Finish)
    }

    /// Closes the connection with FIN. No later step runs.
    ///
    /// Over TLS, the server sends the closing alert first.
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// Resets the connection with RST. No later step runs.
    ///
    /// The client can still read the bytes that its system has received. If the response is larger
    /// than several hundred KiB, the client loses the rest.
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Keeps the connection open for the next request, even if the server would normally close it.
    ///
    /// Use this after raw bytes that are a whole response.
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// Ends the connection after `n` bytes of the response, including head and framing.
    ///
    /// A script with fewer bytes does not change.
    pub fn cut_at(mut self, n: usize, how: Cut) -> Self {
        self.cut = Some((n, how));
        self
    }

    /// Sends everything in pieces of `piece` bytes, with a pause after each piece.
    ///
    /// The head and the framing are also sent in pieces. A write that sets its own pace keeps this
    /// pace.
    pub fn slowly(mut self, piece: usize, pause: Duration) -> Self {
        self.pace = Some((piece, pause));
        self
    }
}
