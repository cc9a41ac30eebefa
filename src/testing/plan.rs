//! Turns the steps of a script into bytes and waits. The code is pure: it does no I/O.

use super::script::{Cut, Framing, How, Script, Step, Wait};
use crate::client::http::StatusCode;

/// The maximum size that [`Script::wire`] returns, 64 MiB. A script can be endless.
pub const MAX_WIRE_BYTES: usize = 64 << 20;

/// A script in the form that the server runs: with framing.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) keep_alive: bool,
}

#[derive(Debug)]
pub(super) enum Action {
    /// `body` is the number of body bytes in `bytes`. The rest is head or framing.
    Send {
        bytes: Vec<u8>,
        body: usize,
        how: How,
    },
    Wait(Wait),
    Close,
    Reset,
}

impl Script {
    /// Returns all bytes that the script sends if the client stays connected.
    ///
    /// The bytes include head and framing. At most [`MAX_WIRE_BYTES`] bytes are returned.
    #[must_use]
    pub fn wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let max = self.cut.map_or(MAX_WIRE_BYTES, |(n, _)| n.min(MAX_WIRE_BYTES));
        for action in self.plan().actions {
            let Action::Send { bytes, how, .. } = action else { continue };
            for _ in 0..how.times() {
                let room = max - out.len();
                out.extend_from_slice(&bytes[..room.min(bytes.len())]);
                if bytes.len() >= room {
                    return out;
                }
            }
        }
        out
    }

    pub(super) fn plan(&self) -> Plan {
        let mut framing = Framing::Raw;
        let (mut written, mut finished, mut says_close) = (0, false, false);
        let mut plan = Plan { actions: Vec::new(), cut: self.cut, keep_alive: false };
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::Head { status, headers, framing: new } => {
                    (framing, written, finished) = (*new, 0, false);
                    let length = length_of_writes(&self.steps[i + 1..]);
                    says_close = headers.iter().any(|(name, value)| {
                        name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
                    });
                    plan.send(head_bytes(*status, headers, framing, length).into_bytes(), 0, self.how());
                }
                Step::Write { bytes, .. } if bytes.is_empty() => {}
                Step::Write { bytes, how } => {
                    written = how.times().saturating_mul(bytes.len() as u64).saturating_add(written);
                    let how = if let How::AtOnce = how { self.how() } else { *how };
                    let framed = if framing == Framing::Chunked { chunk(bytes) } else { bytes.clone() };
                    plan.send(framed, bytes.len(), how);
                }
                Step::Finish => self.finish_body(&mut plan, framing, &mut finished),
                Step::Wait(wait) => plan.actions.push(Action::Wait(wait.clone())),
                Step::Close => return plan.end_with(Action::Close),
                Step::Reset => return plan.end_with(Action::Reset),
            }
        }
        self.finish_body(&mut plan, framing, &mut finished);
        let framing_is_right = match framing {
            Framing::Chunked | Framing::ContentLength => true,
            Framing::GivenLength(given) => given == written,
            Framing::CloseDelimited | Framing::Raw => false,
        };
        plan.keep_alive = self.keep_alive || framing_is_right && !says_close;
        plan
    }

    /// Ends the body, at most once.
    fn finish_body(&self, plan: &mut Plan, framing: Framing, finished: &mut bool) {
        if framing == Framing::Chunked && !std::mem::replace(finished, true) {
            plan.send(LAST_CHUNK.to_vec(), 0, self.how());
        }
    }

    fn how(&self) -> How {
        match self.pace {
            Some((piece, pause)) => How::Slowly { piece, pause, inside_records: false },
            None => How::AtOnce,
        }
    }
}

impl How {
    /// Returns the number of times that the bytes are written.
    fn times(self) -> u64 {
        if let Self::Repeated { times, .. } = self { times } else { 1 }
    }
}

impl Plan {
    fn send(&mut self, bytes: Vec<u8>, body: usize, how: How) {
        self.actions.push(Action::Send { bytes, body, how });
    }

    fn end_with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Returns the number of bytes written before the next head.
fn length_of_writes(steps: &[Step]) -> u64 {
    let body = steps.iter().take_while(|step| !matches!(step, Step::Head { .. }));
    let lengths = body.map(|step| match step {
        Step::Write { bytes, how } => how.times().saturating_mul(bytes.len() as u64),
        _ => 0,
    });
    lengths.fold(0, u64::saturating_add)
}

fn head_bytes(status: u16, headers: &[(String, String)], framing: Framing, length: u64) -> String {
    let known = StatusCode::from_u16(status).ok();
    // HTTP allows an empty reason phrase.
    let reason = known.and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match framing {
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::ContentLength => head.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::GivenLength(given) => head.push_str(&format!("Content-Length: {given}\r\n")),
        Framing::CloseDelimited => head.push_str("Connection: close\r\n"),
        Framing::Raw => {}
    }
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn scripts_send_these_bytes() {
        let ab = |framing| Script::new().head(200, &[("A", "b")], framing).write("ab").write("").write("c");
        let cases: Vec<(Script, &str, bool)> = vec![
            (Script::new(), "", false),
            (Script::raw("x").write("y"), "xy", false),
            (Script::raw("x").keep_alive(), "x", true),
            (
                ab(Framing::Chunked),
                "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                true,
            ),
            (ab(Framing::ContentLength), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc", true),
            (ab(Framing::GivenLength(3)), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc", true),
            (ab(Framing::GivenLength(9)), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 9\r\n\r\nabc", false),
            (ab(Framing::CloseDelimited), "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nabc", false),
            (ab(Framing::Raw), "HTTP/1.1 200 OK\r\nA: b\r\n\r\nabc", false),
            (ab(Framing::Raw).cut_at(5, Cut::Fin), "HTTP/", false),
            (ab(Framing::Raw).cut_at(0, Cut::Fin), "", false),
            (
                Script::events(["a\nb"]).close().write("never"),
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 11\r\ndata: a\ndata: b\n\n\r\n",
                false,
            ),
            (
                Script::events(["a"]).finish().finish().reset(),
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 9\r\ndata: a\n\n\r\n0\r\n\r\n",
                false,
            ),
            (
                Script::status(429).header("Retry-After", "1").json("{}"),
                "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\
                 Content-Length: 2\r\n\r\n{}",
                true,
            ),
            (
                Script::status(599).header("Connection", "close"),
                "HTTP/1.1 599 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
            (
                Script::new().head(103, &[], Framing::Raw).head(200, &[], Framing::ContentLength).repeat(
                    "ab",
                    2,
                    Duration::ZERO,
                ),
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabab",
                true,
            ),
        ];
        for (script, wire, keep_alive) in cases {
            assert_eq!(String::from_utf8(script.wire()).unwrap(), wire);
            assert_eq!(script.plan().keep_alive, keep_alive && script.cut.is_none(), "{wire:?}");
        }
    }

    #[test]
    fn the_wire_bytes_of_an_endless_script_are_limited() {
        let endless = Script::raw("x").repeat("yz", u64::MAX, Duration::ZERO);
        assert_eq!(endless.wire().len(), MAX_WIRE_BYTES);
    }

    /// The events have the same keys as the recorded events of the real servers.
    #[test]
    fn token_scripts_have_the_same_format_as_the_real_servers() {
        let data = |script: Script| -> Vec<String> {
            let body = crate::recording::http::response_body(&script.wire(), false).bytes;
            let text = String::from_utf8(body).unwrap();
            text.split_terminator("\n\n")
                .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
                .collect()
        };
        let parsed = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };

        let vllm = data(Script::tokens([(7, " a"), (8, "\"b\n")]));
        assert_eq!(vllm.len(), 4);
        let choice = |i: usize| parsed(&vllm[i])["choices"][0].clone();
        assert_eq!((&choice(0)["token_ids"], &choice(0)["text"]), (&json!([7]), &json!(" a")));
        assert_eq!(
            (&choice(0)["finish_reason"], &choice(1)["finish_reason"]),
            (&json!(null), &json!("stop"))
        );
        assert_eq!(parsed(&vllm[2])["usage"]["completion_tokens"], 2);
        assert_eq!(vllm[3], "[DONE]");

        let llama = data(Script::llama_tokens([(7, " a"), (8, "b")]));
        assert_eq!(llama.len(), 3);
        assert_eq!((&parsed(&llama[1])["tokens"], &parsed(&llama[1])["content"]), (&json!([8]), &json!("b")));
        assert_eq!(
            (&parsed(&llama[2])["stop"], &parsed(&llama[2])["tokens_predicted"]),
            (&json!(true), &json!(2))
        );
    }
}
