//! The property of saved requests, for any file. A valid file, when loaded, equals the saved
//! request and contains the exact bytes of the body. Every other file is an error. No header that
//! could be a credential is loaded. A fuzz target calls this function.

use arbitrary::{Arbitrary, Result, Unstructured};
use serde_json::{Value, json};
use tokenwire::{ErrorKind, SavedRequest};

/// The headers that are known not to be credentials.
const OPEN: [&str; 5] = ["accept", "x-request-id", "traceparent", "user-agent", "content-type"];

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Any(&'a [u8]),
    Whole(File),
    /// The file ends too early.
    Cut(File, u32),
    /// One byte is replaced.
    Hit(File, u32, u8),
}

/// The contents of a file.
#[derive(Debug, Arbitrary)]
struct File {
    at_ms: u64,
    method: String,
    place: u8,
    wire: u8,
    headers: Vec<(Name, String)>,
    redacted: bool,
    kind: String,
    detail: Option<String>,
    message: String,
    causes: Vec<String>,
    status: Option<u16>,
    request_id: Option<String>,
    counts: [u64; 4],
    body: Body,
}

#[derive(Debug)]
struct Name(String);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const SOME: [&str; 12] = [
            "accept",
            "Content-Type",
            "x-request-id",
            "traceparent",
            "user-agent",
            "authorization",
            "Authorization",
            "x-api-key",
            "cookie",
            "proxy-authorization",
            "x-session-affinity",
            "api-key",
        ];
        Ok(Self(match SOME.get(usize::from(u.arbitrary::<u8>()?) % (SOME.len() + 1)) {
            Some(known) => (*known).to_owned(),
            None => u.arbitrary()?,
        }))
    }
}

#[derive(Debug, Arbitrary)]
enum Body {
    Ids(Vec<u32>),
    Number(f64),
    Text(String),
    /// A body that is not JSON, or JSON with spaces around it. It is kept as text.
    Other(String),
}

pub(crate) fn saved(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    match input {
        Input::Any(bytes) => {
            holds(bytes);
        }
        Input::Whole(file) => {
            let loaded = holds(file.json().as_bytes()).unwrap_or_else(|| panic!("{file:?} did not load"));
            file.is_in(&loaded);
        }
        Input::Cut(file, at) => {
            let json = file.json();
            let cut = &json.as_bytes()[..at as usize % json.len()];
            assert!(holds(cut).is_none(), "a truncated file loads: {}", cut.escape_ascii());
        }
        Input::Hit(file, at, with) => {
            let mut json = file.json().into_bytes();
            let at = at as usize % json.len();
            json[at] = with;
            holds(&json);
        }
    }
}

/// Loads a file. If the file is valid, also writes the loaded request again and loads that file.
fn holds(json: &[u8]) -> Option<SavedRequest> {
    let loaded = match SavedRequest::from_json(json) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            return None;
        }
    };
    for (name, _) in loaded.headers() {
        assert!(OPEN.iter().any(|open| open.eq_ignore_ascii_case(name)), "{name} of {}", json.escape_ascii());
    }
    let again = loaded.to_json();
    let twice = SavedRequest::from_json(again.as_bytes())
        .unwrap_or_else(|error| panic!("{error}: {again} of {}", json.escape_ascii()));
    assert!(twice == loaded, "{again} of {}", json.escape_ascii());
    assert_eq!(twice.to_json(), again);
    assert!(loaded.url().starts_with(loaded.base_url()));
    let _ = (format!("{loaded:?}"), loaded.at());
    Some(loaded)
}

impl File {
    fn wire(&self) -> (&'static str, &'static str) {
        [
            ("auto", "/completions"),
            ("openai", "/completions"),
            ("chat", "/chat/completions"),
            ("llamacpp", "/completion"),
            ("vllm-generate", "/inference/v1/generate"),
            ("sglang", "/generate"),
            ("tgi", "/generate_stream"),
        ][usize::from(self.wire % 7)]
    }

    /// Returns whether the request is for a complete response. Its path is the same as for a
    /// stream.
    fn call(&self) -> bool {
        self.place >= 128
    }

    fn url(&self) -> String {
        let places = ["http://127.0.0.1:8000/v1", "https://h.test", "http://[::1]:1", "https://h.test/a/v1"];
        format!("{}{}", places[usize::from(self.place) % places.len()], self.wire().1)
    }

    /// Returns the body as it was sent.
    fn body(&self) -> String {
        match &self.body {
            Body::Ids(ids) => format!("{{\"prompt\": {ids:?} , \"f\":1.50}}"),
            Body::Number(number) => json!(number).to_string(),
            Body::Text(text) => json!({"prompt": text}).to_string(),
            Body::Other(text) => format!("{text} "),
        }
    }

    fn json(&self) -> String {
        let [tokens, events, bytes, elapsed_us] = self.counts;
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (&name.0, value)).collect();
        let mut file = json!({
            "tokenwire_failed_request": 1, "at_ms": self.at_ms, "method": self.method, "url": self.url(),
            "wire": self.wire().0, "headers": headers, "call": self.call(), "redacted": self.redacted,
            "failure": {
                "kind": self.kind, "detail": self.detail, "message": self.message, "causes": self.causes,
                "status": self.status, "request_id": self.request_id,
                "tokens": tokens, "events": events, "bytes": bytes, "elapsed_us": elapsed_us,
            },
        });
        // In a file, null stands for a missing body, so the text `null` is stored as `body_text`.
        if matches!(self.body, Body::Other(_)) || self.body() == "null" {
            file["body_text"] = json!(self.body());
            return file.to_string();
        }
        let file = file.to_string();
        // The body is inserted byte for byte, as it was sent.
        format!("{},\"body\":{}}}", file.strip_suffix('}').unwrap(), self.body())
    }

    fn is_in(&self, loaded: &SavedRequest) {
        let Self { method, headers, redacted, kind, detail, message, causes, status, request_id, .. } = self;
        assert_eq!((loaded.body(), loaded.method()), (self.body().as_bytes(), &**method));
        assert_eq!((loaded.url(), loaded.endpoint().as_str()), (&*self.url(), self.wire().0));
        assert_eq!((loaded.is_redacted(), loaded.is_call()), (*redacted, self.call()));
        let failure = loaded.failure();
        assert_eq!((&failure.kind, &failure.detail, &failure.message), (kind, detail, message));
        assert_eq!((&failure.causes, &failure.status, &failure.request_id), (causes, status, request_id));
        let progress = failure.progress;
        let counts = [progress.tokens, progress.events, progress.bytes, progress.elapsed.as_micros() as u64];
        assert_eq!(counts, self.counts);
        let is_open = |name: &str| OPEN.iter().any(|open| open.eq_ignore_ascii_case(name));
        let kept = headers.iter().map(|(name, value)| (&*name.0, &**value)).filter(|(name, _)| is_open(name));
        assert!(loaded.headers().eq(kept), "{loaded:?}");
        let _: Value = serde_json::from_str(&loaded.to_json()).unwrap();
    }
}
